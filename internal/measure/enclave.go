package measure

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

// Codes of the enclave.
var (
	CodeManifest = rats.CodeInfo{
		Code:  "measure.manifest.refused",
		Title: "manifest is not of this enclave and node",
		Hint:  "the enclave measures only for a manifest that holds its own keys, its plan signer and its node",
		Slot:  rats.RuntimeOpaque,
	}
	CodeBusy = rats.CodeInfo{
		Code:  "measure.enclave.busy",
		Title: "enclave runs another order",
		Hint:  "it runs one order at a time; try again",
		Slot:  rats.RuntimeOpaque,
	}
)

// Config is what an enclave is created with. All fields but Workers and Limits are needed.
type Config struct {
	System     System           // restricted to what this machine lets be read
	Rand       io.Reader        // of the keys
	Now        func() time.Time // expiry of orders, durations
	PlanSigner []byte           // SubjectPublicKeyInfo of the one key whose plans are obeyed (S05)
	Namespace  string           // whose orders are obeyed
	Node       string           // whose orders are obeyed
	Workers    int              // that hash at the same time; 0: one per processor
	Limits     plan.Limits      // most this machine grants to a run; zero fields are the runner's defaults
	Backend    string           // what its reports say it is; "": plan.BackendNative, which is simulated
	Hash       NewHash          // nil: the standard library's
	Trees      int64            // bytes of memory for what is remembered of large files; 0: NewTrees' default
}

// Enclave obeys signed orders and signs what came of them. Its keys are made when it is created and exist in memory only
// (R025). It is code, not isolation: as the native backend it is simulated, by its own reports; as the inside of an
// enclave image it is what that image's evidence says.
type Enclave struct {
	c        Config
	box      *sealed.Key
	signer   *ecdsa.PrivateKey
	keys     []rats.BoundKey
	busy     chan struct{} // holds a token while an order is run
	senders  sealed.Senders
	trees    *Trees
	mu       sync.Mutex
	sequence uint64
}

// NewEnclave makes an enclave with new keys.
func NewEnclave(c Config) (*Enclave, error) {
	if c.System == nil || c.Rand == nil || c.Now == nil || c.Namespace == "" || c.Node == "" {
		return nil, errors.New("an enclave needs a system, randomness, a clock, a namespace and a node")
	}
	if k, err := x509.ParsePKIXPublicKey(c.PlanSigner); err != nil {
		return nil, fmt.Errorf("reading the plan signer: %w", err)
	} else if e, ok := k.(*ecdsa.PublicKey); !ok || e.Curve != elliptic.P256() {
		return nil, errors.New("the plan signer is not an ECDSA P-256 key")
	}
	if c.Backend == "" {
		c.Backend = plan.BackendNative
	}
	box, err := sealed.GenerateKey(c.Rand)
	if err != nil {
		return nil, err
	}
	signer, err := signingKey(c.Rand)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the signing key: %w", err)
	}
	return &Enclave{
		c: c, box: box, signer: signer, busy: make(chan struct{}, 1), trees: NewTrees(c.Trees),
		keys: []rats.BoundKey{
			{Use: rats.KeyHPKE, Public: box.Public()},
			{Use: rats.KeyPlanSigner, Public: bytes.Clone(c.PlanSigner)},
			{Use: rats.KeySign, Public: spki},
		},
	}, nil
}

// signingKey makes a P-256 key of the reader's bytes; ecdsa.GenerateKey would ignore the reader.
func signingKey(rand io.Reader) (*ecdsa.PrivateKey, error) {
	var b [32]byte
	defer clear(b[:])
	for range 128 { // a candidate is out of range once in 2^32
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return nil, fmt.Errorf("reading randomness for a signing key: %w", err)
		}
		if k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b[:]); err == nil {
			return k, nil
		}
	}
	return nil, errors.New("randomness yields no signing key")
}

