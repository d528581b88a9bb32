package plan_test

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	evidence "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// spotRun is a run of one spot check of a file of 40 chunks.
func spotRun(t testing.TB) (*run, *plan.Tree) {
	t.Helper()
	r := newRun(t)
	const chunk = plan.MinChunk
	rule := rules(t, "tests:\n  - {name: db, file: /db, chunk: 4096, spots: 5, reference: base}\n")
	tests, _, err := rule.Tests(nil, [32]byte{9})
	if err != nil {
		t.Fatal(err)
	}
	r.plan.Tests = tests
	tree, err := plan.NewTree("sha256", chunk, 40*chunk)
	if err != nil {
		t.Fatal(err)
	}
	for i := range tree.Len() {
		s := sha256.Sum256(fmt.Appendf([]byte{plan.LeafTag}, "%d", i))
		tree.SetLeaf(i, s[:])
	}
	tree.Build(sha256.New())
	scope, _ := tests[0].Scope()
	m := scope.Merkle
	r.ids = []uint32{1}
	r.outcomes = []plan.Outcome{{
		Test: 1, Name: scope.ContentName([]byte("/db")), Digest: tree.Root(sha256.New()), Size: 40 * chunk,
		Value: tree.Proof(plan.SpotsOf(m.Seed, []byte("/db"), 40, m.Spots)),
	}}
	r.report.Plan = r.plan.Digest()
	r.params(t, evidence.Params{Plan: r.plan.Encode(), PlanSigner: r.planSigner})
	return r, tree
}

