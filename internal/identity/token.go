package identity

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Bounds of join tokens.
const (
	maxTokenTTL = time.Hour // S07
	minTokenTTL = time.Second
	secretSize  = 32
	maxLabels   = 32
	maxLabelKey = 63
	maxLabel    = 255
)

// The kinds a node may have.
var kinds = map[string]bool{"host": true, "vm": true, "sandbox": true, "enclave": true}

// Why a join token is not made.
var (
	CodeTokenTTL = rats.CodeInfo{
		Code:  "join.token.ttl",
		Title: "a join token can't live that long, or not at all",
		Hint:  "ask for a duration between 1s and 1h, such as 30m",
		Slot:  rats.InstanceIdentity,
	}
	CodeTokenKind = rats.CodeInfo{
		Code:  "join.token.kind",
		Title: "that is no kind of node",
		Hint:  "the kinds are host, vm, sandbox and enclave",
		Slot:  rats.InstanceIdentity,
	}
	CodeTokenLabels = rats.CodeInfo{
		Code:  "join.token.labels",
		Title: "the labels are too many, too long, or have an empty or unusual key",
		Hint:  "at most 32 labels; keys of 1 to 63 of a-z, 0-9, '.', '-', '_', '/'; values of at most 255 bytes",
		Slot:  rats.InstanceIdentity,
	}
	CodeTokenParent = rats.CodeInfo{
		Code:  "join.token.parent",
		Title: "the parent node does not exist",
		Hint:  "join the parent first, and name it by its name or id",
		Slot:  rats.InstanceIdentity,
	}
	CodeTokenEKForm = rats.CodeInfo{
		Code:  "join.token.ek-form",
		Title: "the EK is not given as a SHA-256 digest",
		Hint:  "take it from assay doctor on that machine: sha256:<64 hex digits>",
		Slot:  rats.InstanceIdentity,
	}
)

// Why a join token does not admit its holder.
var (
	CodeTokenMalformed = rats.CodeInfo{
		Code:  "join.token.malformed",
		Title: "that is not a join token",
		Hint:  "copy the whole text beginning with asj1.",
		Slot:  rats.InstanceIdentity,
	}
	CodeTokenNamespace = rats.CodeInfo{
		Code:  "join.token.namespace",
		Title: "the join token is for another namespace",
		Hint:  "the agent takes the namespace from the token; don't override it",
		Slot:  rats.InstanceIdentity,
	}
	// Unknown id and wrong secret are one code: a guesser learns nothing of which ids exist.
	CodeTokenUnknown = rats.CodeInfo{
		Code:  "join.token.unknown",
		Title: "there is no such join token",
		Hint:  "it was deleted, mistyped, or belongs to another server: create a new one",
		Slot:  rats.InstanceIdentity,
	}
	CodeTokenExpired = rats.CodeInfo{
		Code:  "join.token.expired",
		Title: "the join token has expired",
		Hint:  "create a new one; tokens live at most an hour",
		Slot:  rats.InstanceIdentity,
	}
	CodeTokenUsed = rats.CodeInfo{
		Code:  "join.token.used",
		Title: "the join token was used already",
		Hint:  "create one token per node; if this node did not use it, find out who did (audit: node.join) and revoke that node",
		Slot:  rats.InstanceIdentity,
	}
	CodeTokenEK = rats.CodeInfo{
		Code:  "join.token.ek",
		Title: "the join token is for another TPM",
		Hint:  "compare the EK with what assay doctor prints on that machine",
		Slot:  rats.InstanceIdentity,
	}
)

