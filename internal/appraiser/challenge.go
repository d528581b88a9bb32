package appraiser

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Why a challenge's token is refused.
var (
	CodeTokenForged = rats.CodeInfo{
		Code: "challenge.token.forged", Title: "the challenge token was not issued by this server", Slot: rats.InstanceIdentity,
		Hint: "answer the challenge received on the node's own stream; after a restored backup, wait for the next one",
	}
	CodeTokenExpired = rats.CodeInfo{
		Code: "challenge.token.expired", Title: "the challenge is too old", Slot: rats.InstanceIdentity,
		Hint: "evidence must arrive within the challenge's lifetime; the next challenge follows on the stream",
	}
	CodeTokenOther = rats.CodeInfo{
		Code: "challenge.token.other-node", Title: "the challenge was issued to another node", Slot: rats.InstanceIdentity,
		Hint: "a node may answer its own challenges only",
	}
	CodeTokenSpent = rats.CodeInfo{
		Code: "challenge.token.spent", Title: "the challenge was answered before", Slot: rats.InstanceIdentity,
		Hint: "every challenge is good for one answer; the next one follows on the stream",
	}
	CodePolicyChanged = rats.CodeInfo{
		Code: "challenge.policy.changed", Title: "policy or reference values changed after the challenge was issued",
		Slot: rats.Configuration, Hint: "nothing to do: a new challenge follows at once",
	}
	CodeStepOrder = rats.CodeInfo{
		Code: "challenge.step.order", Title: "the answer doesn't fit the step its token is for", Slot: rats.InstanceIdentity,
		Hint: "send platform evidence first; the plan's outcome answers the continuation only",
	}
)

// challenge is what a token holds: the whole state of an exchange (S06). It is authenticated and encrypted by the
// server's token key; nothing is stored when it is issued.
type challenge struct {
	ID        [16]byte
	Step      uint8 // stepPlatform or stepOutcome
	Namespace string
	Node      string
	Purpose   string
	Nonce     []byte
	Policy    rats.Ref
	Epoch     int64
	Formats   []rats.Format
	Steady    bool // orders were handed out with the challenge
	// Params are what was asked where that is not just what policy says: the continuation of a log.
	Params  map[rats.Format][]byte
	Asked   time.Time // when the first step was issued
	Issued  time.Time
	Expires time.Time
	// Of a continuation only:
	Pending  rats.Digest   // blob: the platform collection that this step continues
	Manifest rats.Digest   // of the first step
	Age      time.Duration // of the platform evidence at its receipt
}

const (
	stepPlatform uint8 = 1
	stepOutcome  uint8 = 2
)

var tokenAAD = []byte("assay/challenge/1")

func (a *Appraiser) seal(c challenge) []byte { return a.cfg.Tokens.Seal(tokenAAD, c.encode()) }

// open authenticates a token and checks that it is this node's and still young.
func (a *Appraiser) open(token []byte, namespace, node string) (challenge, error) {
	b, err := a.cfg.Tokens.Open(tokenAAD, token)
	if err != nil {
		return challenge{}, CodeTokenForged.Bad("token", "a token of this server", "one that doesn't authenticate")
	}
	c, err := decodeChallenge(b)
	if err != nil {
		return challenge{}, fmt.Errorf("decoding an authentic challenge: %w", err)
	}
	if c.Namespace != namespace || c.Node != node {
		return challenge{}, CodeTokenOther.Bad("token", node, c.Node)
	}
	if now := a.cfg.Now(); !now.Before(c.Expires) {
		return challenge{}, CodeTokenExpired.Bad("token", "an answer before "+c.Expires.UTC().Format(time.RFC3339),
			now.UTC().Format(time.RFC3339))
	}
	return c, nil
}

