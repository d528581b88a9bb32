package plan_test

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	evidence "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// refs is a Lookup in memory: set → name → digests.
type refs struct {
	sets    map[string]map[string][]rats.Digest
	expires time.Time
	broken  error // of Find
	torn    error // of Names with a prefix
}

var errNoSet = rats.CodeInfo{Code: "test.set.missing", Title: "no such set"}

func (r *refs) Find(set, name string, d rats.Digest) (rats.RefHit, error) {
	if r.broken != nil {
		return rats.RefHit{}, r.broken
	}
	want := r.sets[set][name]
	return rats.RefHit{Set: set, Known: slices.ContainsFunc(want, d.Equal), Expected: want, Expires: r.expires}, nil
}

func (r *refs) Names(set, prefix string) (iter.Seq[string], error) {
	s, ok := r.sets[set]
	if !ok {
		return nil, errNoSet.Missing(set, "", "")
	}
	if prefix != "" && r.torn != nil {
		return nil, r.torn
	}
	var names []string
	for n := range s {
		if strings.HasPrefix(n, prefix) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Values(names), nil
}

func (r *refs) Ref(string) (rats.Ref, error) { return rats.Ref{}, nil }

func digest(b byte) rats.Digest { return rats.Digest{Alg: "sha256", Sum: sum(b, 32)} }

func rules(t testing.TB, doc string) *evidence.Rules {
	t.Helper()
	r := new(evidence.Rules)
	d := yaml.NewDecoder(strings.NewReader(doc))
	d.KnownFields(true)
	if err := d.Decode(r); err != nil {
		t.Fatal(err)
	}
	return r
}

const section = `
tests:
  - {name: passwd, file: /etc/passwd, reference: base}
  - {name: bin, glob: "/usr/bin/*", reference: base, severity: warning, unknown: fail}
  - {name: opt, dir: /opt, exclude: [/opt/tmp], reference: apps, missing: warning}
limits: {files: 10, bytes: 1000, time: 30s}
`

// machine is claims that section finds nothing against, with the references that make it so.
func machine() (*evidence.Claims, *refs) {
	c := &evidence.Claims{
		Backend: "native", Simulated: true,
		Tests: []evidence.Test{
			{ID: 1, Kind: "file", Alg: "sha256", Path: "/etc/passwd"}, {ID: 2, Kind: "glob", Alg: "sha256", Path: "/usr/bin/*"},
			{ID: 3, Kind: "dir", Alg: "sha256", Path: "/opt", Exclude: []string{"/opt/tmp"}},
		},
		Measurements: []evidence.Measurement{
			{Test: 1, Name: "/etc/passwd", Digest: digest(1)},
			{Test: 2, Name: "/usr/bin/a%0A", Digest: digest(2)}, {Test: 2, Name: "/usr/bin/b", Digest: digest(3)},
			{Test: 3, Name: "/opt/x/y", Digest: digest(4)},
		},
	}
	return c, &refs{sets: map[string]map[string][]rats.Digest{
		"base": {
			"/etc/passwd": {digest(9), digest(1)}, "/usr/bin/a%0A": {digest(2)}, "/usr/bin/b": {digest(3)},
			"/usr/bin/sub/x": {digest(5)}, "/usr/binevil": {digest(5)}, "%zz": {digest(5)}, // none in any scope
		},
		"apps": {"/opt/x/y": {digest(4)}, "/opt/tmp/t": {digest(6)}, "/optevil/x": {digest(6)}},
	}}
}

func check(t testing.TB, r *evidence.Rules, c rats.Claims, l rats.Lookup) []string {
	t.Helper()
	var out []string
	for _, x := range r.Check(c, l, start) {
		if x.Code == evidence.CodeFailed.Code {
			continue
		}
		out = append(out, fmt.Sprintf("%s %s %s %s", x.Code, x.Path, x.Rule, x.Tier))
	}
	return out
}

func TestMachineAsReferencedHasNoReasons(t *testing.T) {
	r := rules(t, section)
	if rs := r.Lint(); len(rs) != 0 {
		t.Fatalf("%v", rs)
	}
	c, l := machine()
	if rs := r.Check(c, l, start); len(rs) != 0 {
		t.Errorf("%v", rs)
	}
	if s := r.Slots(); !slices.Equal(s, []rats.Slot{rats.Executables, rats.FileSystem}) || r.Params() != nil {
		t.Errorf("%v", s)
	}
}

// R039: an unknown checksum is reported with path and severity. R034: what could not be read has failed. R127: an empty
// reference denies.
func TestEveryDeviationHasItsReason(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*evidence.Claims, *refs)
		want   []string
	}{
		{"changed", func(c *evidence.Claims, _ *refs) { c.Measurements[0].Digest = digest(8) }, []string{"plan.file.changed /etc/passwd passwd contraindicated"}},
		{"changed, a warning", func(c *evidence.Claims, _ *refs) { c.Measurements[2].Digest = digest(8) }, []string{"plan.file.changed /usr/bin/b bin warning"}},
		{"unknown, severer than changed", func(c *evidence.Claims, _ *refs) { c.Measurements[2].Name = "/usr/bin/c" }, []string{
			"plan.file.unknown /usr/bin/c bin contraindicated", "plan.file.missing /usr/bin/b bin warning",
		}},
		{"missing, a warning", func(c *evidence.Claims, l *refs) { l.sets["apps"]["/opt/z"] = []rats.Digest{digest(1)} }, []string{"plan.file.missing /opt/z opt warning"}},
		{"file not in the set", func(_ *evidence.Claims, l *refs) { delete(l.sets["base"], "/etc/passwd") }, []string{
			"plan.set.missing base passwd none", "plan.file.unknown /etc/passwd passwd contraindicated",
		}},
		{"unreadable", func(c *evidence.Claims, _ *refs) {
			c.Measurements[3].Digest, c.Measurements[3].Err = rats.Digest{}, "measure.file.unreadable"
		}, []string{"plan.file.unreadable /opt/x/y opt contraindicated"}},
		{"test failed as a whole", func(c *evidence.Claims, _ *refs) {
			c.Measurements[3] = evidence.Measurement{Test: 3, Err: "measure.limit.files"}
		}, []string{"plan.file.unreadable /opt opt contraindicated", "plan.file.missing /opt/x/y opt warning"}},
		{"no digest and no error", func(c *evidence.Claims, _ *refs) { c.Measurements[3].Digest = rats.Digest{} }, []string{"plan.file.unreadable /opt/x/y opt contraindicated"}},
		{"no set", func(_ *evidence.Claims, l *refs) { delete(l.sets, "apps") }, []string{"plan.set.missing apps opt none"}},
		{"empty set", func(_ *evidence.Claims, l *refs) { l.sets["apps"] = map[string][]rats.Digest{} }, []string{"plan.set.missing apps opt none"}},
		{"nothing of the set in scope", func(_ *evidence.Claims, l *refs) { delete(l.sets["apps"], "/opt/x/y") }, []string{
			"plan.set.missing apps opt none", "plan.file.unknown /opt/x/y opt contraindicated",
		}},
		{"nothing in scope and nothing found", func(c *evidence.Claims, l *refs) {
			delete(l.sets["apps"], "/opt/x/y")
			c.Measurements = c.Measurements[:3]
		}, nil},
		{"test not run", func(c *evidence.Claims, _ *refs) { c.Tests = c.Tests[:2] }, []string{"plan.test.missing /opt opt none"}},
		{"other excludes", func(c *evidence.Claims, _ *refs) { c.Tests[2].Exclude = nil }, []string{"plan.test.missing /opt opt none"}},
		{"other algorithm", func(c *evidence.Claims, _ *refs) { c.Tests[0].Alg = "sha512" }, []string{"plan.test.missing /etc/passwd passwd none"}},
		{"expired", func(_ *evidence.Claims, l *refs) { l.expires = start }, []string{
			"plan.reference.expired /etc/passwd passwd contraindicated", "plan.reference.expired /usr/bin/a%0A bin warning",
			"plan.reference.expired /usr/bin/b bin warning", "plan.reference.expired /opt/x/y opt contraindicated",
		}},
		{"broken lookup", func(_ *evidence.Claims, l *refs) { l.broken = errors.New("disk") }, []string{
			"plan.set.missing base passwd none", "plan.set.missing base bin none", "plan.set.missing apps opt none",
		}},
		{"torn lookup", func(_ *evidence.Claims, l *refs) { l.torn = errors.New("disk") }, []string{
			"plan.set.missing base passwd none", "plan.set.missing base bin none", "plan.set.missing apps opt none",
		}},
	} {
		claims, l := machine()
		c.change(claims, l)
		if got := check(t, rules(t, section), claims, l); !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
	claims, l := machine()
	l.expires = start.Add(time.Second)
	if got := check(t, rules(t, section), claims, l); got != nil {
		t.Errorf("expired a second early: %q", got)
	}
	for _, code := range []rats.CodeInfo{evidence.CodeChanged, evidence.CodeUnknown, evidence.CodeUnreadable, evidence.CodeMissing, evidence.CodeExpired} {
		if code.Slot != rats.FileSystem {
			t.Errorf("%s lowers %s", code.Code, code.Slot)
		}
	}
}

