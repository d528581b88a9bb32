package plan_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	evidence "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func ecKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k, spki
}

func sum(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// run is one run of a plan, before it is signed: what tests change.
type run struct {
	signer     *ecdsa.PrivateKey
	spki       []byte
	planSigner []byte
	plan       plan.Plan
	manifest   rats.Manifest
	ids        []uint32
	outcomes   []plan.Outcome
	report     plan.Report
	evidence   rats.Evidence // after sign
	inputs     rats.Inputs
}

func newRun(t testing.TB) *run {
	t.Helper()
	r := &run{ids: []uint32{1, 2, 3}}
	r.signer, r.spki = ecKey(t)
	_, r.planSigner = ecKey(t)
	r.plan = plan.Plan{ID: [16]byte{1}, Version: plan.Version1}
	for i, c := range []struct{ kind, alg, path string }{
		{plan.KindFile, "sha256", "/etc/passwd"}, {plan.KindGlob, "sha384", "/usr/bin/*"}, {plan.KindDir, "sha256", "/opt"},
	} {
		var exclude []string
		if c.kind == plan.KindDir {
			exclude = []string{"/opt/tmp"}
		}
		test, err := plan.NewTest(uint32(i+1), c.kind, c.alg, c.path, exclude)
		if err != nil {
			t.Fatal(err)
		}
		r.plan.Tests = append(r.plan.Tests, test)
	}
	r.outcomes = []plan.Outcome{
		{Test: 1, Name: []byte("/etc/passwd"), Digest: sum(1, 32), Size: 3, Nanos: 5},
		{Test: 2, Name: []byte("/usr/bin/a\n"), Digest: sum(2, 48), Size: 4},
		{Test: 2, Name: []byte("/usr/bin/b"), Err: "measure.file.unreadable"},
	}
	r.manifest = rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256(nil), Nonce: sum(7, 32), Instance: sum(8, 16),
		Formats: []rats.Format{"tpm", "plan"},
	}
	r.bind(t)
	r.inputs.Facts = rats.Facts{
		Keys:  []rats.BoundKey{{Use: rats.KeySign, Public: r.spki}, {Use: rats.KeyPlanSigner, Public: r.planSigner}},
		Boots: []rats.Boot{{By: "tpm"}},
	}
	r.inputs.Now = start
	r.params(t, evidence.Params{Plan: r.plan.Encode(), PlanSigner: r.planSigner})
	r.report = plan.Report{Nonce: r.manifest.Nonce, Manifest: r.inputs.Binding.UserData, Plan: r.plan.Digest(), Sequence: 5, Backend: plan.BackendNative, Simulated: true}
	return r
}

func (r *run) bind(t testing.TB) {
	t.Helper()
	b, err := r.manifest.Bind()
	if err != nil {
		t.Fatal(err)
	}
	r.inputs.Binding = b
}

func (r *run) params(t testing.TB, p evidence.Params) {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	r.inputs.Params = b
}

