package enclave_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	software "github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softenclave"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

var (
	now    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	quoted = []int{4, 9, abi.KeyPCR}
)

// exchange is one attestation, to be changed by tests.
type exchange struct {
	enclave  *softenclave.Enclave
	evidence rats.Evidence
	inputs   rats.Inputs
}

func manifest(t testing.TB, nonce byte, keys ...rats.BoundKey) rats.Binding {
	t.Helper()
	if keys == nil {
		keys = []rats.BoundKey{{Use: rats.KeyHPKE, Public: []byte("hpke")}}
	}
	b, err := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("verifier")),
		Nonce: bytes.Repeat([]byte{nonce}, 32), Instance: bytes.Repeat([]byte{2}, 16), Keys: keys, Formats: []rats.Format{tpm.Format, enclave.Format},
	}.Bind()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func inputs(e *softenclave.Enclave, b rats.Binding) rats.Inputs {
	params, err := json.Marshal(enclave.Params{PCRs: quoted})
	if err != nil {
		panic(err)
	}
	return rats.Inputs{Binding: b, Now: now, Params: params, Facts: e.Boot(), Endorsements: []rats.Endorsement{{MediaType: "text/plain"}, e.Endorsement()}}
}

func altered(t testing.TB, e *softenclave.Enclave, a softenclave.Alter) exchange {
	t.Helper()
	b := manifest(t, 1)
	return exchange{enclave: e, evidence: e.QuoteAltered(b, quoted, a), inputs: inputs(e, b)}
}

func fresh(t testing.TB, o softenclave.Options) exchange {
	t.Helper()
	return altered(t, softenclave.New(rand.Reader, o), softenclave.Alter{})
}

func verify(t testing.TB, x exchange) (rats.Verified, error) {
	t.Helper()
	return enclave.New().Verify(t.Context(), x.evidence, x.inputs)
}

func wantCode(t testing.TB, what string, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("%s: got %v, want %s", what, err, want.Code)
		return
	}
	if r.Hint == "" || r.Expected == "" || r.Path == "" {
		t.Errorf("%s: %s says too little: %+v", what, want.Code, r)
	}
}

var userspace = abi.Platform{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootOSProtected, SVN: 5}
var simulated = abi.Platform{Mode: abi.ModeProcess, Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: 1}

// R088, R093, R094: what a good quote says.
func TestQuoteOfAnInitrdMonitorVerifies(t *testing.T) {
	x := fresh(t, softenclave.Options{})
	v, err := verify(t, x)
	if err != nil {
		t.Fatal(err)
	}
	c := v.Claims.(*enclave.Claims)
	id := x.enclave.Identity
	if !bytes.Equal(c.MRENCLAVE.Sum, id.MRENCLAVE[:]) || !bytes.Equal(c.MRSIGNER.Sum, id.MRSIGNER[:]) || c.ProductID != 7 || c.SVN != 3 || c.Debug || !c.TestKey {
		t.Errorf("identity %+v", c)
	}
	if c.Mode != "process" || c.Launch != "initrd" || c.Root != "initrd-sealed" || c.MonitorSVN != 5 || c.MeasuredBy != "tpm" || c.IsolatedBy != "os" {
		t.Errorf("platform %+v", c)
	}
	if !c.Isolation.SecretMemory || !c.Isolation.OwnUser || c.Isolation.Seccomp || !slices.Contains(c.Isolation.ReadableBy, "root") {
		t.Errorf("isolation %+v", c.Isolation)
	}
	if !c.TPM.Same || c.TPM.Software || len(c.TPM.PCRs) != 3 || !c.Log.Capped || !slices.Equal(c.Log.Measured, []string{softenclave.KeeperText, softenclave.MonitorText}) || len(c.Log.BeforeKey) != 64 {
		t.Errorf("tpm %+v, log %+v", c.TPM, c.Log)
	}
	if !slices.Equal(v.Links, []rats.Link{{From: enclave.Format, To: tpm.Format, Kind: rats.LinkPCRHoldsKey}}) {
		t.Errorf("links %+v", v.Links)
	}
	if k, ok := v.Facts.Key(rats.KeyHPKE); !ok || string(k.Public) != "hpke" || !slices.Equal(v.Marks, []string{enclave.MarkTestKey}) {
		t.Errorf("facts %+v, marks %v", v.Facts, v.Marks)
	}
	if !enclave.Detect(x.evidence.Body) || enclave.Detect(x.evidence.Body[1:]) || enclave.Detect(make([]byte, 512)) {
		t.Error("the body is not detected, or other bytes are")
	}
	if c.DebugEnabled() {
		t.Error("debug")
	}
}

