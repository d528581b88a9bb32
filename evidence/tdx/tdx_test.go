package tdx

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
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
	return &scene{i, i.Machine(4, 5), rats.Inputs{Now: now, Anchors: i.Pool(), Endorsements: i.Collateral("TDX"), Binding: dcaptest.Bound(t, Format)}}
}

func (s *scene) evidence(version uint16, v15 bool, change func(*abi.TDBody)) rats.Evidence {
	body := dcaptest.TDBody(s.in.Binding.UserData, v15)
	if change != nil {
		change(&body)
	}
	return evidence(s.machine.Quote(version, abi.TEETDX, body.Bytes()))
}

func evidence(b []byte) rats.Evidence {
	return rats.Evidence{Format: Format, MediaType: MediaType, Body: b}
}

// R101, R103: quotes of both versions and modules verify, and vouch for their registers.
func TestQuotesOfEveryVersionVerify(t *testing.T) {
	s, v := newScene(t), New()
	for _, x := range []struct {
		version uint16
		v15     bool
	}{{4, false}, {5, false}, {5, true}} {
		e := s.evidence(x.version, x.v15, nil)
		out, err := v.Verify(t.Context(), e, s.in)
		if err != nil {
			t.Fatalf("%+v: %v", x, err)
		}
		c := out.Claims.(*Claims)
		if status, _, date := c.TCBStatus(); status != dcap.UpToDate || date.IsZero() || c.DebugEnabled() || c.Module != "1.5" || (c.TEETCBSVN2 != "") != x.v15 || c.ReportData != "" || !slices.Equal(c.Flags, []string{"sept-ve-disable"}) {
			t.Errorf("%+v: %+v", x, c)
		}
		r := out.Facts.Registers
		if len(r) != 1 || r[0].By != Format || r[0].Kind != "rtmr" || r[0].Alg != "sha384" || len(r[0].Values) != 4 || r[0].Values[3][0] != 4 || len(out.Facts.Keys) != 1 || !Detect(e.Body) {
			t.Errorf("%+v: %+v", x, out.Facts)
		}
		if reasons := DefaultRules().Check(c, nil, now); len(reasons) > 0 {
			t.Errorf("%+v: %v", x, reasons)
		}
	}
}

// The refusal matrix of this package; that of signatures and chains stands in package dcap.
func TestEvidenceWithOneThingChangedIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*scene) rats.Evidence
		code rats.Code
	}{
		"media type": {func(s *scene) rats.Evidence { e := s.evidence(4, false, nil); e.MediaType = "x"; return e }, CodeMediaType.Code},
		"parts": {func(s *scene) rats.Evidence {
			e := s.evidence(4, false, nil)
			e.Parts = []rats.Part{{Name: "x"}}
			return e
		}, CodeMediaType.Code},
		"SGX quote": {func(s *scene) rats.Evidence {
			return evidence(s.machine.Quote(4, abi.TEESGX, dcaptest.SGXBody(nil).Bytes()))
		}, CodeBody.Code},
		"TDREPORT": {func(*scene) rats.Evidence { return evidence(make([]byte, abi.TDReportSize)) }, CodeReport.Code},
		"no quote": {func(*scene) rats.Evidence { return evidence([]byte("quote")) }, dcap.CodeQuoteMalformed.Code},
		"other data": {func(s *scene) rats.Evidence {
			return s.evidence(4, false, func(b *abi.TDBody) { b.ReportData[0] ^= 1 })
		}, dcap.CodeReportData.Code},
		"data after": {func(s *scene) rats.Evidence {
			return s.evidence(4, false, func(b *abi.TDBody) { b.ReportData[63] = 1 })
		}, dcap.CodeReportData.Code},
		"no binding": {func(s *scene) rats.Evidence { s.in.Binding = rats.Binding{}; return s.evidence(4, false, nil) }, dcap.CodeUnbound.Code},
		"body type":  {func(s *scene) rats.Evidence { e := s.evidence(5, true, nil); e.Body[48] = 2; return e }, dcap.CodeQuoteMalformed.Code},
		"SGX body":   {func(s *scene) rats.Evidence { e := s.evidence(5, true, nil); e.Body[48] = 1; return e }, dcap.CodeQuoteMalformed.Code},
	} {
		s := newScene(t)
		if _, err := New().Verify(t.Context(), c.make(s), s.in); dcaptest.CodeOf(t, err) != c.code {
			t.Errorf("%s: %v, expected %s", name, err, c.code)
		}
	}
}

