package hyperenclave

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/smx509"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

func wantCode(t testing.TB, what string, err error, want rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != want.Code || r.Path == "" || r.Expected == "" {
		t.Errorf("%s: got %v, want %s", what, err, want.Code)
	}
}

// The examples of the standards: GB/T 32905 appendix A, GB/T 32918.5 appendix A.2 (with the default user id).
func TestStandardExamplesOfSM2AndSM3Hold(t *testing.T) {
	for text, want := range map[string]string{
		"abc":                      "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
		strings.Repeat("abcd", 16): "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
	} {
		if got := sm3.Sum([]byte(text)); hex.EncodeToString(got[:]) != want {
			t.Errorf("SM3(%s) = %x", text, got)
		}
	}
	key := must(sm2.NewPublicKey(must(hex.DecodeString("04" + "09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020" + "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"))))
	sig := [64]byte(must(hex.DecodeString("f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3" + "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa")))
	id, message := []byte("1234567812345678"), []byte("message digest")
	if !verifySM2(key, id, message, sig) {
		t.Error("the standard's signature is not valid")
	}
	if verifySM2(key, monitorID, message, sig) || verifySM2(key, nil, message, sig) || verifySM2(key, id, message[1:], sig) || verifySM2(key, id, message, [64]byte{}) {
		t.Error("another signature is valid")
	}
}

// A second opinion: OpenSSL verifies what the tests sign, under the monitor's user id and without one.
func TestOpenSSLAgreesAboutSM2(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here: the standard's examples are checked all the same")
	}
	m := newMachine(t)
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	der := must(smx509.MarshalPKIXPublicKey(&m.monitor.PublicKey))
	message := []byte("a report body")
	sig := raw(m.monitor, monitorID, message)
	asn := must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])}))
	out, err := exec.Command(openssl, "pkeyutl", "-verify", "-rawin", "-digest", "sm3", "-pubin", "-keyform", "DER", "-inkey", file("key", der), "-in", file("message", message),
		"-sigfile", file("sig", asn), "-pkeyopt", "hexdistid:0102030405060708090a0b0c0d0e").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("Success")) {
		t.Errorf("%v: %s", err, out)
	}
}

// R090: what a genuine quote says. It is accepted by no default.
func TestQuoteOfAPublishedMonitorVerifies(t *testing.T) {
	m := newMachine(t)
	b := m.quote(t, reportData)
	if !Detect(b) || Detect(b[1:]) {
		t.Error("the quote is not detected, or other bytes are")
	}
	for _, body := range [][]byte{b, append(bytes.Clone(b), 0, 0, 0)} {
		v, err := New().Verify(t.Context(), evidenceOf(body), m.inputs())
		if err != nil {
			t.Fatal(err)
		}
		c := v.Claims.(*Claims)
		key := point(m.monitor)
		if c.MRENCLAVE != hex.EncodeToString(sum([]byte("enclave"))) || c.ISVProdID != 7 || c.ISVSVN != 3 || c.DebugEnabled() || !c.Legacy || c.Baseline != "certificate" ||
			!c.MonitorKey.Equal(rats.Digest{Alg: "sm3", Sum: sum(key[:])}) || !c.PCRDigest.Equal(rats.Digest{Alg: "sm3", Sum: pcrDigest}) ||
			c.TPM.ResetCount != 7 || c.TPM.RestartCount != 3 || !c.TPM.Safe || c.TPM.Clock != 12345 || c.TPM.Firmware != 0x2001 || c.TPM.Subject != "CN=AK" || c.TPM.Issuer != "CN=SM2 CA" {
			t.Errorf("%+v", c)
		}
		if !v.Until.Equal(noon.AddDate(0, 1, 0)) || len(v.Facts.UserData) != 1 || c.ReportData == "" || v.Marks != nil {
			t.Errorf("%+v", v)
		}
		if reasons := DefaultRules().Check(c, nil, noon); !slices.ContainsFunc(reasons, func(r rats.Reason) bool { return r.Code == CodeLegacy.Code && r.Tier == rats.Contraindicated }) {
			t.Errorf("accepted by default: %v", reasons)
		}
	}
	m.body = func(r *abi.ReportBody) { r.Attributes.Flags |= abi.FlagDebug }
	if v, err := New().Verify(t.Context(), evidenceOf(m.quote(t, reportData)), m.inputs()); err != nil || !slices.Equal(v.Marks, []string{rats.MarkDebug}) {
		t.Errorf("marks %v, %v", v.Marks, err)
	}
}