// S10, S01: from user space the register proves nothing, and there is no link; without tpm evidence beside it neither.
func TestLinkIsNoneWhereNothingProvesIt(t *testing.T) {
	x := fresh(t, softenclave.Options{Platform: userspace})
	v, err := verify(t, x)
	if err != nil {
		t.Fatal(err)
	}
	if c := v.Claims.(*enclave.Claims); c.Link != rats.LinkNone || v.Links[0].Kind != rats.LinkNone || !c.TPM.Same || c.Launch != "userspace" || c.Root != "os-protected" || c.Mode != "inline" || c.Log.Capped {
		t.Errorf("%+v", c)
	}
	x = fresh(t, softenclave.Options{})
	x.inputs.Facts = rats.Facts{}
	if v, err = verify(t, x); err != nil || v.Links[0].Kind != rats.LinkNone || v.Claims.(*enclave.Claims).TPM.Same {
		t.Errorf("alone: %+v, %v", v.Links, err)
	}
}

// R096: a simulated root is marked simulated; a software TPM and debug have their marks.
func TestWhatIsSimulatedIsMarked(t *testing.T) {
	v, err := verify(t, fresh(t, softenclave.Options{Platform: simulated}))
	if err != nil {
		t.Fatal(err)
	}
	if c := v.Claims.(*enclave.Claims); !slices.Contains(v.Marks, rats.MarkSimulated) || c.MeasuredBy != "nothing" || v.Links[0].Kind != rats.LinkNone || c.Root != "simulated" {
		t.Errorf("%+v, marks %v", c, v.Marks)
	}
	v, err = verify(t, fresh(t, softenclave.Options{TPM: softtpm.New(rand.Reader, softtpm.Options{Software: true}), Flags: abi.FlagDebug}))
	if err != nil || !slices.Equal(v.Marks, []string{rats.MarkSoftwareTPM, rats.MarkDebug, enclave.MarkTestKey}) || !v.Claims.(*enclave.Claims).Debug {
		t.Errorf("marks %v, %v", v.Marks, err)
	}
}

func TestOtherProfilesBindRawDataOrNothing(t *testing.T) {
	x := fresh(t, softenclave.Options{})
	data := bytes.Repeat([]byte{7}, 48)
	b := rats.Binding{Profile: rats.ProfileRaw, UserData: data}
	x.evidence = x.enclave.Quote(b, quoted)
	x.inputs.Binding = b
	if v, err := verify(t, x); err != nil || len(v.Facts.Keys) != 0 {
		t.Errorf("raw: %v", err)
	}
	x.inputs.Binding.UserData = data[:32]
	_, err := verify(t, x)
	wantCode(t, "a prefix", err, enclave.CodeReportData)
	x.inputs.Binding = rats.Binding{Profile: rats.ProfileNone}
	if _, err := verify(t, x); err != nil {
		t.Errorf("none: %v", err)
	}
}

