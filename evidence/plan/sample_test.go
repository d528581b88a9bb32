package plan

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// sampleRefs is a set of n files in /d, all with one digest.
type sampleRefs struct{ n int }

var goodSum = rats.SHA256([]byte("good"))

func (r sampleRefs) Find(set, name string, d rats.Digest) (rats.RefHit, error) {
	return rats.RefHit{Set: set, Version: 1, Known: d.Equal(goodSum), Expected: []rats.Digest{goodSum}}, nil
}

func (r sampleRefs) Names(string, string) (iter.Seq[string], error) {
	var names []string
	for i := range r.n {
		names = append(names, fmt.Sprintf("/d/%05d", i))
	}
	return slices.Values(names), nil
}

func (r sampleRefs) Ref(string) (rats.Ref, error) { return rats.Ref{}, nil }

func sampled(s Sample) *Rules {
	return &Rules{List: []TestRule{{Name: "d", Dir: "/d", Reference: "set", Sample: &s}}}
}

func turnKey(label string) [32]byte {
	return [32]byte(rats.SHA256([]byte("secret"), []byte(label)).Sum)
}

var sampleStart = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func momentAt(i int, nonce string) plan.Moment {
	return plan.Moment{
		Seed: [32]byte(rats.SHA256([]byte(nonce)).Sum), At: sampleStart.Add(time.Duration(i) * time.Minute), Every: time.Minute, Turn: turnKey,
	}
}

func namesOf(t *testing.T, tests []plan.Test) (out []string) {
	t.Helper()
	last := uint32(0)
	for _, x := range tests {
		s, err := x.Scope()
		if err != nil || x.ID <= last || x.ID < plan.FirstTurn {
			t.Fatal(err, x.ID)
		}
		last = x.ID
		out = append(out, string(s.Path))
	}
	return out
}

// R027: plans may differ at each iteration, and each file is measured within the stated time.
func TestEveryFileOfASampleIsMeasuredWithinItsTime(t *testing.T) {
	const n = 1000
	r := sampled(Sample{Count: 10, Within: time.Hour})
	last := map[string]int{}
	for i := range 300 {
		tests, _, err := r.TestsAt(sampleRefs{n}, momentAt(i, fmt.Sprint("nonce", i)))
		if err != nil {
			t.Fatal(err)
		}
		if len(tests) > 10+n/20 {
			t.Errorf("minute %d: %d files in one plan", i, len(tests))
		}
		for _, name := range namesOf(t, tests) {
			last[name] = i
		}
		if i < 60 {
			continue
		}
		for k := range n {
			if at, ok := last[fmt.Sprintf("/d/%05d", k)]; !ok || i-at >= 60 {
				t.Fatalf("minute %d: file %d was last measured at minute %d (%v)", i, k, at, ok)
			}
		}
	}
}

// The node knows all earlier plans and still can't tell what the next one leaves out.
func TestTheNextSampleCannotBeToldFromEarlierPlans(t *testing.T) {
	const n = 400
	r := sampled(Sample{Fraction: 0.1, Within: time.Hour})
	// The same turn under other nonces: the plans differ, and every file may be in one of them, those included that had their
	// turn just before.
	inSome := map[string]bool{}
	distinct := map[string]bool{}
	for k := range 300 {
		tests, _, err := r.TestsAt(sampleRefs{n}, momentAt(7, fmt.Sprint("other", k)))
		if err != nil {
			t.Fatal(err)
		}
		names := namesOf(t, tests)
		distinct[fmt.Sprint(names)] = true
		for _, name := range names {
			inSome[name] = true
		}
	}
	if len(distinct) != 300 || len(inSome) != n {
		t.Errorf("%d different plans of 300, %d of %d files in some", len(distinct), len(inSome), n)
	}
	// The order of turns is another in each cycle, for another node, and under another key.
	r.List[0].Sample = &Sample{Count: 1, Within: time.Hour}
	turn := func(m plan.Moment) string {
		tests, _, err := r.TestsAt(sampleRefs{n}, m)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(namesOf(t, tests))
	}
	m := momentAt(7, "same")
	other := m
	other.Turn = func(label string) [32]byte { return turnKey("other" + label) }
	later := m
	later.At = later.At.Add(30 * time.Minute)
	first := turn(m)
	if again := turn(m); again != first || first == turn(other) || first == turn(later) {
		t.Error("turns are not a function of key, cycle and nonce alone")
	}
}

func TestWithoutATimeOrAKeyEverythingIsMeasured(t *testing.T) {
	r := sampled(Sample{Count: 1, Within: time.Hour})
	whole, _, err := r.Tests(sampleRefs{10}, [32]byte{1})
	if err != nil || len(whole) != 1 || whole[0].ID != 1 || whole[0].Kind != plan.KindDir {
		t.Fatal(whole, err)
	}
	m := momentAt(1, "x")
	m.Every = time.Hour // no time for turns
	if tests, _, err := r.TestsAt(sampleRefs{10}, m); err != nil || len(tests) != 1 || tests[0].ID != 1 {
		t.Error(tests, err)
	}
	if _, _, err := sampled(Sample{Count: 4000, Within: time.Minute * 3}).TestsAt(sampleRefs{20_000}, func() plan.Moment {
		m := momentAt(1, "x")
		m.Every = 10 * time.Second
		return m
	}()); err == nil {
		// 4000 + 20000/7 fit; 20000 in two turns don't:
		m := momentAt(1, "x")
		m.Every = 36 * time.Second
		_, _, err := sampled(Sample{Count: 4000, Within: time.Minute * 3}).TestsAt(sampleRefs{20_000}, m)
		if reason, _ := rats.ReasonOf(err); reason.Code != CodeSampleSize.Code {
			t.Errorf("%v", err)
		}
	}
}