func TestFailedTestLowersBothSlots(t *testing.T) {
	claims, l := machine()
	claims.Measurements[0].Digest = digest(8)
	var v rats.Vector
	for _, s := range rules(t, section).Slots() {
		v.Lower(s, rats.Affirming)
	}
	for _, r := range rules(t, section).Check(claims, l, start) {
		v.Lower(r.Slot, r.Tier)
		if r.Code == evidence.CodeChanged.Code && (r.Expected != digest(9).String()+" or "+digest(1).String() || r.Seen != digest(8).String()) {
			t.Errorf("%+v", r)
		}
		if r.Code == evidence.CodeFailed.Code && (r.Rule != "passwd" || !strings.Contains(r.Seen, "of 1 measurements 1 changed")) {
			t.Errorf("%+v", r)
		}
	}
	if v[rats.Executables] != rats.Contraindicated || v[rats.FileSystem] != rats.Contraindicated {
		t.Errorf("%v", v)
	}
}

func TestClaimsOfSomethingElseAreUnknown(t *testing.T) {
	for _, c := range []rats.Claims{nil, (*evidence.Claims)(nil)} {
		rs := rules(t, section).Check(c, &refs{}, start)
		if len(rs) != 1 || rs[0].Code != evidence.CodeClaims.Code || rs[0].Tier != rats.None {
			t.Errorf("%v", rs)
		}
	}
	c, _ := machine()
	for _, got := range check(t, rules(t, section), c, nil) {
		if !strings.HasPrefix(got, string(evidence.CodeSet.Code)) {
			t.Errorf("without references: %s", got)
		}
	}
	bad := &evidence.Rules{List: []evidence.TestRule{{Name: "bad"}}} // never linted
	if rs := bad.Check(c, nil, start); len(rs) != 1 || rs[0].Code != evidence.CodeUntested.Code {
		t.Errorf("%v", rs)
	}
	if _, _, err := bad.Tests(nil, [32]byte{}); err == nil {
		t.Error("a test of nothing")
	}
}