// R090: each truncated field, and each changed byte, is refused with the code of its field.
func TestEachTruncatedOrChangedFieldIsRefused(t *testing.T) {
	m := newMachine(t)
	good, in := m.quote(t, reportData), m.inputs()
	verify := func(b []byte) error {
		_, err := New().Verify(t.Context(), evidenceOf(b), in)
		return err
	}
	for n := range good {
		want := abi.CodeHyperEnclave
		if n >= 777 {
			want = abi.CodeHyperEnclaveCertificate
		}
		wantCode(t, "truncated", verify(good[:n]), want)
	}
	fields := []struct {
		name     string
		from, to int
		want     []rats.CodeInfo
	}{
		{"version and signature type", 0, 4, []rats.CodeInfo{abi.CodeHyperEnclaveVersion}},
		{"head", 4, 48, []rats.CodeInfo{CodeHead}},
		{"report body", 48, 368, []rats.CodeInfo{CodeSignature}},
		{"report data", 368, 432, []rats.CodeInfo{CodeExtraData}},
		{"signature length", 432, 436, []rats.CodeInfo{abi.CodeHyperEnclaveLength}},
		{"monitor's signature", 436, 500, []rats.CodeInfo{CodeSignature}},
		{"monitor's key", 500, 564, []rats.CodeInfo{CodeMonitorKey, CodeUnmeasured}},
		{"magic and type", 564, 570, []rats.CodeInfo{abi.CodeHyperEnclaveStatement}},
		{"statement", 570, 711, []rats.CodeInfo{CodeTPMSignature}},
		{"TPM signature", 711, 775, []rats.CodeInfo{CodeTPMSignature}},
		{"certificate", 775, len(good), []rats.CodeInfo{abi.CodeHyperEnclaveCertificate, abi.CodeHyperEnclave, abi.CodeHyperEnclaveLength, CodeCertificate, CodeUntrusted}},
	}
	for _, f := range fields {
		for at := f.from; at < f.to; at++ {
			b := bytes.Clone(good)
			b[at] ^= 0x40
			if r, ok := rats.ReasonOf(verify(b)); !ok || !slices.ContainsFunc(f.want, func(c rats.CodeInfo) bool { return c.Code == r.Code }) {
				t.Errorf("%s, byte %d: %v", f.name, at, r)
			}
		}
	}
}

