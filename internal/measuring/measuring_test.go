package measuring_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/internal/measuring/entry"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/internal/testkit/measuringtest"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

const (
	namespace = "default"
	nodeID    = "nd_1"
)

// server is what an enclave is told to obey.
type server struct {
	signer  *ecdsa.PrivateKey
	spki    []byte
	results *sealed.Key
}

func newServer(t testing.TB) server {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	results, err := sealed.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return server{k, spki, results}
}

// start starts the enclave for a server over a system.
func start(t testing.TB, s server, sys measure.System, change func(*measuring.Config)) (*measuring.Enclave, error) {
	t.Helper()
	image, sigstruct := measuringtest.Image(t, measuringtest.Options{})
	c := measuring.Config{
		Load: measuring.InProcess(measuringtest.Monitor(t, nil)), Image: image, Sigstruct: sigstruct, System: sys,
		PlanSigner: s.spki, Namespace: namespace, Node: nodeID,
	}
	if change != nil {
		change(&c)
	}
	e, err := measuring.Start(t.Context(), c)
	if err == nil {
		t.Cleanup(func() { e.Close() })
	}
	return e, err
}

func started(t testing.TB, s server, sys measure.System) *measuring.Enclave {
	t.Helper()
	e, err := start(t, s, sys, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// manifest is one of an attestation; keys are those of the enclave.
func manifest(t testing.TB, keys []rats.BoundKey) (rats.Manifest, []byte) {
	t.Helper()
	m := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: namespace, Node: nodeID, Verifier: rats.SHA256([]byte("v")), Nonce: make([]byte, 32),
		Instance: make([]byte, 32), Keys: keys, Formats: []rats.Format{"tpm", "plan"},
	}
	rand.Read(m.Nonce)
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return m, b
}

func keysOf(t testing.TB, e *measuring.Enclave) []rats.BoundKey {
	t.Helper()
	keys, err := e.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// order seals a plan to the enclave with keys.
func (s server) order(t testing.TB, m rats.Manifest, tests ...plan.Test) []byte {
	t.Helper()
	hpke, _ := m.Key(rats.KeyHPKE)
	box, err := plan.Order{
		Namespace: namespace, Node: nodeID, Nonce: m.Nonce, To: plan.KeysDigest(m.Keys), Results: s.results.Public(),
		Expires: time.Now().Add(time.Hour), Plan: plan.Plan{ID: [16]byte{1}, Version: plan.Version1, Tests: tests},
	}.Seal(nil, s.signer, hpke.Public)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// open opens a sealed report.
func (s server) open(t testing.TB, box []byte) (plan.Report, []plan.Outcome) {
	t.Helper()
	ev, err := plan.OpenEvidence(s.results, box)
	if err != nil {
		t.Fatal(err)
	}
	r, bulk, timings, err := plan.OpenReport(ev)
	if err != nil {
		t.Fatal(err)
	}
	_, out, err := plan.DecodeOutcomes(bulk, timings)
	if err != nil {
		t.Fatal(err)
	}
	return r, out
}

func dirTest(t testing.TB, alg, dir string) plan.Test {
	t.Helper()
	p, err := plan.NewTest(1, plan.KindDir, alg, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantCode(t testing.TB, what string, err error, want rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != want.Code {
		t.Errorf("%s: %v, want %s", what, err, want.Code)
	}
}

// The enclave measures what the native runner does, by every algorithm, and says that it is one. R025: its keys are new
// with every start.
func TestEnclaveMeasuresWhatTheNativeRunnerMeasures(t *testing.T) {
	dir := t.TempDir()
	for i := range 70 { // more than there are running hashes
		write(t, fmt.Sprintf("%s/f%02d", dir, i), bytes.Repeat([]byte{byte(i)}, i*5000))
	}
	for i, size := range []int{1 << 20, 3<<20 + 5} { // more than comes in one call
		write(t, fmt.Sprintf("%s/large%d", dir, i), bytes.Repeat([]byte{byte(i + 1)}, size))
	}
	sys := measure.Restrict(measure.Local(), []string{dir}, nil)
	s := newServer(t)
	e := started(t, s, sys)
	keys := keysOf(t, e)
	if uses := []string{keys[0].Use, keys[1].Use, keys[2].Use}; !slices.Equal(uses, []string{rats.KeyHPKE, rats.KeyPlanSigner, rats.KeySign}) {
		t.Errorf("uses %v", uses)
	}
	for n, alg := range []string{"sha256", "sha384", "sha512"} {
		test := dirTest(t, alg, dir)
		m, raw := manifest(t, keys)
		box, err := e.Run(t.Context(), raw, s.order(t, m, test))
		if err != nil {
			t.Fatal(err)
		}
		r, got := s.open(t, box)
		sign, _ := m.Key(rats.KeySign)
		if r.Backend != plan.BackendEnclave || r.Simulated || r.Sequence != uint64(n+1) || !bytes.Equal(r.Signer, sign.Public) || !bytes.Equal(r.Manifest, rats.SHA256(raw).Sum) {
			t.Errorf("report %+v", r)
		}
		want, err := measure.Capture(t.Context(), sys, []plan.Test{test}, plan.Limits{})
		if err != nil || len(want) != 72 {
			t.Fatalf("%d outcomes, %v", len(want), err)
		}
		same := func(a, b plan.Outcome) bool { a.Nanos, b.Nanos = 0, 0; return fmt.Sprint(a) == fmt.Sprint(b) }
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("%s: %v\nnot %v", alg, got, want)
		}
	}
	other := started(t, s, sys)
	for i, k := range keysOf(t, other) {
		if same := bytes.Equal(k.Public, keys[i].Public); same != (k.Use == rats.KeyPlanSigner) {
			t.Errorf("key %s after another start: same %t", k.Use, same)
		}
	}
}

// R022, S05: what the enclave refuses, with codes that cross the boundary.
func TestEnclaveObeysItsOwnSignerAndManifestOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", []byte("x"))
	sys := measure.Restrict(measure.Local(), []string{dir}, nil)
	s, stranger := newServer(t), newServer(t)
	e := started(t, s, sys)
	keys := keysOf(t, e)
	m, raw := manifest(t, keys)
	test := dirTest(t, "sha256", dir)

	_, err := e.Run(t.Context(), raw, stranger.order(t, m, test))
	wantCode(t, "an order of another signer", err, plan.CodeOrderSignature)
	other, otherRaw := manifest(t, keys)
	_, err = e.Run(t.Context(), raw, s.order(t, other, test))
	wantCode(t, "an order of another challenge", err, plan.CodeOrderNonce)
	foreign := slices.Clone(keys)
	foreign[2].Public = stranger.spki
	foreignM, foreignRaw := manifest(t, foreign)
	_, err = e.Quote(t.Context(), foreignRaw)
	wantCode(t, "quoting a manifest with another's key", err, measure.CodeManifest)
	_, err = e.Run(t.Context(), foreignRaw, s.order(t, foreignM, test))
	wantCode(t, "running for a manifest with another's key", err, measure.CodeManifest)
	_, err = e.Run(t.Context(), otherRaw, []byte("no order"))
	wantCode(t, "no order", err, plan.CodeOrderSealed)

	quote, err := e.Quote(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	q, err := abi.ParseMonitorQuote(quote)
	if err != nil || !q.Verify() || !bytes.Equal(q.Body.ReportData[:32], rats.SHA256(raw).Sum) || q.Body.ConfigID != measuring.ConfigID(s.spki) {
		t.Errorf("quote %+v, %v", q, err)
	}
	if _, err := e.Run(t.Context(), raw, s.order(t, m, test)); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

// S05: the host can't have the enclave obey another signer than the one in its launch configuration, nor start it twice.
func TestPlanSignerComesFromTheLaunchConfiguration(t *testing.T) {
	s, stranger := newServer(t), newServer(t)
	image, sigstruct := measuringtest.Image(t, measuringtest.Options{})
	m := measuringtest.Monitor(t, nil)
	load := func(ctx context.Context, image, sigstruct []byte, o monitor.Options) (monitor.Running, error) {
		o.Start.ConfigID = measuring.ConfigID(stranger.spki)
		return measuring.InProcess(m)(ctx, image, sigstruct, o)
	}
	_, err := measuring.Start(t.Context(), measuring.Config{
		Load: load, Image: image, Sigstruct: sigstruct, System: measure.Restrict(measure.Local(), nil, nil), PlanSigner: s.spki, Namespace: namespace, Node: nodeID,
	})
	wantCode(t, "another launch configuration", err, entry.CodeSigner)

	var in monitor.Running
	load = func(ctx context.Context, image, sigstruct []byte, o monitor.Options) (_ monitor.Running, err error) {
		in, err = measuring.InProcess(m)(ctx, image, sigstruct, o)
		return in, err
	}
	if _, err = start(t, s, measure.Local(), func(c *measuring.Config) { c.Load = load }); err != nil {
		t.Fatal(err)
	}
	i := in.(*monitor.Instance)
	_, err = monitor.Call[entry.Setup, entry.Born](t.Context(), i, "start", entry.Setup{PlanSigner: s.spki, Namespace: namespace, Node: "nd_2"})
	wantCode(t, "a second start", err, entry.CodeSetup)
	_, err = monitor.Call[struct{}, entry.Progress](t.Context(), i, "step", struct{}{})
	wantCode(t, "a step of no run", err, entry.CodeIdle)
}

// A release opens inside, and for its own node, name and result only.
func TestSecretsOpenInside(t *testing.T) {
	s := newServer(t)
	e := started(t, s, measure.Restrict(measure.Local(), nil, nil))
	hpke, _ := rats.Facts{Keys: keysOf(t, e)}.Key(rats.KeyHPKE)
	r := api.Release{Name: "db", Version: 3, Result: "at_1"}
	var err error
	if r.Sealed, err = sealed.Seal(hpke.Public, api.ReleaseInfo(namespace, nodeID, r.Name, r.Version, r.Result), []byte("gold")); err != nil {
		t.Fatal(err)
	}
	if b, err := e.OpenRelease(t.Context(), r); err != nil || string(b) != "gold" {
		t.Errorf("%q, %v", b, err)
	}
	r.Version++
	_, err = e.OpenRelease(t.Context(), r)
	wantCode(t, "another version", err, sealed.CodeBox)
}

// restless is a machine whose every second description of a file is another one.
type restless struct {
	crowd
	stats int64
}

func (r *restless) Stat(path []byte, follow bool) (measure.Stat, rats.Code) {
	st, code := r.crowd.Stat(path, follow)
	r.stats++
	st.CTime = r.stats
	return st, code
}

// A file that changes while it is read is seen to, whether it comes several at a time or alone.
func TestChangedFilesAreSeenThroughTheBoundary(t *testing.T) {
	s := newServer(t)
	for _, size := range []int64{7, 2 << 20} { // the second: too large to be fetched ahead
		e := started(t, s, &restless{crowd: crowd{files: 100, size: size}})
		m, raw := manifest(t, keysOf(t, e))
		box, err := e.Run(t.Context(), raw, s.order(t, m, dirTest(t, "sha256", "/d")))
		if err != nil {
			t.Fatal(err)
		}
		_, got := s.open(t, box)
		for _, o := range got {
			if o.Err != measure.CodeChanged.Code {
				t.Fatalf("size %d: outcome %+v, want %s", size, o, measure.CodeChanged.Code)
			}
		}
		if len(got) != 100 {
			t.Errorf("%d outcomes", len(got))
		}
	}
}

// An enclave that was stopped comes back with other keys; what was sealed to the old ones is lost.
func TestStoppedEnclaveStartsAnewWithOtherKeys(t *testing.T) {
	s := newServer(t)
	sys := &crowd{files: 3}
	e := started(t, s, sys)
	before := keysOf(t, e)
	sys.panics = true
	m, raw := manifest(t, before)
	_, err := e.Run(t.Context(), raw, s.order(t, m, dirTest(t, "sha256", "/d")))
	if err == nil {
		t.Fatal("a run whose monitor failed ends well")
	}
	sys.panics = false
	after := keysOf(t, e)
	if bytes.Equal(before[0].Public, after[0].Public) {
		t.Error("the keys are the old ones")
	}
	_, err = e.Run(t.Context(), raw, s.order(t, m, dirTest(t, "sha256", "/d")))
	wantCode(t, "an order to the old keys", err, plan.CodeOrderSealed)
	m, raw = manifest(t, after)
	if _, err := e.Run(t.Context(), raw, s.order(t, m, dirTest(t, "sha256", "/d"))); err != nil {
		t.Error(err)
	}
}

// A plan of 250,000 files, the most a runner grants, stays within what a monitor grants to a call: OCALLs, time, memory.
func TestLargestPlanStaysWithinTheBudgets(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute; runs without -short")
	}
	s := newServer(t)
	sys := &crowd{files: measure.DefaultFiles}
	e, err := start(t, s, sys, func(c *measuring.Config) { c.Load, c.Mode = measuring.InProcess(processes(t)), abi.ModeProcess })
	if err != nil {
		t.Fatal(err)
	}
	m, raw := manifest(t, keysOf(t, e))
	begin := time.Now()
	box, err := e.Run(t.Context(), raw, s.order(t, m, dirTest(t, "sha256", "/d")))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files in %s, %d bytes", sys.files, time.Since(begin), len(box))
	_, got := s.open(t, box)
	if len(got) != sys.files || got[7].Err != "" || !bytes.Equal(got[7].Digest, rats.SHA256([]byte("0000007")).Sum) {
		t.Errorf("%d outcomes, the eighth %+v", len(got), got[min(7, len(got)-1)])
	}
	if left := sys.open.Load(); left != 0 {
		t.Errorf("%d files left open", left)
	}
}

// A run that nobody waits for is given up between two calls; the enclave lives on.
func TestRunEndsWithItsContextAndTheEnclaveLivesOn(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	sys := &crowd{files: 120_000, after: 50_000, then: cancel}
	e := started(t, s, sys)
	keys := keysOf(t, e)
	m, raw := manifest(t, keys)
	if _, err := e.Run(ctx, raw, s.order(t, m, dirTest(t, "sha256", "/d"))); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want that it was cancelled", err)
	}
	if n := sys.reads.Load(); n > 110_000 {
		t.Errorf("%d of %d files were read all the same", n, sys.files)
	}
	sys.then, sys.files = nil, 3
	m, raw = manifest(t, keys)
	if _, err := e.Run(t.Context(), raw, s.order(t, m, dirTest(t, "sha256", "/d"))); err != nil {
		t.Errorf("the next run: %v", err)
	}
}
