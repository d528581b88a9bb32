package ias

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/internal/testkit/dcaptest"
	"github.com/assay-attest/assay/rats"
)

func codeOf(t *testing.T, err error) rats.Code {
	t.Helper()
	if err == nil {
		return ""
	}
	r, ok := rats.ReasonOf(err)
	if !ok {
		t.Fatalf("%v is not a refusal", err)
	}
	return r.Code
}

// recordedEvidence puts a case's files together as the service's answer stood.
func recordedEvidence(t *testing.T, c dcaptest.Case) rats.Evidence {
	e := rats.Evidence{Format: Format, MediaType: MediaType, Body: c.Input(t)}
	if c.Signature != "" {
		e.Parts = append(e.Parts, rats.Part{Name: PartSignature, Data: dcaptest.Recorded(t, c.Signature)})
	}
	for _, name := range c.Collateral {
		e.Parts = append(e.Parts, rats.Part{Name: PartCertificates, Data: dcaptest.Recorded(t, name)})
	}
	return e
}

// R114: recorded reports verify, are labelled legacy and are accepted by no default.
func TestRecordedCases(t *testing.T) {
	v := New()
	cases := dcaptest.Cases(t, string(Format))
	for _, c := range cases {
		e := recordedEvidence(t, c)
		if !Detect(e.Body) {
			t.Errorf("%s is not detected", c.ID)
		}
		if inner, ok := FromCertificate(e.Body); ok {
			e = inner
		}
		var o dcaptest.Outcome
		report, err := ParseReport(e.Body)
		o.Parsed, o.Debug = err == nil, report.Quote.Body.Attributes.Debug()
		verified, err := v.Verify(t.Context(), e, c.Inputs(t))
		if o.Genuine = err == nil; !o.Genuine {
			o.Why = err.Error()
		} else {
			claims := verified.Claims.(*Claims)
			o.Advisories = claims.Advisories
			o.Facts = map[string]any{
				"status": claims.Status, "mrenclave": claims.MRENCLAVE, "mrsigner": claims.MRSIGNER, "report_version": claims.ReportVersion,
				"timestamp": claims.Timestamp.Format("2006-01-02T15:04:05.000000"), "report_signature_ok": true,
			}
			o.Accepted = len(DefaultRules().Check(claims, nil, c.Time())) == 0
			if !claims.Legacy {
				t.Errorf("%s is not labelled legacy", c.ID)
			}
		}
		c.Compare(t, o)
	}
	t.Logf("%d cases", len(cases))
}

// service is a fake attestation service with a CA of its own.
type service struct {
	pool   *x509.CertPool
	key    *rsa.PrivateKey
	header []byte
}

var noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

func newService(t testing.TB) *service {
	t.Helper()
	key := func() *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, s := key(), &service{key: key(), pool: x509.NewCertPool()}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "signer"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &s.key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	s.pool.AddCert(root)
	s.header = []byte(url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}))))
	return s
}

// answer signs a report.
func (s *service) answer(t testing.TB, change func(map[string]any)) rats.Evidence {
	t.Helper()
	q := abi.EPIDQuote{Version: 2, SignType: 1, Body: abi.ReportBody{MRENCLAVE: [32]byte{7}, Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64}}}
	copy(q.Body.ReportData[:], bytes.Repeat([]byte{9}, 32))
	m := map[string]any{
		"id": "1", "version": 4, "timestamp": "2024-05-06T11:59:00.123456", "isvEnclaveQuoteStatus": "OK", "isvEnclaveQuoteBody": q.Bytes(), "advisoryIDs": []string{},
	}
	if change != nil {
		change(m)
	}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return s.sign(t, body)
}

func (s *service) sign(t testing.TB, body []byte) rats.Evidence {
	t.Helper()
	digest := sha256.Sum256(body)
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return rats.Evidence{Format: Format, MediaType: MediaType, Body: body, Parts: []rats.Part{
		{Name: PartSignature, Data: []byte(base64.StdEncoding.EncodeToString(sig))}, {Name: PartCertificates, Data: s.header},
	}}
}

func (s *service) inputs() rats.Inputs {
	return rats.Inputs{Now: noon, Anchors: s.pool, Binding: rats.Binding{Profile: rats.ProfileRaw, UserData: bytes.Repeat([]byte{9}, 32)}}
}

