package measure

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type server struct {
	signer *ecdsa.PrivateKey
	spki   []byte
	box    *sealed.Key
	fake   *fake
	config Config
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{fake: newFake(map[string]string{"/etc/passwd": "root"})}
	var err error
	if s.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if s.spki, err = x509.MarshalPKIXPublicKey(s.signer.Public()); err != nil {
		t.Fatal(err)
	}
	if s.box, err = sealed.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	s.config = Config{
		System: Restrict(s.fake, []string{"/"}, nil), Rand: rand.Reader, Now: func() time.Time { return start },
		PlanSigner: s.spki, Namespace: "default", Node: "nd_1",
	}
	return s
}

func (s *server) enclave(t testing.TB) *Enclave {
	t.Helper()
	e, err := NewEnclave(s.config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (s *server) manifest(e *Enclave) rats.Manifest {
	return rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256(s.spki), Nonce: bytes.Repeat([]byte{1}, 32),
		Instance: make([]byte, 16), Keys: append(e.Keys(), rats.BoundKey{Use: rats.KeyTLS, Public: []byte("t")}), Formats: []rats.Format{"tpm", "plan"},
	}
}

func (s *server) order(t testing.TB, e *Enclave) plan.Order {
	return plan.Order{
		Namespace: "default", Node: "nd_1", Nonce: bytes.Repeat([]byte{1}, 32), To: plan.KeysDigest(e.Keys()), Results: s.box.Public(), Expires: start.Add(time.Minute),
		Plan: plan.Plan{Version: plan.Version1, Tests: []plan.Test{test(t, plan.KindDir, "/etc")}},
	}
}

func (s *server) seal(t testing.TB, e *Enclave, o plan.Order) []byte {
	t.Helper()
	key, _ := rats.Manifest{Keys: e.Keys()}.Key(rats.KeyHPKE)
	b, err := o.Seal(nil, s.signer, key.Public)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode(t testing.TB, m rats.Manifest) []byte {
	t.Helper()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// R003: the enclave makes the key pair, opens the plan, drives the measurements and seals the signed results, which say
// that it is simulated. R021: in this order.
func TestEnclaveObeysItsOrder(t *testing.T) {
	s := newServer(t)
	e := s.enclave(t)
	o := s.order(t, e)
	manifest := encode(t, s.manifest(e))
	for seq := uint64(1); seq <= 3; seq++ {
		box, err := e.Run(t.Context(), manifest, s.seal(t, e, o))
		if err != nil {
			t.Fatal(err)
		}
		ev, err := plan.OpenEvidence(s.box, box)
		if err != nil {
			t.Fatal(err)
		}
		r, bulk, timings, err := plan.OpenReport(ev)
		if err != nil {
			t.Fatal(err)
		}
		sign, _ := rats.Manifest{Keys: e.Keys()}.Key(rats.KeySign)
		if r.Sequence != seq || !r.Simulated || r.Backend != plan.BackendNative || !bytes.Equal(r.Signer, sign.Public) || !r.Plan.Equal(o.Plan.Digest()) ||
			!bytes.Equal(r.Manifest, rats.SHA256(manifest).Sum) || !bytes.Equal(r.Nonce, o.Nonce) {
			t.Errorf("%+v", r)
		}
		_, outcomes, err := plan.DecodeOutcomes(bulk, timings)
		if err != nil {
			t.Fatal(err)
		}
		want(t, short(outcomes), "/etc/passwd="+sum("root"))
	}
}

// R220: an order that is not signed by the plan signer, or for another enclave, is not obeyed. R107: nor one for another
// challenge. The enclave signs for no manifest but its own.
func TestEnclaveRefusalMatrix(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *server, e *Enclave, m *rats.Manifest, o *plan.Order)
		want   rats.CodeInfo
	}{
		{"another signer's plan", func(s *server, _ *Enclave, _ *rats.Manifest, _ *plan.Order) {
			s.signer, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}, plan.CodeOrderSignature},
		{"another enclave's order", func(s *server, e *Enclave, _ *rats.Manifest, o *plan.Order) {
			o.To = plan.KeysDigest(s.enclave(t).Keys())
		}, plan.CodeOrderAddressee},
		{"another nonce in the order", func(_ *server, _ *Enclave, _ *rats.Manifest, o *plan.Order) { o.Nonce = make([]byte, 32) }, plan.CodeOrderNonce},
		{"another nonce in the manifest", func(_ *server, _ *Enclave, m *rats.Manifest, _ *plan.Order) { m.Nonce = make([]byte, 32) }, plan.CodeOrderNonce},
		{"another node's order", func(_ *server, _ *Enclave, _ *rats.Manifest, o *plan.Order) { o.Node = "nd_2" }, plan.CodeOrderNode},
		{"another namespace's order", func(_ *server, _ *Enclave, _ *rats.Manifest, o *plan.Order) { o.Namespace = "x" }, plan.CodeOrderNamespace},
		{"expired", func(_ *server, _ *Enclave, _ *rats.Manifest, o *plan.Order) { o.Expires = start }, plan.CodeOrderExpired},
		{"another node's manifest and order", func(_ *server, _ *Enclave, m *rats.Manifest, o *plan.Order) { m.Node, o.Node = "nd_2", "nd_2" }, CodeManifest},
		{"another namespace's", func(_ *server, _ *Enclave, m *rats.Manifest, o *plan.Order) { m.Namespace, o.Namespace = "x", "x" }, CodeManifest},
		{"another enclave's manifest", func(s *server, _ *Enclave, m *rats.Manifest, _ *plan.Order) { m.Keys = s.enclave(t).Keys() }, CodeManifest},
		{"manifest without plan signer", func(_ *server, _ *Enclave, m *rats.Manifest, _ *plan.Order) {
			m.Keys = append(m.Keys[:1:1], m.Keys[2:]...)
		}, CodeManifest},
		{"another purpose", func(_ *server, _ *Enclave, m *rats.Manifest, _ *plan.Order) { m.Purpose = "join" }, CodeManifest},
		{"manifest of other formats", func(_ *server, _ *Enclave, m *rats.Manifest, _ *plan.Order) { m.Formats = m.Formats[:1] }, CodeManifest},
	} {
		s := newServer(t)
		e := s.enclave(t)
		m, o := s.manifest(e), s.order(t, e)
		c.change(s, e, &m, &o)
		_, err := e.Run(t.Context(), encode(t, m), s.seal(t, e, o))
		if r, ok := rats.ReasonOf(err); !ok || r.Code != c.want.Code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want.Code)
		}
		if e.sequence != 0 {
			t.Errorf("%s: a report was signed", c.name)
		}
	}
	s := newServer(t)
	e := s.enclave(t)
	_, err := e.Run(t.Context(), encode(t, s.manifest(e)), s.seal(t, s.enclave(t), s.order(t, e)))
	if r, _ := rats.ReasonOf(err); r.Code != plan.CodeOrderSealed.Code {
		t.Errorf("sealed to another enclave: %v", err)
	}
	_, err = e.Run(t.Context(), []byte("manifest"), s.seal(t, e, s.order(t, e)))
	if r, _ := rats.ReasonOf(err); r.Code != CodeManifest.Code {
		t.Errorf("no manifest: %v", err)
	}
}