// CreateToken makes a join token and tells its text, the only time. actor is who asked for it ("admin:…").
func (j *Joiner) CreateToken(ctx context.Context, namespace string, space store.Space, actor string, r api.TokenRequest) (api.Token, error) {
	if !validNamespace(namespace) {
		return api.Token{}, fmt.Errorf("creating a join token: %s is not a namespace", clip(namespace))
	}
	t, err := j.newToken(r)
	if err != nil {
		return api.Token{}, err
	}
	secret := make([]byte, secretSize)
	defer clear(secret)
	if _, err := io.ReadFull(j.cfg.Rand, secret); err != nil {
		return api.Token{}, fmt.Errorf("reading randomness for a join token: %w", err)
	}
	t.Hash = rats.SHA256(secret)
	err = space.Update(ctx, func(tx store.Tx) error {
		parent, err := parentID(tx, r.Parent)
		if err != nil {
			return err
		}
		t := t
		t.Parent = parent
		if err := tx.Tokens().Put(t); err != nil {
			return fmt.Errorf("storing a join token: %w", err)
		}
		return audit(tx, j.cfg.Now(), actor, "token.create", t.ID, map[string]any{
			"name": t.Name, "kind": t.Kind, "parent": t.Parent, "labels": t.Labels, "ek": inNamespace(namespace, t.EK), "replace": t.Replace, "expires": t.Expires,
		})
	})
	if err != nil {
		return api.Token{}, err
	}
	told := tokenView(t)
	told.Token = api.JoinTokenText{Namespace: namespace, ID: t.ID, Secret: secret, CA: j.cfg.CA.Digest()}.String()
	return told, nil
}

// newToken checks a request and makes the token's row, without hash and parent.
func (j *Joiner) newToken(r api.TokenRequest) (store.JoinToken, error) {
	ttl := maxTokenTTL
	if r.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(r.TTL); err != nil || ttl < minTokenTTL || ttl > maxTokenTTL {
			return store.JoinToken{}, CodeTokenTTL.Bad("ttl", "1s to 1h", clip(r.TTL))
		}
	}
	if r.Kind == "" {
		r.Kind = "host"
	}
	if !kinds[r.Kind] {
		return store.JoinToken{}, CodeTokenKind.Bad("kind", "host, vm, sandbox or enclave", clip(r.Kind))
	}
	if r.Name != "" {
		if err := checkName(r.Name); err != nil {
			return store.JoinToken{}, err
		}
	}
	if !r.EK.IsZero() && (r.EK.Alg != "sha256" || r.EK.Check() != nil) {
		return store.JoinToken{}, CodeTokenEKForm.Bad("ek", "sha256:<hex>", clip(r.EK.String()))
	}
	if err := checkLabels(r.Labels); err != nil {
		return store.JoinToken{}, err
	}
	id, err := newID(j.cfg.Rand, prefixToken)
	if err != nil {
		return store.JoinToken{}, err
	}
	return store.JoinToken{
		ID: id, Name: r.Name, Kind: r.Kind, Labels: r.Labels, EK: r.EK, Replace: r.Replace, Expires: j.cfg.Now().UTC().Add(ttl),
	}, nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return CodeTokenLabels.Bad("labels", fmt.Sprintf("at most %d", maxLabels), fmt.Sprint(len(labels)))
	}
	for k, v := range labels {
		if k == "" || len(k) > maxLabelKey || !only(k, ".-_/") || len(v) > maxLabel {
			return CodeTokenLabels.Bad("labels", "a short key in lower case and a short value", clip(k))
		}
	}
	return nil
}

// parentID resolves the parent's name, or id, to its id: a name may come to mean another node later.
func parentID(tx store.Tx, parent string) (string, error) {
	if parent == "" {
		return "", nil
	}
	n, err := tx.Nodes().ByName(parent)
	if errors.Is(err, store.ErrNotFound) {
		n, err = tx.Nodes().Get(parent)
	}
	if errors.Is(err, store.ErrNotFound) {
		return "", CodeTokenParent.Bad("parent", "the name of a node", clip(parent))
	}
	if err != nil {
		return "", fmt.Errorf("looking up the parent node: %w", err)
	}
	return n.ID, nil
}

