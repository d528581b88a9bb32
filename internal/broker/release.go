package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

// ReleaseRequest is a node's wish for a secret.
type ReleaseRequest struct {
	Namespace string
	Node      string      // id
	Name      string      // of the secret
	Requester rats.Digest // SHA-256 of the SubjectPublicKeyInfo of the connection's peer
	// Epoch is the namespace's when the caller began, if the caller decided anything itself: store.ErrEpoch if it
	// changed meanwhile (S40). 0: it didn't. The epoch the node's result was judged under is held in any case.
	Epoch int64
}

// Released is the detail of an audited release (R131) and of its event. It holds no secret.
type Released struct {
	Secret    string      `json:"secret"`
	Version   int64       `json:"version"`
	Node      string      `json:"node"`
	Result    string      `json:"result"`
	Evidence  rats.Digest `json:"evidence"` // of the collection
	Policy    rats.Ref    `json:"policy"`
	Requester rats.Digest `json:"requester"` // the connection's key
	SealedTo  rats.Digest `json:"sealed_to"` // SHA-256 of the hpke key
	At        time.Time   `json:"at"`
}

// Refused is the detail of an audited refusal.
type Refused struct {
	Secret    string        `json:"secret"`
	Node      string        `json:"node"`
	Result    string        `json:"result,omitempty"`
	Requester rats.Digest   `json:"requester,omitzero"`
	Reason    rats.Reason   `json:"reason"`
	Causes    []rats.Reason `json:"causes,omitempty"`
}

// Release returns a secret sealed to the hpke key of the node's newest result, under api.ReleaseInfo. Everything it
// relies on is read in the transaction that records the release, and nothing is returned before that is durable. Its
// error is a *Refusal (audited; AttestFirst says whether to attest and ask again), wraps store.ErrEpoch (ask again), or
// is a malfunction.
func (b *Broker) Release(ctx context.Context, space store.Space, req ReleaseRequest) (api.Release, error) {
	var out api.Release
	var result string
	err := space.Update(ctx, func(tx store.Tx) (err error) {
		out, result, err = b.release(tx, req, b.Now().UTC())
		return err
	})
	if err == nil {
		return out, nil
	}
	var refused *Refusal
	if !errors.As(err, &refused) {
		return api.Release{}, fmt.Errorf("releasing a secret: %w", err)
	}
	recorded := *refused
	if recorded.Reference, err = b.audit(ctx, space, req, result, refused); err != nil {
		return api.Release{}, fmt.Errorf("recording a refused release: %w", err)
	}
	return api.Release{}, &recorded
}

// audit records a refusal and returns its reference.
func (b *Broker) audit(ctx context.Context, space store.Space, req ReleaseRequest, result string, r *Refusal) (string, error) {
	detail, err := json.Marshal(Refused{
		Secret: clip(req.Name), Node: clip(req.Node), Result: result, Requester: req.Requester, Reason: r.Reason, Causes: r.Causes,
	})
	if err != nil {
		return "", err
	}
	var ref string
	err = space.Update(ctx, func(tx store.Tx) error {
		e, err := tx.Audit().Append(store.AuditEntry{
			At: b.Now().UTC(), Actor: "node:" + clip(req.Node), Verb: VerbRefuse, Object: "secret/" + clip(req.Name), Detail: detail,
		})
		ref = fmt.Sprintf("audit/%d", e.Seq)
		return err
	})
	return ref, err
}

