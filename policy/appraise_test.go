package policy_test

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

func TestGoodEvidenceIsTrusted(t *testing.T) {
	r := compile(t, good).Appraise(goodIn())
	if r.Tier != rats.Affirming || len(r.Reasons) > 0 {
		t.Fatalf("tier %s, reasons %v", r.Tier, r.Reasons)
	}
	var whole, box, run rats.Vector
	box[rats.Hardware], box[rats.Executables] = rats.Affirming, rats.Affirming
	run[rats.FileSystem] = rats.Affirming
	whole[rats.Hardware], whole[rats.Executables], whole[rats.FileSystem] = rats.Affirming, rats.Affirming, rats.Affirming
	in := goodIn()
	want := rats.Result{
		ID: "at_1", Namespace: "ns", Subject: "node/nd_1", Tier: rats.Affirming, Vector: whole,
		Demanded: []rats.Slot{rats.Executables, rats.FileSystem, rats.Hardware},
		Parts: map[rats.Format]rats.PartResult{
			formatBox: {Vector: box, Claims: in.ClaimsDigest[formatBox]}, formatRun: {Vector: run, Claims: in.ClaimsDigest[formatRun]},
		},
		Policy: in.Ref, Collection: abc, Links: []rats.Link{{From: formatRun, To: formatBox, Kind: rats.LinkEnrolled}},
		Keys: []rats.BoundKey{
			{Use: rats.KeyHPKE, Public: []byte("h")}, {Use: rats.KeySign, Public: []byte("s")}, {Use: rats.KeyTLS, Public: []byte("t")},
		},
		Boots: []rats.Boot{{By: formatBox, ID: abc}}, Challenged: in.Challenged, At: now, Expires: now.Add(5 * time.Minute),
		Marks: []string{rats.MarkSimulated},
	}
	if d := cmp.Diff(want, r); d != "" {
		t.Error(d)
	}
}

