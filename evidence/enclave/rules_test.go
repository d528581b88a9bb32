package enclave_test

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/internal/testkit/softenclave"
	"github.com/assay-attest/assay/rats"
)

func u16(n uint16) *uint16 { return &n }

func digestOf(sum [32]byte) string { return "sha256:" + hex.EncodeToString(sum[:]) }

// rulesFor accepts exactly this enclave, as strictly as can be.
func rulesFor(e *softenclave.Enclave) *enclave.Rules {
	before := softenclaveBefore()
	return &enclave.Rules{
		MRENCLAVE: enclave.Strings{digestOf(e.Identity.MRENCLAVE)},
		Modes:     enclave.Strings{"process"}, Launches: enclave.Strings{"initrd"}, Roots: enclave.Strings{"initrd-sealed"},
		PCRs: map[string]enclave.Strings{
			"4": {hex.EncodeToString(e.TPM.PCR("sha256", 4))}, "9": {"sha256:" + hex.EncodeToString(e.TPM.PCR("sha256", 9))},
		},
		BeforeKey: enclave.Strings{before}, Measured: enclave.Strings{softenclave.KeeperText, softenclave.MonitorText},
		MinMonitorSVN: 5, AcceptSameOS: true,
	}
}

// softenclaveBefore is the key register's value after the test boot loader's event.
func softenclaveBefore() string {
	v := abi.Event{Digest: [32]byte{0xee}}.Extend([32]byte{})
	return hex.EncodeToString(v[:])
}

func judged(t testing.TB, x exchange, r *enclave.Rules) []rats.Reason {
	t.Helper()
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatalf("lint: %v", reasons)
	}
	x.inputs.Params = r.Params()
	var p enclave.Params
	if err := json.Unmarshal(r.Params(), &p); err != nil {
		t.Fatal(err)
	}
	x.evidence = x.enclave.Quote(x.inputs.Binding, p.PCRs)
	v, err := verify(t, x)
	if err != nil {
		t.Fatal(err)
	}
	return r.Check(v.Claims, nil, now)
}

func TestStrictRulesAcceptTheirEnclave(t *testing.T) {
	x := fresh(t, softenclave.Options{})
	r := rulesFor(x.enclave)
	if reasons := judged(t, x, r); len(reasons) > 0 {
		t.Errorf("refused: %v", reasons)
	}
	if !r.Timeless() || !slices.Contains(r.Slots(), rats.Configuration) || slices.Contains(r.Slots(), rats.InstanceIdentity) {
		t.Errorf("slots %v", r.Slots())
	}
}

// R106: MRSIGNER with product and least version; R166: a lower version; R168: another signer.
func TestSignerIsTrustedForOneProductFromAVersionOn(t *testing.T) {
	x := fresh(t, softenclave.Options{})
	signer := func(change func(*enclave.Signer)) *enclave.Rules {
		r := rulesFor(x.enclave)
		r.MRENCLAVE = nil
		s := enclave.Signer{MRSIGNER: digestOf(x.enclave.Identity.MRSIGNER), ProductID: u16(7), MinSVN: u16(3)}
		change(&s)
		r.Signers = []enclave.Signer{s}
		return r
	}
	for _, tt := range []struct {
		name   string
		change func(*enclave.Signer)
		want   rats.Code
	}{
		{"the version", func(*enclave.Signer) {}, ""},
		{"an older one is enough", func(s *enclave.Signer) { s.MinSVN = u16(1) }, ""},
		{"a newer one is demanded", func(s *enclave.Signer) { s.MinSVN = u16(4) }, enclave.CodeSVN.Code},
		{"another product", func(s *enclave.Signer) { s.ProductID = u16(8) }, enclave.CodeIdentity.Code},
		{"another signer", func(s *enclave.Signer) { s.MRSIGNER = digestOf([32]byte{1}) }, enclave.CodeIdentity.Code},
	} {
		reasons := judged(t, x, signer(tt.change))
		if tt.want == "" && len(reasons) > 0 || tt.want != "" && (len(reasons) != 1 || reasons[0].Code != tt.want) {
			t.Errorf("%s: %v", tt.name, reasons)
		}
	}
	for name, change := range map[string]func(*enclave.Signer){
		"no product": func(s *enclave.Signer) { s.ProductID = nil }, "no version": func(s *enclave.Signer) { s.MinSVN = nil },
	} {
		if reasons := signer(change).Lint(); len(reasons) != 1 || reasons[0].Code != enclave.CodeRuleSigner.Code {
			t.Errorf("%s: %v", name, reasons)
		}
	}
}