// release also returns the id of the result it looked at, if it got that far.
func (b *Broker) release(tx store.Tx, req ReleaseRequest, now time.Time) (api.Release, string, error) {
	if req.Epoch != 0 {
		if err := tx.Epochs().Hold(req.Epoch); err != nil {
			return api.Release{}, "", err
		}
	}
	n, err := enrolled(tx, req)
	if err != nil {
		return api.Release{}, "", err
	}
	rec, err := newest(tx, req, n)
	if err != nil {
		return api.Release{}, n.Last, err
	}
	secret, known, err := find(tx, req.Name)
	if err != nil {
		return api.Release{}, n.Last, err
	}
	key, err := b.counts(tx, n, rec, secret, now)
	if err != nil {
		return api.Release{}, n.Last, err
	}
	if !known {
		return api.Release{}, n.Last, refuse(CodeUnknown, "name", "a secret of this namespace", clip(req.Name))
	}
	if err := b.allows(Question{Tx: tx, Rule: secret.Rule, Node: n, Record: rec, Now: now}); err != nil {
		return api.Release{}, n.Last, err
	}
	box, err := b.reseal(req, secret, rec.Result.ID, key)
	if err != nil {
		return api.Release{}, n.Last, err
	}
	err = b.record(tx, now, "node:"+n.ID, VerbRelease, EventReleased, secret.Name, Released{
		Secret: secret.Name, Version: secret.Version, Node: n.ID, Result: rec.Result.ID,
		Evidence: rec.Result.Collection, Policy: rec.Result.Policy,
		Requester: req.Requester, SealedTo: rats.SHA256(key), At: now,
	})
	if err != nil {
		return api.Release{}, n.Last, err
	}
	return api.Release{Name: secret.Name, Version: secret.Version, Result: rec.Result.ID, Sealed: box}, n.Last, nil
}

// enrolled returns the node if it is enrolled and asks over its own connection.
func enrolled(tx store.Tx, req ReleaseRequest) (store.Node, error) {
	n, err := tx.Nodes().Get(req.Node)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.Node{}, refuse(CodeNode, "node", "a node of this namespace", clip(req.Node))
	case err != nil:
		return store.Node{}, err
	case !n.TLSKey.Equal(req.Requester):
		return store.Node{}, refuse(CodeRequester, "requester", n.TLSKey.String(), req.Requester.String())
	case n.Enrolment == store.EnrolmentRevoked:
		return store.Node{}, refuse(CodeRevoked, "enrolment", store.EnrolmentApproved, n.Enrolment)
	case n.Enrolment != store.EnrolmentApproved:
		return store.Node{}, refuse(CodePending, "enrolment", store.EnrolmentApproved, n.Enrolment)
	case n.Quarantine != nil:
		return store.Node{}, refuse(CodeQuarantined, "quarantine", "none", n.Quarantine.By)
	case n.Withheld != "":
		return store.Node{}, refuse(CodeWithheld, "withheld", "no action of the policy", n.Withheld)
	}
	return n, nil
}

// newest returns the record of the result the node's state stands on.
func newest(tx store.Tx, req ReleaseRequest, n store.Node) (store.Record, error) {
	if n.Last == "" {
		return store.Record{}, refuse(CodeNoResult, "last", "a result", "none")
	}
	if n.Withdrawn != "" {
		return store.Record{}, refuse(CodeWithdrawn, "withdrawn", "a result that counts", n.Withdrawn)
	}
	rec, err := tx.Records().Get(n.Last)
	if errors.Is(err, store.ErrNotFound) {
		return store.Record{}, refuse(CodeNoResult, "last", "a stored result", n.Last)
	}
	if err != nil {
		return store.Record{}, err
	}
	if rec.Result.Namespace != req.Namespace || rec.Result.Subject != rats.Subject(rats.SubjectNode, n.ID) {
		return store.Record{}, fmt.Errorf("result %s of %s is about %s in %q", n.Last, n.ID, rec.Result.Subject, rec.Result.Namespace)
	}
	return rec, nil
}

// find returns the secret. An unknown one has the strictest conditions that a secret has by default, so that a node
// which must attest first is told so whether or not there is such a secret.
func find(tx store.Tx, name string) (s store.Secret, known bool, err error) {
	strict := store.Secret{MaxAge: DefaultMaxAge}
	if !validName(name) {
		return strict, false, nil
	}
	s, err = tx.Secrets().Get(name)
	switch {
	case errors.Is(err, store.ErrNotFound) || err == nil && s.Deleted:
		return strict, false, nil
	case err != nil:
		return store.Secret{}, false, err
	}
	return s, true, nil
}