// S05: the plan signer that the manifest names is the one the enclave was started with.
func TestPlanSignerComesFromTheLaunchConfiguration(t *testing.T) {
	signer := rats.BoundKey{Use: rats.KeyPlanSigner, Public: []byte("spki")}
	x := fresh(t, softenclave.Options{PlanSigner: signer.Public})
	for name, public := range map[string]string{"the same": "spki", "another": "else"} {
		b := manifest(t, 1, rats.BoundKey{Use: rats.KeyPlanSigner, Public: []byte(public)})
		x.evidence, x.inputs.Binding = x.enclave.Quote(b, quoted), b
		v, err := verify(t, x)
		if name == "another" {
			wantCode(t, name, err, enclave.CodePlanSigner)
		} else if err != nil || v.Claims.(*enclave.Claims).ConfigID == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// R088, R165, R168, w1: the refusal matrix: valid evidence with one thing changed.
func TestQuoteWithOneThingWrongIsRefused(t *testing.T) {
	good := softenclave.New(rand.Reader, softenclave.Options{})
	other := softenclave.New(rand.Reader, softenclave.Options{Root: 1})
	second := good.Quote(manifest(t, 9), quoted)
	part := func(e rats.Evidence, name string) []byte {
		p, _ := e.Part(name)
		return p.Data
	}
	resigned := abi.NewSigstruct()
	flip := func(name string, at int) softenclave.Alter {
		return softenclave.Alter{Parts: func(m map[string][]byte) {
			m[name] = bytes.Clone(m[name])
			m[name][(at+len(m[name]))%len(m[name])] ^= 1
		}}
	}
	body := func(f func(*abi.ReportBody)) softenclave.Alter { return softenclave.Alter{Body: f} }
	evidence := func(f func(*rats.Evidence)) softenclave.Alter { return softenclave.Alter{Evidence: f} }
	for _, tt := range []struct {
		name string
		a    softenclave.Alter
		want rats.CodeInfo
	}{
		{"other media type", evidence(func(e *rats.Evidence) { e.MediaType = "x" }), enclave.CodeMediaType},
		{"other format", evidence(func(e *rats.Evidence) { e.Format = "x" }), enclave.CodeMediaType},
		{"truncated body", evidence(func(e *rats.Evidence) { e.Body = e.Body[:511] }), abi.CodeLength},
		{"body followed by bytes", evidence(func(e *rats.Evidence) { e.Body = append(e.Body, 0) }), abi.CodeLength},
		{"unknown mode", body(func(b *abi.ReportBody) { b.CPUSVN[1] = 9 }), abi.CodePlatform},
		{"hardware's CPUSVN", body(func(b *abi.ReportBody) { b.CPUSVN = [16]byte{0x13, 0x13, 2} }), abi.CodePlatform},
		{"root class that contradicts the launch", body(func(b *abi.ReportBody) { b.CPUSVN[2] = byte(abi.LaunchUserspace) }), abi.CodePlatform},
		{"part missing", evidence(func(e *rats.Evidence) { e.Parts = e.Parts[1:] }), enclave.CodeParts},
		{"part doubled", evidence(func(e *rats.Evidence) { e.Parts = append(e.Parts, e.Parts[1]) }), enclave.CodeParts},
		{"a baseline inside the evidence (w2)", evidence(func(e *rats.Evidence) { e.Parts = append(e.Parts, rats.Part{Name: "baseline", Data: []byte("x")}) }), enclave.CodeParts},
		{"part too large", softenclave.Alter{Parts: func(m map[string][]byte) { m[enclave.PartAK] = make([]byte, 4096) }}, enclave.CodeParts},
		{"replayed quote", evidence(func(e *rats.Evidence) { *e = second }), enclave.CodeReportData},
		{"report data followed by others", softenclave.Alter{Bound: func(d *[64]byte) { d[63] = 1 }}, enclave.CodeReportData},
		{"report changed after signing", softenclave.Alter{Quote: func(q *abi.MonitorQuote) { q.Body.ISVSVN++ }}, enclave.CodeSignature},
		{"key of another monitor under the signature", softenclave.Alter{Quote: func(q *abi.MonitorQuote) { q.Key[0] ^= 1 }}, enclave.CodeSignature},
		{"signature changed", softenclave.Alter{Quote: func(q *abi.MonitorQuote) { q.Signature[40] ^= 1 }}, enclave.CodeSignature},
		{"SIGSTRUCT truncated", softenclave.Alter{Parts: func(m map[string][]byte) { m[enclave.PartSigstruct] = m[enclave.PartSigstruct][1:] }}, abi.CodeLength},
		{"SIGSTRUCT changed", flip(enclave.PartSigstruct, 1026), abi.CodeSigstructSignature},
		{"SIGSTRUCT of nobody", softenclave.Alter{Parts: func(m map[string][]byte) { m[enclave.PartSigstruct] = resigned.Bytes() }}, abi.CodeSigstructKey},
		{"version other than signed", body(func(b *abi.ReportBody) { b.ISVSVN++ }), enclave.CodeSigstruct},
		{"measurement other than signed", body(func(b *abi.ReportBody) { b.MRENCLAVE[0] ^= 1 }), enclave.CodeSigstruct},
		{"signer other than signed", body(func(b *abi.ReportBody) { b.MRSIGNER[0] ^= 1 }), enclave.CodeSigstruct},
		{"debug other than signed", body(func(b *abi.ReportBody) { b.Attributes.Flags |= abi.FlagDebug }), enclave.CodeSigstruct},
		{"misc other than signed", body(func(b *abi.ReportBody) { b.MiscSelect = 1 }), enclave.CodeSigstruct},
		{"TPM quote of another report (R165, w1)", softenclave.Alter{Parts: func(m map[string][]byte) {
			m[enclave.PartAttest], m[enclave.PartSignature] = part(second, enclave.PartAttest), part(second, enclave.PartSignature)
		}}, enclave.CodeSpliced},
		{"TPM quote bound to the manifest only", softenclave.Alter{Extra: manifest(t, 1).UserData}, enclave.CodeSpliced},
		{"no extraData", softenclave.Alter{Extra: []byte{}}, enclave.CodeSpliced},
		{"monitor signature other than quoted", softenclave.Alter{Extra: func() []byte { s := sha256.Sum256([]byte("x")); return s[:] }()}, enclave.CodeSpliced},
		{"TPM statement changed", flip(enclave.PartAttest, -1), enclave.CodeTPMSign},
		{"TPM signature changed", flip(enclave.PartSignature, -1), enclave.CodeTPMSign},
		{"TPM signature truncated", softenclave.Alter{Parts: func(m map[string][]byte) { m[enclave.PartSignature] = m[enclave.PartSignature][:9] }}, enclave.CodeTPMSign},
		{"signed by another TPM", softenclave.Alter{TPM: softtpm.Alter{Key: other.TPM}}, enclave.CodeTPMSign},
		{"AK of another TPM", softenclave.Alter{Parts: func(m map[string][]byte) { m[enclave.PartAK] = other.TPM.AKPublic() }}, enclave.CodeOtherAK},
		{"not composed by a TPM", softenclave.Alter{TPM: softtpm.Alter{Bytes: func(b []byte) []byte { b[0] ^= 1; return b }}}, enclave.CodeMagic},
		{"a certification instead of a quote", softenclave.Alter{TPM: softtpm.Alter{Bytes: func(b []byte) []byte { b[5] = 0x17; return b }}}, enclave.CodeAttest},
		{"TPM statement truncated", softenclave.Alter{TPM: softtpm.Alter{Bytes: func(b []byte) []byte { return b[:60] }}}, enclave.CodeAttest},
		{"TPM statement followed by bytes", softenclave.Alter{TPM: softtpm.Alter{Bytes: func(b []byte) []byte { return append(b, 0) }}}, enclave.CodeAttest},
		{"other registers", softenclave.Alter{TPM: softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0, 8, 0}}}}}, enclave.CodeSelection},
		{"other bank", softenclave.Alter{TPM: softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA384, PCRSelect: []byte{16, 10, 0}}}}}, enclave.CodeSelection},
		{"register value changed", flip(enclave.PartPCRs, 0), enclave.CodePCRs},
		{"register value missing", softenclave.Alter{Parts: func(m map[string][]byte) { m[enclave.PartPCRs] = m[enclave.PartPCRs][32:] }}, enclave.CodePCRs},
		{"log changed", flip(enclave.PartEvents, 0), enclave.CodeReplay},
		{"text of the log changed", flip(enclave.PartEvents, 33+33+1), abi.CodeEvents},
		{"log shortened", softenclave.Alter{Parts: func(m map[string][]byte) { m[enclave.PartEvents] = abi.EncodeEvents(good.Events[:3]) }}, enclave.CodeReplay},
		{"forged monitor key (R164)", softenclave.Alter{Signer: other}, enclave.CodeKeyDoubled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := altered(t, good, tt.a)
			v, err := verify(t, x)
			if err == nil {
				t.Fatalf("accepted: %+v", v.Claims)
			}
			wantCode(t, tt.name, err, tt.want)
		})
	}
}