// R107, R127: good evidence with one thing changed is not trusted, and the reason says which.
func TestRefusalMatrix(t *testing.T) {
	change := func(f rats.Format, with func(*rats.Verified)) func(*policy.In) {
		return func(in *policy.In) {
			v := in.Set.Verified[f]
			with(&v)
			in.Set.Verified[f] = v
		}
	}
	claims := func(with func(*boxClaims)) func(*policy.In) {
		return change(formatBox, func(v *rats.Verified) { with(v.Claims.(*boxClaims)) })
	}
	refused := func(r rats.Reason, f rats.Format) func(*policy.In) {
		return func(in *policy.In) { r.Format = f; in.Set.Refused = append(in.Set.Refused, r) }
	}
	link := func(doc string) string {
		return strings.Replace(doc, "allow:", "links: [{from: run, to: box, kind: enrolled}]\nallow:", 1)
	}
	tests := []struct {
		name string
		doc  func(string) string
		in   func(*policy.In)
		code rats.CodeInfo
		tier rats.Tier
	}{
		{"no evidence at all", nil /* and the rule can't be evaluated */, func(in *policy.In) { in.Set = rats.Set{} }, policy.CodeFormatMissing, rats.Contraindicated},
		{"required format missing", nil, func(in *policy.In) { delete(in.Set.Verified, formatRun) }, policy.CodeFormatMissing, rats.None},
		{"wrong register", nil, claims(func(c *boxClaims) { c.PCRs[7] = rats.SHA256() }), codeBoxPCR, rats.Contraindicated},
		{"empty reference list", func(s string) string {
			return strings.Replace(s, `["sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]`, "[]", 1)
		}, nil, codeBoxPCR, rats.Contraindicated},
		{"rule not met", nil, claims(func(c *boxClaims) { c.Restarts = 1 }), policy.CodeRuleFailed, rats.Contraindicated},
		{"rule that warns", func(s string) string { return s + "    severity: warning\n" },
			claims(func(c *boxClaims) { c.Restarts = 1 }), policy.CodeRuleFailed, rats.Warning},
		{"rule over an absent claim", func(s string) string { return strings.Replace(s, "box.restart_count == 0u", `box.vendor != "x"`, 1) },
			nil, policy.CodeRuleUnevaluable, rats.Contraindicated},
		{"warning rule over an absent claim", func(s string) string {
			return strings.Replace(s, "box.restart_count == 0u", `box.vendor != "x"`, 1) + "    severity: warning\n"
		}, nil, policy.CodeRuleUnevaluable, rats.None},
		{"mark not allowed", nil, change(formatBox, func(v *rats.Verified) { v.Marks = []string{rats.MarkSoftwareTPM} }), policy.CodeMarkRefused, rats.Contraindicated},
		{"no mark allowed", func(s string) string { return strings.Replace(s, "allow: [simulated]\n", "", 1) }, nil, policy.CodeMarkRefused, rats.Contraindicated},
		{"empty allow list", func(s string) string { return strings.Replace(s, "[simulated]", "[]", 1) }, nil, policy.CodeMarkRefused, rats.Contraindicated},
		{"link missing", link, change(formatRun, func(v *rats.Verified) { v.Links = nil }), policy.CodeLinkMissing, rats.Contraindicated},
		{"link of another kind", link, change(formatRun, func(v *rats.Verified) { v.Links[0].Kind = rats.LinkPCRHoldsKey }), policy.CodeLinkMissing, rats.Contraindicated},
		{"link the other way", link, change(formatRun, func(v *rats.Verified) {
			v.Links[0] = rats.Link{From: formatBox, To: formatRun, Kind: rats.LinkEnrolled}
		}), policy.CodeLinkMissing, rats.Contraindicated},
		{"evidence too old", nil, func(in *policy.In) { in.Challenged = now.Add(-61 * time.Second) }, policy.CodeEvidenceOld, rats.Contraindicated},
		{"evidence received too late", nil, func(in *policy.In) { in.Received = now.Add(time.Minute) }, policy.CodeEvidenceOld, rats.Contraindicated},
		{"evidence before its challenge", nil, func(in *policy.In) { in.Challenged = now.Add(time.Second) }, policy.CodeEvidenceOld, rats.Contraindicated},
		{"no challenge", nil, func(in *policy.In) { in.Challenged = time.Time{} }, policy.CodeEvidenceUndated, rats.None},
		{"verification ended", nil, change(formatBox, func(v *rats.Verified) { v.Until = now }), policy.CodeEvidenceExpired, rats.None},
		{"two keys of one use", nil, change(formatRun, func(v *rats.Verified) { v.Facts.Keys[0].Public = []byte("x") }), policy.CodeKeyConflict, rats.Contraindicated},
		{"refused by verification", nil, refused(codeBoxPCR.Refuse("x", "", ""), formatBox), codeBoxPCR, rats.Contraindicated},
		{"refused for the whole", nil, refused(appraise.CodeBindingProfile.At(rats.None, "", "", ""), ""), appraise.CodeBindingProfile, rats.None},
		{"refused of a foreign format", nil, refused(appraise.CodeFormatExtra.Refuse("", "", ""), "alien"), appraise.CodeFormatExtra, rats.Contraindicated},
		{"no section judges anything", func(s string) string {
			return strings.Replace(strings.Replace(s, "[hardware, executables]", "[]", 1), "  run: {paths: [/bin/ls, /bin/cat]}\n", "", 1)
		}, func(in *policy.In) { delete(in.Set.Verified, formatRun) }, rats.CodeInfo{}, rats.None},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			doc, in := good, goodIn()
			if test.doc != nil {
				doc = test.doc(doc)
			}
			if test.in != nil {
				test.in(&in)
			}
			r := compile(t, doc).Appraise(in)
			if test.code.Code != "" && has(r.Reasons, test.code) == nil {
				t.Errorf("expected %s, got %v", test.code.Code, r.Reasons)
			}
			if r.Tier != test.tier {
				t.Errorf("tier %s, expected %s; %v", r.Tier, test.tier, r.Reasons)
			}
		})
	}
}

