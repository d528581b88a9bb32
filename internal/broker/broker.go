// Package broker keeps the secrets of a namespace and releases them to nodes that are trusted now: put, list, delete,
// release.
//
// It guarantees that a release and its audit leaf are one transaction, committed before a byte leaves (S42, R131); that
// the result it relies on is the node's newest, young enough, still counts and was judged under the epoch in force
// (S40); that the secret is sealed to the key of that very result; and that a missing, false or unanswerable rule
// denies. Whatever is refused is audited too. It can't take back what a node has seen: after a loss the secret itself
// must be changed.
//
// Who may put, list and delete, and that a caller is the node it names, is for the caller to establish; so is limiting
// how often a node asks, since every refusal is written to the audit log.
package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Bounds of a secret.
const (
	MaxValue      = 64 << 10 // bytes
	DefaultMaxAge = 60 * time.Second
	MaxMaxAge     = 10 * time.Minute

	maxName = 128
	maxRule = 16 << 10
)

// The verbs of audit entries, and the kinds of events (without the refusal, which changes nothing).
const (
	VerbPut     = "secret.put"
	VerbDelete  = "secret.delete"
	VerbRelease = "secret.release"
	VerbRefuse  = "secret.refused"

	EventPut      = "secret.put"
	EventDeleted  = "secret.deleted"
	EventReleased = "secret.released"
)

// Keys encrypts secrets for storage; internal/keyring has it.
type Keys interface {
	SealSecret(context string, plaintext []byte) ([]byte, error)
	OpenSecret(context string, env []byte) ([]byte, error)
}

// Question is what a release rule is asked: may this node, by this result, have the secret?
type Question struct {
	Tx     store.Tx // to read the record's claims
	Rule   string
	Node   store.Node
	Record store.Record
	Now    time.Time
}

// Config is what a Broker needs. All but State are required.
type Config struct {
	Keys Keys
	Now  func() time.Time
	// Compile says what is wrong with a rule; nothing means usable.
	Compile func(rule string) []rats.Reason
	// Eval answers a rule. Reasons mean that it can't be answered, which denies; an error is a malfunction.
	Eval func(Question) (bool, []rats.Reason, error)
	// State derives the node's state as everybody else sees it (its parent's included). Its verdict must allow the
	// release besides the result's own. Nil: the result's own is all.
	State func(store.Tx, store.Node, time.Time) (rats.State, error)
}

// Broker keeps and releases secrets. It is safe for concurrent use.
type Broker struct{ Config }

// New returns a broker.
func New(c Config) (*Broker, error) {
	if c.Keys == nil || c.Now == nil || c.Compile == nil || c.Eval == nil {
		return nil, errors.New("making a broker: keys, clock, compiler and evaluator are required")
	}
	return &Broker{c}, nil
}

// errVersion says that the store gave another version than the secret was sealed for.
var errVersion = errors.New("version taken")

// Put stores a new version of a secret. put.Value is wiped. actor is as audit entries write it ("admin:…").
func (b *Broker) Put(ctx context.Context, space store.Space, namespace, actor, name string, put api.SecretPut) (api.Secret, error) {
	defer clear(put.Value)
	maxAge, err := b.check(name, put)
	if err != nil {
		return api.Secret{}, err
	}
	secret := store.Secret{Name: name, Rule: put.Rule, Warning: put.AcceptWarning, MaxAge: maxAge}
	var stored store.Secret
	// The envelope names its version, which the store gives: seal for the next, and again if it turns out another.
	version := int64(1)
	for range 4 {
		err = space.Update(ctx, func(tx store.Tx) error {
			s, err := secret, error(nil)
			s.CreatedAt = b.Now().UTC()
			if s.Sealed, err = b.Keys.SealSecret(place(namespace, name, version), put.Value); err != nil {
				return err
			}
			if stored, err = tx.Secrets().Put(s); err != nil {
				return err
			}
			if stored.Version != version {
				return errVersion
			}
			return b.record(tx, stored.CreatedAt, actor, VerbPut, EventPut, name, described(stored))
		})
		if !errors.Is(err, errVersion) {
			break
		}
		version = stored.Version
	}
	if err != nil {
		return api.Secret{}, fmt.Errorf("storing secret %s: %w", name, err)
	}
	return described(stored), nil
}

