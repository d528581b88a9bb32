package tpm_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

// section reads the section of a policy strictly, as policies are.
func section(t testing.TB, doc string) *tpm.Rules {
	t.Helper()
	r := tpm.New().Descriptor().NewRules().(*tpm.Rules)
	d := yaml.NewDecoder(strings.NewReader(doc))
	d.KnownFields(true)
	if err := d.Decode(r); err != nil {
		t.Fatal(err)
	}
	return r
}

func codesOf(reasons []rats.Reason) []rats.Code {
	var out []rats.Code
	for _, r := range reasons {
		out = append(out, r.Code)
	}
	return out
}

var (
	pin   = "sha256:" + strings.Repeat("ab", 32)
	zeros = strings.Repeat("00", 32)
)

func TestSectionWithAMistakeIsRefusedAndTrustsNothing(t *testing.T) {
	pem := softtpm.NewCA(rand.Reader).PEM()
	indented := "\n    " + strings.ReplaceAll(strings.TrimSpace(pem), "\n", "\n    ")
	leaf := softtpm.New(rand.Reader).EKCert()
	for name, c := range map[string]struct {
		doc  string
		want rats.CodeInfo
	}{
		"no trust":          {"bank: sha256", tpm.CodeRuleEmpty},
		"empty lists":       {"ek_cas: []\nek_pins: []", tpm.CodeRuleEmpty},
		"pin is no digest":  {"ek_pins: [abc]", tpm.CodeRulePin},
		"pin of SHA-384":    {"ek_pins: ['sha384:" + strings.Repeat("ab", 48) + "']", tpm.CodeRulePin},
		"CA is no PEM":      {"ek_cas: [abc]", tpm.CodeRuleCA},
		"CA is empty":       {"ek_cas: ['']", tpm.CodeRuleCA},
		"CA is a key":       {"ek_cas: |\n    -----BEGIN PRIVATE KEY-----\n    AAAA\n    -----END PRIVATE KEY-----\n", tpm.CodeRuleCA},
		"CA is broken":      {"ek_cas: |\n    -----BEGIN CERTIFICATE-----\n    AAAA\n    -----END CERTIFICATE-----\n", tpm.CodeRuleCA},
		"CA is a leaf":      {"ek_cas: |" + indent(certPEM(leaf)), tpm.CodeRuleCA},
		"CA and more":       {"ek_cas: |" + indented + "\n    more", tpm.CodeRuleCA},
		"bank of SHA-1":     {"ek_pins: " + pin + "\nbank: sha1", tpm.CodeRuleBank},
		"PCR 24":            {"ek_pins: " + pin + "\npcrs: {24: " + zeros + "}", tpm.CodeRulePCR},
		"PCR -1":            {"ek_pins: " + pin + "\npcrs: {-1: " + zeros + "}", tpm.CodeRulePCR},
		"PCR 16":            {"ek_pins: " + pin + "\npcrs: {16: " + zeros + "}", tpm.CodeRulePCR},
		"PCR 23":            {"ek_pins: " + pin + "\npcrs: {23: " + zeros + "}", tpm.CodeRulePCR},
		"PCR twice":         {"ek_pins: " + pin + "\npcrs: {7: '" + zeros + "', 07: '" + zeros + "'}", tpm.CodeRulePCR},
		"PCR by name":       {"ek_pins: " + pin + "\npcrs: {seven: '" + zeros + "'}", tpm.CodeRulePCR},
		"quote of PCR 23":   {"ek_pins: " + pin + "\nquote: [23]", tpm.CodeRulePCR},
		"quote twice":       {"ek_pins: " + pin + "\nquote: [1, 1]", tpm.CodeRulePCR},
		"value too short":   {"ek_pins: " + pin + "\npcrs: {7: 'abcd'}", tpm.CodeRuleValue},
		"value is no hex":   {"ek_pins: " + pin + "\npcrs: {7: '" + strings.Repeat("xy", 32) + "'}", tpm.CodeRuleValue},
		"value of SHA-384":  {"ek_pins: " + pin + "\npcrs: {7: 'sha384:" + zeros + "'}", tpm.CodeRuleValue},
		"no value":          {"ek_pins: " + pin + "\npcrs: {7: []}", tpm.CodeRuleValue},
		"value beside good": {"ek_pins: " + pin + "\npcrs: {7: ['" + zeros + "', '']}", tpm.CodeRuleValue},
	} {
		t.Run(name, func(t *testing.T) {
			r := section(t, c.doc)
			if got := codesOf(r.Lint()); !slices.Equal(got, []rats.Code{c.want.Code}) {
				t.Errorf("got %v, want %s", got, c.want.Code)
			}
			d, _ := rats.ParseDigest(pin)
			if len(r.Check(&tpm.Claims{EK: d}, nil, now)) == 0 {
				t.Error("the section still trusts a key")
			}
		})
	}
}