// The refusal matrix: a valid report with one thing changed.
func TestReportWithOneThingChangedIsRefused(t *testing.T) {
	s, other := newService(t), newService(t)
	v := New()
	good := s.answer(t, nil)
	if _, err := v.Verify(t.Context(), good, s.inputs()); err != nil {
		t.Fatal(err)
	}
	with := func(change func(map[string]any)) func() rats.Evidence {
		return func() rats.Evidence { return s.answer(t, change) }
	}
	edit := func(change func(*rats.Evidence)) func() rats.Evidence {
		return func() rats.Evidence {
			e := s.answer(t, nil)
			change(&e)
			return e
		}
	}
	for name, c := range map[string]struct {
		make func() rats.Evidence
		in   func(*rats.Inputs)
		code rats.Code
	}{
		"media type":         {edit(func(e *rats.Evidence) { e.MediaType = "x" }), nil, CodeMediaType.Code},
		"no signature":       {edit(func(e *rats.Evidence) { e.Parts = e.Parts[1:] }), nil, CodeMediaType.Code},
		"signature text":     {edit(func(e *rats.Evidence) { e.Parts[0].Data = []byte("?") }), nil, CodeSignature.Code},
		"other signature":    {edit(func(e *rats.Evidence) { e.Parts[0].Data = other.answer(t, nil).Parts[0].Data }), nil, CodeSignature.Code},
		"body":               {edit(func(e *rats.Evidence) { e.Body = bytes.Replace(e.Body, []byte(`"OK"`), []byte(`"KO"`), 1) }), nil, CodeSignature.Code},
		"no certificate":     {edit(func(e *rats.Evidence) { e.Parts = e.Parts[:1] }), nil, CodeCertificates.Code},
		"broken escape":      {edit(func(e *rats.Evidence) { e.Parts[1].Data = []byte("%zz") }), nil, CodeCertificates.Code},
		"broken certificate": {edit(func(e *rats.Evidence) { e.Parts[1].Data = e.Parts[1].Data[:300] }), nil, CodeCertificates.Code},
		"other CA":           {func() rats.Evidence { return other.answer(t, nil) }, nil, CodeRoot.Code},
		"Intel's CA only":    {with(nil), func(in *rats.Inputs) { in.Anchors = nil }, CodeRoot.Code},
		"too late":           {with(nil), func(in *rats.Inputs) { in.Now = noon.AddDate(2, 0, 0) }, CodeExpired.Code},
		"too early":          {with(nil), func(in *rats.Inputs) { in.Now = noon.AddDate(-2, 0, 0) }, CodeExpired.Code},
		"version":            {with(func(m map[string]any) { m["version"] = 2 }), nil, CodeVersion.Code},
		"no status":          {with(func(m map[string]any) { delete(m, "isvEnclaveQuoteStatus") }), nil, CodeMalformed.Code},
		"timestamp":          {with(func(m map[string]any) { m["timestamp"] = "yesterday" }), nil, CodeMalformed.Code},
		"short quote":        {with(func(m map[string]any) { m["isvEnclaveQuoteBody"] = make([]byte, 431) }), nil, CodeMalformed.Code},
		"too long":           {with(func(m map[string]any) { m["nonce"] = strings.Repeat("x", maxReport) }), nil, CodeMalformed.Code},
		"EPID quote":         {edit(func(e *rats.Evidence) { e.Body = epidQuote(680) }), nil, CodeEPID.Code},
		"other binding":      {with(nil), func(in *rats.Inputs) { in.Binding.UserData = make([]byte, 32) }, dcap.CodeReportData.Code},
		"no binding":         {with(nil), func(in *rats.Inputs) { in.Binding = rats.Binding{} }, dcap.CodeUnbound.Code},
		"foreign manifest":   {with(nil), func(in *rats.Inputs) { in.Binding.Profile = rats.ProfileAssay }, dcap.CodeBinding.Code},
	} {
		in := s.inputs()
		if c.in != nil {
			c.in(&in)
		}
		if _, err := v.Verify(t.Context(), c.make(), in); codeOf(t, err) != c.code {
			t.Errorf("%s: %v, expected %s", name, err, c.code)
		}
	}
}

func epidQuote(n int) []byte {
	b := abi.EPIDQuote{Version: 2}.Bytes()
	b = append(b, byte(n), byte(n>>8), 0, 0)
	return append(b, make([]byte, n)...)
}