func (r *run) sign(t testing.TB) {
	t.Helper()
	bulk, timings, err := plan.EncodeOutcomes(r.ids, r.outcomes, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.evidence, err = r.report.Sign(r.signer, bulk, timings); err != nil {
		t.Fatal(err)
	}
}

func (r *run) verify(t testing.TB) (rats.Verified, error) {
	t.Helper()
	return evidence.New().Verify(t.Context(), r.evidence, r.inputs)
}

func wantCode(t *testing.T, name string, err error, want rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != want.Code {
		t.Errorf("%s: got %v, want %s", name, err, want.Code)
	}
}

func TestGenuineRunIsVerified(t *testing.T) {
	r := newRun(t)
	r.sign(t)
	v, err := r.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	want := &evidence.Claims{
		Backend: "native", Simulated: true,
		Tests: []evidence.Test{
			{ID: 1, Kind: "file", Alg: "sha256", Path: "/etc/passwd"}, {ID: 2, Kind: "glob", Alg: "sha384", Path: "/usr/bin/*"},
			{ID: 3, Kind: "dir", Alg: "sha256", Path: "/opt", Exclude: []string{"/opt/tmp"}},
		},
		Measurements: []evidence.Measurement{
			{Test: 1, Name: "/etc/passwd", Digest: rats.Digest{Alg: "sha256", Sum: sum(1, 32)}, Size: 3},
			{Test: 2, Name: "/usr/bin/a%0A", Digest: rats.Digest{Alg: "sha384", Sum: sum(2, 48)}, Size: 4},
			{Test: 2, Name: "/usr/bin/b", Err: "measure.file.unreadable"},
		},
	}
	if !reflect.DeepEqual(v.Claims, rats.Claims(want)) {
		t.Errorf("claims %+v", v.Claims)
	}
	if !reflect.DeepEqual(v.Links, []rats.Link{{From: "plan", To: "tpm", Kind: rats.LinkNone}}) || !reflect.DeepEqual(v.Marks, []string{rats.MarkSimulated}) {
		t.Errorf("links %v, marks %v", v.Links, v.Marks)
	}
	if len(v.Facts.Keys) != 0 {
		t.Errorf("a simulated runner vouches for %v", v.Facts.Keys)
	}
	b, err := json.Marshal(v.Claims)
	if err != nil {
		t.Fatal(err)
	}
	again := evidence.New().Descriptor().NewClaims()
	if err := json.Unmarshal(b, again); err != nil || !reflect.DeepEqual(again, v.Claims) || again.ClaimsOf() != evidence.Format {
		t.Errorf("claims after JSON: %+v, %v", again, err)
	}
}

// A report by an enclave counts as simulated until an enclave format attested the very key that signed it (R022, S01).
func TestRunIsAsGoodAsTheAttestedEnclaveThatSignedIt(t *testing.T) {
	_, other := ecKey(t)
	sign := func(spki []byte) []rats.Enclave {
		return []rats.Enclave{{By: "enclave", Keys: []rats.BoundKey{{Use: rats.KeySign, Public: spki}}}}
	}
	for _, c := range []struct {
		what      string
		backend   string
		enclaves  func(*run) []rats.Enclave
		simulated bool
		link      rats.Link
	}{
		{"attested", plan.BackendEnclave, func(r *run) []rats.Enclave { return sign(r.spki) }, false, rats.Link{From: "plan", To: "enclave", Kind: rats.LinkKeyInReport}},
		{"not attested", plan.BackendEnclave, func(*run) []rats.Enclave { return nil }, true, rats.Link{From: "plan", To: "tpm", Kind: rats.LinkNone}},
		{"another enclave attested", plan.BackendEnclave, func(*run) []rats.Enclave { return sign(other) }, true, rats.Link{From: "plan", To: "tpm", Kind: rats.LinkNone}},
		{"native beside an enclave", plan.BackendNative, func(r *run) []rats.Enclave { return sign(r.spki) }, true, rats.Link{From: "plan", To: "tpm", Kind: rats.LinkNone}},
	} {
		r := newRun(t)
		r.report.Backend, r.report.Simulated = c.backend, c.backend == plan.BackendNative
		r.inputs.Facts.Enclaves = c.enclaves(r)
		r.sign(t)
		v, err := r.verify(t)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		claims := v.Claims.(*evidence.Claims)
		if claims.Simulated != c.simulated || claims.Backend != c.backend || len(v.Marks) != map[bool]int{true: 1}[c.simulated] || !reflect.DeepEqual(v.Links, []rats.Link{c.link}) {
			t.Errorf("%s: %+v, marks %v, links %v", c.what, claims, v.Marks, v.Links)
		}
	}
}

func TestClaimsOfEqualMachinesAreEqual(t *testing.T) {
	a, b := newRun(t), newRun(t) // other keys
	b.report.Sequence, b.outcomes[0].Nanos, b.manifest.Nonce = 9, 77, sum(9, 32)
	b.bind(t)
	b.report.Nonce, b.report.Manifest = b.manifest.Nonce, b.inputs.Binding.UserData
	b.plan.ID = [16]byte{2}
	b.report.Plan = b.plan.Digest()
	b.params(t, evidence.Params{Plan: b.plan.Encode(), PlanSigner: b.planSigner})
	a.sign(t)
	b.sign(t)
	va, err := a.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	vb, err := b.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(va.Claims, vb.Claims) || !bytes.Equal(a.evidence.Parts[0].Data, b.evidence.Parts[0].Data) {
		t.Error("claims or outcomes differ")
	}
}

func TestWithoutPlatformThePlanHasNobodyToLinkTo(t *testing.T) {
	r := newRun(t)
	r.inputs.Facts.Boots = nil
	r.sign(t)
	v, err := r.verify(t)
	if err != nil || v.Links[0].To != "" {
		t.Errorf("%v, %v", v.Links, err)
	}
	r.inputs.Facts.Registers = []rats.Registers{{By: "tdx"}}
	if v, _ := r.verify(t); v.Links[0].To != "tdx" {
		t.Errorf("%v", v.Links)
	}
}

// Valid evidence with one thing changed is refused with the code of that thing.
// R107: a stale nonce fails. R220: so does a run for another plan signer. S04, S05.
func TestRefusalMatrix(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(*run) // it is signed
		after  func(*run)
		want   rats.CodeInfo
	}{
		{"no params", nil, func(r *run) { r.inputs.Params = nil }, evidence.CodeParams},
		{"no plan signer in params", nil, func(r *run) { r.params(t, evidence.Params{Plan: r.plan.Encode()}) }, evidence.CodeParams},
		{"no plan in params", nil, func(r *run) { r.params(t, evidence.Params{PlanSigner: r.planSigner}) }, evidence.CodeParams},
		{"raw binding", nil, func(r *run) { r.inputs.Binding.Profile = rats.ProfileRaw }, evidence.CodeProfile},
		{"no manifest", nil, func(r *run) { r.inputs.Binding.Manifest = nil }, evidence.CodeProfile},
		{"another media type", nil, func(r *run) { r.evidence.MediaType = "x/y" }, plan.CodeReport},
		{"altered body", nil, func(r *run) { r.evidence.Body[len(r.evidence.Body)-1] ^= 1 }, plan.CodeReportSignature},
		{"tampered outcome", nil, func(r *run) {
			d := bytes.Clone(r.evidence.Parts[0].Data)
			d[len(d)-1] ^= 1
			r.evidence.Parts[0].Data = d
		}, plan.CodeReportParts},
		{"tampered timing", nil, func(r *run) { r.evidence.Parts[1].Data = nil }, plan.CodeReportParts},
		{"nobody vouches", nil, func(r *run) { r.inputs.Facts.Keys = nil }, evidence.CodeUnvouched},
		{"two vouch differently", nil, func(r *run) {
			r.inputs.Facts.Keys = append(r.inputs.Facts.Keys, rats.BoundKey{Use: rats.KeySign, Public: []byte("x")})
		}, evidence.CodeUnvouched},
		{"nobody vouches for the plan signer", nil, func(r *run) { r.inputs.Facts.Keys = r.inputs.Facts.Keys[:1] }, evidence.CodeUnvouched},
		{"another enclave's signature", func(r *run) { r.signer, _ = ecKey(t) }, nil, evidence.CodeKey},
		{"another plan signer obeyed", nil, func(r *run) { _, r.inputs.Facts.Keys[1].Public = ecKey(t) }, evidence.CodePlanSigner},
		{"another plan signer here", nil, func(r *run) {
			_, other := ecKey(t)
			r.params(t, evidence.Params{Plan: r.plan.Encode(), PlanSigner: other})
		}, evidence.CodePlanSigner},
		{"another nonce", func(r *run) { r.report.Nonce = sum(0, 32) }, nil, evidence.CodeNonce},
		{"another manifest", func(r *run) { r.report.Manifest = sum(0, 32) }, nil, evidence.CodeManifest},
		{"user data of another manifest", nil, func(r *run) { r.inputs.Binding.UserData = sum(0, 32) }, evidence.CodeManifest},
		{"another manifest of the same nonce", nil, func(r *run) {
			r.manifest.Node = "nd_2"
			r.bind(t)
		}, evidence.CodeManifest},
		{"another plan run", func(r *run) { r.report.Plan = rats.SHA256(nil) }, nil, evidence.CodePlan},
		{"another plan ordered", nil, func(r *run) {
			r.plan.ID[0]++
			r.params(t, evidence.Params{Plan: r.plan.Encode(), PlanSigner: r.planSigner})
		}, evidence.CodePlan},
		{"sequence used before", nil, func(r *run) { r.resume(t, r.spki, 5) }, evidence.CodeSequence},
		{"sequence went back", nil, func(r *run) { r.resume(t, r.spki, 6) }, evidence.CodeSequence},
		{"test left out", func(r *run) { r.ids = r.ids[:2] }, nil, evidence.CodeTests},
		{"test made up", func(r *run) { r.ids = append(r.ids, 4) }, nil, evidence.CodeTests},
		{"test exchanged", func(r *run) { r.ids[2] = 4 }, nil, evidence.CodeTests},
		{"file test without outcome", func(r *run) { r.outcomes = r.outcomes[1:] }, nil, evidence.CodeTests},
		{"another algorithm", func(r *run) { r.outcomes[0].Digest = sum(1, 48) }, nil, evidence.CodeStray},
		{"another file", func(r *run) { r.outcomes[0].Name = []byte("/etc/shadow") }, nil, evidence.CodeStray},
		{"excluded file", func(r *run) {
			r.outcomes = append(r.outcomes, plan.Outcome{Test: 3, Name: []byte("/opt/tmp/x"), Digest: sum(1, 32)})
		}, nil, evidence.CodeStray},
		{"outcomes of garbage", nil, func(r *run) {
			var err error
			if r.evidence, err = r.report.Sign(r.signer, []byte("garbage"), r.evidence.Parts[1].Data); err != nil {
				t.Fatal(err)
			}
		}, plan.CodeOutcomes},
	} {
		r := newRun(t)
		if c.before != nil {
			c.before(r)
		}
		r.sign(t)
		r.evidence.Body = bytes.Clone(r.evidence.Body)
		if c.after != nil {
			c.after(r)
		}
		_, err := r.verify(t)
		wantCode(t, c.name, err, c.want)
	}
}