func indent(s string) string {
	return "\n    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") + "\n"
}

func TestUnlintedSectionTrustsNothing(t *testing.T) {
	r := &tpm.Rules{EKPins: tpm.Strings{pin}}
	d, _ := rats.ParseDigest(pin)
	want := []rats.Code{tpm.CodeEKUntrusted.Code, tpm.CodeHardwareUnproven.Code}
	if got := codesOf(r.Check(&tpm.Claims{EK: d}, nil, now)); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := codesOf(section(t, "ek_pins: "+pin).Check(nil, nil, now)); len(got) == 0 {
		t.Error("no claims at all are trusted")
	}
}

func TestParametersCoverWhatIsJudgedAndWhatOthersReplay(t *testing.T) {
	for doc, want := range map[string]string{
		"ek_pins: " + pin: `{"bank":"sha256","pcrs":[0,1,2,3,4,5,6,7,10]}`,
		"ek_pins: " + pin + "\npcrs: {14: '" + zeros + "'}":                              `{"bank":"sha256","pcrs":[0,1,2,3,4,5,6,7,10,14]}`,
		"ek_pins: " + pin + "\nquote: [11, 4]\npcrs: {7: '" + zeros + "'}":               `{"bank":"sha256","pcrs":[4,7,11]}`,
		"ek_pins: " + pin + "\nbank: sha384\nquote: [4]\npcrs: {7: [" + zeros48() + "]}": `{"bank":"sha384","pcrs":[4,7]}`,
	} {
		r := section(t, doc)
		if reasons := r.Lint(); len(reasons) > 0 {
			t.Errorf("%s: %v", doc, reasons)
		}
		if got := string(r.Params()); got != want {
			t.Errorf("%s:\n got %s\nwant %s", doc, got, want)
		}
		if _, err := tpm.ParseParams(r.Params()); err != nil {
			t.Error(err)
		}
		slots := r.Slots()
		if slices.Contains(slots, rats.Configuration) != strings.Contains(doc, "pcrs:") || !slices.Contains(slots, rats.Hardware) || !slices.Contains(slots, rats.InstanceIdentity) {
			t.Errorf("%s: slots %v", doc, slots)
		}
	}
}

func zeros48() string { return "'" + strings.Repeat("00", 48) + "'" }

func claimsFor(t testing.TB, s *softtpm.TPM) *tpm.Claims {
	t.Helper()
	v, err := verify(t, altered(t, s, softtpm.Alter{}))
	if err != nil {
		t.Fatal(err)
	}
	// As policy sees it: stored and read back.
	c := tpm.New().Descriptor().NewClaims()
	if err := json.Unmarshal(marshal(t, v.Claims), c); err != nil {
		t.Fatal(err)
	}
	return c.(*tpm.Claims)
}

// R140: the AK counts for a TPM whose EK is pinned or certified by a trusted maker, and for no other.
func TestEndorsementKeyIsTrustedByChainOrPin(t *testing.T) {
	s, other := softtpm.New(rand.Reader), softtpm.New(rand.Reader)
	bare := softtpm.New(rand.Reader, softtpm.Options{WithoutEKCert: true})
	ca := func(s *softtpm.TPM) string { return "ek_cas: |" + indent(s.CA().PEM()) }
	pinOf := func(s *softtpm.TPM) string { return "ek_pins: " + enrol(t, s).EKDigest.String() }
	past := time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		tpm *softtpm.TPM
		doc string
		at  time.Time
		ok  bool
	}{
		"maker trusted":             {s, ca(s), now, true},
		"maker in a list":           {s, "ek_cas:\n  - |" + strings.ReplaceAll(indent(other.CA().PEM()+s.CA().PEM()), "\n", "\n  "), now, true},
		"maker not yet valid":       {s, ca(s), past, false},
		"another maker":             {s, ca(other), now, false},
		"key pinned":                {s, pinOf(s), now, true},
		"key pinned, other maker":   {s, ca(other) + pinOf(s), now, true},
		"another key pinned":        {s, pinOf(other), now, false},
		"no certificate":            {bare, ca(s), now, false},
		"no certificate but pinned": {bare, pinOf(bare), now, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := section(t, c.doc)
			if reasons := r.Lint(); len(reasons) > 0 {
				t.Fatal(reasons)
			}
			var want []rats.Code
			if !c.ok {
				want = []rats.Code{tpm.CodeEKUntrusted.Code, tpm.CodeHardwareUnproven.Code}
			}
			if got := codesOf(r.Check(claimsFor(t, c.tpm), nil, c.at)); !slices.Equal(got, want) {
				t.Errorf("Check: got %v, want %v", got, want)
			}
			var rules rats.EnrolmentRules = r
			if got := codesOf(rules.Vouch(enrol(t, c.tpm).Endorsement(), c.at)); !slices.Equal(got, want) {
				t.Errorf("Vouch: got %v, want %v", got, want)
			}
		})
	}
}

