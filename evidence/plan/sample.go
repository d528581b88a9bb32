package plan

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Codes of tests that take turns.
var (
	CodeSample     = rats.CodeInfo{Code: "plan.rules.sample", Title: "test has a sample that can't be drawn", Hint: "give count or fraction (above 0, below 1), within from 1m to 12h, and overdue as fail, warning or ignore", Slot: rats.Configuration}
	CodeSampleSize = rats.CodeInfo{Code: "plan.sample.size", Title: "sample is too large for one plan", Hint: "measure the directory whole, lengthen within, or shorten every", Slot: rats.Configuration}
	CodeCoverage   = rats.CodeInfo{Code: "plan.sample.overdue", Title: "not every file of a sample was measured within its time", Hint: "the node missed attestations; what is missing follows within the time the rule gives", Slot: rats.FileSystem}
)

// What an overdue sample means.
const overdueIgnore = "ignore"

// Bounds of a sample's time. Ages of measurements are remembered for maxWithin.
const (
	minWithin = time.Minute
	maxWithin = 12 * time.Hour
	// maxUnits bounds how many units of one node are remembered, 12 bytes each.
	maxUnits = 20_000
)

// Sample makes a test take turns: each plan measures a part of its units. Units are the files of the reference set that lie
// in the test's scope; of a command, a check or a single file it is the test itself.
//
// Every plan holds a random part, chosen by the challenge, of at least Count units and at least Fraction of all; and the
// units whose turn it is, so that each is measured once in every half of Within. The order of turns is drawn anew each time
// from a key the node doesn't know.
type Sample struct {
	Count    int           `yaml:"count,omitempty"`
	Fraction float64       `yaml:"fraction,omitempty"`
	Within   time.Duration `yaml:"within"`
	Overdue  string        `yaml:"overdue,omitempty"` // fail, warning (default), ignore
}

func (t TestRule) lintSample(at string) []rats.Reason {
	s := t.Sample
	if s == nil {
		return nil
	}
	switch {
	case s.Count < 0 || s.Count > plan.MaxTests/2, s.Fraction < 0 || s.Fraction >= 1 || math.IsNaN(s.Fraction), s.Count == 0 && s.Fraction == 0:
		return []rats.Reason{CodeSample.Refuse(at+".sample", "count or fraction", fmt.Sprintf("%d, %g", s.Count, s.Fraction))}
	case s.Within < minWithin || s.Within > maxWithin:
		return []rats.Reason{CodeSample.Refuse(at+".sample.within", fmt.Sprintf("%s to %s", minWithin, maxWithin), s.Within.String())}
	case s.Overdue != "" && s.Overdue != SeverityFail && s.Overdue != SeverityWarning && s.Overdue != overdueIgnore:
		return []rats.Reason{CodeSample.Refuse(at+".sample.overdue", "fail, warning or ignore", fmt.Sprintf("%q", s.Overdue))}
	}
	return nil
}

// many says whether the rule's units are files of its reference set.
func (t TestRule) many() bool { return t.Dir != "" || t.Glob != "" }

// units are the names of the reference set in the rule's scope, ascending; one empty name if the test itself is the unit.
func (t TestRule) units(l rats.Lookup) ([]string, error) {
	if !t.many() {
		return []string{""}, nil
	}
	whole, err := t.test(1)
	if err != nil {
		return nil, err
	}
	scope, err := whole.Scope()
	if err != nil {
		return nil, err
	}
	names, err := l.Names(t.Reference, rats.EscapePath(scope.Literal()))
	if err != nil {
		return nil, err
	}
	var out []string
	for name := range names {
		if p, err := rats.UnescapePath(name); err == nil && scope.Covers(p) {
			out = append(out, name)
		}
	}
	return out, nil
}

// unit is the test of one unit.
func (t TestRule) unit(id uint32, name string) (plan.Test, error) {
	if !t.many() {
		return t.test(id)
	}
	return plan.NewFilesTest(id, plan.KindFile, t.alg(), name, nil, plan.FileOptions{Attributes: t.Attributes, Direct: t.Direct})
}

// slack is how much longer than the period a turn lasts, so that an attestation falls into each although some come late.
const slack = 1.25