func TestInputsThatAreNotAtHandAreMissing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*rats.Inputs)
		want   rats.CodeInfo
		tier   rats.Tier
	}{
		{"binding", func(in *rats.Inputs) { in.Binding = rats.Binding{} }, enclave.CodeUnbound, rats.None},
		{"short binding", func(in *rats.Inputs) { in.Binding = rats.Binding{Profile: rats.ProfileRaw, UserData: []byte("short")} }, enclave.CodeUnbound, rats.None},
		{"parameters", func(in *rats.Inputs) { in.Params = nil }, enclave.CodeUnasked, rats.None},
		{"enrolment", func(in *rats.Inputs) { in.Endorsements = nil }, enclave.CodeNotEnrolled, rats.None},
		{"manifest of another hash", func(in *rats.Inputs) { in.Binding.Manifest = []byte("x") }, enclave.CodeBinding, rats.Contraindicated},
		{"no manifest", func(in *rats.Inputs) {
			in.Binding.Manifest, in.Binding.UserData = []byte("x"), rats.SHA256([]byte("x")).Sum
		}, enclave.CodeBinding, rats.Contraindicated},
		{"tpm evidence of another boot", func(in *rats.Inputs) { in.Facts.Boots[0].ID = rats.SHA256() }, enclave.CodeOtherTPM, rats.Contraindicated},
	} {
		x := fresh(t, softenclave.Options{})
		tt.change(&x.inputs)
		_, err := verify(t, x)
		wantCode(t, tt.name, err, tt.want)
		if r, _ := rats.ReasonOf(err); r.Tier != tt.tier {
			t.Errorf("%s: tier %s, want %s", tt.name, r.Tier, tt.tier)
		}
	}
	for _, bad := range []string{"{", `{"pcrs":[]}`, `{"pcrs":[4]}`, `{"pcrs":[11,11]}`, `{"pcrs":[11,24]}`, `{"pcrs":[-1,11]}`} {
		if _, err := enclave.ParseParams([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	x := fresh(t, softenclave.Options{})
	x.inputs.Endorsements = []rats.Endorsement{{MediaType: tpm.EnrolmentMediaType, Body: []byte("{")}}
	if _, err := verify(t, x); err == nil {
		t.Error("a broken record of ours is accepted")
	} else if _, ok := rats.ReasonOf(err); ok {
		t.Error("a broken record of ours is the node's fault")
	}
}

// R174: TPM evidence of one machine and enclave evidence of another over one manifest.
func TestEnclaveOfAnotherMachineIsRefused(t *testing.T) {
	x := fresh(t, softenclave.Options{})
	other := softenclave.New(rand.Reader, softenclave.Options{})
	x.inputs.Facts = other.Boot()
	x.inputs.Endorsements = append(x.inputs.Endorsements, other.Endorsement())
	_, err := verify(t, x)
	wantCode(t, "facts of another TPM", err, enclave.CodeOtherTPM)
}

// S10, S13, R164: what root in user space can and can't make of the key register.
func TestKeyMustStandBeforeTheCap(t *testing.T) {
	key := func(e *softenclave.Enclave) { e.Extend(e.KeyEvent()) }
	capped := func(e *softenclave.Enclave) { e.Extend(abi.NewEvent(abi.EventCap)) }
	hiddenCap := func(e *softenclave.Enclave) { e.Extend(abi.Event{Digest: abi.NewEvent(abi.EventCap).Digest}) }
	otherKey := func(e *softenclave.Enclave) { e.Extend(abi.KeyEvent([64]byte{1})) }
	for _, tt := range []struct {
		name     string
		platform abi.Platform
		events   []func(*softenclave.Enclave)
		want     *rats.CodeInfo
	}{
		{"key, cap", abi.Platform{}, []func(*softenclave.Enclave){key, capped}, nil},
		{"key, cap, and what user space adds", abi.Platform{}, []func(*softenclave.Enclave){key, capped, otherKey, capped}, nil},
		{"nothing measured", abi.Platform{}, nil, &enclave.CodeKeyAbsent},
		{"key without cap", abi.Platform{}, []func(*softenclave.Enclave){key}, &enclave.CodeOrder},
		{"key after the cap", abi.Platform{}, []func(*softenclave.Enclave){capped, key}, &enclave.CodeOrder},
		{"key between two caps", abi.Platform{}, []func(*softenclave.Enclave){capped, key, capped}, &enclave.CodeOrder},
		{"key after a cap whose text is left out", abi.Platform{}, []func(*softenclave.Enclave){hiddenCap, key, capped}, &enclave.CodeOrder},
		{"two keys before the cap", abi.Platform{}, []func(*softenclave.Enclave){otherKey, key, capped}, &enclave.CodeKeyDoubled},
		{"user space: key", userspace, []func(*softenclave.Enclave){key}, nil},
		{"user space: key after a cap", userspace, []func(*softenclave.Enclave){capped, key}, nil},
		{"user space: two keys", userspace, []func(*softenclave.Enclave){key, otherKey}, &enclave.CodeKeyDoubled},
		{"user space: no key", userspace, []func(*softenclave.Enclave){capped}, &enclave.CodeKeyAbsent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := softenclave.New(rand.Reader, softenclave.Options{Platform: tt.platform, Unmeasured: true})
			for _, f := range tt.events {
				f(e)
			}
			_, err := verify(t, altered(t, e, softenclave.Alter{}))
			if tt.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantCode(t, tt.name, err, *tt.want)
		})
	}
}

func TestAttestationKeysOfOtherKindsAreRefused(t *testing.T) {
	for name, o := range map[string]softtpm.Options{
		"P-384":             {AK: softtpm.ECDSAP384},
		"RSA":               {AK: softtpm.RSASSA},
		"not restricted":    {AKPublic: func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }},
		"leaves its TPM":    {AKPublic: func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }},
		"decrypts":          {AKPublic: func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true }},
		"without signature": {AKPublic: func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = false }},
	} {
		s := softtpm.New(rand.Reader, o)
		e := softenclave.New(rand.Reader, softenclave.Options{TPM: s})
		b := manifest(t, 1)
		in := rats.Inputs{Binding: b, Params: []byte(`{"pcrs":[11]}`)}
		record, err := json.Marshal(map[string]any{"ak": s.AKPublic()})
		if err != nil {
			t.Fatal(err)
		}
		in.Endorsements = []rats.Endorsement{{MediaType: tpm.EnrolmentMediaType, Body: record}}
		_, err = enclave.New().Verify(t.Context(), e.Quote(b, []int{11}), in)
		wantCode(t, name, err, enclave.CodeAK)
	}
}