func TestTwoRulesMayMeasureTheSameAgainstDifferentSets(t *testing.T) {
	r := rules(t, `tests:
  - {name: a, file: /etc/passwd, reference: base}
  - {name: b, file: /etc/passwd, reference: other}`)
	tests, _, err := r.Tests(nil, [32]byte{})
	if err != nil || len(tests) != 2 || tests[1].ID != 2 {
		t.Fatalf("%v, %v", tests, err)
	}
	c, l := machine()
	c.Tests = []evidence.Test{{ID: 1, Kind: "file", Alg: "sha256", Path: "/etc/passwd"}, {ID: 2, Kind: "file", Alg: "sha256", Path: "/etc/passwd"}}
	c.Measurements = []evidence.Measurement{{Test: 1, Name: "/etc/passwd", Digest: digest(1)}, {Test: 2, Name: "/etc/passwd", Digest: digest(1)}}
	l.sets["other"] = map[string][]rats.Digest{"/etc/passwd": {digest(1)}}
	if got := check(t, r, c, l); got != nil {
		t.Errorf("%q", got)
	}
	l.sets["other"]["/etc/passwd"] = []rats.Digest{digest(2)}
	if got := check(t, r, c, l); !slices.Equal(got, []string{"plan.file.changed /etc/passwd b contraindicated"}) {
		t.Errorf("%q", got)
	}
}

