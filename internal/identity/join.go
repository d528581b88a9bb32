package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

const (
	continueTTL = 60 * time.Second
	nonceSize   = 32
)

// TokenKeys seals what the first step of joining hands to the second (authenticated encryption; aad is bound, not
// hidden). Package keyring implements it.
type TokenKeys interface {
	Seal(aad, plaintext []byte) []byte
	Open(aad, token []byte) ([]byte, error)
}

// Config is what a Joiner depends on. All fields are required, but Vouch and Pins.
type Config struct {
	Keys       TokenKeys
	CA         *CA
	Pins       *Pins // told to nodes; nil: CA alone
	Now        func() time.Time
	Rand       io.Reader
	VerifierID rats.Digest // SHA-256 of the verifier key's SubjectPublicKeyInfo
	PlanSigner []byte      // SubjectPublicKeyInfo of the key whose plans nodes obey (S05)
	// Vouch asks the policy that would select node n whether its enrolment record is enough to approve it. No reasons
	// means yes. It is called outside of any transaction. A nil Vouch vouches for nobody.
	Vouch func(ctx context.Context, namespace string, n store.Node, e rats.Endorsement) []rats.Reason
}

// Joiner makes nodes of TPMs that hold a join token. It keeps no state but an index that saves reading: any server with the same keys takes any step.
// It is safe for concurrent use.
type Joiner struct {
	cfg Config
	eks eks
}

// NewJoiner refuses a configuration with something missing.
func NewJoiner(cfg Config) (*Joiner, error) {
	if cfg.Keys == nil || cfg.CA == nil || cfg.Now == nil || cfg.Rand == nil || cfg.VerifierID.Check() != nil || len(cfg.PlanSigner) == 0 {
		return nil, errors.New("joiner lacks keys, CA, clock, randomness, verifier id or plan signer")
	}
	if cfg.Pins == nil {
		pins, err := NewPins([][]byte{cfg.CA.DER()}, cfg.Now)
		if err != nil {
			return nil, err
		}
		cfg.Pins = pins
	}
	return &Joiner{cfg: cfg}, nil
}

// Why the first step of joining is refused, besides the token.
var (
	CodeRequestSize = rats.CodeInfo{
		Code:  "join.request.size",
		Title: "a part of the request is missing or too long",
		Hint:  "use an agent of the server's version",
		Slot:  rats.InstanceIdentity,
	}
	CodeNameTaken = rats.CodeInfo{
		Code:  "join.name.taken",
		Title: "another node has that name",
		Hint:  "choose another name, or delete the other node",
		Slot:  rats.InstanceIdentity,
	}
	CodeNodeExists = rats.CodeInfo{
		Code:  "join.node.exists",
		Title: "this machine has already joined under that name",
		Hint:  "if it was installed anew, delete the node first (assay node delete NAME), then join again",
		Slot:  rats.InstanceIdentity,
	}
)

// candidate is a request after its checks, the token's included.
type candidate struct {
	text  api.JoinTokenText
	enrol tpm.Enrolment
}

// Begin is the first step: it checks the token, the TPM's public areas and the TLS key, and answers with a credential
// that only the TPM with that EK opens, and only for that AK (TPM 2.0 Part 1, 24). Nothing is stored.
func (j *Joiner) Begin(ctx context.Context, namespace string, space store.Space, r api.JoinRequest) (api.JoinChallenge, error) {
	c, err := j.examine(namespace, r)
	if err != nil {
		return api.JoinChallenge{}, err
	}
	defer clear(c.text.Secret)
	err = space.View(ctx, func(tx store.Tx) error {
		t, err := j.checkToken(tx, c.text, c.enrol.EKDigest)
		if err != nil {
			return err
		}
		_, err = j.room(tx, namespace, t, r, c.enrol, true)
		return err
	})
	if err != nil {
		return api.JoinChallenge{}, err
	}
	random := make([]byte, secretSize+nonceSize)
	defer clear(random[:secretSize])
	if _, err := io.ReadFull(j.cfg.Rand, random); err != nil {
		return api.JoinChallenge{}, fmt.Errorf("reading randomness for joining: %w", err)
	}
	secret, nonce := random[:secretSize], random[secretSize:]
	credential, encSecret, err := tpm.MakeCredential(j.cfg.Rand, r.EK, r.AK, secret)
	if err != nil {
		return api.JoinChallenge{}, fmt.Errorf("making the credential: %w", err)
	}
	next, err := j.sealStep(namespace, step{
		Request: requestDigest(r), Secret: rats.SHA256(secret), Nonce: nonce, Token: c.text.ID,
		Expires: j.cfg.Now().Add(continueTTL).UnixNano(),
	})
	if err != nil {
		return api.JoinChallenge{}, err
	}
	return api.JoinChallenge{Continue: next, Credential: credential, Secret: encSecret, Nonce: nonce}, nil
}

// examine makes the checks that need no database, cheapest first.
func (j *Joiner) examine(namespace string, r api.JoinRequest) (candidate, error) {
	if err := checkSizes(r); err != nil {
		return candidate{}, err
	}
	text, err := parseToken(namespace, r.Token)
	if err != nil {
		return candidate{}, err
	}
	if _, err := parseTLSKey(r.TLSKey); err != nil {
		return candidate{}, err
	}
	e, err := tpm.Enrol(r.EK, r.EKCert, r.AK, j.cfg.Now())
	if err != nil {
		return candidate{}, fmt.Errorf("enrolling the TPM: %w", err)
	}
	return candidate{text: text, enrol: e}, nil
}

