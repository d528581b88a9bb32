package plan_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	evidence "github.com/assay-attest/assay/evidence/plan"
	attester "github.com/assay-attest/assay/internal/attester/plan"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type exchange struct {
	signer  *ecdsa.PrivateKey
	spki    []byte
	results *sealed.Key
	enclave *measure.Enclave
	dir     string
	binding rats.Binding
	order   plan.Order
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newEnclave(t testing.TB, x *exchange) *measure.Enclave {
	return must[*measure.Enclave](t)(measure.NewEnclave(measure.Config{
		System: measure.Restrict(measure.Local(), []string{x.dir}, nil), Rand: rand.Reader, Now: func() time.Time { return start },
		PlanSigner: x.spki, Namespace: "default", Node: "nd_1",
	}))
}

func newExchange(t testing.TB) *exchange {
	x := &exchange{dir: must[string](t)(filepath.EvalSymlinks(t.TempDir()))}
	x.signer = must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	x.spki = must[[]byte](t)(x509.MarshalPKIXPublicKey(x.signer.Public()))
	x.results = must[*sealed.Key](t)(sealed.GenerateKey(rand.Reader))
	if err := os.WriteFile(x.dir+"/file", []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	x.enclave = newEnclave(t, x)
	m := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256(x.spki), Nonce: bytes.Repeat([]byte{1}, 32),
		Instance: make([]byte, 16), Keys: x.enclave.Keys(), Formats: []rats.Format{"tpm", "plan"},
	}
	x.binding = must[rats.Binding](t)(m.Bind())
	x.order = plan.Order{
		Namespace: "default", Node: "nd_1", Nonce: m.Nonce, To: plan.KeysDigest(m.Keys), Results: x.results.Public(), Expires: start.Add(time.Minute),
		Plan: plan.Plan{Version: plan.Version1, Tests: []plan.Test{must[plan.Test](t)(plan.NewTest(1, plan.KindDir, "sha256", x.dir, nil))}},
	}
	return x
}

func (x *exchange) seal(t testing.TB) []byte {
	key, _ := rats.Manifest{Keys: x.enclave.Keys()}.Key(rats.KeyHPKE)
	return must[[]byte](t)(x.order.Seal(nil, x.signer, key.Public))
}

// R003, R024: order in, sealed and signed report out, verified.
func TestOrderBecomesVerifiedEvidence(t *testing.T) {
	x := newExchange(t)
	a := attester.New(x.enclave)
	if r := a.Probe(t.Context()); !r.OK || a.Descriptor().ID != evidence.Format {
		t.Errorf("%+v", r)
	}
	got, err := a.Collect(t.Context(), rats.Ask{Format: evidence.Format, Binding: x.binding, Params: x.seal(t)})
	if err != nil || got.MediaType != api.TypeSealed || got.Format != evidence.Format {
		t.Fatalf("%+v, %v", got, err)
	}
	ev, err := plan.OpenEvidence(x.results, got.Body)
	if err != nil {
		t.Fatal(err)
	}
	params, _ := json.Marshal(evidence.Params{Plan: x.order.Plan.Encode(), PlanSigner: x.spki})
	v, err := evidence.New().Verify(t.Context(), ev, rats.Inputs{Binding: x.binding, Now: start, Params: params, Facts: rats.Facts{Keys: x.enclave.Keys()}})
	if err != nil {
		t.Fatal(err)
	}
	c := v.Claims.(*evidence.Claims)
	if len(c.Measurements) != 1 || c.Measurements[0].Name != x.dir+"/file" || !c.Measurements[0].Digest.Equal(rats.SHA256([]byte("data"))) || !c.Simulated {
		t.Errorf("%+v", c)
	}
}

func TestOrderOfARestartedEnclaveIsToldApart(t *testing.T) {
	x := newExchange(t)
	old := x.seal(t)
	_, err := attester.New(newEnclave(t, x)).Collect(t.Context(), rats.Ask{Binding: x.binding, Params: old})
	if !errors.Is(err, attester.ErrOrder) {
		t.Errorf("got %v", err)
	}
	x.order.To = rats.SHA256(nil)
	_, err = attester.New(x.enclave).Collect(t.Context(), rats.Ask{Binding: x.binding, Params: x.seal(t)})
	if !errors.Is(err, attester.ErrOrder) {
		t.Errorf("got %v", err)
	}
}

// R220: an order by another signer is refused, not tried again.
func TestRefusedOrderIsNoRestart(t *testing.T) {
	x := newExchange(t)
	x.signer = must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, err := attester.New(x.enclave).Collect(t.Context(), rats.Ask{Binding: x.binding, Params: x.seal(t)})
	if r, ok := rats.ReasonOf(err); !ok || r.Code != plan.CodeOrderSignature.Code || errors.Is(err, attester.ErrOrder) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutEnclaveThereIsNoEvidence(t *testing.T) {
	a := attester.New(nil)
	if r := a.Probe(t.Context()); r.OK || r.Fix == "" {
		t.Errorf("%+v", r)
	}
	if _, err := a.Collect(t.Context(), rats.Ask{}); err == nil {
		t.Error("evidence of nothing")
	}
}