// The first hundred may be warnings: what was left out still counts.
func TestReasonsAreCappedAndStillCount(t *testing.T) {
	r := rules(t, `tests: [{name: all, dir: /d, reference: base, severity: warning, unknown: warning, missing: fail}]`)
	c := &evidence.Claims{Tests: []evidence.Test{{ID: 1, Kind: "dir", Alg: "sha256", Path: "/d"}}}
	for i := range 500 {
		c.Measurements = append(c.Measurements, evidence.Measurement{Test: 1, Name: fmt.Sprintf("/d/%04d", i), Digest: digest(1)})
	}
	l := &refs{sets: map[string]map[string][]rats.Digest{"base": {"/d/gone": {digest(1)}}}}
	rs := r.Check(c, l, start)
	if len(rs) > 110 {
		t.Errorf("%d reasons", len(rs))
	}
	if rats.Worst(rs) != rats.Contraindicated {
		t.Errorf("worst is %s", rats.Worst(rs))
	}
	last := rs[len(rs)-1]
	if last.Code != evidence.CodeMore.Code || last.Tier != rats.Contraindicated || last.Seen != "401 more" {
		t.Errorf("%+v", last)
	}
	var many []rats.Digest
	for i := range 12 {
		many = append(many, digest(byte(10+i)))
	}
	l.sets["base"]["/d/0000"] = many
	for _, x := range r.Check(c, l, start) {
		if x.Code == evidence.CodeChanged.Code && !strings.HasSuffix(x.Expected, " or 4 others") {
			t.Errorf("expected %q", x.Expected)
		}
	}
}

func TestLintRefusesWhatCouldNotBeRight(t *testing.T) {
	for _, c := range []struct {
		doc  string
		want rats.CodeInfo
	}{
		{`tests: []`, evidence.CodeNoTests},
		{`limits: {files: 1}`, evidence.CodeNoTests},
		{`tests: [{file: /x, reference: r}]`, evidence.CodeName},
		{`tests: [{name: a, file: /x, reference: r}, {name: a, file: /y, reference: r}]`, evidence.CodeName},
		{`tests: [{name: a, reference: r}]`, evidence.CodeScope},
		{`tests: [{name: a, file: /x, dir: /x, reference: r}]`, evidence.CodeScope},
		{`tests: [{name: a, file: x, reference: r}]`, evidence.CodeScope},
		{`tests: [{name: a, file: /x/../y, reference: r}]`, evidence.CodeScope},
		{`tests: [{name: a, dir: /x/, reference: r}]`, evidence.CodeScope},
		{`tests: [{name: a, glob: "/[", reference: r}]`, evidence.CodeScope},
		{`tests: [{name: a, glob: /x, exclude: [/y], reference: r}]`, evidence.CodeScope},
		{`tests: [{name: a, dir: /x, exclude: [y], reference: r}]`, evidence.CodeScope},
		{`tests: [{name: a, file: /x, reference: r, alg: sha1}]`, evidence.CodeAlg},
		{`tests: [{name: a, file: /x}]`, evidence.CodeReference},
		{`tests: [{name: a, file: /x, reference: r, severity: none}]`, evidence.CodeSeverity},
		{`tests: [{name: a, file: /x, reference: r, unknown: ignore}]`, evidence.CodeSeverity},
		{`tests: [{name: a, file: /x, reference: r, missing: ok}]`, evidence.CodeSeverity},
		{`{tests: [{name: a, file: /x, reference: r}], limits: {time: -1s}}`, evidence.CodeLimits},
	} {
		rs := rules(t, c.doc).Lint()
		if len(rs) != 1 || rs[0].Code != c.want.Code {
			t.Errorf("%s: %v", c.doc, rs)
		}
	}
}

