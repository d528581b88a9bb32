package sgx

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/internal/testkit/dcaptest"
	"github.com/assay-attest/assay/rats"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func has(reasons []rats.Reason, code rats.Code) bool {
	return slices.ContainsFunc(reasons, func(r rats.Reason) bool { return r.Code == code })
}

// scene is a platform with its collateral and a manifest to bind.
type scene struct {
	intel   *dcaptest.Intel
	machine *dcaptest.Machine
	in      rats.Inputs
}

func newScene(t testing.TB) *scene {
	t.Helper()
	i := dcaptest.NewIntel(rand.Reader, now)
	return &scene{i, i.Machine(4, 5), rats.Inputs{Now: now, Anchors: i.Pool(), Endorsements: i.Collateral("SGX"), Binding: dcaptest.Bound(t, Format)}}
}

func (s *scene) evidence(version uint16, change func(*abi.ReportBody)) rats.Evidence {
	body := dcaptest.SGXBody(s.in.Binding.UserData)
	if change != nil {
		change(&body)
	}
	return evidence(s.machine.Quote(version, abi.TEESGX, body.Bytes()))
}

func evidence(b []byte) rats.Evidence {
	return rats.Evidence{Format: Format, MediaType: MediaType, Body: b}
}

// R101, R107: quotes of every version verify, bound to a manifest whose keys are handed on.
func TestQuotesOfEveryVersionVerify(t *testing.T) {
	s, v := newScene(t), New()
	for _, version := range []uint16{3, 4, 5} {
		e := s.evidence(version, nil)
		out, err := v.Verify(t.Context(), e, s.in)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		c := out.Claims.(*Claims)
		if status, _, date := c.TCBStatus(); status != dcap.UpToDate || date.IsZero() || c.DebugEnabled() || c.QuoteVersion != version || c.ISVSVN != 3 || c.ReportData != "" || len(out.Marks) > 0 {
			t.Errorf("version %d: %+v", version, c)
		}
		if !bytes.Equal(out.Facts.UserData[0][:32], s.in.Binding.UserData) || len(out.Facts.Keys) != 1 || !Detect(e.Body) {
			t.Errorf("version %d: %+v", version, out.Facts)
		}
		if reasons := DefaultRules().Check(c, nil, now); len(reasons) > 0 {
			t.Errorf("version %d: %v", version, reasons)
		}
	}
}

// The refusal matrix of this package; that of signatures and chains stands in package dcap.
func TestEvidenceWithOneThingChangedIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*scene) rats.Evidence
		code rats.Code
	}{
		"media type": {func(s *scene) rats.Evidence { e := s.evidence(3, nil); e.MediaType = "x"; return e }, CodeMediaType.Code},
		"format":     {func(s *scene) rats.Evidence { e := s.evidence(3, nil); e.Format = "tdx"; return e }, CodeMediaType.Code},
		"parts":      {func(s *scene) rats.Evidence { e := s.evidence(3, nil); e.Parts = []rats.Part{{Name: "x"}}; return e }, CodeMediaType.Code},
		"TDX quote": {func(s *scene) rats.Evidence {
			return evidence(s.machine.Quote(4, abi.TEETDX, dcaptest.TDBody(nil, false).Bytes()))
		}, CodeBody.Code},
		"no quote":     {func(*scene) rats.Evidence { return evidence([]byte("quote")) }, dcap.CodeQuoteMalformed.Code},
		"other data":   {func(s *scene) rats.Evidence { return s.evidence(3, func(b *abi.ReportBody) { b.ReportData[0] ^= 1 }) }, dcap.CodeReportData.Code},
		"data after":   {func(s *scene) rats.Evidence { return s.evidence(3, func(b *abi.ReportBody) { b.ReportData[63] = 1 }) }, dcap.CodeReportData.Code},
		"no binding":   {func(s *scene) rats.Evidence { s.in.Binding = rats.Binding{}; return s.evidence(3, nil) }, dcap.CodeUnbound.Code},
		"another root": {func(s *scene) rats.Evidence { s.in.Anchors = nil; return s.evidence(3, nil) }, dcap.CodeChainRoot.Code},
	} {
		s := newScene(t)
		if _, err := New().Verify(t.Context(), c.make(s), s.in); dcaptest.CodeOf(t, err) != c.code {
			t.Errorf("%s: %v, expected %s", name, err, c.code)
		}
	}
}