// check returns the age of results that the secret may be released to.
func (b *Broker) check(name string, put api.SecretPut) (time.Duration, error) {
	switch {
	case !validName(name):
		return 0, refuse(CodeName, "name", "[a-z0-9][a-z0-9._/-]{0,127}", clip(name))
	case len(put.Value) == 0 || len(put.Value) > MaxValue:
		return 0, refuse(CodeSize, "value", fmt.Sprintf("1 to %d bytes", MaxValue), fmt.Sprint(len(put.Value)))
	case blank(put.Rule):
		return 0, refuse(CodeRuleEmpty, "rule", "a condition", "none")
	case len(put.Rule) > maxRule:
		return 0, refuse(CodeRule, "rule", fmt.Sprintf("at most %d bytes", maxRule), fmt.Sprint(len(put.Rule)))
	}
	if causes := b.Compile(put.Rule); len(causes) > 0 {
		r := refuse(CodeRule, "rule", "a condition", causes[0].String())
		r.Causes = causes
		return 0, r
	}
	if put.MaxResultAge == "" {
		return DefaultMaxAge, nil
	}
	age, err := time.ParseDuration(put.MaxResultAge)
	if err != nil || age <= 0 || age > MaxMaxAge {
		return 0, refuse(CodeAge, "max_result_age", "a duration up to "+MaxMaxAge.String(), clip(put.MaxResultAge))
	}
	return age, nil
}

// List describes the secrets of a namespace, ascending by name.
func (b *Broker) List(ctx context.Context, space store.Space) ([]api.Secret, error) {
	var list []api.Secret
	err := space.View(ctx, func(tx store.Tx) error {
		secrets, err := tx.Secrets().List()
		if err != nil {
			return err
		}
		list = make([]api.Secret, 0, len(secrets))
		for _, s := range secrets {
			if !s.Deleted {
				list = append(list, described(s))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing secrets: %w", err)
	}
	return list, nil
}

// Delete forgets all versions of a secret: none is released again (R130).
func (b *Broker) Delete(ctx context.Context, space store.Space, actor, name string) error {
	err := space.Update(ctx, func(tx store.Tx) error {
		now := b.Now().UTC()
		s, err := tx.Secrets().Get(name)
		if errors.Is(err, store.ErrNotFound) || err == nil && s.Deleted {
			return refuse(CodeUnknown, "name", "a secret of this namespace", clip(name))
		}
		if err != nil {
			return err
		}
		if err := tx.Secrets().Delete(name, now); err != nil {
			return err
		}
		return b.record(tx, now, actor, VerbDelete, EventDeleted, name, named{Name: s.Name, Version: s.Version})
	})
	var refused *Refusal
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("deleting secret %s: %w", clip(name), err)
}

// named is what is told of a deletion.
type named struct {
	Name    string `json:"name"`
	Version int64  `json:"version"`
}

// record writes the audit leaf and the event of one change.
func (b *Broker) record(tx store.Tx, at time.Time, actor, verb, kind, name string, detail any) error {
	raw, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("encoding an audit entry: %w", err)
	}
	object := "secret/" + name
	if _, err := tx.Audit().Append(store.AuditEntry{At: at, Actor: actor, Verb: verb, Object: object, Detail: raw}); err != nil {
		return err
	}
	_, err = tx.Events().Append(store.Event{At: at, Kind: kind, Subject: object, Data: raw})
	return err
}

func described(s store.Secret) api.Secret {
	return api.Secret{
		Name: s.Name, Version: s.Version, Rule: s.Rule, AcceptWarning: s.Warning, MaxResultAge: s.MaxAge.String(), CreatedAt: s.CreatedAt,
	}
}

// place is the context a secret is encrypted for: no other name, version or namespace yields the same.
func place(namespace, name string, version int64) string {
	return fmt.Sprintf("%q %q %d", namespace, name, version)
}

// validName also refuses empty elements, "." and "..": names stand in URLs, where those mean something else.
func validName(s string) bool {
	if !fs.ValidPath(s) || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		inner := c == '.' || c == '_' || c == '/' || c == '-'
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || inner && i > 0) {
			return false
		}
	}
	return true
}

func blank(s string) bool {
	for i := range len(s) {
		if s[i] != ' ' && s[i] != '\t' && s[i] != '\n' && s[i] != '\r' {
			return false
		}
	}
	return true
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
