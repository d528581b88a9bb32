package plan

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// Bounds of timed tests.
const (
	MaxRepeat     = 16
	MaxConditions = 64
)

// ReferenceBytes is what the reference hash hashes: SHA-256 over that many zero bytes, the fastest of ReferenceTries, in the
// runner's own way of hashing. Its duration is the unit that durations are expressed in, so that a machine with a slower clock,
// or one that shares its cores, is compared with itself.
const (
	ReferenceBytes = 16 << 10
	ReferenceTries = 3
)

// Condition is something that was true of the machine while times were taken, such as steal time. The machine says so: it
// explains times and proves nothing.
type Condition struct {
	Name  string // a-z, 0-9 and -
	Value int64
}

func checkConditions(list []Condition) error {
	if len(list) > MaxConditions {
		return badTimings(fmt.Sprintf("at most %d conditions", MaxConditions), fmt.Sprint(len(list)))
	}
	for i, c := range list {
		if c.Name == "" || !plainCode(rats.Code(c.Name)) || c.Value < 0 || i > 0 && list[i-1].Name >= c.Name {
			return badTimings("conditions by ascending name, none below zero", clip(c.Name))
		}
	}
	return nil
}

func badTimings(expected, seen string) error { return CodeOutcomes.Bad("timings", expected, seen) }

func appendConditions(b []byte, list []Condition) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	for _, c := range list {
		b = appendField(b, []byte(c.Name))
		b = binary.BigEndian.AppendUint64(b, uint64(c.Value))
	}
	return b
}

// openTimings returns how many outcomes the part has times of, a reader of them, and the conditions.
func openTimings(b []byte) (total uint32, times *reader, list []Condition, err error) {
	r := &reader{rest: b}
	if string(r.field()) != timingsTag {
		return 0, nil, nil, badTimings(timingsTag, "")
	}
	total = r.uint32()
	if r.bad || total > MaxOutcomes || len(r.rest) < 16*int(total) {
		return 0, nil, nil, badTimings("16 bytes for each of the outcomes", fmt.Sprintf("%d bytes for %d", len(r.rest), total))
	}
	times = &reader{rest: r.take(16 * int(total))}
	n := r.uint32()
	if r.bad || n > MaxConditions {
		return 0, nil, nil, badTimings(fmt.Sprintf("at most %d conditions", MaxConditions), fmt.Sprint(n))
	}
	for range n {
		c := Condition{Name: string(r.field())}
		v := r.uint64()
		if r.bad || v > math.MaxInt64 {
			return 0, nil, nil, badTimings("conditions", "truncated, or a number out of range")
		}
		c.Value = int64(v)
		list = append(list, c)
	}
	if !r.done() {
		return 0, nil, nil, badTimings("nothing after the last condition", fmt.Sprintf("%d bytes", len(r.rest)))
	}
	return total, times, list, checkConditions(list)
}

// DecodeConditions reads the conditions of a report's timings.
func DecodeConditions(timings []byte) ([]Condition, error) {
	_, _, list, err := openTimings(timings)
	return list, err
}

// Units returns the outcome's duration in thousandths of the reference hash, 0 if that isn't known.
func (o Outcome) Units() int64 { return UnitsOf(o.Nanos, o.Unit) }

// UnitsOf returns a duration in thousandths of the reference hash, 0 if that isn't known.
func UnitsOf(nanos, unit int64) int64 {
	if unit <= 0 || nanos <= 0 || nanos > math.MaxInt64/1000 {
		return 0
	}
	return max(nanos*1000/unit, 1)
}

// Timed is the duration of one outcome in thousandths of the reference hash.
type Timed struct {
	Name  string // text form of the outcome's name
	Units int64
}

// Time is the duration of one outcome.
type Time struct {
	Test  uint32
	Name  string // text form of the outcome's name; of a check, which takes one time for all its items, its own
	Nanos int64
	Unit  int64 // of the reference hash; 0: not known
}

// Times returns the durations of timed tests whose outcomes have digests, in the order of outcomes.
func Times(tests []Test, outcomes []Outcome) ([]Time, error) {
	checks := make(map[uint32]string)
	timed := make(map[uint32]bool)
	for _, t := range tests {
		timed[t.ID] = t.Timed
		if t.Timed && t.Kind == KindCheck {
			s, err := t.Scope()
			if err != nil {
				return nil, fmt.Errorf("reading test %d: %w", t.ID, err)
			}
			checks[t.ID] = rats.EscapePath(s.Path)
		}
	}
	var out []Time
	last := uint32(0)
	for _, o := range outcomes {
		if !timed[o.Test] || o.Err != "" {
			continue
		}
		name, check := checks[o.Test]
		if check && last == o.Test {
			continue
		}
		if last = o.Test; !check {
			name = rats.EscapePath(o.Name)
		}
		out = append(out, Time{o.Test, name, o.Nanos, o.Unit})
	}
	return out, nil
}

// InUnits returns times in units of the reference hash, each name once; what isn't known is left out.
func InUnits(times []Time) []Timed {
	out := make([]Timed, 0, len(times))
	seen := make(map[string]bool, len(times))
	for _, x := range times {
		if u := UnitsOf(x.Nanos, x.Unit); u > 0 && !seen[x.Name] {
			seen[x.Name] = true
			out = append(out, Timed{x.Name, u})
		}
	}
	return out
}