func TestRuleSaysItsNameSlotAndMessage(t *testing.T) {
	in := goodIn()
	in.Set.Verified[formatBox].Claims.(*boxClaims).Restarts = 2
	r := has(compile(t, good).Appraise(in).Reasons, policy.CodeRuleFailed)
	if r == nil || r.Rule != "no-restarts" || r.Slot != rats.RuntimeOpaque || r.Hint != "restart it cold" || r.Expected != "box.restart_count == 0u" {
		t.Errorf("got %+v", r)
	}
}

func TestOptionalFormatMayBeAbsentButNotBad(t *testing.T) {
	p := compile(t, strings.Replace(good, "run: {", "run: {optional: true, ", 1))
	if !p.Optional(formatRun) || p.Optional(formatBox) {
		t.Error("optional is not what the document says")
	}
	absent := goodIn()
	delete(absent.Set.Verified, formatRun)
	missing := appraise.CodeFormatMissing.At(rats.None, "", "", "")
	missing.Format = formatRun
	absent.Set.Refused = []rats.Reason{missing}
	if r := p.Appraise(absent); r.Tier != rats.Affirming || slices.Contains(r.Demanded, rats.FileSystem) {
		t.Errorf("absent: tier %s, demanded %s, %v", r.Tier, r.Demanded, r.Reasons)
	}
	bad := goodIn()
	delete(bad.Set.Verified, formatRun)
	forged := codeBoxPCR.Refuse("signature", "", "")
	forged.Format = formatRun
	bad.Set.Refused = []rats.Reason{forged}
	if r := p.Appraise(bad); r.Tier != rats.Contraindicated {
		t.Errorf("bad: tier %s", r.Tier)
	}
}

func TestDemandedSlotOfAnAbsentOptionalFormatIsNone(t *testing.T) {
	doc := strings.Replace(good, "run: {", "run: {optional: true, ", 1) + "demand: [hardware, file-system]\n"
	in := goodIn()
	delete(in.Set.Verified, formatRun)
	if r := compile(t, doc).Appraise(in); r.Tier != rats.None {
		t.Errorf("tier %s", r.Tier)
	}
}

func TestTiersOfReasonsCombineToTheWorst(t *testing.T) {
	a, w, n, c := rats.Affirming, rats.Warning, rats.None, rats.Contraindicated
	tests := []struct {
		reasons []rats.Tier
		want    rats.Tier
	}{
		{nil, a},
		{[]rats.Tier{a}, a},
		{[]rats.Tier{w}, w},
		{[]rats.Tier{n}, n},
		{[]rats.Tier{c}, c},
		{[]rats.Tier{w, n}, n},
		{[]rats.Tier{n, w}, n},
		{[]rats.Tier{n, a}, n},
		{[]rats.Tier{c, w}, c},
		{[]rats.Tier{n, c, w}, c},
		{[]rats.Tier{7}, 7}, // not one of the tiers: ranks as none
	}
	for _, demandedSlot := range []bool{true, false} {
		for _, test := range tests {
			slot := rats.SourcedData // nobody judges it
			if demandedSlot {
				slot = rats.Hardware
			}
			p := compile(t, good, func(r *boxRules) {
				for _, tier := range test.reasons {
					r.Always = append(r.Always, rats.Reason{Code: "box.x.y", Slot: slot, Tier: tier})
				}
			})
			r := p.Appraise(goodIn())
			if r.Tier.String() != test.want.String() {
				t.Errorf("%v in slot %s: tier %s, expected %s", test.reasons, slot, r.Tier, test.want)
			}
			if demandedSlot && r.Vector[slot].String() != test.want.String() {
				t.Errorf("%v: vector %s, expected %s", test.reasons, r.Vector[slot], test.want)
			}
			if !demandedSlot && r.Vector[slot] == rats.Affirming || r.Vector[slot] == rats.Warning && !demandedSlot {
				t.Errorf("%v: a slot nobody judged is %s", test.reasons, r.Vector[slot])
			}
		}
	}
}