// R105, R106: rules name measurements, and refuse what lets the host look in.
func TestRulesJudgeTheTrustDomain(t *testing.T) {
	s := newScene(t)
	hex48 := func(first string) string { return first + strings.Repeat("00", 47) }
	exact := func(r Rules) Rules { r.MRTD = []string{hex48("7d")}; return r }
	debug := func(b *abi.TDBody) { b.Attributes |= abi.TDDebug }
	for name, c := range map[string]struct {
		rules  Rules
		change func(*abi.TDBody)
		code   rats.Code
		tier   rats.Tier
	}{
		"measurement":        {exact(Rules{}), nil, "", rats.Affirming},
		"other measurement":  {Rules{MRTD: []string{hex48("7e")}}, nil, CodeMRTD.Code, rats.Contraindicated},
		"register":           {exact(Rules{RTMRs: map[string][]string{"2": {hex48("03")}}}), nil, "", rats.Affirming},
		"other register":     {exact(Rules{RTMRs: map[string][]string{"2": {hex48("04")}}}), nil, CodeRTMR.Code, rats.Contraindicated},
		"configuration":      {exact(Rules{MRConfigID: []string{hex48("01")}}), nil, CodeOwner.Code, rats.Contraindicated},
		"owner":              {exact(Rules{MROwner: []string{hex48("01")}}), nil, CodeOwner.Code, rats.Contraindicated},
		"its owner":          {exact(Rules{MROwner: []string{hex48("00")}, MROwnerConfig: []string{hex48("00")}}), nil, "", rats.Affirming},
		"debug":              {exact(Rules{}), debug, CodeDebug.Code, rats.Contraindicated},
		"other bit of debug": {exact(Rules{}), func(b *abi.TDBody) { b.Attributes |= 1 << 5 }, CodeDebug.Code, rats.Contraindicated},
		"debug allowed":      {exact(Rules{InsecureAllowDebug: []Debug{{hex48("7d"), now.Add(time.Hour)}}}), debug, CodeDebugAllowed.Code, rats.Warning},
		"no longer allowed":  {exact(Rules{InsecureAllowDebug: []Debug{{hex48("7d"), now}}}), debug, CodeDebug.Code, rats.Contraindicated},
		"denied attribute":   {exact(Rules{DenyAttributes: []string{"perfmon"}}), func(b *abi.TDBody) { b.Attributes |= abi.TDPerfMon }, CodeAttributes.Code, rats.Contraindicated},
		"required attribute": {exact(Rules{RequireAttributes: []string{"sept-ve-disable"}}), func(b *abi.TDBody) { b.Attributes = 0 }, CodeAttributes.Code, rats.Contraindicated},
		"migratable":         {exact(Rules{}), func(b *abi.TDBody) { b.Attributes |= abi.TDMigratable; b.MRServiceTD[0] = 5 }, CodeAttributes.Code, rats.Contraindicated},
		"migratable, listed": {exact(Rules{MRServiceTD: []string{hex48("05")}}), func(b *abi.TDBody) { b.Attributes |= abi.TDMigratable; b.MRServiceTD[0] = 5 }, "", rats.Affirming},
		"bound to a service": {exact(Rules{}), func(b *abi.TDBody) { b.MRServiceTD[0] = 5 }, CodeAttributes.Code, rats.Contraindicated},
		"bound, listed":      {exact(Rules{MRServiceTD: []string{hex48("05")}}), func(b *abi.TDBody) { b.MRServiceTD[0] = 5 }, "", rats.Affirming},
		"unknown attribute":  {exact(Rules{}), func(b *abi.TDBody) { b.Attributes |= 1 << 40 }, CodeAttributes.Code, rats.Contraindicated},
		"later attributes":   {exact(Rules{RequireAttributes: []string{"icssd", "tpa"}}), func(b *abi.TDBody) { b.Attributes |= 1<<16 | 1<<62 }, "", rats.Affirming},
		"foreign module":     {exact(Rules{}), func(b *abi.TDBody) { b.MRSIGNERSEAM[0] = 1 }, CodeModule.Code, rats.Contraindicated},
		"module attributes":  {exact(Rules{}), func(b *abi.TDBody) { b.SEAMAttributes = 1 }, CodeModule.Code, rats.Contraindicated},
		"module not listed":  {exact(Rules{MRSEAM: []string{hex48("01")}}), nil, CodeModule.Code, rats.Contraindicated},
	} {
		out, err := New().Verify(t.Context(), s.evidence(5, true, c.change), s.in)
		if err != nil {
			t.Fatal(err)
		}
		if isDebug := slices.Contains(out.Marks, rats.MarkDebug); strings.Contains(name, "debug") && !isDebug {
			t.Errorf("%s: marks %v", name, out.Marks)
		}
		r := c.rules
		if reasons := r.Lint(); len(reasons) > 0 {
			t.Fatal(name, reasons)
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
	hex48 := strings.Repeat("00", 48)
	for code, r := range map[rats.Code]*Rules{
		CodeRuleEmpty.Code:       {},
		CodeRuleHex.Code:         {MRTD: []string{"00"}},
		CodeRuleRTMR.Code:        {AnyMeasurement: true, RTMRs: map[string][]string{"4": {hex48}}},
		CodeRuleUntil.Code:       {AnyMeasurement: true, InsecureAllowDebug: []Debug{{MRTD: hex48}}},
		CodeAttributes.Code:      {AnyMeasurement: true, DenyAttributes: []string{"x"}},
		dcap.CodeRuleStatus.Code: {AnyMeasurement: true, Rules: dcap.Rules{AcceptStatus: []dcap.AcceptedStatus{{Status: "x", Until: now}}}},
	} {
		if reasons := r.Lint(); len(reasons) != 1 || reasons[0].Code != code {
			t.Errorf("%s: %v", code, reasons)
		}
	}
	if reasons := DefaultRules().Check(nil, nil, now); !has(reasons, CodeClaims.Code) {
		t.Errorf("%v", reasons)
	}
	if reasons := DefaultRules().Check(&Claims{}, nil, now); !has(reasons, CodeAttributes.Code) || !has(reasons, CodeModule.Code) {
		t.Errorf("empty claims: %v", reasons)
	}
	if slots := (&Rules{MRTD: []string{hex48}}).Slots(); !slices.Contains(slots, rats.Executables) || slices.Contains(DefaultRules().Slots(), rats.Executables) || (&Rules{}).Params() != nil {
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

// R103: no byte of a genuine quote can change, and none of its declared bytes can be missing.
func TestEveryChangedOrMissingByteIsRefused(t *testing.T) {
	for _, id := range []string{"tdx/phala/tdx_quote", "tdx/openenclave/v5-out-of-date"} {
		e, in := recorded(t, id)
		v := New()
		if _, err := v.Verify(t.Context(), e, in); err != nil {
			t.Fatal(err)
		}
		end := len(bytes.TrimRight(e.Body, "\x00")) + 1 // the NUL after the certificates is declared
		for i := range e.Body {
			mask := byte(1) << (i % 8)
			e.Body[i] ^= mask
			blank := e.Body[i] == ' ' && e.Body[i]^mask == 0 // the white space around the PEM is unsigned
			if _, err := v.Verify(t.Context(), e, in); err == nil && !blank {
				t.Errorf("%s: byte %d changed by %#x is accepted", id, i, mask)
			} else if err != nil {
				dcaptest.CodeOf(t, err)
			}
			e.Body[i] ^= mask
			if _, err := v.Verify(t.Context(), evidence(e.Body[:i]), in); i < end && err == nil {
				t.Errorf("%s: cut at byte %d, it is accepted", id, i)
			}
		}
	}
}

func FuzzVerify(f *testing.F) {
	s := newScene(f)
	f.Add(s.evidence(4, false, nil).Body)
	f.Add(s.evidence(5, false, nil).Body)
	f.Add(s.evidence(5, true, nil).Body)
	v := New()
	f.Fuzz(func(t *testing.T, b []byte) {
		Detect(b)
		if q, body, err := Parse(b); err == nil && (!bytes.Equal(q.Encode(), b) || !bytes.Equal(body.Bytes(), q.Body)) {
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
	quote := intel.Machine(4, 5).Quote(5, abi.TEETDX, dcaptest.TDBody(nonce, true).Bytes())

	out, err := New().Verify(context.Background(), rats.Evidence{Format: Format, MediaType: MediaType, Body: quote}, rats.Inputs{
		Now: now, Anchors: intel.Pool(), Endorsements: intel.Collateral("TDX"),
		Binding: rats.Binding{Profile: rats.ProfileRaw, UserData: nonce},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(out.Claims.(*Claims).TCB.Status, len(out.Facts.Registers[0].Values), "registers")
	// Output: UpToDate 4 registers
}

// Figures of R191: one quote with its chain and collateral remembered, and without.
func BenchmarkVerifyWarm(b *testing.B) {
	e, in := recorded(b, "tdx/phala/tdx_quote")
	v := New()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), e, in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCold(b *testing.B) {
	e, in := recorded(b, "tdx/phala/tdx_quote")
	for b.Loop() {
		if _, err := New().Verify(b.Context(), e, in); err != nil {
			b.Fatal(err)
		}
	}
}
