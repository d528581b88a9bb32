package plan

import (
	"fmt"
	"slices"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Codes of times.
var (
	CodeTiming   = rats.CodeInfo{Code: "plan.rules.timing", Title: "times of a test can't be judged so", Hint: "repeat, tmin, tmax and timing need timed; only files are repeated; judges are advisory, warn and fail", Slot: rats.Configuration}
	CodeDuration = slow("plan.time.outside", "measurement took less or more time than policy allows", "what was measured may have been served from elsewhere; look at the conditions: steal, throttling and load explain much")
	CodeWindow   = slow("plan.time.window", "measurement took unusually long or short", "one outlier means little, look at the pace; learn the windows anew after changes of hardware, kernel or agent (assay ref calibrate)")
	CodePace     = slow("plan.time.pace", "the run as a whole was slower or faster than in the lab", "contents may have been served from elsewhere, or the machine is of another kind than the lab's")
	CodeSpread   = slow("plan.time.spread", "times of a run are spread wider than in the lab", "some files may have been served from elsewhere; look at the conditions, and at which outcomes are outside of their windows")
	CodeWindows  = slow("plan.time.windows", "there is nothing to compare times with", "calibrate the reference set with the same backend, tests and repetitions (assay ref calibrate); times need a runner with a clock")
)

func slow(c rats.Code, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Title: title, Hint: hint, Slot: rats.FileSystem}
}

// What is done about a time that is not as expected.
const (
	JudgeAdvisory = "advisory" // it is told, and changes nothing
	JudgeWarn     = "warn"
	JudgeFail     = "fail"
)

// TimingRule says how the times of a run are judged as a whole.
type TimingRule struct {
	Reference string `yaml:"reference,omitempty"` // reference set with windows (assay ref calibrate)
	Judge     string `yaml:"judge,omitempty"`     // advisory (default), warn, fail
}

func judgeTier(judge string) rats.Tier {
	switch judge {
	case JudgeFail:
		return rats.Contraindicated
	case JudgeWarn:
		return rats.Warning
	default:
		return rats.Affirming
	}
}

func knownJudge(judge string) bool {
	return slices.Contains([]string{"", JudgeAdvisory, JudgeWarn, JudgeFail}, judge)
}

// Timing are the times of a run's timed tests. Claims of plans without them are equal for equal machines; these are not.
type Timing struct {
	Times      []Time      `json:"times"`
	Conditions []Condition `json:"conditions,omitempty"` // what the machine says of itself that explains times
}

// Time is the duration of a measurement by the runner's clock, and of the reference hash at the same moment.
type Time struct {
	Test  uint32 `json:"test"`
	Name  string `json:"name"`  // as the measurement's; of a check, its own
	Nanos int64  `json:"nanos"` // of repetitions the shortest
	Unit  int64  `json:"unit"`  // of the reference hash; 0: the runner has no clock
}

// Condition is something the machine said of itself.
type Condition struct {
	Name  string `json:"name"`
	Value int64  `json:"value"`
}

// timing takes the times out of a report, nil if no test is timed.
func timing(ordered plan.Plan, outcomes []plan.Outcome, timings []byte) (*Timing, error) {
	if !slices.ContainsFunc(ordered.Tests, func(t plan.Test) bool { return t.Timed }) {
		return nil, nil
	}
	times, err := plan.Times(ordered.Tests, outcomes)
	if err != nil {
		return nil, err
	}
	list, err := plan.DecodeConditions(timings)
	if err != nil {
		return nil, err
	}
	out := &Timing{Times: make([]Time, len(times))}
	for i, t := range times {
		out.Times[i] = Time(t)
	}
	for _, c := range list {
		out.Conditions = append(out.Conditions, Condition(c))
	}
	return out, nil
}

// timed returns the times in units of the reference hash.
func (t *Timing) timed() []plan.Timed {
	if t == nil {
		return nil
	}
	times := make([]plan.Time, len(t.Times))
	for i, x := range t.Times {
		times[i] = plan.Time(x)
	}
	return plan.InUnits(times)
}

// windower is a look-up that knows what lab runs took.
type windower interface {
	// Windows returns a set's windows, nil if it has none.
	Windows(set string) (*plan.Windows, error)
}

// times judges one rule's times by the rule's own bounds.
func (t TestRule) times(c *Claims, id uint32, out *report) {
	if !t.Timed || t.TMin == 0 && t.TMax == 0 {
		return
	}
	expected := fmt.Sprintf("%s to %s", t.TMin, t.TMax)
	if t.TMax == 0 {
		expected = fmt.Sprintf("at least %s", t.TMin)
	}
	some := false
	if c.Timing != nil {
		for _, x := range c.Timing.Times {
			if x.Test != id {
				continue
			}
			some = some || x.Nanos > 0
			if d := time.Duration(x.Nanos); x.Nanos > 0 && (d < t.TMin || t.TMax > 0 && d > t.TMax) {
				r := CodeDuration.At(judgeTier(t.Timing), x.Name, expected, d.String())
				r.Rule = t.Name
				out.file(r)
			}
		}
	}
	if !some {
		out.test(CodeWindows.At(judgeTier(t.Timing), t.Name, expected, "no times"), t)
	}
}