// R090, S01: what is validly signed and says something else is refused all the same.
func TestForgedQuotesAreRefused(t *testing.T) {
	other := newMachine(t)
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, tc := range map[string]struct {
		change func(*machine)
		inputs func(*rats.Inputs)
		want   rats.CodeInfo
	}{
		"replayed statement":      {change: func(m *machine) { m.statement = func(b []byte) { copy(b[46:], sum([]byte("another report"))) } }, want: CodeExtraData},
		"other registers":         {change: func(m *machine) { m.statement = func(b []byte) { b[115]++ } }, want: CodePCRDigest},
		"register 12 left out":    {change: func(m *machine) { m.statement = func(b []byte) { b[111] = 0x23 } }, want: CodeSelection},
		"SHA-256 bank":            {change: func(m *machine) { m.statement = func(b []byte) { b[108] = 0x0b } }, want: CodeSelection},
		"two selections":          {change: func(m *machine) { m.statement = func(b []byte) { b[106] = 2 } }, want: CodeStatement},
		"many selections":         {change: func(m *machine) { m.statement = func(b []byte) { b[103] = 1 } }, want: CodeStatement},
		"safe is no flag":         {change: func(m *machine) { m.statement = func(b []byte) { b[94] = 2 } }, want: CodeStatement},
		"extra data by SHA-256":   {change: func(m *machine) { m.statement = func(b []byte) { b[45] = 0x0b } }, want: CodeStatement},
		"not a quote":             {change: func(m *machine) { m.statement = func(b []byte) { b[5] = 0x17 } }, want: abi.CodeHyperEnclaveStatement},
		"unmeasured monitor key":  {change: func(m *machine) { m.named = point(other.monitor) }, want: CodeUnmeasured},
		"monitor with another id": {change: func(m *machine) { m.id = []byte("1234567812345678") }, want: CodeSignature},
		"monitor without an id":   {change: func(m *machine) { m.id = nil }, want: CodeSignature},
		"TPM with an id":          {change: func(m *machine) { m.tpmID = monitorID }, want: CodeTPMSignature},
		"no baseline":             {change: func(m *machine) { m.baseline = func([]byte) []byte { return nil } }, want: CodeBaseline},
		"short baseline": {change: func(m *machine) {
			m.baseline = func([]byte) []byte { return must(asn1.MarshalWithParams("AAAA", "utf8")) }
		}, want: CodeBaseline},
		"baseline of another type":       {change: func(m *machine) { m.baseline = func(b []byte) []byte { b[0] = 0x13; return b } }, want: CodeBaseline},
		"baseline with more":             {change: func(m *machine) { m.baseline = func(b []byte) []byte { return append(b, 5, 0) } }, want: CodeBaseline},
		"another authority of that name": {change: func(m *machine) { m.issuer = other.ca }, want: CodeUntrusted},
		"P-256 key":                      {change: func(m *machine) { m.template = func(c *x509.Certificate) { c.PublicKey = &stranger.PublicKey } }, want: CodeCertificate},
		"a CA's certificate": {change: func(m *machine) {
			m.template = func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }
		}, want: CodeCertificate},
		"a key for other things": {change: func(m *machine) { m.template = func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment } }, want: CodeCertificate},
		"critical extension": {change: func(m *machine) {
			m.template = func(c *x509.Certificate) {
				c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
			}
		}, want: CodeCertificate},
		"expired":            {inputs: func(in *rats.Inputs) { in.Now = noon.AddDate(0, 2, 0) }, want: CodeExpired},
		"not yet valid":      {inputs: func(in *rats.Inputs) { in.Now = noon.AddDate(0, -2, 0) }, want: CodeExpired},
		"no anchor":          {inputs: func(in *rats.Inputs) { in.Endorsements = nil }, want: CodeNoAnchor},
		"another anchor":     {inputs: func(in *rats.Inputs) { in.Endorsements[1].Body = other.anchor }, want: CodeUntrusted},
		"not a certificate":  {inputs: func(in *rats.Inputs) { in.Endorsements[1].Body = []byte("x") }, want: CodeUntrusted},
		"other user data":    {inputs: func(in *rats.Inputs) { in.Binding.UserData = sum([]byte("other")) }, want: dcap.CodeReportData},
		"short user data":    {inputs: func(in *rats.Inputs) { in.Binding.UserData = []byte("x") }, want: dcap.CodeUnbound},
		"a manifest, forged": {inputs: func(in *rats.Inputs) { in.Binding.Profile = rats.ProfileAssay }, want: dcap.CodeBinding},
	} {
		m := newMachine(t)
		if tc.change != nil {
			tc.change(m)
		}
		in := m.inputs()
		if tc.inputs != nil {
			tc.inputs(&in)
		}
		_, err := New().Verify(t.Context(), evidenceOf(m.quote(t, reportData)), in)
		wantCode(t, name, err, tc.want)
	}
	m := newMachine(t)
	for name, change := range map[string]func(*rats.Evidence){
		"format":     func(e *rats.Evidence) { e.Format = "sgx" },
		"media type": func(e *rats.Evidence) { e.MediaType = "text/plain" },
		"parts":      func(e *rats.Evidence) { e.Parts = []rats.Part{{Name: "x"}} },
	} {
		e := evidenceOf(m.quote(t, reportData))
		change(&e)
		_, err := New().Verify(t.Context(), e, m.inputs())
		wantCode(t, name, err, CodeMediaType)
	}
}

func codesOf(reasons []rats.Reason) string {
	var out []string
	for _, r := range reasons {
		out = append(out, string(r.Code)+"/"+r.Tier.String())
	}
	return strings.Join(out, " ")
}