func TestQuoteIsUnwrapped(t *testing.T) {
	s := newScene(t)
	s.in.Binding = rats.Binding{Profile: rats.ProfileNone}
	quote := s.evidence(3, nil).Body
	report := binary.LittleEndian.AppendUint64([]byte{1, 0, 0, 0, 2, 0, 0, 0}, uint64(len(quote)))
	report = append(report, quote...)
	cert := s.intel.Issue(nil, "enclave", false, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 840, 113556, 10, 1, 1}, Value: report}}
	}).Cert.Raw
	for name, b := range map[string][]byte{"bare": quote, "Open Enclave": report, "certificate": cert} {
		out, err := New().Verify(t.Context(), evidence(b), s.in)
		if err != nil || !Detect(b) || out.Claims.(*Claims).ReportData == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if Detect(nil) || Detect([]byte("0\x80xxxx")) || Detect(report[:30]) {
		t.Error("something else is detected")
	}
}

// R105, R106: rules name measurements or signers with product and version; debug enclaves are refused.
func TestRulesJudgeTheEnclave(t *testing.T) {
	s := newScene(t)
	product, version, newer := uint16(7), uint16(3), uint16(4)
	mrenclave, mrsigner := "e0"+strings.Repeat("00", 31), "51"+strings.Repeat("00", 31)
	exact := Rules{MRENCLAVE: []string{mrenclave}}
	debug := func(b *abi.ReportBody) { b.Attributes.Flags |= abi.FlagDebug }
	for name, c := range map[string]struct {
		rules  Rules
		change func(*abi.ReportBody)
		code   rats.Code
		tier   rats.Tier
	}{
		"measurement":         {exact, nil, "", rats.Affirming},
		"signer":              {Rules{Signers: []Signer{{mrsigner, &product, &version}}}, nil, "", rats.Affirming},
		"old version":         {Rules{Signers: []Signer{{mrsigner, &product, &newer}}}, nil, CodeVersion.Code, rats.Contraindicated},
		"other product":       {Rules{Signers: []Signer{{mrsigner, &newer, &version}}}, nil, CodeMeasurement.Code, rats.Contraindicated},
		"other measurement":   {Rules{MRENCLAVE: []string{mrsigner}}, nil, CodeMeasurement.Code, rats.Contraindicated},
		"any is not a list":   {Rules{MRENCLAVE: []string{mrsigner}, AnyMeasurement: true}, nil, CodeMeasurement.Code, rats.Contraindicated},
		"debug":               {exact, debug, CodeDebug.Code, rats.Contraindicated},
		"debug allowed":       {Rules{MRENCLAVE: []string{mrenclave}, InsecureAllowDebug: []Debug{{mrenclave, now.Add(time.Hour)}}}, debug, CodeDebugAllowed.Code, rats.Warning},
		"no longer allowed":   {Rules{MRENCLAVE: []string{mrenclave}, InsecureAllowDebug: []Debug{{mrenclave, now}}}, debug, CodeDebug.Code, rats.Contraindicated},
		"another is allowed":  {Rules{MRENCLAVE: []string{mrenclave}, InsecureAllowDebug: []Debug{{mrsigner, now.Add(time.Hour)}}}, debug, CodeDebug.Code, rats.Contraindicated},
		"provisioning key":    {exact, func(b *abi.ReportBody) { b.Attributes.Flags |= abi.FlagProvisionKey }, CodeAttributes.Code, rats.Contraindicated},
		"unknown flag":        {exact, func(b *abi.ReportBody) { b.Attributes.Flags |= 1 << 3 }, CodeAttributes.Code, rats.Contraindicated},
		"unknown high flag":   {exact, func(b *abi.ReportBody) { b.Attributes.Flags |= 1 << 40 }, CodeAttributes.Code, rats.Contraindicated},
		"known flags":         {exact, func(b *abi.ReportBody) { b.Attributes.Flags |= abi.FlagKSS | abi.FlagCET | abi.FlagAEXNotify }, "", rats.Affirming},
		"not initialised":     {exact, func(b *abi.ReportBody) { b.Attributes.Flags &^= abi.FlagInit }, CodeAttributes.Code, rats.Contraindicated},
		"other configuration": {Rules{MRENCLAVE: []string{mrenclave}, ConfigID: []string{strings.Repeat("11", 64)}}, nil, CodeConfig.Code, rats.Contraindicated},
		"its configuration":   {Rules{MRENCLAVE: []string{mrenclave}, ConfigID: []string{strings.Repeat("00", 64)}}, nil, "", rats.Affirming},
	} {
		out, err := New().Verify(t.Context(), s.evidence(3, c.change), s.in)
		if err != nil {
			t.Fatal(err)
		}
		if isDebug := slices.Contains(out.Marks, rats.MarkDebug); isDebug != strings.Contains(name, "debug") && !strings.Contains(name, "allowed") {
			t.Errorf("%s: marks %v", name, out.Marks)
		}
		r := c.rules
		if reasons := r.Lint(); len(reasons) > 0 {
			t.Fatal(reasons)
		}
		if reasons := r.Check(out.Claims, nil, now); rats.Worst(reasons) != c.tier || c.code != "" && !has(reasons, c.code) {
			t.Errorf("%s: %v", name, reasons)
		}
		unlinted := c.rules
		if reasons := unlinted.Check(out.Claims, nil, now); !has(reasons, CodeRuleEmpty.Code) {
			t.Errorf("%s: rules that were not linted trust: %v", name, reasons)
		}
	}
}