// R043: a spot check is verified against the chunks that the challenge chose, and says what it is worth.
func TestSpotCheckIsVerifiedAndSaysItsWorth(t *testing.T) {
	r, tree := spotRun(t)
	r.sign(t)
	v, err := evidence.New().Verify(t.Context(), r.evidence, r.inputs)
	if err != nil {
		t.Fatal(err)
	}
	c := v.Claims.(*evidence.Claims)
	m := c.Measurements[0]
	if m.Name != "/db%00merkle-4096" || m.Spots == nil || m.Spots.Chunks != 40 || m.Spots.Read != 5 || m.Spots.OneChunk != 125_000 || m.Spots.Tenth < 400_000 {
		t.Errorf("%+v %+v", m, m.Spots)
	}
	if strings.Contains(c.Tests[0].Args, "seed") {
		t.Errorf("claims hold the seed: %s", c.Tests[0].Args)
	}
	// Judged by the rule, which knows no seed.
	l := &refs{sets: map[string]map[string][]rats.Digest{"base": {"/db%00merkle-4096": {m.Digest}}}}
	if got := rules(t, "tests:\n  - {name: db, file: /db, chunk: 4096, spots: 5, reference: base}\n").Check(c, l, start); len(got) > 0 {
		t.Errorf("%v", got)
	}
	for name, change := range map[string]func(o *plan.Outcome){
		"no proof":       func(o *plan.Outcome) { o.Value = nil },
		"another root":   func(o *plan.Outcome) { o.Digest[0] ^= 1 },
		"another chunk":  func(o *plan.Outcome) { o.Value[9] ^= 1 },
		"another size":   func(o *plan.Outcome) { o.Size++ },
		"smaller file":   func(o *plan.Outcome) { o.Value[6] ^= 1 },
		"cut":            func(o *plan.Outcome) { o.Value = o.Value[:len(o.Value)-1] },
		"chunks at will": func(o *plan.Outcome) { o.Value = tree.Proof([]int64{0, 1, 2, 3, 4}) },
	} {
		r, _ := spotRun(t)
		change(&r.outcomes[0])
		r.sign(t)
		_, err := evidence.New().Verify(t.Context(), r.evidence, r.inputs)
		if reason, _ := rats.ReasonOf(err); reason.Code != evidence.CodeProof.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The chunks are chosen anew by every challenge.
func TestSeedChoosesTheChunks(t *testing.T) {
	rule := rules(t, "tests:\n  - {name: db, file: /db, chunk: 4096, spots: 5, reference: base}\n  - {name: e, file: /e, reference: base}\n")
	a, _, _ := rule.Tests(nil, [32]byte{1})
	again, _, _ := rule.Tests(nil, [32]byte{1})
	b, _, _ := rule.Tests(nil, [32]byte{2})
	if !reflect.DeepEqual(a, again) || reflect.DeepEqual(a[0], b[0]) || !reflect.DeepEqual(a[1], b[1]) {
		t.Error("plans don't follow the seed")
	}
}

// timedRefs is a look-up with windows.
type timedRefs struct {
	*refs
	windows *plan.Windows
	err     error
}

func (r *timedRefs) Windows(string) (*plan.Windows, error) { return r.windows, r.err }

func timedMachine(units int64) (*evidence.Claims, *timedRefs) {
	c, l := machine()
	c.Timing = &evidence.Timing{Conditions: []evidence.Condition{{Name: "steal-ticks", Value: 3}}}
	w := &plan.Windows{Backend: c.Backend, Runs: 50, Repeat: 1, Pace: plan.Range{Low: 500, High: 1500}, Spread: plan.Range{High: 200}}
	for _, m := range c.Measurements {
		c.Timing.Times = append(c.Timing.Times, evidence.Time{Test: m.Test, Name: m.Name, Nanos: units * int64(time.Microsecond) / 1000, Unit: int64(time.Microsecond)})
	}
	seen := make(map[string]bool)
	for _, name := range []string{"/etc/passwd", "/opt/x/y", "/usr/bin/a%0A", "/usr/bin/b"} {
		for _, m := range c.Measurements {
			if m.Name == name && !seen[name] {
				seen[name] = true
				w.Names = append(w.Names, plan.Window{Name: name, Low: 500, Median: 1000, High: 1500, MAD: 10})
			}
		}
	}
	return c, &timedRefs{refs: l, windows: w}
}

const timedSection = `
timing: {reference: lab, judge: JUDGE}
tests:
  - {name: passwd, file: /etc/passwd, reference: base, timed: true, repeat: 3, tmin: 1ns, tmax: 5us, timing: EACH}
  - {name: bin, glob: "/usr/bin/*", reference: base, severity: warning, unknown: fail, timed: true, timing: EACH}
  - {name: opt, dir: /opt, exclude: [/opt/tmp], reference: apps, missing: warning, timed: true}
`

// R028, R030, R155: times are judged as policy wants it: told, warned of, or refused.
func TestTimesAreJudgedAsPolicyWants(t *testing.T) {
	codes := func(rs []rats.Reason) map[rats.Code]rats.Tier {
		out := make(map[rats.Code]rats.Tier)
		for _, r := range rs {
			out[r.Code] = r.Tier
		}
		return out
	}
	section := func(judge, each string) *evidence.Rules {
		r := rules(t, strings.NewReplacer("JUDGE", judge, "EACH", each).Replace(timedSection))
		if lint := r.Lint(); len(lint) > 0 {
			t.Fatal(lint)
		}
		return r
	}
	c, l := timedMachine(1000)
	if got := section("fail", "fail").Check(c, l, start); len(got) > 0 {
		t.Errorf("as in the lab: %v", got)
	}
	for _, x := range []struct {
		judge string
		tier  rats.Tier
	}{{"fail", rats.Contraindicated}, {"warn", rats.Warning}, {"advisory", rats.Affirming}, {"''", rats.Affirming}} {
		c, l := timedMachine(10_000)
		got := codes(section(x.judge, x.judge).Check(c, l, start))
		for _, code := range []rats.CodeInfo{evidence.CodePace, evidence.CodeWindow, evidence.CodeDuration} {
			if tier, ok := got[code.Code]; !ok || tier != x.tier && code.Code != evidence.CodeWindow.Code {
				t.Errorf("ten times as slow, judge %s: %s is %v, %v", x.judge, code.Code, tier, ok)
			}
		}
		if rats.Worst(section(x.judge, x.judge).Check(c, l, start)) != x.tier {
			t.Errorf("judge %s: another tier", x.judge)
		}
	}
	c, l = timedMachine(1000)
	for i := range c.Timing.Times {
		c.Timing.Times[i].Nanos = []int64{600, 900, 1150, 1400}[i%4]
	}
	if _, ok := codes(section("fail", "fail").Check(c, l, start))[evidence.CodeSpread.Code]; !ok {
		t.Error("a spread run passed")
	}
}

func TestTimesThatCantBeComparedAreTold(t *testing.T) {
	section := rules(t, strings.NewReplacer("JUDGE", "fail", "EACH", "fail").Replace(timedSection))
	for name, change := range map[string]func(c *evidence.Claims, l *timedRefs) rats.Lookup{
		"no windows":      func(c *evidence.Claims, l *timedRefs) rats.Lookup { l.windows = nil; return l },
		"another backend": func(c *evidence.Claims, l *timedRefs) rats.Lookup { l.windows.Backend = "else"; return l },
		"no times":        func(c *evidence.Claims, l *timedRefs) rats.Lookup { c.Timing = nil; return l },
		"no clock": func(c *evidence.Claims, l *timedRefs) rats.Lookup {
			for i := range c.Timing.Times {
				c.Timing.Times[i].Nanos, c.Timing.Times[i].Unit = 0, 0
			}
			return l
		},
		"a look-up without": func(c *evidence.Claims, l *timedRefs) rats.Lookup { return l.refs },
	} {
		c, l := timedMachine(1000)
		got := section.Check(c, change(c, l), start)
		if len(got) == 0 || got[0].Code != evidence.CodeWindows.Code || rats.Worst(got) != rats.Contraindicated {
			t.Errorf("%s: %v", name, got)
		}
	}
	c, l := timedMachine(1000)
	l.err = errNoSet.Missing("lab", "", "")
	if got := section.Check(c, l, start); len(got) != 1 || got[0].Code != evidence.CodeSet.Code || got[0].Tier != rats.None {
		t.Errorf("no set: %v", got)
	}
}

func TestTimedReportsYieldTimes(t *testing.T) {
	r := newRun(t)
	for i := range r.plan.Tests {
		r.plan.Tests[i].Timed = i == 0
	}
	r.outcomes[0].Unit = 7
	r.report.Plan = r.plan.Digest()
	r.params(t, evidence.Params{Plan: r.plan.Encode(), PlanSigner: r.planSigner})
	r.sign(t)
	v, err := evidence.New().Verify(t.Context(), r.evidence, r.inputs)
	if err != nil {
		t.Fatal(err)
	}
	want := []evidence.Time{{Test: 1, Name: "/etc/passwd", Nanos: 5, Unit: 7}}
	if got := v.Claims.(*evidence.Claims).Timing; got == nil || !reflect.DeepEqual(got.Times, want) {
		t.Errorf("%+v", got)
	}
}

func TestTimingRulesAreLinted(t *testing.T) {
	for name, test := range map[string]string{
		"repeat alone":     "{name: a, file: /a, reference: b, repeat: 2}",
		"tmax alone":       "{name: a, file: /a, reference: b, tmax: 1s}",
		"timing alone":     "{name: a, file: /a, reference: b, timing: warn}",
		"often":            "{name: a, file: /a, reference: b, timed: true, repeat: 17}",
		"repeated command": "{name: a, command: [/bin/a], reference: b, timed: true, repeat: 2}",
		"tmin above tmax":  "{name: a, file: /a, reference: b, timed: true, tmin: 2s, tmax: 1s}",
		"below zero":       "{name: a, file: /a, reference: b, timed: true, tmin: -1s}",
		"judge":            "{name: a, file: /a, reference: b, timed: true, timing: kill}",
		"judge of the run": "{name: a, file: /a, reference: b, timed: true}\ntiming: {reference: x, judge: kill}",
		"no reference":     "{name: a, file: /a, reference: b, timed: true}\ntiming: {judge: warn}",
		"nothing timed":    "{name: a, file: /a, reference: b}\ntiming: {reference: x}",
	} {
		got := rules(t, "tests:\n  - "+test+"\n").Lint()
		if len(got) != 1 || got[0].Code != evidence.CodeTiming.Code {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, test := range map[string]string{
		"chunk of a check": "{name: a, check: mounts, chunk: 4096, reference: b}",
		"odd chunk":        "{name: a, file: /a, chunk: 4097, reference: b}",
		"spots alone":      "{name: a, file: /a, spots: 3, reference: b}",
		"verity and chunk": "{name: a, file: /a, verity: true, chunk: 4096, reference: b}",
		"trust in mtime":   "{name: a, file: /a, chunk: 4096, trust: mtime, reference: b}",
	} {
		got := rules(t, "tests:\n  - "+test+"\n").Lint()
		if len(got) != 1 || got[0].Code != evidence.CodeScope.Code {
			t.Errorf("%s: %v", name, got)
		}
	}
}