// Keys returns what a manifest must hold of this enclave: hpke, plan-signer and sign, in ascending order of use.
func (e *Enclave) Keys() []rats.BoundKey { return slices.Clone(e.keys) }

// String keeps the keys out of logs.
func (e *Enclave) String() string { return "measure.Enclave" }

// GoString keeps the keys out of logs.
func (e *Enclave) GoString() string { return "measure.Enclave" }

// Run opens an order, checks its signature and that it is for this enclave and for the attestation the manifest (canonical
// bytes) describes, runs its plan, and returns the signed report as evidence (plan.SealEvidence) sealed to the key the
// order names. An order that is not this enclave's is plan.CodeOrderSealed or plan.CodeOrderAddressee.
func (e *Enclave) Run(ctx context.Context, manifest, order []byte) ([]byte, error) {
	select {
	case e.busy <- struct{}{}:
		defer func() { <-e.busy }()
	default:
		return nil, CodeBusy.Missing("enclave", "", "")
	}
	o, err := plan.OpenOrder(e.box, e.c.PlanSigner, order)
	if err != nil {
		return nil, err
	}
	m, err := e.CheckManifest(manifest)
	if err != nil {
		return nil, err
	}
	if err := o.CheckFor(e.keys, m, e.c.Now()); err != nil {
		return nil, err
	}
	runner := Runner{System: e.c.System, Workers: e.c.Workers, Now: e.c.Now, Limits: e.c.Limits, Hash: e.c.Hash, Trees: e.trees}
	outcomes, seen, err := runner.RunTimed(ctx, o.Plan.Tests, o.Plan.Limits)
	if err != nil {
		return nil, fmt.Errorf("running a plan: %w", err)
	}
	ids := make([]uint32, len(o.Plan.Tests))
	for i, t := range o.Plan.Tests {
		ids[i] = t.ID
	}
	bulk, timings, err := plan.EncodeOutcomes(ids, outcomes, seen)
	if err != nil {
		return nil, err
	}
	report := plan.Report{
		Nonce: m.Nonce, Manifest: rats.SHA256(manifest).Sum, Plan: o.Plan.Digest(), Sequence: e.next(),
		Backend: e.c.Backend, Simulated: e.c.Backend == plan.BackendNative,
	}
	evidence, err := report.Sign(e.signer, bulk, timings)
	if err != nil {
		return nil, err
	}
	return plan.SealEvidence(&e.senders, o.Results, evidence)
}

func (e *Enclave) next() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sequence++
	return e.sequence
}

// CheckManifest decodes a manifest and refuses one that is not about this enclave: it would sign for a binding that quotes
// somebody else's keys.
func (e *Enclave) CheckManifest(b []byte) (rats.Manifest, error) {
	m, err := rats.DecodeManifest(b)
	if err != nil {
		return rats.Manifest{}, CodeManifest.Bad("manifest", "canonical bytes", err.Error())
	}
	for _, k := range e.keys {
		if got, ok := m.Key(k.Use); !ok || !bytes.Equal(got.Public, k.Public) {
			return rats.Manifest{}, CodeManifest.Bad("manifest.keys."+k.Use, "this enclave's", rats.SHA256(got.Public).String())
		}
	}
	switch {
	case m.Purpose != rats.PurposeAttest:
		return rats.Manifest{}, CodeManifest.Bad("manifest.purpose", rats.PurposeAttest, m.Purpose)
	case m.Namespace != e.c.Namespace:
		return rats.Manifest{}, CodeManifest.Bad("manifest.namespace", e.c.Namespace, m.Namespace)
	case m.Node != e.c.Node:
		return rats.Manifest{}, CodeManifest.Bad("manifest.node", e.c.Node, m.Node)
	case !slices.Contains(m.Formats, plan.Format):
		return rats.Manifest{}, CodeManifest.Bad("manifest.formats", string(plan.Format), fmt.Sprint(m.Formats))
	}
	return m, nil
}
