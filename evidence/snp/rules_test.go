package snp_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/rats"
)

// section reads the section of a policy strictly, as policies are.
func section(t testing.TB, doc string) *snp.Rules {
	t.Helper()
	r := snp.New().Descriptor().NewRules().(*snp.Rules)
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
	image  = strings.Repeat("aa", 48)
	other  = strings.Repeat("ee", 48)
	strict = "measurements: [" + image + "]\nminimum_tcb: {Milan: {bootloader: 4, tee: 1, snp: 24, microcode: 219}}\nguest_policy: {allow: [smt]}\n"
	later  = "2026-06-01T00:00:00Z"
	before = "2025-06-01T00:00:00Z"
)

func claims(t testing.TB, change func(g *guest)) *snp.Claims {
	t.Helper()
	g := newGuest(t, snp.Milan, 3)
	if change != nil {
		change(g)
	}
	v, err := g.verify()
	if err != nil {
		t.Fatal(err)
	}
	return v.Claims.(*snp.Claims)
}

// R104, R105, R106: what is acceptable is named; everything else is refused.
func TestRulesAcceptWhatTheyNameAndNothingElse(t *testing.T) {
	vlek := func(g *guest) { g.chip.signer, g.report.KeyInfo = snp.SignerVLEK, snp.SignerVLEK<<2 }
	debug := func(g *guest) { g.report.Policy |= 1 << 19 }
	noCRL := func(g *guest) { g.endorse = func(d [][]byte) [][]byte { return d[:2] } }
	minimum := func(doc string) func(g *guest) {
		return func(g *guest) {
			g.endorse = func(d [][]byte) [][]byte {
				return append(d, []byte(`{"type":"`+snp.MinimumType+`","date":"2025-06-01T00:00:00Z","tcb":{"Milan":`+doc+`}}`))
			}
		}
	}
	bare := "measurements: [" + image + "]\nguest_policy: {allow: [smt]}\n"
	for name, c := range map[string]struct {
		change func(g *guest)
		doc    string
		want   []rats.CodeInfo
	}{
		"named":               {nil, strict, nil},
		"other image":         {nil, strings.ReplaceAll(strict, image, other), []rats.CodeInfo{snp.CodeMeasurement}},
		"one of two images":   {nil, strings.ReplaceAll(strict, image, other+", "+image), nil},
		"upper case":          {nil, strings.ReplaceAll(strict, image, strings.ToUpper(image)), nil},
		"smt not allowed":     {nil, strings.ReplaceAll(strict, "smt", "cxl"), []rats.CodeInfo{snp.CodeGuestPolicy}},
		"migration":           {func(g *guest) { g.report.Policy |= 1 << 18 }, strict, []rats.CodeInfo{snp.CodeGuestPolicy}},
		"migration allowed":   {func(g *guest) { g.report.Policy |= 1 << 18 }, strings.ReplaceAll(strict, "smt", "smt, migration"), nil},
		"migration agent":     {func(g *guest) { g.report.ReportIDMA[0] = 1 }, strict, []rats.CodeInfo{snp.CodeGuestPolicy}},
		"unknown policy bit":  {func(g *guest) { g.report.Policy |= 1 << 40 }, strict, []rats.CodeInfo{snp.CodeGuestPolicy}},
		"demand missing":      {nil, strings.ReplaceAll(strict, "{allow: [smt]", "{allow: [smt], require: [single-socket]"), []rats.CodeInfo{snp.CodeGuestPolicy}},
		"demand met":          {func(g *guest) { g.report.Policy |= 1 << 20 }, strings.ReplaceAll(strict, "{allow: [smt]", "{allow: [smt], require: [single-socket]"), nil},
		"old ABI":             {nil, strings.ReplaceAll(strict, "{allow: [smt]", "{allow: [smt], minimum_abi: '1.52'"), []rats.CodeInfo{snp.CodeGuestPolicy}},
		"ABI":                 {nil, strings.ReplaceAll(strict, "{allow: [smt]", "{allow: [smt], minimum_abi: '1.51'"), nil},
		"debug":               {debug, strict, []rats.CodeInfo{snp.CodeDebug}},
		"debug named":         {debug, strings.ReplaceAll(strict, image, other) + "debug: [{measurement: " + image + ", until: " + later + "}]", nil},
		"debug ended":         {debug, strict + "debug: [{measurement: " + image + ", until: " + before + "}]", []rats.CodeInfo{snp.CodeDebug}},
		"debug of another":    {debug, strict + "debug: [{measurement: " + other + ", until: " + later + "}]", []rats.CodeInfo{snp.CodeDebug}},
		"debug isn't a list":  {nil, strings.ReplaceAll(strict, image, other) + "debug: [{measurement: " + image + ", until: " + later + "}]", []rats.CodeInfo{snp.CodeMeasurement}},
		"current TCB low":     {func(g *guest) { g.report.CurrentTCB[7]-- }, strict, []rats.CodeInfo{snp.CodeTCBLow}},
		"committed TCB low":   {func(g *guest) { g.report.CommittedTCB[0]-- }, strict, []rats.CodeInfo{snp.CodeTCBLow}},
		"launch TCB low":      {func(g *guest) { g.report.LaunchTCB[6]-- }, strict, []rats.CodeInfo{snp.CodeTCBLow}},
		"higher elsewhere":    {func(g *guest) { g.report.LaunchTCB[6]--; g.report.LaunchTCB[7]++ }, strict, []rats.CodeInfo{snp.CodeTCBLow}},
		"TCB unknown":         {nil, bare, []rats.CodeInfo{snp.CodeTCBUnknown}},
		"minimum of another":  {nil, bare + "minimum_tcb: {Genoa: {snp: 1}}", []rats.CodeInfo{snp.CodeTCBUnknown}},
		"TCB unknown, ended":  {nil, bare + "relax: [{accept: tcb-unknown, until: " + before + "}]", []rats.CodeInfo{snp.CodeTCBUnknown}},
		"TCB unknown, named":  {nil, bare + "relax: [{accept: tcb-unknown, until: " + later + "}]", nil},
		"TCB up to date":      {minimum(`{"snp":24}`), bare, nil},
		"TCB out of date":     {minimum(`{"snp":25}`), strict, []rats.CodeInfo{snp.CodeTCBOutOfDate}},
		"out of date, named":  {minimum(`{"snp":25}`), bare + "relax: [{accept: tcb-out-of-date, until: " + later + "}]", nil},
		"VMPL 2":              {func(g *guest) { g.report.VMPL = 2 }, strict, []rats.CodeInfo{snp.CodeVMPL}},
		"VMPL 2 named":        {func(g *guest) { g.report.VMPL = 2 }, strict + "vmpl: [0, 2]", nil},
		"by the host":         {func(g *guest) { g.report.VMPL = 0xffffffff }, strict, []rats.CodeInfo{snp.CodeVMPL}},
		"VLEK":                {vlek, strict, []rats.CodeInfo{snp.CodeVLEK}},
		"VLEK allowed":        {vlek, strict + "vlek: true", nil},
		"VLEK of the cloud":   {vlek, strict + "vlek: true\ncsps: [cloud]", nil},
		"VLEK of another":     {vlek, strict + "vlek: true\ncsps: [other]", []rats.CodeInfo{snp.CodeVLEK}},
		"ID key":              {nil, strict + "id_key_digests: [" + image + "]", []rats.CodeInfo{snp.CodeIDKey}},
		"ID key good":         {func(g *guest) { copy(g.report.IDKeyDigest[:], g.report.Measurement[:]) }, strict + "id_key_digests: [" + image + "]", nil},
		"author key":          {func(g *guest) { copy(g.report.AuthorKeyDigest[:], g.report.Measurement[:]) }, strict + "author_key_digests: [" + image + "]", []rats.CodeInfo{snp.CodeIDKey}},
		"author key good":     {func(g *guest) { copy(g.report.AuthorKeyDigest[:], g.report.Measurement[:]); g.report.KeyInfo = 1 }, strict + "author_key_digests: [" + image + "]", nil},
		"chip":                {nil, strict + "chip_ids: [" + strings.Repeat("00", 64) + "]", []rats.CodeInfo{snp.CodeOther}},
		"chip good":           {nil, strict + "chip_ids: [" + strings.Repeat("c1", 64) + "]", nil},
		"host data":           {nil, strict + "host_data: [" + strings.Repeat("00", 32) + "]", []rats.CodeInfo{snp.CodeOther}},
		"family and image":    {nil, strict + "family_ids: [" + strings.Repeat("01", 16) + "]\nimage_ids: [" + strings.Repeat("02", 16) + "]", nil},
		"other family":        {nil, strict + "family_ids: [" + strings.Repeat("02", 16) + "]", []rats.CodeInfo{snp.CodeOther}},
		"guest SVN":           {nil, strict + "minimum_guest_svn: 8", []rats.CodeInfo{snp.CodeOther}},
		"platform":            {nil, strict + "platform: {require: [ecc, alias-check-complete], forbid: [tio]}", nil},
		"platform lacks":      {nil, strict + "platform: {require: [tsme]}", []rats.CodeInfo{snp.CodePlatform}},
		"platform has":        {nil, strict + "platform: {forbid: [smt]}", []rats.CodeInfo{snp.CodePlatform}},
		"no CRL":              {noCRL, strict, []rats.CodeInfo{snp.CodeNoCRL}},
		"no CRL, named":       {noCRL, strict + "relax: [{accept: crl-missing, until: " + later + "}]", nil},
		"no CRL, ended":       {noCRL, strict + "relax: [{accept: crl-missing, until: " + before + "}]", []rats.CodeInfo{snp.CodeNoCRL}},
		"no CRL, other named": {noCRL, strict + "relax: [{accept: crl-expired, until: " + later + "}]", []rats.CodeInfo{snp.CodeNoCRL}},
	} {
		t.Run(name, func(t *testing.T) {
			r := section(t, c.doc)
			if reasons := r.Lint(); len(reasons) > 0 {
				t.Fatal(reasons)
			}
			var want []rats.Code
			for _, w := range c.want {
				want = append(want, w.Code)
			}
			got := codesOf(r.Check(claims(t, c.change), nil, now))
			if slices.Sort(got); !slices.Equal(slices.Compact(got), want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestSectionWithAMistakeIsRefusedAndAcceptsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		doc  string
		want rats.CodeInfo
	}{
		"nothing":            {"vlek: false", snp.CodeRuleEmpty},
		"empty list":         {"measurements: []", snp.CodeRuleEmpty},
		"measurement short":  {"measurements: [abcd]", snp.CodeRuleHex},
		"measurement no hex": {"measurements: [" + strings.Repeat("xy", 48) + "]", snp.CodeRuleHex},
		"chip short":         {strict + "chip_ids: [aa]", snp.CodeRuleHex},
		"debug measurement":  {strict + "debug: [{measurement: aa, until: " + later + "}]", snp.CodeRuleHex},
		"debug without end":  {strict + "debug: [{measurement: " + image + "}]", snp.CodeRuleUntil},
		"relax without end":  {strict + "relax: [{accept: crl-missing}]", snp.CodeRuleUntil},
		"relax unknown":      {strict + "relax: [{accept: everything, until: " + later + "}]", snp.CodeRuleUntil},
		"product unknown":    {"measurements: [" + image + "]\nminimum_tcb: {Rome: {snp: 1}}", snp.CodeRuleTCB},
		"TCB of zeros":       {"measurements: [" + image + "]\nminimum_tcb: {Milan: {}}", snp.CodeRuleTCB},
		"TCB 256":            {"measurements: [" + image + "]\nminimum_tcb: {Milan: {snp: 256}}", snp.CodeRuleTCB},
		"FMC on Milan":       {"measurements: [" + image + "]\nminimum_tcb: {Milan: {fmc: 1}}", snp.CodeRuleTCB},
		"flag unknown":       {"measurements: [" + image + "]\nguest_policy: {allow: [smtt]}", snp.CodeRuleFlag},
		"debug as a flag":    {"measurements: [" + image + "]\nguest_policy: {allow: [debug]}", snp.CodeRuleFlag},
		"ABI":                {"measurements: [" + image + "]\nguest_policy: {minimum_abi: '1'}", snp.CodeRuleFlag},
		"platform flag":      {strict + "platform: {require: [fast]}", snp.CodeRuleFlag},
		"VMPL 4":             {strict + "vmpl: [4]", snp.CodeRuleFlag},
		"SVN -1":             {strict + "minimum_guest_svn: -1", snp.CodeRuleFlag},
		"clouds but no VLEK": {strict + "csps: [cloud]", snp.CodeRuleFlag},
	} {
		t.Run(name, func(t *testing.T) {
			r := section(t, c.doc)
			if got := codesOf(r.Lint()); !slices.Equal(got, []rats.Code{c.want.Code}) {
				t.Errorf("got %v, want %s", got, c.want.Code)
			}
			if got := codesOf(r.Check(claims(t, nil), nil, now)); !slices.Equal(got, []rats.Code{snp.CodeNoClaims.Code}) {
				t.Errorf("the section still judges: %v", got)
			}
		})
	}
}

func TestUnlintedRulesAndMissingClaimsAreRefused(t *testing.T) {
	if got := codesOf(section(t, strict).Check(claims(t, nil), nil, now)); !slices.Equal(got, []rats.Code{snp.CodeNoClaims.Code}) {
		t.Errorf("unlinted: %v", got)
	}
	r := section(t, strict)
	r.Lint()
	if got := codesOf(r.Check(nil, nil, now)); !slices.Equal(got, []rats.Code{snp.CodeNoClaims.Code}) {
		t.Errorf("no claims: %v", got)
	}
	if got := r.Check(&snp.Claims{}, nil, now); len(got) < 3 {
		t.Errorf("empty claims: %v", got)
	}
}

func TestParametersAskForThePrivilegeLevelThatIsJudged(t *testing.T) {
	for doc, want := range map[string]int{strict: 0, strict + "vmpl: [2, 0]": 2} {
		p, err := snp.ParseParams(section(t, doc).Params())
		if err != nil || p.VMPL != want {
			t.Errorf("%v, %+v", err, p)
		}
	}
	for _, bad := range []string{"x", `{"vmpl":4}`, `{"vmpl":-1}`} {
		if _, err := snp.ParseParams([]byte(bad)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
	if n, err := snp.Level([]byte(`{"vmpl":3}`)); err != nil || n != 3 {
		t.Errorf("level %d: %v", n, err)
	}
	if p, err := snp.ParseParams(nil); err != nil || p.VMPL != 0 {
		t.Errorf("nothing: %v", err)
	}
}

// R104: recorded, genuine reports without revocation list and TCB collateral are not accepted by a policy that relaxes nothing.
func TestGenuineIsNotAccepted(t *testing.T) {
	in := rats.Inputs{Binding: rats.Binding{Profile: rats.ProfileNone}, Now: time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC), Endorsements: []rats.Endorsement{
		{Body: recording(t, "snp/trustee/test-vcek.der")},
	}}
	e := rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: recording(t, "snp/trustee/test-report.bin")}
	v, err := snp.New().Verify(t.Context(), e, in)
	if err != nil {
		t.Fatal(err)
	}
	r := section(t, "measurements: ["+v.Claims.(*snp.Claims).Measurement+"]\nguest_policy: {allow: [smt]}")
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatal(reasons)
	}
	if got := codesOf(r.Check(v.Claims, nil, in.Now)); !slices.Equal(got, []rats.Code{snp.CodeTCBUnknown.Code, snp.CodeNoCRL.Code}) {
		t.Errorf("%v", got)
	}
}