// R114: EPID quotes are parsed, and refused at every other length.
func TestEPIDQuoteIsParsed(t *testing.T) {
	b := epidQuote(680)
	q, sig, err := ParseQuote(b)
	if err != nil || q.Version != 2 || len(sig) != 680 || !Detect(b) {
		t.Fatal(err)
	}
	for n := range b {
		if _, _, err := ParseQuote(b[:n]); codeOf(t, err) != CodeMalformed.Code {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func TestRulesAcceptNothingUnlessToldUntilWhen(t *testing.T) {
	s := newService(t)
	verified, err := New().Verify(t.Context(), s.answer(t, func(m map[string]any) { m["isvEnclaveQuoteStatus"] = "SW_HARDENING_NEEDED" }), s.inputs())
	if err != nil {
		t.Fatal(err)
	}
	claims := verified.Claims.(*Claims)
	good := func() *Rules {
		return &Rules{InsecureAcceptLegacy: noon.AddDate(0, 1, 0), MRENCLAVE: []string{claims.MRENCLAVE}, AcceptStatus: []string{"SW_HARDENING_NEEDED"}, MaxAge: time.Hour}
	}
	r := good()
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatal(reasons)
	}
	if reasons := r.Check(claims, nil, noon); len(reasons) != 1 || reasons[0].Code != CodeAccepted.Code || reasons[0].Tier != rats.Warning {
		t.Errorf("%v", reasons)
	}
	if len(r.Slots()) == 0 || r.Params() != nil {
		t.Error("slots")
	}
	for name, c := range map[string]struct {
		change func(*Rules, *Claims)
		code   rats.Code
	}{
		"no relaxation": {func(r *Rules, _ *Claims) { r.InsecureAcceptLegacy = time.Time{} }, CodeLegacy.Code},
		"it ended":      {func(r *Rules, _ *Claims) { r.InsecureAcceptLegacy = noon }, CodeLegacy.Code},
		"status":        {func(r *Rules, _ *Claims) { r.AcceptStatus = nil }, CodeStatus.Code},
		"measurement":   {func(_ *Rules, c *Claims) { c.MRENCLAVE = strings.Repeat("00", 32) }, CodeMeasurement.Code},
		"debug":         {func(_ *Rules, c *Claims) { c.Debug = true }, CodeDebug.Code},
		"old":           {func(_ *Rules, c *Claims) { c.Timestamp = noon.Add(-2 * time.Hour) }, CodeAge.Code},
		"future":        {func(_ *Rules, c *Claims) { c.Timestamp = noon.Add(time.Second) }, CodeAge.Code},
	} {
		r, claims := good(), *claims
		r.Lint()
		c.change(r, &claims)
		if reasons := r.Check(&claims, nil, noon); !has(reasons, c.code) {
			t.Errorf("%s: %v", name, reasons)
		}
	}
	if reasons := r.Check(nil, nil, noon); !has(reasons, CodeClaims.Code) {
		t.Errorf("%v", reasons)
	}
	if reasons := good().Check(claims, nil, noon); !has(reasons, CodeLegacy.Code) {
		t.Errorf("rules without lint: %v", reasons)
	}
	for code, r := range map[rats.Code]*Rules{
		CodeRuleEmpty.Code: {}, CodeRuleStatus.Code: {MRENCLAVE: []string{claims.MRENCLAVE}, AcceptStatus: []string{"KEY_REVOKED"}},
	} {
		if !has(r.Lint(), code) {
			t.Errorf("%s is not given", code)
		}
	}
	if !has((&Rules{MRENCLAVE: []string{"00"}}).Lint(), CodeRuleEmpty.Code) {
		t.Error("a short measurement passed")
	}
}

func has(reasons []rats.Reason, code rats.Code) bool {
	for _, r := range reasons {
		if r.Code == code {
			return true
		}
	}
	return false
}

func TestEveryChangedByteOfARecordedReportIsRefused(t *testing.T) {
	var good rats.Evidence
	var in rats.Inputs
	for _, c := range dcaptest.Cases(t, string(Format)) {
		if c.Signature != "" && c.Expect.Genuine != nil && *c.Expect.Genuine {
			good, in = recordedEvidence(t, c), c.Inputs(t)
		}
	}
	v := New()
	if _, err := v.Verify(t.Context(), good, in); err != nil {
		t.Fatal(err)
	}
	for i := range good.Body {
		good.Body[i] ^= 1
		if _, err := v.Verify(t.Context(), good, in); err == nil {
			t.Errorf("byte %d of the body", i)
		}
		good.Body[i] ^= 1
		cut := good
		cut.Body = good.Body[:i]
		if _, err := v.Verify(t.Context(), cut, in); err == nil {
			t.Errorf("cut at %d", i)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	s := newService(f)
	f.Add(s.answer(f, nil).Body)
	f.Add(epidQuote(10))
	v := New()
	f.Fuzz(func(t *testing.T, b []byte) {
		Detect(b)
		_, _, _ = ParseQuote(b)
		if _, err := v.Verify(t.Context(), rats.Evidence{Format: Format, MediaType: MediaType, Body: b}, rats.Inputs{Now: noon}); err == nil {
			t.Error("a report without signature passed")
		}
		if _, err := parseCerts(b); err == nil && len(b) > maxReport {
			t.Error("too long")
		}
	})
}

func ExampleNew() {
	v := New()
	_, err := v.Verify(context.Background(), rats.Evidence{Format: Format, MediaType: MediaType, Body: []byte("{}")}, rats.Inputs{})
	r, _ := rats.ReasonOf(err)
	fmt.Println(r.Code)
	// Output: ias.report.version
}

func BenchmarkVerify(b *testing.B) {
	s := newService(b)
	e, in, v := s.answer(b, nil), s.inputs(), New()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), e, in); err != nil {
			b.Fatal(err)
		}
	}
}