// R025: the key pair is new for every creation and never written to disk.
func TestKeysAreNewAndNowhereOnDisk(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("TMPDIR", dir)
	t.Setenv("HOME", dir)
	s := newServer(t)
	a, b := s.enclave(t), s.enclave(t)
	for i, use := range []string{rats.KeyHPKE, rats.KeyPlanSigner, rats.KeySign} {
		if a.Keys()[i].Use != use {
			t.Errorf("key %d is for %s", i, a.Keys()[i].Use)
		}
		if same := bytes.Equal(a.Keys()[i].Public, b.Keys()[i].Public); same != (use == rats.KeyPlanSigner) {
			t.Errorf("%s: equal in two enclaves: %v", use, same)
		}
	}
	if _, err := a.Run(t.Context(), encode(t, s.manifest(a)), s.seal(t, a, s.order(t, a))); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v on disk, %v", left, err)
	}
	if got := fmt.Sprintf("%v %+v %#v", a, a, a); got != "measure.Enclave measure.Enclave measure.Enclave" {
		t.Errorf("printed %q", got)
	}
	fixed := s.config
	seed := bytes.Repeat([]byte{3}, 64)
	fixed.Rand = bytes.NewReader(seed)
	one, err := NewEnclave(fixed)
	mustBe(t, err)
	fixed.Rand = bytes.NewReader(seed)
	two, err := NewEnclave(fixed)
	mustBe(t, err)
	if !reflect.DeepEqual(one.Keys(), two.Keys()) {
		t.Error("keys don't come from the injected randomness")
	}
}

func mustBe(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestIncompleteEnclaveIsNotMade(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	other, _ := x509.MarshalPKIXPublicKey(p384.Public())
	for name, change := range map[string]func(*Config){
		"system": func(c *Config) { c.System = nil }, "randomness": func(c *Config) { c.Rand = nil }, "clock": func(c *Config) { c.Now = nil },
		"node": func(c *Config) { c.Node = "" }, "namespace": func(c *Config) { c.Namespace = "" }, "plan signer": func(c *Config) { c.PlanSigner = nil },
		"signer's curve": func(c *Config) { c.PlanSigner = other }, "box key": func(c *Config) { c.Rand = strings.NewReader("few") },
		"signing key": func(c *Config) { c.Rand = bytes.NewReader(make([]byte, 40)) }, "zeros": func(c *Config) { c.Rand = bytes.NewReader(make([]byte, 8192)) },
	} {
		c := newServer(t).config
		change(&c)
		if _, err := NewEnclave(c); err == nil {
			t.Errorf("made without %s", name)
		}
	}
}

func TestEnclaveRunsOneOrderAtATime(t *testing.T) {
	s := newServer(t)
	e := s.enclave(t)
	manifest, order := encode(t, s.manifest(e)), s.seal(t, e, s.order(t, e))
	running, release := make(chan bool), make(chan bool)
	s.fake.onRead = func(string) { running <- true; <-release }
	done := make(chan error)
	go func() { _, err := e.Run(context.Background(), manifest, order); done <- err }()
	<-running
	_, err := e.Run(t.Context(), manifest, order)
	if r, _ := rats.ReasonOf(err); r.Code != CodeBusy.Code {
		t.Errorf("got %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.fake.onRead = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Run(ctx, manifest, order); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := e.Run(t.Context(), manifest, order); err != nil {
		t.Errorf("still busy: %v", err)
	}
}

func TestEveryCodeHasItsOwnName(t *testing.T) {
	seen := map[rats.Code]bool{}
	for _, c := range Codes {
		if seen[c.Code] || c.Title == "" || c.Hint == "" || !strings.HasPrefix(string(c.Code), "measure.") {
			t.Errorf("%s", c.Code)
		}
		seen[c.Code] = true
	}
}