func TestSectionBecomesAPlan(t *testing.T) {
	tests, limits, err := rules(t, section).Tests(nil, [32]byte{1})
	if err != nil || limits != (plan.Limits{Files: 10, Bytes: 1000, Time: 30 * time.Second}) {
		t.Fatalf("%+v, %v", limits, err)
	}
	p := plan.Plan{Version: plan.Version1, Tests: tests, Limits: limits}
	if _, err := plan.Decode(p.Encode()); err != nil {
		t.Error(err)
	}
	for i, want := range []string{`1 file sha256 {"path":"/etc/passwd"}`, `2 glob sha256 {"pattern":"/usr/bin/*"}`, `3 dir sha256 {"path":"/opt","exclude":["/opt/tmp"]}`} {
		if got := fmt.Sprintf("%d %s %s %s", tests[i].ID, tests[i].Kind, tests[i].Alg, tests[i].Args); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func BenchmarkCheck2000Files(b *testing.B) {
	r := rules(b, `tests: [{name: all, dir: /d, reference: base}]`)
	c := &evidence.Claims{Tests: []evidence.Test{{ID: 1, Kind: "dir", Alg: "sha256", Path: "/d"}}}
	l := &refs{sets: map[string]map[string][]rats.Digest{"base": {}}}
	for i := range 2000 {
		name := fmt.Sprintf("/d/%04d", i)
		c.Measurements = append(c.Measurements, evidence.Measurement{Test: 1, Name: name, Digest: digest(1)})
		l.sets["base"][name] = []rats.Digest{digest(1)}
	}
	for b.Loop() {
		if rs := r.Check(c, l, start); len(rs) != 0 {
			b.Fatal(rs)
		}
	}
}

// R040: a set of a whole distribution holds far more than one machine has; what is absent says nothing then, what is there must
// be known.
func TestFilesOfTheSetMayBeMissingWhereThatIsIgnored(t *testing.T) {
	d := func(n byte) rats.Digest { return rats.SHA256([]byte{n}) }
	set, err := refvalue.New(refvalue.Header{Name: "s", Created: time.Unix(1000, 0)}, []refvalue.Entry{
		{Name: "/usr/bin/a", Digests: []rats.Digest{d(1), d(2)}}, {Name: "/usr/bin/b", Digests: []rats.Digest{d(3)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	index := refvalue.NewIndex(map[string]refvalue.Versioned{"s": {Set: set}})
	for name, tt := range map[string]struct {
		missing string
		file    string
		digest  rats.Digest
		want    rats.Code
	}{
		"known":                  {evidence.MissingIgnore, "/usr/bin/a", d(2), ""},
		"changed":                {evidence.MissingIgnore, "/usr/bin/a", d(9), evidence.CodeChanged.Code},
		"nothing the set names":  {evidence.MissingIgnore, "/usr/bin/c", d(1), evidence.CodeSet.Code},
		"missing, as by default": {"", "/usr/bin/a", d(2), evidence.CodeMissing.Code},
	} {
		r := &evidence.Rules{List: []evidence.TestRule{{Name: "n", Dir: "/usr/bin", Reference: "s", Missing: tt.missing}}}
		if why := r.Lint(); len(why) > 0 {
			t.Fatal(why)
		}
		c := &evidence.Claims{
			Tests:        []evidence.Test{{ID: 1, Kind: plan.KindDir, Alg: "sha256", Path: "/usr/bin"}},
			Measurements: []evidence.Measurement{{Test: 1, Name: tt.file, Digest: tt.digest}},
		}
		why := r.Check(c, index, time.Unix(2000, 0))
		if tt.want == "" && len(why) > 0 || tt.want != "" && !slices.ContainsFunc(why, func(r rats.Reason) bool { return r.Code == tt.want }) {
			t.Errorf("%s: %v", name, why)
		}
	}
}