// R106: only an explicit relaxation that ends accepts a quote, as a warning, and only with the policy's own registers.
func TestOnlyARelaxationAcceptsAQuote(t *testing.T) {
	good := Claims{MRENCLAVE: strings.Repeat("ab", 32), PCRDigest: rats.Digest{Alg: "sm3", Sum: pcrDigest}, Legacy: true}
	rules := Rules{InsecureAcceptLegacy: noon.Add(time.Hour), MRENCLAVE: []string{good.MRENCLAVE}, PCRDigests: []string{good.PCRDigest.String()}}
	for name, tc := range map[string]struct {
		rules  func(*Rules)
		claims func(*Claims)
		want   string
	}{
		"relaxed":           {nil, nil, "hyperenclave.quote.legacy-accepted/warning"},
		"not relaxed":       {func(r *Rules) { r.InsecureAcceptLegacy = time.Time{} }, nil, string(CodeLegacy.Code) + "/contraindicated"},
		"relaxation ended":  {func(r *Rules) { r.InsecureAcceptLegacy = noon }, nil, string(CodeLegacy.Code) + "/contraindicated"},
		"another enclave":   {nil, func(c *Claims) { c.MRENCLAVE = strings.Repeat("cd", 32) }, string(CodeAccepted.Code) + "/warning " + string(CodeMeasurement.Code) + "/contraindicated"},
		"another machine":   {nil, func(c *Claims) { c.PCRDigest.Sum = make([]byte, 32) }, string(CodeAccepted.Code) + "/warning " + string(CodeRegisters.Code) + "/contraindicated"},
		"open to debuggers": {nil, func(c *Claims) { c.Debug = true }, string(CodeAccepted.Code) + "/warning " + string(CodeDebug.Code) + "/contraindicated"},
	} {
		r, c := rules, good
		if tc.rules != nil {
			tc.rules(&r)
		}
		if tc.claims != nil {
			tc.claims(&c)
		}
		if reasons := r.Lint(); len(reasons) > 0 {
			t.Fatal(reasons)
		}
		if got := codesOf(r.Check(&c, nil, noon)); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	if got := codesOf(new(Rules).Check(nil, nil, noon)); got != string(CodeClaims.Code)+"/contraindicated" {
		t.Error(got)
	}
	if r := rules; codesOf(r.Check(&good, nil, noon)) != string(CodeLegacy.Code)+"/contraindicated" {
		t.Error("rules that were not linted trust something")
	}
	if r := DefaultRules(); len(r.Lint()) > 0 || !strings.HasPrefix(codesOf(r.Check(&good, nil, noon)), string(CodeLegacy.Code)+"/contraindicated") {
		t.Error("the default rules are unusable, or trust something")
	}
	for want, r := range map[string]Rules{
		string(CodeRuleIdentity.Code) + "/contraindicated":                                                     {PCRDigests: rules.PCRDigests},
		string(CodeRuleDigest.Code) + "/contraindicated":                                                       {MRENCLAVE: rules.MRENCLAVE},
		string(CodeRuleIdentity.Code) + "/contraindicated " + string(CodeRuleDigest.Code) + "/contraindicated": {MRENCLAVE: []string{"AB"}, PCRDigests: []string{"sha256:" + good.MRENCLAVE}},
	} {
		if got := codesOf(r.Lint()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	m := newMachine(f)
	good := m.quote(f, reportData)
	in := m.inputs()
	f.Add(good)
	f.Add(good[:775])
	f.Add(append(bytes.Clone(good), 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := New().Verify(t.Context(), evidenceOf(b), in)
		if err == nil && !bytes.Equal(bytes.TrimRight(b, "\x00"), bytes.TrimRight(good, "\x00")) {
			t.Errorf("accepted other bytes: %+v", v.Claims)
		}
	})
}

func FuzzParseBaseline(f *testing.F) {
	f.Add([]byte{0x0c, 4, 'A', 'A', 'A', 'A'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if base, ok := parseBaseline(b); ok && (len(base.digest) != 32 || len(base.pcr13) != 32) {
			t.Errorf("%x", b)
		}
	})
}