// R127: adding a reason never raises trust, whatever its slot and tier, and whichever way it comes in.
func TestAddingAReasonNeverRaisesTrust(t *testing.T) {
	tiers := []rats.Tier{rats.Affirming, rats.Warning, rats.None, rats.Contraindicated, 5}
	rapid.Check(t, func(t *rapid.T) {
		reason := rapid.Custom(func(t *rapid.T) rats.Reason {
			return rats.Reason{
				Code: "x.y.z", Slot: rats.Slot(rapid.IntRange(0, rats.SlotCount).Draw(t, "slot")),
				Tier:   rapid.SampledFrom(tiers).Draw(t, "tier"),
				Format: rapid.SampledFrom([]rats.Format{"", formatBox, formatRun, "alien"}).Draw(t, "format"),
			}
		})
		checks := rapid.SliceOfN(reason, 0, 4).Draw(t, "checks")
		refused := rapid.SliceOfN(reason, 0, 4).Draw(t, "refused")
		more := reason.Draw(t, "more")
		appraised := func(checks, refused []rats.Reason) rats.Result {
			p, _ := policy.Compile([]byte(good), descriptors(func(r *boxRules) { r.Always = checks }))
			in := goodIn()
			in.ClaimsDigest = nil
			in.Set.Refused = refused
			return p.Appraise(in)
		}
		before := appraised(checks, refused)
		for _, after := range []rats.Result{
			appraised(append(slices.Clone(checks), more), refused),
			appraised(checks, append(slices.Clone(refused), more)),
			appraised(append([]rats.Reason{more}, checks...), refused),
		} {
			if rats.Worse(before.Tier, after.Tier) != after.Tier && rats.Worse(after.Tier, before.Tier) == before.Tier {
				t.Fatalf("%+v raised %s to %s", more, before.Tier, after.Tier)
			}
			for s := range after.Vector {
				if b, a := before.Vector[s], after.Vector[s]; rats.Worse(b, a) != a && rats.Worse(a, b) == b {
					t.Fatalf("%+v raised slot %d from %s to %s", more, s, b, a)
				}
			}
		}
	})
}

func TestReasonsAreBoundedAndAllCount(t *testing.T) {
	p := compile(t, good, func(r *boxRules) {
		for i := range 3000 {
			r.Always = append(r.Always, rats.Reason{Code: "box.x.y", Slot: rats.Hardware, Tier: rats.Warning, Path: fmt.Sprint(i)})
		}
		r.Always = append(r.Always, codeBoxPCR.Refuse("last", "", ""))
	})
	r := p.Appraise(goodIn())
	if r.Tier != rats.Contraindicated || len(r.Reasons) > 1001 {
		t.Errorf("tier %s with %d reasons", r.Tier, len(r.Reasons))
	}
	if more := has(r.Reasons, policy.CodeReasonsMore); more == nil || more.Tier != rats.Contraindicated {
		t.Errorf("got %+v", more)
	}
}

func withSet(quiet string) string {
	return strings.Replace(good, "    judges:", "    find: [os]\n    quiet: "+quiet+"\n    judges:", 1)
}

func TestReferenceSetsBoundAndAppearInTheResult(t *testing.T) {
	p := compile(t, withSet("false"))
	in := goodIn()
	in.Lookup = lookup(t, now.Add(time.Minute), "file")
	r := p.Appraise(in)
	if r.Tier != rats.Affirming || !r.Expires.Equal(now.Add(time.Minute)) || len(r.Sets) != 1 || r.Sets[0].Version != 3 {
		t.Errorf("tier %s until %s with %v: %v", r.Tier, r.Expires, r.Sets, r.Reasons)
	}
	v := in.Set.Verified[formatBox]
	v.Until = now.Add(time.Second)
	in.Set.Verified[formatBox] = v
	if r := p.Appraise(in); !r.Expires.Equal(v.Until) {
		t.Errorf("expires %s, expected %s", r.Expires, v.Until)
	}
}

type brokenLookup struct{ rats.Lookup }