// run judges a run's times as a whole, by what lab runs took. rules are those of the tests, by the tests' ids.
func (t TimingRule) run(c *Claims, refs rats.Lookup, rules map[uint32]TestRule, out *report) {
	if t.Reference == "" {
		return
	}
	tier := judgeTier(t.Judge)
	lower := func(code rats.CodeInfo, tier rats.Tier, path, expected, seen string) {
		r := code.At(tier, path, expected, seen)
		r.Rule = "timing"
		out.tests = append(out.tests, r)
	}
	from, ok := refs.(windower)
	if !ok {
		lower(CodeWindows, tier, t.Reference, "windows", "a look-up without any")
		return
	}
	w, err := from.Windows(t.Reference)
	switch {
	case err != nil:
		lower(CodeSet, rats.None, t.Reference, "a reference set with windows", err.Error())
		return
	case w == nil:
		lower(CodeWindows, tier, t.Reference, "a reference set with windows", "one without")
		return
	case w.Backend != c.Backend:
		lower(CodeWindows, tier, t.Reference, "windows of backend "+c.Backend, w.Backend)
		return
	}
	j := w.Judge(c.Timing.timed())
	if c.Timing == nil || j.Compared*2 < len(w.Names) {
		lower(CodeWindows, tier, t.Reference, fmt.Sprintf("times of most of the %d outcomes with a window", len(w.Names)), fmt.Sprintf("%d", j.Compared))
		return
	}
	if !w.Pace.Holds(j.Pace) {
		lower(CodePace, tier, t.Reference, permille(w.Pace), conditionsOf(c, fmt.Sprintf("%d ‰ of the lab's median", j.Pace)))
	}
	if !w.Spread.Holds(j.Spread) {
		lower(CodeSpread, tier, t.Reference, permille(w.Spread), conditionsOf(c, fmt.Sprintf("%d ‰", j.Spread)))
	}
	byName := make(map[string]uint32, len(c.Timing.Times))
	for _, x := range c.Timing.Times {
		byName[x.Name] = x.Test
	}
	for _, o := range j.Outside {
		rule := rules[byName[o.Name]]
		r := CodeWindow.At(judgeTier(rule.Timing), o.Name, fmt.Sprintf("%d to %d thousandths of the reference hash", o.Window.Low, o.Window.High), fmt.Sprint(o.Units))
		r.Rule = rule.Name
		out.file(r)
	}
}

func permille(r plan.Range) string { return fmt.Sprintf("%d to %d ‰", r.Low, r.High) }

// conditionsOf puts what may explain a time next to it.
func conditionsOf(c *Claims, seen string) string {
	for _, x := range c.Timing.Conditions {
		seen += fmt.Sprintf(", %s %d", x.Name, x.Value)
	}
	return clipText(seen)
}

// lintTiming says what is wrong with what a rule says of times.
func (t TestRule) lintTiming(at string) []rats.Reason {
	files := t.File != "" || t.Glob != "" || t.Dir != ""
	switch {
	case !t.Timed && (t.Repeat != 0 || t.TMin != 0 || t.TMax != 0 || t.Timing != ""):
		return []rats.Reason{CodeTiming.Refuse(at+".timed", "true, or none of repeat, tmin, tmax and timing", "false")}
	case t.Repeat < 0 || t.Repeat > plan.MaxRepeat || t.Repeat > 1 && !files:
		return []rats.Reason{CodeTiming.Refuse(at+".repeat", fmt.Sprintf("0 to %d, of files", plan.MaxRepeat), fmt.Sprint(t.Repeat))}
	case t.TMin < 0 || t.TMax < 0 || t.TMax > 0 && t.TMin > t.TMax:
		return []rats.Reason{CodeTiming.Refuse(at+".tmin", "0 to tmax", fmt.Sprintf("%s to %s", t.TMin, t.TMax))}
	case !knownJudge(t.Timing):
		return []rats.Reason{CodeTiming.Refuse(at+".timing", "advisory, warn or fail", fmt.Sprintf("%q", t.Timing))}
	}
	return nil
}

func (r *Rules) lintTiming() []rats.Reason {
	if !knownJudge(r.Timing.Judge) {
		return []rats.Reason{CodeTiming.Refuse("plan.timing.judge", "advisory, warn or fail", fmt.Sprintf("%q", r.Timing.Judge))}
	}
	if r.Timing.Judge != "" && r.Timing.Reference == "" {
		return []rats.Reason{CodeTiming.Refuse("plan.timing.reference", "a reference set with windows", "none")}
	}
	if r.Timing.Reference != "" && !slices.ContainsFunc(r.List, func(t TestRule) bool { return t.Timed }) {
		return []rats.Reason{CodeTiming.Refuse("plan.timing", "a test that is timed", "none")}
	}
	return nil
}