// issue makes a challenge for a node by the policy in force at the epoch the node was read at. steady is the node's last result if it was trusted and the
// same instance still runs in the same boot: the plan then goes out in the same message, sealed to its keys, and logs are
// asked to continue. It is nil for a cold start.
func (a *Appraiser) issue(ctx context.Context, n store.Node, epoch int64, namespace, why string, steady *lastResult) (api.Challenge, error) {
	view, err := a.cfg.Refs.At(ctx, a.cfg.Store.In(namespace), namespace, epoch)
	if err != nil {
		return api.Challenge{}, err
	}
	active, reasons := view.Active(NodeFacts(n))
	if len(reasons) > 0 {
		return api.Challenge{}, &rats.BadEvidence{Reason: reasons[0]}
	}
	id, err := a.random(16)
	if err != nil {
		return api.Challenge{}, err
	}
	nonce, err := a.random(32)
	if err != nil {
		return api.Challenge{}, err
	}
	now := a.cfg.Now()
	c := challenge{
		ID: [16]byte(id), Step: stepPlatform, Namespace: namespace, Node: n.ID, Purpose: rats.PurposeAttest,
		Nonce: nonce, Policy: active.Ref, Epoch: view.Epoch, Asked: now, Issued: now, Expires: now.Add(a.cfg.TTL),
	}
	asks := active.Asks()
	for i, k := range asks {
		c.Formats = append(c.Formats, k.Format)
		// A log is continued only under the values that judged what is left out (S40).
		if steady == nil || steady.epoch != view.Epoch {
			continue
		}
		if p := a.cfg.Engine.Continue(k.Format, k.Params, n.Resume[k.Format]); !bytes.Equal(p, k.Params) {
			if c.Params == nil {
				c.Params = map[rats.Format][]byte{}
			}
			asks[i].Params, c.Params[k.Format] = p, p
		}
	}
	c.Formats = append(c.Formats, active.Planned()...)
	// Keys that were good under an older policy may be those of an enclave that this one would not let a plan go to (R022).
	if steady != nil && steady.epoch == view.Epoch && len(steady.keys) > 0 && len(active.Planned()) > 0 {
		orders, err := a.orders(c, view, active, steady.keys)
		if err != nil {
			return api.Challenge{}, err
		}
		asks, c.Steady = append(asks, orders...), true
	}
	return a.message(c, asks, why, a.cfg.TTL), nil
}

func (a *Appraiser) message(c challenge, asks []rats.Ask, why string, ttl time.Duration) api.Challenge {
	return api.Challenge{
		Token: a.seal(c), Nonce: c.Nonce, Purpose: c.Purpose, Verifier: a.cfg.Verifier,
		Expires: c.Expires, TTL: ttl.String(), Formats: c.Formats, Asks: asks, Why: why,
	}
}

// planOf rebuilds the plan of a challenge: a function of policy, reference values, nonce, node and the time of its issue, so
// that no server has to remember it.
func (a *Appraiser) planOf(c challenge, view *refs.View, active refs.Active) (plan.Plan, error) {
	var failed error
	m := plan.Moment{Seed: [32]byte(rats.SHA256([]byte("assay/plan-seed/1"), c.Nonce).Sum), At: c.Asked}
	if a.cfg.Derive != nil {
		m.Turn = func(label string) [32]byte {
			key, err := a.cfg.Derive(fmt.Sprintf("plan/%s/%s/%s/%s", c.Namespace, c.Node, c.Policy.Name, label))
			if err != nil {
				failed = err
			}
			return key
		}
	}
	p, err := active.PlanAt(view.Index, m)
	if failed != nil {
		return plan.Plan{}, failed
	}
	return p, err
}

// orders seals the plan to the enclave with the given keys, once per planned format (S05).
func (a *Appraiser) orders(c challenge, view *refs.View, active refs.Active, keys []rats.BoundKey) ([]rats.Ask, error) {
	p, err := a.planOf(c, view, active)
	if err != nil {
		return nil, err
	}
	to, ok := rats.Facts{Keys: keys}.Key(rats.KeyHPKE)
	if !ok {
		return nil, CodeManifestKey.Bad("manifest.keys.hpke", "the enclave's HPKE key", "none")
	}
	order := plan.Order{
		Namespace: c.Namespace, Node: c.Node, Nonce: c.Nonce, To: plan.KeysDigest(keys),
		Results: a.cfg.Results.Public(), Expires: c.Expires, Plan: p,
	}
	var asks []rats.Ask
	for _, f := range active.Planned() {
		box, err := order.Seal(&a.senders, a.cfg.PlanSigner, to.Public)
		if err != nil {
			return nil, fmt.Errorf("sealing the plan: %w", err)
		}
		asks = append(asks, rats.Ask{Format: f, Params: box})
	}
	return asks, nil
}