// drawn chooses the units of a rule for one plan, as ascending indexes. Nil: all of them.
func (t TestRule) drawn(n int, m plan.Moment) []int {
	s := t.Sample
	cycle := s.Within / 2
	turn := time.Duration(float64(m.Every) * slack)
	turns := int(cycle / turn)
	random := max(s.Count, int(math.Ceil(s.Fraction*float64(n))))
	if turns < 2 || n > 1 && random >= n {
		return nil // there is no time for turns, or all is asked
	}
	length := cycle / time.Duration(turns)
	now := m.At.UnixNano()
	period, at := now/int64(cycle), int(min(now%int64(cycle)/int64(length), int64(turns-1)))
	key := m.Turn(fmt.Sprintf("turns/%q/%s/%d", t.Name, cycle, period))
	picked := map[int]bool{}
	for place, i := range shuffled(key, n) {
		if n == 1 {
			// A single test's turn must not be told from the turns before it: any of the turns may be the one.
			place = int(binary.BigEndian.Uint32(key[:4]) % uint32(turns))
			if place == at {
				picked[i] = true
			}
			continue
		}
		if place*turns/n == at {
			picked[i] = true
		}
	}
	own := sha256.Sum256(append([]byte("assay/sample/1\x00"+t.Name+"\x00"), m.Seed[:]...))
	if n == 1 {
		share := s.Fraction
		if s.Count > 0 {
			share = 1
		}
		if float64(binary.BigEndian.Uint32(own[:4]))/(1<<32) < share {
			picked[0] = true
		}
	} else {
		for _, i := range shuffled(own, n)[:random] {
			picked[i] = true
		}
	}
	out := make([]int, 0, len(picked))
	for i := range picked {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}

// shuffled returns 0…n-1 in an order that only whoever has the key can tell.
func shuffled(key [32]byte, n int) []int {
	type place struct {
		by [32]byte
		i  int
	}
	all := make([]place, n)
	mac := hmac.New(sha256.New, key[:])
	var b [8]byte
	for i := range all {
		mac.Reset()
		binary.BigEndian.PutUint64(b[:], uint64(i))
		mac.Write(b[:])
		all[i].i = i
		mac.Sum(all[i].by[:0])
	}
	slices.SortFunc(all, func(x, y place) int { return cmp.Or(bytes.Compare(x.by[:], y.by[:]), cmp.Compare(x.i, y.i)) })
	out := make([]int, n)
	for i, p := range all {
		out[i] = p.i
	}
	return out
}

// TestsAt returns what the section wants measured at a moment: its tests, and of those that take turns the units that are
// drawn. Which they are follows from the moment alone.
func (r *Rules) TestsAt(l rats.Lookup, m plan.Moment) ([]plan.Test, plan.Limits, error) {
	limits := plan.Limits{Files: r.Limits.Files, Bytes: r.Limits.Bytes, Time: r.Limits.Time}
	var whole, turns []plan.Test
	id := plan.FirstTurn
	for i, rule := range r.List {
		var units []string
		var picked []int
		if rule.Sample != nil && m.Turns() && l != nil {
			var err error
			if units, err = rule.units(l); err == nil && len(units) > 0 {
				picked = rule.drawn(len(units), m)
			}
		}
		if picked == nil { // whatever is wrong with the reference set shows when it is judged
			t, err := rule.test(uint32(i + 1))
			if err != nil {
				return nil, limits, fmt.Errorf("making test %q: %w", rule.Name, err)
			}
			whole = append(whole, t)
			continue
		}
		for _, u := range picked {
			t, err := rule.unit(id, units[u])
			if err != nil {
				return nil, limits, fmt.Errorf("making test %q: %w", rule.Name, err)
			}
			turns = append(turns, t)
			id++
		}
	}
	out := append(whole, turns...)
	if len(out) > plan.MaxTests {
		return nil, limits, CodeSampleSize.Bad("plan.tests", fmt.Sprintf("at most %d tests", plan.MaxTests), fmt.Sprint(len(out)))
	}
	if len(out) == 0 { // single tests, whose turn it isn't: a plan has one test at least
		i := int(binary.BigEndian.Uint32(m.Seed[:4]) % uint32(len(r.List)))
		t, err := r.List[i].test(plan.FirstTurn)
		if err != nil {
			return nil, limits, fmt.Errorf("making test %q: %w", r.List[i].Name, err)
		}
		out = append(out, t)
	}
	for i := range out {
		var err error
		if out[i], err = seeded(out[i], m.Seed); err != nil {
			return nil, limits, fmt.Errorf("choosing the chunks of test %d: %w", out[i].ID, err)
		}
	}
	return out, limits, nil
}

// sampled judges a rule whose units take turns by those that were measured, and says whether there were any. run are the
// tests of the claims by what they measure.
func (c *check) sampled(run map[string][]uint32, measured map[uint32][]Measurement) bool {
	units, err := c.rule.units(c.refs)
	if err != nil {
		return c.lookup(err)
	}
	found := 0
	for _, name := range units {
		t, err := c.rule.unit(1, name)
		if err != nil {
			continue // the set names what no test can measure
		}
		k, _ := c.rule.key(t)
		ids := run[k]
		if len(ids) == 0 {
			continue
		}
		found++
		for _, m := range measured[ids[0]] {
			if !c.measurement(m) {
				return true
			}
		}
	}
	if c.lowered > 0 {
		c.out.test(CodeFailed.At(c.worst, rats.EscapePath(c.scope.Path), "everything as the rule wants it", fmt.Sprintf(
			"of a sample of %d of %d units %d changed, %d unknown, %d unreadable", found, len(units), c.changed, c.unknown, c.unreadable)), c.rule)
	}
	return found > 0
}

// Coverage is how far the tests that take turns have come, over all attestations of the node so far.
type Coverage struct {
	Units   int   `json:"units"`   // measured this time
	Known   int   `json:"known"`   // different ones, measured within the last 12 hours
	Tracked int64 `json:"tracked"` // seconds since the first of them, at most 12 hours
	// Within counts the different units that were measured within the last 1, 5, 15, 30 minutes, 1, 2, 4, 8 and 12 hours.
	Within []int `json:"within"`
}

var ages = []time.Duration{
	time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, maxWithin,
}

// covered returns how many units were measured within a time at least that long, and whether units were remembered for it.
func (c *Coverage) covered(within time.Duration) (int, bool) {
	for i, a := range ages {
		if a >= within && i < len(c.Within) {
			return c.Within[i], time.Duration(c.Tracked)*time.Second >= min(a, maxWithin-time.Minute)
		}
	}
	return 0, false
}

// unitKey is how a unit is remembered: 8 bytes of a digest of what it measures.
func unitKey(t Test) [8]byte {
	sum := sha256.Sum256([]byte(t.key()))
	return [8]byte(sum[:8])
}

const unitSize = 8 + 4 // key, and Unix seconds / 4 bytes

// cover notes what was measured in this run and returns the claim and what to remember; nil if nothing takes turns.
func cover(tests []Test, resume Resume, now time.Time) (*Coverage, []byte, int64) {
	seen := map[[8]byte]int64{}
	since := resume.Since
	oldest := now.Add(-maxWithin).Unix()
	for b := resume.Covered; len(b) >= unitSize; b = b[unitSize:] {
		if at := int64(binary.BigEndian.Uint32(b[8:])); at >= oldest && at <= now.Unix() {
			seen[[8]byte(b)] = at
		}
	}
	c := &Coverage{Within: make([]int, len(ages))}
	for _, t := range tests {
		if t.ID < plan.FirstTurn {
			continue
		}
		c.Units++
		if k := unitKey(t); len(seen) < maxUnits || seen[k] != 0 {
			seen[k] = now.Unix()
		}
	}
	if len(seen) == 0 {
		return nil, nil, 0
	}
	if since == 0 || since > now.Unix() {
		since = now.Unix()
	}
	keys := make([][8]byte, 0, len(seen))
	for k := range seen {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [8]byte) int { return bytes.Compare(a[:], b[:]) })
	out := make([]byte, 0, len(keys)*unitSize)
	for _, k := range keys {
		at := seen[k]
		out = binary.BigEndian.AppendUint32(append(out, k[:]...), uint32(at))
		for i, a := range ages {
			if now.Unix()-at <= int64(a/time.Second) {
				c.Within[i]++
			}
		}
	}
	c.Known, c.Tracked = len(keys), min(now.Unix()-since, int64(maxWithin/time.Second))
	return c, out, since
}

// coverage judges whether everything that takes turns had its turn in time.
func (r *Rules) coverage(c *Coverage, refs rats.Lookup, out *report) {
	if c == nil || refs == nil {
		return
	}
	total, longest, tier := 0, time.Duration(0), rats.Affirming
	var first TestRule
	for _, rule := range r.List {
		if rule.Sample == nil {
			continue
		}
		units, err := rule.units(refs)
		if err != nil {
			return // judged where it is looked up
		}
		total += len(units)
		if rule.Sample.Within > longest {
			longest = rule.Sample.Within
		}
		if rule.Sample.Overdue != overdueIgnore {
			own := rats.Warning
			if rule.Sample.Overdue == SeverityFail {
				own = rats.Contraindicated
			}
			if tier == rats.Affirming {
				first = rule
			}
			tier = rats.Worse(tier, own)
		}
	}
	if tier == rats.Affirming {
		return
	}
	if done, tracked := c.covered(longest); tracked && done < min(total, maxUnits) {
		out.test(CodeCoverage.At(tier, "", fmt.Sprintf("%d units within %s", total, longest), fmt.Sprint(done)), first)
	}
}