// R089, R094, R105, R167, S15, S17: what each rule refuses.
func TestRulesRefuseWhatTheyDoNotName(t *testing.T) {
	zero := strings.Repeat("00", 32)
	for _, tt := range []struct {
		name   string
		o      softenclave.Options
		change func(*enclave.Rules)
		want   rats.CodeInfo
		tier   rats.Tier
	}{
		{"another enclave", softenclave.Options{}, func(r *enclave.Rules) { r.MRENCLAVE = enclave.Strings{digestOf([32]byte{1})} }, enclave.CodeIdentity, rats.Contraindicated},
		{"mode", softenclave.Options{}, func(r *enclave.Rules) { r.Modes = enclave.Strings{"inline"} }, enclave.CodeMode, rats.Contraindicated},
		{"launch", softenclave.Options{}, func(r *enclave.Rules) { r.Launches = enclave.Strings{"userspace"} }, enclave.CodeLaunch, rats.Contraindicated},
		{"root", softenclave.Options{}, func(r *enclave.Rules) { r.Roots = enclave.Strings{"os-protected"} }, enclave.CodeRoot, rats.Contraindicated},
		{"monitor's version", softenclave.Options{}, func(r *enclave.Rules) { r.MinMonitorSVN = 6 }, enclave.CodeMonitorSVN, rats.Contraindicated},
		{"another keeper", softenclave.Options{}, func(r *enclave.Rules) { r.Measured = r.Measured[1:] }, enclave.CodeMeasured, rats.Contraindicated},
		{"debug", softenclave.Options{Flags: abi.FlagDebug}, func(*enclave.Rules) {}, enclave.CodeDebug, rats.Contraindicated},
		{"provisioning key", softenclave.Options{Flags: abi.FlagProvisionKey}, func(*enclave.Rules) {}, enclave.CodeAttributes, rats.Contraindicated},
		{"unknown attribute", softenclave.Options{Flags: 1 << 40}, func(*enclave.Rules) {}, enclave.CodeAttributes, rats.Contraindicated},
		{"baseline (w2)", softenclave.Options{}, func(r *enclave.Rules) { r.PCRs["4"] = enclave.Strings{strings.Repeat("11", 32)} }, enclave.CodePCRMismatch, rats.Contraindicated},
		{"register before the key", softenclave.Options{}, func(r *enclave.Rules) { r.BeforeKey = enclave.Strings{zero} }, enclave.CodePCRMismatch, rats.Contraindicated},
		{"same operating system", softenclave.Options{}, func(r *enclave.Rules) { r.AcceptSameOS = false }, enclave.CodeSameOS, rats.Warning},
	} {
		x := fresh(t, tt.o)
		r := rulesFor(x.enclave)
		tt.change(r)
		reasons := judged(t, x, r)
		if len(reasons) != 1 || reasons[0].Code != tt.want.Code || reasons[0].Tier != tt.tier || reasons[0].Hint == "" {
			t.Errorf("%s: %v", tt.name, reasons)
		}
	}
	x := fresh(t, softenclave.Options{Flags: abi.FlagDebug | abi.FlagProvisionKey | abi.FlagEInitToken})
	r := rulesFor(x.enclave)
	r.Debug, r.Attributes = r.MRENCLAVE, enclave.Strings{"provision-key", "einittoken-key"}
	if reasons := judged(t, x, r); len(reasons) > 0 {
		t.Errorf("a debug enclave that was named: %v", reasons)
	}
}

func TestClaimsWithoutWhatRulesNeedAreRefused(t *testing.T) {
	x := fresh(t, softenclave.Options{})
	r := rulesFor(x.enclave)
	if reasons := r.Check(&enclave.Claims{}, nil, now); len(reasons) != 1 {
		t.Errorf("rules before Lint: %v", reasons)
	}
	r.Lint()
	x.inputs.Facts = rats.Facts{}
	v, err := verify(t, x)
	if err != nil {
		t.Fatal(err)
	}
	reasons := r.Check(v.Claims, nil, now)
	if len(reasons) != 1 || reasons[0].Code != enclave.CodeUnlinked.Code || reasons[0].Tier != rats.None {
		t.Errorf("without tpm evidence: %v", reasons)
	}
	c := *v.Claims.(*enclave.Claims)
	c.TPM.PCRs = nil
	if reasons = r.Check(&c, nil, now); !slices.ContainsFunc(reasons, func(r rats.Reason) bool { return r.Code == enclave.CodePCRMissing.Code }) {
		t.Errorf("without registers: %v", reasons)
	}
	for _, other := range []rats.Claims{nil, (*enclave.Claims)(nil)} {
		if reasons := r.Check(other, nil, now); len(reasons) != 1 || reasons[0].Code != enclave.CodeIdentity.Code {
			t.Errorf("no claims: %v", reasons)
		}
	}
	if reasons := r.Check(&enclave.Claims{}, nil, now); len(reasons) < 5 {
		t.Errorf("empty claims lack only %v", reasons)
	}
	// A simulated root is judged without tpm evidence, and never called anything better.
	s := fresh(t, softenclave.Options{Platform: simulated})
	soft := &enclave.Rules{
		MRENCLAVE: enclave.Strings{digestOf(s.enclave.Identity.MRENCLAVE)}, Modes: enclave.Strings{"process"},
		Launches: enclave.Strings{"userspace"}, Roots: enclave.Strings{"simulated"}, AcceptSameOS: true,
	}
	if reasons := judged(t, s, soft); len(reasons) > 0 {
		t.Errorf("simulated root: %v", reasons)
	}
}