func TestMistakesInRulesAreNamed(t *testing.T) {
	product := uint16(1)
	hex32 := strings.Repeat("00", 32)
	for code, r := range map[rats.Code]*Rules{
		CodeRuleEmpty.Code:       {},
		CodeRuleHex.Code:         {MRENCLAVE: []string{strings.ToUpper("aa" + hex32[2:])}},
		CodeRuleSigner.Code:      {Signers: []Signer{{MRSIGNER: hex32, ISVProdID: &product}}},
		CodeRuleUntil.Code:       {AnyMeasurement: true, InsecureAllowDebug: []Debug{{MRENCLAVE: hex32}}},
		dcap.CodeRuleStatus.Code: {AnyMeasurement: true, Rules: dcap.Rules{AcceptStatus: []dcap.AcceptedStatus{{Status: "x", Until: now}}}},
	} {
		if reasons := r.Lint(); len(reasons) != 1 || reasons[0].Code != code {
			t.Errorf("%s: %v", code, reasons)
		}
	}
	if reasons := DefaultRules().Check(nil, nil, now); !has(reasons, CodeClaims.Code) {
		t.Errorf("%v", reasons)
	}
	if reasons := DefaultRules().Check(&Claims{}, nil, now); rats.Worst(reasons) != rats.Contraindicated || !has(reasons, CodeAttributes.Code) {
		t.Errorf("empty claims: %v", reasons)
	}
	if slots := (&Rules{MRENCLAVE: []string{hex32}}).Slots(); !slices.Contains(slots, rats.Executables) || slices.Contains(DefaultRules().Slots(), rats.Executables) || (&Rules{}).Params() != nil {
		t.Errorf("%v", slots)
	}
}

func TestDescriptorListsCodesOnce(t *testing.T) {
	seen := map[rats.Code]bool{}
	for _, c := range New().Descriptor().Codes {
		if seen[c.Code] {
			t.Errorf("%s stands twice", c.Code)
		}
		seen[c.Code] = true
	}
	if Describe().ID != Format {
		t.Error("descriptor")
	}
}

// recorded returns a genuine case whose quote verifies under Intel's root.
func recorded(t testing.TB, id string) (rats.Evidence, rats.Inputs) {
	for _, c := range dcaptest.Cases(t, string(Format)) {
		if c.ID == id {
			return evidence(c.Input(t)), c.Inputs(t)
		}
	}
	t.Fatalf("no case %s", id)
	return rats.Evidence{}, rats.Inputs{}
}