// ListTokens lists the namespace's join tokens, used and expired ones included, without their texts.
func (j *Joiner) ListTokens(ctx context.Context, space store.Space) ([]api.Token, error) {
	var all []api.Token
	err := space.View(ctx, func(tx store.Tx) error {
		list, err := tx.Tokens().List()
		if err != nil {
			return fmt.Errorf("listing join tokens: %w", err)
		}
		all = make([]api.Token, 0, len(list))
		for _, t := range list {
			all = append(all, tokenView(t))
		}
		return nil
	})
	return all, err
}

// DeleteToken withdraws a join token. One that is not there is store.ErrNotFound.
func (j *Joiner) DeleteToken(ctx context.Context, space store.Space, actor, id string) error {
	return space.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Tokens().Get(id); err != nil {
			return fmt.Errorf("deleting join token %s: %w", clip(id), err)
		}
		if err := tx.Tokens().Delete(id); err != nil {
			return fmt.Errorf("deleting join token %s: %w", clip(id), err)
		}
		return audit(tx, j.cfg.Now(), actor, "token.delete", id, nil)
	})
}

func tokenView(t store.JoinToken) api.Token {
	return api.Token{
		ID: t.ID, Name: t.Name, Kind: t.Kind, Labels: t.Labels, EK: t.EK, Replace: t.Replace,
		Expires: t.Expires, UsedAt: t.UsedAt, UsedBy: t.UsedBy,
	}
}

// checkToken returns the stored token that the text names, if it admits the holder of ek now.
func (j *Joiner) checkToken(tx store.Tx, text api.JoinTokenText, ek rats.Digest) (store.JoinToken, error) {
	t, err := tx.Tokens().Get(text.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.JoinToken{}, fmt.Errorf("looking up a join token: %w", err)
	}
	// The comparison is made for an unknown id too, against a hash nothing has.
	same := subtle.ConstantTimeCompare(rats.SHA256(text.Secret).Sum, t.Hash.Sum) == 1
	now := j.cfg.Now()
	switch {
	case err != nil || !same:
		return store.JoinToken{}, CodeTokenUnknown.Bad("token", "a join token of this namespace", clip(text.ID))
	case t.UsedBy != "" || !t.UsedAt.IsZero():
		return store.JoinToken{}, CodeTokenUsed.Bad("token", "an unused token", "used at "+t.UsedAt.UTC().Format(time.RFC3339))
	case !now.Before(t.Expires):
		return store.JoinToken{}, CodeTokenExpired.Bad("token", "use before "+t.Expires.UTC().Format(time.RFC3339),
			now.UTC().Format(time.RFC3339))
	case !t.EK.IsZero() && !t.EK.Equal(ek):
		return store.JoinToken{}, CodeTokenEK.Bad("ek", t.EK.String(), ek.String())
	}
	return t, nil
}

// parseToken reads the text of a token that was sent to a namespace.
func parseToken(namespace, text string) (api.JoinTokenText, error) {
	t, err := api.ParseJoinToken(text)
	if err != nil {
		return api.JoinTokenText{}, CodeTokenMalformed.Bad("token", "asj1.…", "something else")
	}
	if t.Namespace != namespace {
		return api.JoinTokenText{}, CodeTokenNamespace.Bad("token", clip(namespace), clip(t.Namespace))
	}
	return t, nil
}

// audit appends to the audit log.
func audit(tx store.Tx, at time.Time, actor, verb, object string, detail any) error {
	e := store.AuditEntry{At: at.UTC(), Actor: actor, Verb: verb, Object: object}
	if detail != nil {
		b, err := json.Marshal(detail)
		if err != nil {
			return fmt.Errorf("encoding an audit entry: %w", err)
		}
		e.Detail = b
	}
	if _, err := tx.Audit().Append(e); err != nil {
		return fmt.Errorf("appending to the audit log: %w", err)
	}
	return nil
}