func (brokenLookup) Find(string, string, rats.Digest) (rats.RefHit, error) {
	return rats.RefHit{Known: true}, errors.New("disk on fire")
}
func (brokenLookup) Names(string, string) (iter.Seq[string], error) { return nil, nil }
func (brokenLookup) Ref(string) (rats.Ref, error)                   { return rats.Ref{}, errors.New("disk on fire") }

// R127: a set that is missing, expired or can't be read is never a set that permits, even if the check looks away.
func TestReferenceSetThatDoesNotAnswerDenies(t *testing.T) {
	tests := []struct {
		name string
		l    rats.Lookup
		code rats.CodeInfo
		tier rats.Tier
	}{
		{"no look-up", nil, refvalue.CodeSetMissing, rats.None},
		{"no such set", refvalue.NewIndex(nil), refvalue.CodeSetMissing, rats.None},
		{"nil set", refvalue.NewIndex(map[string]refvalue.Versioned{"os": {}}), refvalue.CodeSetMissing, rats.None},
		{"expired set", lookup(t, now, "file"), refvalue.CodeSetExpired, rats.None},
		{"expired set that doesn't know the value", lookup(t, now, "other"), refvalue.CodeSetExpired, rats.Contraindicated},
		{"malfunction", brokenLookup{}, policy.CodeLookupFailed, rats.None},
	}
	for _, test := range tests {
		for _, quiet := range []string{"true", "false"} {
			if test.name == "malfunction" && quiet == "false" {
				continue
			}
			t.Run(test.name+"/quiet="+quiet, func(t *testing.T) {
				in := goodIn()
				in.Lookup = test.l
				r := compile(t, withSet(quiet)).Appraise(in)
				if has(r.Reasons, test.code) == nil || r.Tier != test.tier {
					t.Errorf("tier %s, %v", r.Tier, r.Reasons)
				}
			})
		}
	}
}

func TestEqualClaimsAreCheckedOncePerSetVersion(t *testing.T) {
	checks := 0
	p := compile(t, withSet("false"), func(r *boxRules) { r.Checks = &checks })
	in := goodIn()
	in.Lookup = lookup(t, time.Time{}, "file")
	appraised := func(want int) {
		t.Helper()
		if r := p.Appraise(in); r.Tier != rats.Affirming || len(r.Sets) != 1 {
			t.Fatalf("tier %s, %v", r.Tier, r.Reasons)
		}
		if checks != want {
			t.Fatalf("%d checks, expected %d", checks, want)
		}
	}
	appraised(1)
	appraised(1)
	in.Now, in.Challenged = now.Add(time.Hour), now.Add(time.Hour)
	appraised(1)
	in.ClaimsDigest[formatBox] = rats.SHA256([]byte("others"))
	appraised(2)
	in.ClaimsDigest = nil
	appraised(3)
	in = goodIn()
	in.Lookup = lookup(t, time.Time{}, "other")
	if r := p.Appraise(in); r.Tier != rats.Contraindicated || checks != 4 {
		t.Fatalf("after the set changed: tier %s, %d checks", r.Tier, checks)
	}
}