// The manifest's fields, each with its own code (S03).
var (
	CodeManifestMalformed = rats.CodeInfo{
		Code: "manifest.encoding.malformed", Title: "the manifest is not in its canonical form", Slot: rats.InstanceIdentity,
		Hint: "agent and server must speak the same protocol version; update the older one",
	}
	CodeManifestField = rats.CodeInfo{
		Code: "manifest.field.mismatch", Title: "the manifest is about another exchange", Slot: rats.InstanceIdentity,
		Hint: "the manifest must repeat what the challenge said; nothing else is accepted",
	}
	CodeManifestNonce = rats.CodeInfo{
		Code: "manifest.nonce.mismatch", Title: "the manifest answers another challenge", Slot: rats.InstanceIdentity,
		Hint: "evidence can't be reused: a new quote is needed for every challenge",
	}
	CodeManifestPeer = rats.CodeInfo{
		Code: "manifest.tls.mismatch", Title: "the manifest names another TLS key than this connection's",
		Slot: rats.InstanceIdentity,
		Hint: "evidence of one machine can't be sent over another's connection",
	}
	CodeManifestFormats = rats.CodeInfo{
		Code: "manifest.formats.mismatch", Title: "the manifest lists other formats than were asked for",
		Slot: rats.InstanceIdentity, Hint: "the challenge names the formats and their order",
	}
	CodeManifestSigner = rats.CodeInfo{
		Code: "manifest.plan-signer.mismatch", Title: "the enclave obeys plans of another signer", Slot: rats.Executables,
		Hint: "the agent joined another server, or this server's plan key changed: join again",
	}
	CodeManifestKey = rats.CodeInfo{
		Code: "manifest.key.missing", Title: "the manifest lacks a key that is needed", Slot: rats.InstanceIdentity,
		Hint: "the enclave must bind its hpke and sign keys; update the agent",
	}
)

// CodeManifestExtra refuses a key of a use that is not an Attester's to bind.
var CodeManifestExtra = rats.CodeInfo{
	Code: "manifest.key.extra", Title: "the manifest binds a key that is not the node's to name", Slot: rats.InstanceIdentity,
	Hint: "keys of other uses are vouched by evidence, never by the manifest; update the agent",
}

// manifestKeys are the uses a manifest may bind a key for.
var manifestKeys = []string{rats.KeyHPKE, rats.KeyPlanSigner, rats.KeySign, rats.KeyTLS}

// checkManifest compares the manifest with what was asked and with the connection it came over (S03). peer is the
// SubjectPublicKeyInfo of the connection's client certificate.
func (a *Appraiser) checkManifest(c challenge, raw, peer []byte, planned bool) (rats.Manifest, error) {
	m, err := rats.DecodeManifest(raw)
	if err != nil {
		return rats.Manifest{}, CodeManifestMalformed.Bad("manifest", "canonical bytes", err.Error())
	}
	for _, f := range []struct{ name, want, got string }{
		{"purpose", c.Purpose, m.Purpose},
		{"namespace", c.Namespace, m.Namespace},
		{"node", c.Node, m.Node},
		{"verifier", a.cfg.Verifier.String(), m.Verifier.String()},
	} {
		if f.want != f.got {
			return rats.Manifest{}, CodeManifestField.Bad("manifest."+f.name, f.want, f.got)
		}
	}
	if !bytes.Equal(m.Nonce, c.Nonce) {
		return rats.Manifest{}, CodeManifestNonce.Bad("manifest.nonce", fmt.Sprintf("%x", c.Nonce), fmt.Sprintf("%x", m.Nonce))
	}
	if !slices.Equal(m.Formats, c.Formats) {
		return rats.Manifest{}, CodeManifestFormats.Bad("manifest.formats", fmt.Sprint(c.Formats), fmt.Sprint(m.Formats))
	}
	if k, ok := m.Key(rats.KeyTLS); !ok || !bytes.Equal(k.Public, peer) {
		return rats.Manifest{}, CodeManifestPeer.Bad("manifest.keys.tls", rats.SHA256(peer).String(), rats.SHA256(k.Public).String())
	}
	for _, k := range m.Keys {
		if !slices.Contains(manifestKeys, k.Use) {
			return rats.Manifest{}, CodeManifestExtra.Bad("manifest.keys."+k.Use, fmt.Sprint(manifestKeys), k.Use)
		}
	}
	if !planned {
		return m, nil
	}
	if k, ok := m.Key(rats.KeyPlanSigner); !ok || !bytes.Equal(k.Public, a.cfg.PlanSPKI) {
		return rats.Manifest{}, CodeManifestSigner.Bad("manifest.keys.plan-signer", rats.SHA256(a.cfg.PlanSPKI).String(), rats.SHA256(k.Public).String())
	}
	for _, use := range []string{rats.KeyHPKE, rats.KeySign} {
		if _, ok := m.Key(use); !ok {
			return rats.Manifest{}, CodeManifestKey.Bad("manifest.keys."+use, "a key", "none")
		}
	}
	return m, nil
}