// Every truncation of every part, and every changed byte of body and statement, is refused without a panic.
func TestEveryTruncationAndChangeIsRefused(t *testing.T) {
	x := fresh(t, softenclave.Options{})
	try := func(what string, e rats.Evidence) {
		t.Helper()
		y := x
		y.evidence = e
		if _, err := verify(t, y); err == nil {
			t.Errorf("%s is accepted", what)
		} else if _, ok := rats.ReasonOf(err); !ok {
			t.Errorf("%s is a malfunction: %v", what, err)
		}
	}
	clone := func() rats.Evidence {
		e := x.evidence
		e.Body, e.Parts = bytes.Clone(e.Body), slices.Clone(e.Parts)
		for i := range e.Parts {
			e.Parts[i].Data = bytes.Clone(e.Parts[i].Data)
		}
		return e
	}
	step := 1
	if testing.Short() {
		step = 17
	}
	for i := 0; i < len(x.evidence.Body); i += step {
		e := clone()
		e.Body[i] ^= 0x10
		try("changed body", e)
		e = clone()
		e.Body = e.Body[:i]
		try("truncated body", e)
	}
	for n, p := range x.evidence.Parts {
		for i := 0; i < len(p.Data); i += step {
			if p.Name == enclave.PartSigstruct && i%16 != 0 {
				continue // each costs an RSA verification
			}
			e := clone()
			e.Parts[n].Data = e.Parts[n].Data[:i]
			try("truncated "+p.Name, e)
			if p.Name == enclave.PartSigstruct && (i >= 1028 && i < 1040) {
				continue // reserved and not signed
			}
			e = clone()
			e.Parts[n].Data[i] ^= 0x10
			try("changed "+p.Name, e)
		}
	}
}