// R103: no byte of a genuine quote can change, and none can be missing.
func TestEveryChangedOrMissingByteIsRefused(t *testing.T) {
	e, in := recorded(t, "sgx/phala/sgx_quote")
	v := New()
	if _, err := v.Verify(t.Context(), e, in); err != nil {
		t.Fatal(err)
	}
	for i := range e.Body {
		mask := byte(1) << (i % 4) // no such change makes white space of the NUL after the PEM
		e.Body[i] ^= mask
		if _, err := v.Verify(t.Context(), e, in); err == nil {
			t.Errorf("byte %d changed by %#x is accepted", i, mask)
		} else {
			dcaptest.CodeOf(t, err)
		}
		e.Body[i] ^= mask
		if _, err := v.Verify(t.Context(), evidence(e.Body[:i]), in); err == nil {
			t.Errorf("cut at byte %d, it is accepted", i)
		}
	}
}

// R103: the list of bits that no signature covers, as docs/formats/sgx.md states it.
func TestUnsignedBitsAreThoseListed(t *testing.T) {
	e, in := recorded(t, "sgx/phala/sgx_quote")
	v := New()
	want, err := v.Verify(t.Context(), e, in)
	if err != nil {
		t.Fatal(err)
	}
	pem := bytes.Index(e.Body, []byte("-----BEGIN"))
	for name, change := range map[string]func([]byte) []byte{
		"zero padding": func(b []byte) []byte { return append(b, make([]byte, 8<<10)...) },
		"white space of the PEM": func(b []byte) []byte {
			b[pem+bytes.Index(b[pem:], []byte("-----\n"))+6+64] = '\r' // the first line break inside the base64
			return b
		},
		"NUL after the PEM": func(b []byte) []byte {
			n := binary.LittleEndian.Uint32(b[432:])
			binary.LittleEndian.PutUint32(b[432:], n+1)
			size := pem - 4
			binary.LittleEndian.PutUint32(b[size:], binary.LittleEndian.Uint32(b[size:])+1)
			return append(b, 0)
		},
		"S of the quote's signature":        func(b []byte) []byte { negate(b[436+32 : 436+64]); return b },
		"S of the quoting enclave's report": func(b []byte) []byte { negate(b[436+128+384+32 : 436+128+448]); return b },
	} {
		got, err := v.Verify(t.Context(), evidence(change(bytes.Clone(e.Body))), in)
		if err != nil || got.Claims.(*Claims).MRENCLAVE != want.Claims.(*Claims).MRENCLAVE {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// negate replaces S by n - S: ECDSA accepts both.
func negate(s []byte) {
	n := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(s))
	n.FillBytes(s)
}

func FuzzVerify(f *testing.F) {
	s := newScene(f)
	for _, version := range []uint16{3, 4, 5} {
		f.Add(s.evidence(version, nil).Body)
	}
	v := New()
	f.Fuzz(func(t *testing.T, b []byte) {
		Detect(b)
		if q, _, err := Parse(b); err == nil && !bytes.Equal(q.Encode(), Unwrap(b)) {
			t.Error("it is not written as it was read")
		}
		in := s.in
		in.Binding = rats.Binding{Profile: rats.ProfileNone}
		if _, err := v.Verify(t.Context(), evidence(b), in); err != nil {
			dcaptest.CodeOf(t, err)
		}
	})
}

func ExampleNew() {
	// Tests make evidence with a fake Intel; genuine evidence needs no anchors.
	intel := dcaptest.NewIntel(rand.Reader, now)
	nonce := bytes.Repeat([]byte{1}, 32)
	quote := intel.Machine(4, 5).Quote(3, abi.TEESGX, dcaptest.SGXBody(nonce).Bytes())

	out, err := New().Verify(context.Background(), rats.Evidence{Format: Format, MediaType: MediaType, Body: quote}, rats.Inputs{
		Now: now, Anchors: intel.Pool(), Endorsements: intel.Collateral("SGX"),
		Binding: rats.Binding{Profile: rats.ProfileRaw, UserData: nonce},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	status, advisories, _ := out.Claims.(*Claims).TCBStatus()
	fmt.Println(status, advisories, len(DefaultRules().Check(out.Claims, nil, now)))
	// Output: UpToDate [] 0
}

// Figures of R191: one quote with its chain and collateral remembered, and without.
func BenchmarkVerifyWarm(b *testing.B) {
	e, in := recorded(b, "sgx/phala/sgx_quote")
	v := New()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), e, in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCold(b *testing.B) {
	e, in := recorded(b, "sgx/phala/sgx_quote")
	for b.Loop() {
		if _, err := New().Verify(b.Context(), e, in); err != nil {
			b.Fatal(err)
		}
	}
}