func TestVouchingRefusesWhatIsNoRecord(t *testing.T) {
	s := softtpm.New(rand.Reader)
	r := section(t, "ek_cas: |"+indent(s.CA().PEM()))
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatal(reasons)
	}
	e := enrol(t, s).Endorsement()
	for name, bad := range map[string]rats.Endorsement{
		"other media type": {MediaType: "text/plain", Body: e.Body},
		"no JSON":          {MediaType: e.MediaType, Body: []byte("x")},
		"bad certificate":  {MediaType: e.MediaType, Body: bytes.Replace(e.Body, []byte(`"ek_cert":"`), []byte(`"ek_cert":"AAAA`), 1)},
		"zero":             {},
	} {
		if len(r.Vouch(bad, now)) == 0 {
			t.Errorf("%s: was vouched for", name)
		}
	}
}

func TestPCRValueOutsideThePolicyIsNamed(t *testing.T) {
	s := softtpm.New(rand.Reader)
	s.Extend(7, []byte("event"))
	claims := claimsFor(t, s)
	good := claims.PCRs["sha256"]["7"]
	pin := "ek_pins: " + enrol(t, s).EKDigest.String() + "\n"
	for name, c := range map[string]struct {
		doc  string
		want []rats.Code
	}{
		"the value":         {"pcrs: {7: '" + good + "'}", nil},
		"in upper case":     {"pcrs: {7: '" + strings.ToUpper(good) + "'}", nil},
		"with its bank":     {"pcrs: {7: 'sha256:" + good + "'}", nil},
		"one of two":        {"pcrs: {7: ['" + zeros + "', '" + good + "'], 0: '" + zeros + "'}", nil},
		"another":           {"pcrs: {7: '" + zeros + "'}", []rats.Code{tpm.CodePCRMismatch.Code}},
		"not quoted":        {"pcrs: {14: '" + zeros + "'}", []rats.Code{tpm.CodePCRMissing.Code}},
		"of a bank unasked": {"bank: sha384\npcrs: {7: " + zeros48() + "}", []rats.Code{tpm.CodePCRMissing.Code}},
	} {
		r := section(t, pin+c.doc)
		if reasons := r.Lint(); len(reasons) > 0 {
			t.Fatalf("%s: %v", name, reasons)
		}
		got := r.Check(claims, nil, now)
		if !slices.Equal(codesOf(got), c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		if name == "another" && (got[0].Path != "pcrs.sha256.7" || got[0].Expected != zeros || got[0].Seen != good || got[0].Slot != rats.Configuration) {
			t.Errorf("the reason says %+v", got[0])
		}
	}
}

// A chain that was found good is remembered, and no longer than its certificates are valid.
func TestRememberedChainEndsWithItsCertificates(t *testing.T) {
	ca := softtpm.NewCA(rand.Reader)
	node := enrol(t, softtpm.New(rand.Reader, softtpm.Options{CA: ca})).Endorsement()
	r := &tpm.Rules{EKCAs: tpm.Strings{ca.PEM()}}
	if why := r.Lint(); len(why) > 0 {
		t.Fatal(why)
	}
	for _, at := range []struct {
		when time.Time
		good bool
	}{
		{time.Now(), true}, {time.Now(), true}, {time.Now().AddDate(9000, 0, 0), false}, {time.Time{}, false}, {time.Now().AddDate(-200, 0, 0), false}, {time.Now(), true},
	} {
		if why := r.Vouch(node, at.when); (len(why) == 0) != at.good {
			t.Errorf("at %s: %v", at.when, why)
		}
	}
	// What one section found good another doesn't take over.
	other := &tpm.Rules{EKCAs: tpm.Strings{softtpm.NewCA(rand.Reader).PEM()}}
	if why := other.Lint(); len(why) > 0 || len(other.Vouch(node, time.Now())) == 0 {
		t.Error("another maker's policy vouches for it", why)
	}
}