// Window is what lab runs took for one outcome, in thousandths of the reference hash.
type Window struct {
	Name      string
	Low, High int64 // what is outside of them is unusual
	Median    int64
	MAD       int64 // median absolute deviation
}

// Range is an interval, both ends included.
type Range struct{ Low, High int64 }

// Holds says whether v is in the range.
func (r Range) Holds(v int64) bool { return v >= r.Low && v <= r.High }

// Windows are learned from lab runs: what each outcome takes, and how a run as a whole differs from the medians.
type Windows struct {
	Backend string   // what ran the plan: times of another are not comparable
	Runs    int      // lab runs they were learned from
	Repeat  int      // measurements of which the shortest counted
	Pace    Range    // of Judgement.Pace
	Spread  Range    // of Judgement.Spread
	Names   []Window // by ascending name
}

// MaxWindows bounds the windows of one set.
const MaxWindows = 100_000

// Learning says how windows are made of lab runs.
type Learning struct {
	Backend string
	Repeat  int
	// Margin is added to both ends of what was seen, in thousandths: 250 makes windows a quarter wider. Few runs need more.
	Margin int64
}

// MinRuns is the least number of runs to learn from.
const MinRuns = 5

// Learn makes windows of lab runs. An outcome that isn't in all of them gets none. The ends of a window are the 1st and the
// 99th percentile with the margin, and no closer to the median than six deviations.
func Learn(runs [][]Timed, l Learning) (Windows, error) {
	if len(runs) < MinRuns || l.Margin < 0 || l.Margin > 10_000 {
		return Windows{}, fmt.Errorf("learning from %d runs with a margin of %d: at least %d runs, a margin of 0 to 10000", len(runs), l.Margin, MinRuns)
	}
	seen := make(map[string][]int64)
	for _, run := range runs {
		for _, t := range run {
			if t.Units > 0 {
				seen[t.Name] = append(seen[t.Name], t.Units)
			}
		}
	}
	w := Windows{Backend: l.Backend, Runs: len(runs), Repeat: max(l.Repeat, 1)}
	for name, all := range seen {
		if len(all) == len(runs) {
			w.Names = append(w.Names, window(name, all, l.Margin))
		}
	}
	if len(w.Names) == 0 || len(w.Names) > MaxWindows {
		return Windows{}, fmt.Errorf("learning from %d runs: %d outcomes with a time in all of them; 1 to %d", len(runs), len(w.Names), MaxWindows)
	}
	slices.SortFunc(w.Names, func(a, b Window) int { return strings.Compare(a.Name, b.Name) })
	paces, spreads := make([]int64, len(runs)), make([]int64, len(runs))
	for i, run := range runs {
		j := w.Judge(run)
		paces[i], spreads[i] = j.Pace, j.Spread
	}
	p, s := window("", paces, l.Margin), window("", spreads, l.Margin)
	w.Pace, w.Spread = Range{p.Low, p.High}, Range{0, s.High}
	return w, nil
}

func window(name string, all []int64, margin int64) Window {
	all = slices.Sorted(slices.Values(all))
	w := Window{Name: name, Median: median(all)}
	off := make([]int64, len(all))
	for i, v := range all {
		off[i] = max(v-w.Median, w.Median-v)
	}
	slices.Sort(off)
	w.MAD = median(off)
	first, last := all[(len(all)-1)/100], all[len(all)-1-(len(all)-1)/100]
	const deviations = 9 // 6 of a normal distribution's, which are 1.48 MAD each
	w.Low = max(min(first-first*margin/1000, w.Median-deviations*w.MAD), 0)
	w.High = max(last+last*margin/1000, w.Median+deviations*w.MAD)
	return w
}

// median returns the median of sorted values, the lower one of two.
func median(sorted []int64) int64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)/2]
}

// Judgement is a run compared with windows.
type Judgement struct {
	Compared int   // outcomes that have a window
	Pace     int64 // median of duration/median duration, in thousandths: 1000 is the lab's
	Spread   int64 // median deviation of those ratios from the pace, in thousandths of the pace
	Outside  []Outside
}

// Outside is an outcome outside of its window.
type Outside struct {
	Timed
	Window Window
}

// Judge compares a run with the windows: as a whole, by two numbers that a minority of outliers can't move, and each
// outcome by itself. Times that aren't known are passed over.
func (w Windows) Judge(run []Timed) Judgement {
	var j Judgement
	ratios := make([]int64, 0, len(run))
	for _, t := range run {
		i, ok := slices.BinarySearchFunc(w.Names, t.Name, func(x Window, name string) int { return strings.Compare(x.Name, name) })
		if !ok || t.Units <= 0 || t.Units > math.MaxInt64/1000 {
			continue
		}
		x := w.Names[i]
		ratios = append(ratios, t.Units*1000/max(x.Median, 1))
		if t.Units < x.Low || t.Units > x.High {
			j.Outside = append(j.Outside, Outside{t, x})
		}
	}
	j.Compared = len(ratios)
	slices.Sort(ratios)
	j.Pace = median(ratios)
	for i, r := range ratios {
		ratios[i] = max(r-j.Pace, j.Pace-r)
	}
	slices.Sort(ratios)
	j.Spread = median(ratios)
	if j.Spread < math.MaxInt64/1000 {
		j.Spread = j.Spread * 1000 / max(j.Pace, 1)
	}
	return j
}