func (r *run) resume(t testing.TB, signer []byte, sequence uint64) {
	t.Helper()
	b, err := json.Marshal(evidence.Resume{Signer: rats.SHA256(signer), Sequence: sequence})
	if err != nil {
		t.Fatal(err)
	}
	r.inputs.Resume = b
}

func TestSequenceIsRememberedPerSigner(t *testing.T) {
	r := newRun(t)
	r.sign(t)
	r.resume(t, []byte("another enclave"), 1000)
	v, err := r.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	r.inputs.Resume = v.Resume
	_, err = r.verify(t)
	wantCode(t, "the same report again", err, evidence.CodeSequence)
	r.report.Sequence++
	r.sign(t)
	if _, err := r.verify(t); err != nil {
		t.Errorf("the next report: %v", err)
	}
}

func TestVerifiersOwnFaultsAreMalfunctions(t *testing.T) {
	for name, change := range map[string]func(*run){
		"params":        func(r *run) { r.inputs.Params = []byte("{") },
		"unknown field": func(r *run) { r.inputs.Params = []byte(`{"plan":"","x":1}`) },
		"plan":          func(r *run) { r.params(t, evidence.Params{Plan: []byte("{}"), PlanSigner: r.planSigner}) },
		"resume":        func(r *run) { r.inputs.Resume = []byte("{") },
	} {
		r := newRun(t)
		r.sign(t)
		change(r)
		_, err := r.verify(t)
		if _, ok := rats.ReasonOf(err); err == nil || ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := newRun(t)
	r.sign(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := evidence.New().Verify(ctx, r.evidence, r.inputs); err == nil {
		t.Error("a cancelled verification succeeded")
	}
}

func TestDescriptorIsComplete(t *testing.T) {
	d := evidence.New().Descriptor()
	if d.ID != evidence.Format || evidence.Format != plan.Format || d.Hardware || len(d.MediaTypes) != 1 || d.ClaimsVersion < 1 || d.NewRules() == nil {
		t.Errorf("%+v", d)
	}
	seen := map[rats.Code]bool{}
	for _, c := range d.Codes {
		if seen[c.Code] || c.Title == "" || c.Hint == "" {
			t.Errorf("%s", c.Code)
		}
		seen[c.Code] = true
	}
	s := rats.SchemaOf(d.NewClaims())
	if s.Fields["simulated"].Kind != rats.KindBool || s.Fields["measurements"].Elem.Fields["digest"].Kind != rats.KindString {
		t.Errorf("%+v", s)
	}
}

func FuzzVerify(f *testing.F) {
	r := newRun(f)
	r.sign(f)
	f.Add(r.evidence.Body, r.evidence.Parts[0].Data, r.evidence.Parts[1].Data)
	f.Fuzz(func(t *testing.T, body, outcomes, timings []byte) {
		e := r.evidence
		e.Body, e.Parts = body, []rats.Part{{Name: plan.PartOutcomes, Data: outcomes}, {Name: plan.PartTimings, Data: timings}}
		_, err := evidence.New().Verify(t.Context(), e, r.inputs)
		if _, ok := rats.ReasonOf(err); err != nil && !ok {
			t.Errorf("a malfunction by foreign bytes: %v", err)
		}
	})
}