func TestSectionsWithMistakesAreRefused(t *testing.T) {
	x := fresh(t, softenclave.Options{})
	value := enclave.Strings{strings.Repeat("11", 32)}
	for _, tt := range []struct {
		name   string
		change func(*enclave.Rules)
		want   rats.CodeInfo
	}{
		{"nobody is trusted", func(r *enclave.Rules) { r.MRENCLAVE = nil }, enclave.CodeRuleIdentity},
		{"bad measurement", func(r *enclave.Rules) { r.MRENCLAVE = enclave.Strings{"sha256:00"} }, enclave.CodeRuleDigest},
		{"SHA-1", func(r *enclave.Rules) { r.MRENCLAVE = enclave.Strings{"sha1:" + strings.Repeat("0", 40)} }, enclave.CodeRuleDigest},
		{"bad signer", func(r *enclave.Rules) {
			r.Signers = []enclave.Signer{{MRSIGNER: "x", ProductID: u16(1), MinSVN: u16(1)}}
		}, enclave.CodeRuleDigest},
		{"signer alone", func(r *enclave.Rules) { r.Signers = []enclave.Signer{{MRSIGNER: digestOf([32]byte{1})}} }, enclave.CodeRuleSigner},
		{"debug without measurement", func(r *enclave.Rules) { r.Debug = enclave.Strings{digestOf([32]byte{1})} }, enclave.CodeRuleDebug},
		{"no modes", func(r *enclave.Rules) { r.Modes = nil }, enclave.CodeRuleWord},
		{"no launches", func(r *enclave.Rules) { r.Launches = nil }, enclave.CodeRuleWord},
		{"no roots", func(r *enclave.Rules) { r.Roots = nil }, enclave.CodeRuleWord},
		{"unknown mode", func(r *enclave.Rules) { r.Modes = enclave.Strings{"any"} }, enclave.CodeRuleWord},
		{"unknown attribute", func(r *enclave.Rules) { r.Attributes = enclave.Strings{"debug"} }, enclave.CodeRuleWord},
		{"key register among the others", func(r *enclave.Rules) { r.PCRs["11"] = value }, enclave.CodeRulePCR},
		{"resettable register", func(r *enclave.Rules) { r.PCRs["16"] = value }, enclave.CodeRulePCR},
		{"register with a zero before", func(r *enclave.Rules) { r.PCRs["07"] = value }, enclave.CodeRulePCR},
		{"register without values", func(r *enclave.Rules) { r.PCRs["7"] = nil }, enclave.CodeRulePCR},
		{"bad value", func(r *enclave.Rules) { r.BeforeKey = enclave.Strings{"00"} }, enclave.CodeRulePCR},
		{"initrd without baselines", func(r *enclave.Rules) { r.PCRs, r.BeforeKey = nil, nil }, enclave.CodeRuleBaseline},
		{"initrd without the initrd's baseline", func(r *enclave.Rules) { delete(r.PCRs, "9"); r.BeforeKey = nil }, enclave.CodeRuleBaseline},
	} {
		r := rulesFor(x.enclave)
		tt.change(r)
		reasons := r.Lint()
		if !slices.ContainsFunc(reasons, func(r rats.Reason) bool { return r.Code == tt.want.Code }) {
			t.Errorf("%s: %v", tt.name, reasons)
		}
		if got := r.Check(&enclave.Claims{}, nil, now); len(got) != 1 || got[0].Code != enclave.CodeIdentity.Code {
			t.Errorf("%s: a section with mistakes judges: %v", tt.name, got)
		}
	}
	if reasons := new(enclave.Rules).Lint(); len(reasons) == 0 {
		t.Error("the empty section is usable")
	}
}

func TestSectionIsWrittenAsDocumented(t *testing.T) {
	var r enclave.Rules
	doc := `
mrenclave: sha256:` + strings.Repeat("ab", 32) + `
signers:
  - {mrsigner: "sha256:` + strings.Repeat("cd", 32) + `", product_id: 7, min_svn: 3}
modes: [process, inline]
launches: userspace
roots: [os-protected]
accept_same_os: true
`
	if err := yaml.Unmarshal([]byte(doc), &r); err != nil {
		t.Fatal(err)
	}
	if reasons := r.Lint(); len(reasons) > 0 || len(r.Modes) != 2 || *r.Signers[0].MinSVN != 3 || string(r.Params()) != `{"pcrs":[11]}` {
		t.Errorf("%+v: %v", r, reasons)
	}
	if err := yaml.Unmarshal([]byte("modes: {a: b}"), &r); err == nil {
		t.Error("a map is a list of words")
	}
}