func TestGateAsksThePlatformOnly(t *testing.T) {
	missing := appraise.CodeFormatMissing.At(rats.None, "", "", "")
	missing.Format = formatRun
	platform := func() rats.Set {
		s := goodSet()
		delete(s.Verified, formatRun)
		return s
	}
	tests := []struct {
		name  string
		patch func(*boxRules)
		set   func(*rats.Set)
		code  rats.CodeInfo // none: the plan may leave
	}{
		{"good platform", nil, func(*rats.Set) {}, rats.CodeInfo{}},
		{"plan said to be missing", nil, func(s *rats.Set) { s.Refused = []rats.Reason{missing} }, rats.CodeInfo{}},
		{"warning", func(r *boxRules) { r.Always = []rats.Reason{codeBoxPCR.At(rats.Warning, "", "", "")} }, func(*rats.Set) {}, rats.CodeInfo{}},
		{"reason", func(r *boxRules) { r.Always = []rats.Reason{codeBoxPCR.Refuse("", "", "")} }, func(*rats.Set) {}, codeBoxPCR},
		{"missing input", func(r *boxRules) { r.Always = []rats.Reason{codeBoxPCR.At(rats.None, "", "", "")} }, func(*rats.Set) {}, codeBoxPCR},
		{"mark", nil, func(s *rats.Set) {
			v := s.Verified[formatBox]
			v.Marks = []string{rats.MarkDebug}
			s.Verified[formatBox] = v
		}, policy.CodeMarkRefused},
		{"no platform", nil, func(s *rats.Set) { s.Verified = nil }, policy.CodeGateEmpty},
		{"platform missing", nil, func(s *rats.Set) { s.Verified = nil }, policy.CodeFormatMissing},
		{"bad binding", nil, func(s *rats.Set) { s.Refused = []rats.Reason{appraise.CodeBindingHash.Refuse("", "", "")} }, appraise.CodeBindingHash},
		{"bad plan evidence", nil, func(s *rats.Set) {
			r := codeBoxPCR.Refuse("", "", "")
			r.Format = formatRun
			s.Refused = []rats.Reason{r}
		}, codeBoxPCR},
		{"two keys of one use", nil, func(s *rats.Set) {
			v := s.Verified[formatBox]
			v.Facts.Keys = append(v.Facts.Keys, rats.BoundKey{Use: rats.KeyHPKE, Public: []byte("x")})
			s.Verified[formatBox] = v
		}, policy.CodeKeyConflict},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set := platform()
			test.set(&set)
			var patches []func(*boxRules)
			if test.patch != nil {
				patches = append(patches, test.patch)
			}
			reasons := compile(t, good, patches...).Gate(set, nil, now)
			if test.code.Code == "" && len(reasons) > 0 || test.code.Code != "" && has(reasons, test.code) == nil {
				t.Errorf("got %v", reasons)
			}
		})
	}
}

func TestPlanIsAFunctionOfTheSeed(t *testing.T) {
	p := compile(t, good)
	one, err := p.Plan(nil, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := p.Plan(nil, [32]byte{1})
	other, _ := p.Plan(nil, [32]byte{2})
	if d := cmp.Diff(one, again); d != "" {
		t.Errorf("same seed, other plan: %s", d)
	}
	if one.ID == other.ID || len(one.Tests) != 2 || one.Limits.Files != 10 || one.Version != 1 {
		t.Errorf("plan %+v", one)
	}
	twice := compile(t, strings.Replace(good, "run: {", "run: {twice: true, ", 1))
	if _, err := twice.Plan(nil, [32]byte{}); reasonCode(err) != policy.CodePlanInvalid.Code {
		t.Errorf("doubled test ids: %v", err)
	}
}

func reasonCode(err error) rats.Code {
	r, _ := rats.ReasonOf(err)
	return r.Code
}

func TestNodeIsVouchedForOnlyBySectionsThatCan(t *testing.T) {
	p := compile(t, good)
	if r := p.Vouch(rats.Endorsement{Body: []byte("good")}, now); len(r) > 0 {
		t.Error(r)
	}
	if r := p.Vouch(rats.Endorsement{Body: []byte("bad")}, now); has(r, codeBoxPCR) == nil || r[0].Format != formatBox {
		t.Errorf("got %v", r)
	}
	only := compile(t, "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: a}\nselector: 'true'\nformats: {run: {}}\n")
	if r := only.Vouch(rats.Endorsement{Body: []byte("good")}, now); has(r, policy.CodeEnrolmentUnvouched) == nil {
		t.Errorf("got %v", r)
	}
}

func BenchmarkCompile(b *testing.B) {
	ds := descriptors()
	for b.Loop() {
		if p, r := policy.Compile([]byte(good), ds); p == nil {
			b.Fatal(r)
		}
	}
}

func BenchmarkAppraise(b *testing.B) {
	p := compile(b, good)
	in := goodIn()
	for b.Loop() {
		if p.Appraise(in).Tier != rats.Affirming {
			b.Fatal()
		}
	}
}