// counts returns the hpke key of the result if the result is good enough for the secret.
func (b *Broker) counts(tx store.Tx, n store.Node, rec store.Record, s store.Secret, now time.Time) ([]byte, error) {
	r := rec.Result
	v := r.Verdict(now)
	age := now.Sub(r.At)
	switch {
	case v.State == rats.StateStale:
		return nil, refuse(CodeStale, "expires", "after "+now.Format(time.RFC3339), r.Expires.UTC().Format(time.RFC3339))
	case age < 0 || age > s.MaxAge:
		return nil, refuse(CodeStale, "at", "at most "+s.MaxAge.String()+" ago", age.String())
	case node.Rebooted(n):
		return nil, refuse(CodeStale, "boot", n.LastBoot.String(), n.Boot.String())
	}
	// A policy or reference set that changed since must not be circumvented by a result it didn't judge.
	if err := tx.Epochs().Hold(rec.Epoch); errors.Is(err, store.ErrEpoch) {
		return nil, refuse(CodeStale, "epoch", "a result judged by what is in force", fmt.Sprint("epoch ", rec.Epoch))
	} else if err != nil {
		return nil, err
	}
	if err := accept(v, s, "verdict"); err != nil {
		return nil, err
	}
	if b.State != nil {
		state, err := b.State(tx, n, now)
		if err != nil {
			return nil, fmt.Errorf("deriving the state of %s: %w", n.ID, err)
		}
		if err := accept(rats.VerdictOfState(state), s, "state"); err != nil {
			return nil, err
		}
	}
	key, ok := r.Key(rats.KeyHPKE)
	if !ok {
		return nil, refuse(CodeNoKey, "keys.hpke", "one key", "none, or several")
	}
	return key.Public, nil
}

// accept reads the verdict table's columns about secrets.
func accept(v rats.Verdict, s store.Secret, path string) error {
	if !v.Secrets {
		return refuse(CodeVerdict, path, string(rats.StateTrusted), string(v.State))
	}
	if v.OnlyIf && !s.Warning {
		return refuse(CodeVerdict, path, string(rats.StateTrusted)+" (the secret doesn't accept warnings)", string(v.State))
	}
	return nil
}

// allows asks the rule. Reasons refuse whatever the answer is.
func (b *Broker) allows(q Question) error {
	if blank(q.Rule) {
		return refuse(CodeDenied, "rule", "a condition", "none")
	}
	ok, causes, err := b.Eval(q)
	switch {
	case err != nil:
		return fmt.Errorf("evaluating a release rule: %w", err)
	case len(causes) > 0:
		r := refuse(CodeUnevaluable, "rule", clip(q.Rule), causes[0].String())
		r.Causes = causes
		return r
	case !ok:
		return refuse(CodeDenied, "rule", clip(q.Rule), "false")
	}
	return nil
}

// reseal takes the secret out of storage and seals it to the node.
func (b *Broker) reseal(req ReleaseRequest, s store.Secret, result string, key []byte) ([]byte, error) {
	plain, err := b.Keys.OpenSecret(place(req.Namespace, s.Name, s.Version), s.Sealed)
	if err != nil {
		return nil, fmt.Errorf("opening secret %s version %d: %w", s.Name, s.Version, err)
	}
	defer clear(plain)
	box, err := sealed.Seal(key, api.ReleaseInfo(req.Namespace, req.Node, s.Name, s.Version, result), plain)
	if r, bad := rats.ReasonOf(err); bad {
		return nil, refuse(CodeNoKey, "keys.hpke", r.Expected, r.Seen)
	}
	if err != nil {
		return nil, fmt.Errorf("sealing secret %s: %w", s.Name, err)
	}
	return box, nil
}