func FuzzVerify(f *testing.F) {
	x := fresh(f, softenclave.Options{})
	part := func(name string) []byte {
		p, _ := x.evidence.Part(name)
		return p.Data
	}
	f.Add(x.evidence.Body, part(enclave.PartAttest), part(enclave.PartSignature), part(enclave.PartAK), part(enclave.PartEvents), part(enclave.PartPCRs))
	sigstruct := part(enclave.PartSigstruct)
	f.Fuzz(func(t *testing.T, body, attest, signature, ak, events, pcrs []byte) {
		e := rats.Evidence{Format: enclave.Format, MediaType: enclave.MediaType, Body: body, Parts: []rats.Part{
			{Name: enclave.PartSigstruct, Data: sigstruct}, {Name: enclave.PartAttest, Data: attest}, {Name: enclave.PartSignature, Data: signature},
			{Name: enclave.PartPCRs, Data: pcrs}, {Name: enclave.PartAK, Data: ak}, {Name: enclave.PartEvents, Data: events},
		}}
		record, err := json.Marshal(map[string]any{"ak": ak})
		if err != nil {
			t.Fatal(err)
		}
		in := x.inputs
		in.Endorsements = append([]rats.Endorsement{{MediaType: tpm.EnrolmentMediaType, Body: record}}, in.Endorsements...)
		v, err := enclave.New().Verify(t.Context(), e, in)
		if err == nil && !bytes.Equal(body[:384], x.evidence.Body[:384]) {
			t.Errorf("accepted %+v", v.Claims)
		}
	})
}

func TestFormatsAgreeWithTheirMakers(t *testing.T) {
	if enclave.Describe() != enclave.New().Descriptor() || enclave.Describe().ID != enclave.Format {
		t.Error("two descriptors")
	}
	if !software.TestSigned(abi.TestMRSIGNER) || !strings.HasPrefix(enclave.MediaType, "application/") {
		t.Error("the test key has another hash")
	}
}