// checkSizes bounds every foreign byte before anything parses it.
func checkSizes(r api.JoinRequest) error {
	for _, f := range []struct {
		path     string
		n        int
		min, max int
	}{
		{"token", len(r.Token), 1, 1024},
		{"name", len(r.Name), 0, 1024},
		{"ek", len(r.EK), 1, 1024},
		{"ek_cert", len(r.EKCert), 0, 24 << 10},
		{"ak", len(r.AK), 1, 1024},
		{"tls_key", len(r.TLSKey), 1, 512},
		{"tls_tpm", len(r.TLSTPM), 1, 1024},
	} {
		if f.n < f.min || f.n > f.max {
			return CodeRequestSize.Bad(f.path, fmt.Sprintf("%d to %d bytes", f.min, f.max), fmt.Sprintf("%d bytes", f.n))
		}
	}
	return nil
}

// room returns the name that the node will have, and makes sure that it and the TPM are free: of other nodes, or of those
// that the token lets it replace.
func (j *Joiner) room(tx store.Tx, namespace string, t store.JoinToken, r api.JoinRequest, e tpm.Enrolment, committed bool) (string, error) {
	name, err := freeName(tx, t, r, e)
	if err != nil {
		return "", err
	}
	_, err = j.alone(tx, namespace, t, e.EKDigest, committed)
	return name, err
}

// freeName returns the name the node will have: the token's, or else the agent's proposal. It must be free.
func freeName(tx store.Tx, t store.JoinToken, r api.JoinRequest, e tpm.Enrolment) (string, error) {
	name := t.Name
	if name == "" {
		name = r.Name
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	n, err := tx.Nodes().ByName(name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return name, nil
	case err != nil:
		return "", fmt.Errorf("looking up a node's name: %w", err)
	case EKOf(n).Equal(e.EKDigest) && t.Replace && n.Enrolment != store.EnrolmentRevoked:
		return name, nil
	case EKOf(n).Equal(e.EKDigest):
		return "", CodeNodeExists.Bad("name", "a name this TPM has not joined under", clip(name))
	}
	return "", CodeNameTaken.Bad("name", "a free name", clip(name))
}

// EKOf returns the EK of a node's enrolment record, zero if it has none.
func EKOf(n store.Node) rats.Digest {
	for _, e := range n.Endorsements {
		var r tpm.Enrolment
		if e.MediaType == tpm.EnrolmentMediaType && json.Unmarshal(e.Body, &r) == nil {
			return r.EKDigest
		}
	}
	return rats.Digest{}
}

// requestDigest identifies a request: the second step must be about the same one.
func requestDigest(r api.JoinRequest) rats.Digest {
	// Strings and bytes always marshal, in the order of the struct, unambiguously.
	b, _ := json.Marshal(r)
	defer clear(b)
	return rats.SHA256([]byte("assay/join-request/1\x00"), b)
}

// step is what JoinChallenge.Continue carries, sealed.
type step struct {
	Request rats.Digest `json:"r"`
	Secret  rats.Digest `json:"s"` // of the activation secret
	Nonce   []byte      `json:"n"`
	Token   string      `json:"t"`
	Expires int64       `json:"e"` // nanoseconds since 1970
}

// Why a continuation is refused.
var (
	CodeContinueForged = rats.CodeInfo{
		Code:  "join.continue.forged",
		Title: "the continuation was not made by this verifier for this namespace",
		Hint:  "begin joining again; if it recurs, the servers of this cluster have different keys",
		Slot:  rats.InstanceIdentity,
	}
	CodeContinueLate = rats.CodeInfo{
		Code:  "join.continue.late",
		Title: "the second step of joining came too late",
		Hint:  "begin joining again; the TPM has 60 seconds to answer",
		Slot:  rats.InstanceIdentity,
	}
	CodeContinueOther = rats.CodeInfo{
		Code:  "join.continue.other",
		Title: "the second step of joining is about another request than the first",
		Hint:  "send the request of the first step unchanged",
		Slot:  rats.InstanceIdentity,
	}
)

func stepAAD(namespace string) []byte { return []byte("assay/join/1\x00" + namespace) }

func (j *Joiner) sealStep(namespace string, s step) ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the join continuation: %w", err)
	}
	return j.cfg.Keys.Seal(stepAAD(namespace), b), nil
}

// openStep returns the step that a continuation carries, if it is authentic, in time and about this request.
func (j *Joiner) openStep(namespace string, sealed []byte, r api.JoinRequest) (step, error) {
	b, err := j.cfg.Keys.Open(stepAAD(namespace), sealed)
	var s step
	if err != nil || json.Unmarshal(b, &s) != nil {
		return step{}, CodeContinueForged.Bad("continue", "what the first step answered", "something else")
	}
	now, until := j.cfg.Now(), time.Unix(0, s.Expires)
	if !now.Before(until) {
		return step{}, CodeContinueLate.Bad("continue", "before "+until.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if !s.Request.Equal(requestDigest(r)) {
		return step{}, CodeContinueOther.Bad("request", "the request of the first step", "another one")
	}
	return s, nil
}