// claimsFor are claims of a run that measured what was drawn, with the given digest for one file.
func claimsFor(t *testing.T, tests []plan.Test, changed string) *Claims {
	t.Helper()
	c := &Claims{Backend: "native"}
	for _, x := range tests {
		s, err := x.Scope()
		if err != nil {
			t.Fatal(err)
		}
		c.Tests = append(c.Tests, testOf(x, s))
		d := goodSum
		if string(s.Path) == changed {
			d = rats.SHA256([]byte("evil"))
		}
		c.Measurements = append(c.Measurements, Measurement{Test: x.ID, Name: rats.EscapePath(s.Path), Digest: d})
	}
	return c
}

func TestASampleIsJudgedByWhatWasDrawn(t *testing.T) {
	r := sampled(Sample{Count: 5, Within: time.Hour})
	tests, _, err := r.TestsAt(sampleRefs{100}, momentAt(3, "n"))
	if err != nil {
		t.Fatal(err)
	}
	names := namesOf(t, tests)
	if rs := r.Check(claimsFor(t, tests, ""), sampleRefs{100}, sampleStart); len(rs) != 0 {
		t.Error(rs)
	}
	rs := r.Check(claimsFor(t, tests, names[0]), sampleRefs{100}, sampleStart)
	if len(rs) != 2 || rs[0].Code != CodeFailed.Code || rs[1].Code != CodeChanged.Code || rs[1].Path != names[0] {
		t.Error(rs)
	}
	rs = r.Check(&Claims{}, sampleRefs{100}, sampleStart)
	if len(rs) == 0 || rs[0].Code != CodeUntested.Code {
		t.Error("nothing measured is nothing wrong:", rs)
	}
}

func TestCoverageIsStatedAndOverdueFilesAreTold(t *testing.T) {
	const n = 100
	r := sampled(Sample{Count: 2, Within: time.Hour})
	var resume Resume
	var c *Claims
	run := func(i int) []rats.Reason {
		t.Helper()
		tests, _, err := r.TestsAt(sampleRefs{n}, momentAt(i, fmt.Sprint("n", i)))
		if err != nil {
			t.Fatal(err)
		}
		c = claimsFor(t, tests, "")
		c.Coverage, resume.Covered, resume.Since = cover(c.Tests, resume, sampleStart.Add(time.Duration(i)*time.Minute))
		return r.Check(c, sampleRefs{n}, sampleStart)
	}
	for i := range 130 {
		if rs := run(i); len(rs) != 0 {
			t.Fatalf("minute %d: %v", i, rs)
		}
	}
	if v := c.Coverage; v.Known != n || v.Units == 0 || v.Units >= n || v.Within[4] != n || v.Within[0] >= n {
		t.Errorf("%+v", v)
	}
	rs := run(250) // the node was away for two hours
	if len(rs) != 1 || rs[0].Code != CodeCoverage.Code || rs[0].Tier != rats.Warning {
		t.Errorf("%v", rs)
	}
	r.List[0].Sample.Overdue = SeverityFail
	if rs := r.Check(c, sampleRefs{n}, sampleStart); rs[0].Tier != rats.Contraindicated {
		t.Error(rs)
	}
	r.List[0].Sample.Overdue = overdueIgnore
	if rs := r.Check(c, sampleRefs{n}, sampleStart); len(rs) != 0 {
		t.Error(rs)
	}
}

func TestSamplesThatCannotBeDrawnAreRefused(t *testing.T) {
	for _, s := range []Sample{{}, {Count: 1}, {Within: time.Hour}, {Count: -1, Within: time.Hour}, {Fraction: 1, Within: time.Hour},
		{Count: 1, Within: time.Second}, {Count: 1, Within: 100 * time.Hour}, {Count: 1, Within: time.Hour, Overdue: "x"}} {
		if rs := sampled(s).Lint(); len(rs) != 1 || rs[0].Code != CodeSample.Code {
			t.Errorf("%+v: %v", s, rs)
		}
	}
}

func TestASingleTestHasItsTurnToo(t *testing.T) {
	r := &Rules{List: []TestRule{
		{Name: "c", Command: []string{"/bin/x"}, Match: "ok", Sample: &Sample{Fraction: 0.05, Within: time.Hour}},
		{Name: "f", File: "/etc/x", Reference: "set", Sample: &Sample{Fraction: 0.05, Within: time.Hour}},
	}}
	last := map[string]int{}
	some := false
	for i := range 200 {
		tests, _, err := r.TestsAt(sampleRefs{1}, momentAt(i, fmt.Sprint(i)))
		if err != nil || len(tests) == 0 {
			t.Fatal(tests, err)
		}
		some = some || len(tests) < 2
		for _, x := range tests {
			last[x.Kind] = i
		}
		if i > 60 && (i-last["command"] > 60 || i-last["file"] > 60) {
			t.Fatalf("minute %d: %v", i, last)
		}
	}
	if !some {
		t.Error("both are in every plan")
	}
}
