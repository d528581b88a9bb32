package plan

import (
	"fmt"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Codes of a policy's section.
var (
	CodeNoTests   = rats.CodeInfo{Code: "plan.rules.no-tests", Title: "section has no tests", Hint: "a plan without tests measures nothing: add tests, or leave the section out", Slot: rats.Configuration}
	CodeName      = rats.CodeInfo{Code: "plan.rules.name", Title: "test has no name, or the name of another", Hint: "reasons name the test: give each its own name", Slot: rats.Configuration}
	CodeScope     = rats.CodeInfo{Code: "plan.rules.scope", Title: "test does not say what to measure", Hint: "give exactly one of file, glob, dir, command and check; paths are absolute, without // . .. or a trailing slash; docs/measuring.md says which options go with which", Slot: rats.Configuration}
	CodeJudge     = rats.CodeInfo{Code: "plan.rules.judge", Title: "test has judges that don't go together", Hint: "files need a reference; a command a reference, match or no_match; a check any of reference, allow, deny and expect", Slot: rats.Configuration}
	CodeAlg       = rats.CodeInfo{Code: "plan.rules.alg", Title: "unknown digest algorithm", Hint: "use sha256 (default), sha384 or sha512", Slot: rats.Configuration}
	CodeReference = rats.CodeInfo{Code: "plan.rules.reference", Title: "test names no reference set", Hint: "without a reference nothing could be right: name a set", Slot: rats.Configuration}
	CodeSeverity  = rats.CodeInfo{Code: "plan.rules.severity", Title: "unknown severity", Hint: "use fail (default) or warning", Slot: rats.Configuration}
	CodeLimits    = rats.CodeInfo{Code: "plan.rules.limits", Title: "limit is below zero", Hint: "leave it out for the agent's own limit", Slot: rats.Configuration}
)

// Severities of a rule.
const (
	SeverityFail    = "fail"
	SeverityWarning = "warning"
)

// Rules is the section `plan:` of a policy.
type Rules struct {
	List   []TestRule `yaml:"tests"`
	Limits Limits     `yaml:"limits,omitempty"`
	Timing TimingRule `yaml:"timing,omitempty"`
}

// TestRule is one test with what its outcomes are compared with. Paths are absolute, in text form (control bytes, % and
// bytes that are not UTF-8 as %XX).
type TestRule struct {
	Name    string   `yaml:"name"`              // names the test in reasons
	File    string   `yaml:"file,omitempty"`    // one file
	Glob    string   `yaml:"glob,omitempty"`    // regular files by a pattern: * ? [a-z], none crosses a slash
	Dir     string   `yaml:"dir,omitempty"`     // every regular file below a directory
	Command []string `yaml:"command,omitempty"` // what a program prints: its absolute path and its arguments
	Check   string   `yaml:"check,omitempty"`   // a named check

	Exclude    []string      `yaml:"exclude,omitempty"`    // of dir and checks: paths at and below which nothing is measured
	Attributes []string      `yaml:"attributes,omitempty"` // of files: links, mode, owner, xattrs are measured too
	Direct     bool          `yaml:"direct,omitempty"`     // of files: read past the page cache
	Chunk      int64         `yaml:"chunk,omitempty"`      // of files: a Merkle tree over chunks of so many bytes, a power of two
	Trust      string        `yaml:"trust,omitempty"`      // of files with chunk: ctime or verity says which are not read again
	Spots      int           `yaml:"spots,omitempty"`      // of files with chunk: random chunks that are read each time, of a file that didn't seem to change
	Verity     bool          `yaml:"verity,omitempty"`     // of files: the kernel's fs-verity digest instead of the content
	Timed      bool          `yaml:"timed,omitempty"`      // durations are reported and judged
	Repeat     int           `yaml:"repeat,omitempty"`     // of timed files: the shortest of so many measurements counts
	TMin       time.Duration `yaml:"tmin,omitempty"`       // of timed tests: least that each measurement takes
	TMax       time.Duration `yaml:"tmax,omitempty"`       // of timed tests: most
	Timing     string        `yaml:"timing,omitempty"`     // of timed tests, what is outside of tmin, tmax or its window: advisory (default), warn, fail
	Env        []string      `yaml:"env,omitempty"`        // of a command: LANG=…, LC_ALL=…, TZ=…
	Status     bool          `yaml:"status,omitempty"`     // of a command: its exit status is measured too
	Bytes      int64         `yaml:"bytes,omitempty"`      // of a command: most it may print
	Time       time.Duration `yaml:"time,omitempty"`       // of a command: most it may take
	Paths      []string      `yaml:"paths,omitempty"`      // of a check
	Names      []string      `yaml:"names,omitempty"`      // of a check
	Options    []string      `yaml:"options,omitempty"`    // of a check: its switches
	Disclose   bool          `yaml:"disclose,omitempty"`   // of a check: values leave the node, not only their digests

	Alg       string              `yaml:"alg,omitempty"`       // sha256 (default), sha384, sha512
	Reference string              `yaml:"reference,omitempty"` // reference set; files need one
	Match     string              `yaml:"match,omitempty"`     // of a command: RE2 pattern that must be found in its output
	NoMatch   string              `yaml:"no_match,omitempty"`  // of a command: RE2 pattern that must not be found
	Allow     []string            `yaml:"allow,omitempty"`     // of a check: items that may be there, whatever their value; * is anything
	Deny      []string            `yaml:"deny,omitempty"`      // of a check: items that may not be there, whatever else permits them
	Expect    map[string][]string `yaml:"expect,omitempty"`    // of a check: items that must be there, with the values they may have
	Severity  string              `yaml:"severity,omitempty"`  // of what is changed or unreadable: fail (default), warning
	Unknown   string              `yaml:"unknown,omitempty"`   // of what nothing names; default: severity
	Missing   string              `yaml:"missing,omitempty"`   // of what the set names and was not found; default: severity
	Sample    *Sample             `yaml:"sample,omitempty"`    // measured in turns, a part each time
}

// Limits bound one run; zero is the agent's own limit.
type Limits struct {
	Files int64         `yaml:"files,omitempty"`
	Bytes int64         `yaml:"bytes,omitempty"`
	Time  time.Duration `yaml:"time,omitempty"`
}

// Lint implements rats.Rules.
func (r *Rules) Lint() []rats.Reason {
	var out []rats.Reason
	if len(r.List) == 0 || len(r.List) > plan.MaxTests {
		out = append(out, CodeNoTests.Refuse("plan.tests", fmt.Sprintf("1 to %d tests", plan.MaxTests), fmt.Sprint(len(r.List))))
	}
	if r.Limits.Files < 0 || r.Limits.Bytes < 0 || r.Limits.Time < 0 {
		out = append(out, CodeLimits.Refuse("plan.limits", "none below zero", fmt.Sprintf("%+v", r.Limits)))
	}
	out = append(out, r.lintTiming()...)
	names := make(map[string]bool, len(r.List))
	checks := make(map[[2]string]bool)
	for i, t := range r.List {
		at := fmt.Sprintf("plan.tests[%d]", i)
		if t.Name == "" || names[t.Name] {
			out = append(out, CodeName.Refuse(at+".name", "a name of its own", fmt.Sprintf("%q", t.Name)))
		}
		names[t.Name] = true
		// The items of a check are told by its name alone: of two tests of one check each would miss the other's items.
		if k := [2]string{t.Check, t.Reference}; t.Check != "" && t.Reference != "" {
			if checks[k] {
				out = append(out, CodeJudge.Refuse(at+".reference", "a set of its own for every test of one check", t.Reference))
			}
			checks[k] = true
		}
		out = append(out, t.lint(at)...)
	}
	return out
}

func (t TestRule) lint(at string) []rats.Reason {
	var out []rats.Reason
	if plan.AlgSize(t.alg()) == 0 {
		out = append(out, CodeAlg.Refuse(at+".alg", "sha256, sha384 or sha512", fmt.Sprintf("%q", t.Alg)))
	}
	out = append(out, t.lintJudges(at)...)
	out = append(out, t.lintSample(at)...)
	out = append(out, t.lintTiming(at)...)
	for _, s := range []struct{ field, value string }{{".severity", t.Severity}, {".unknown", t.Unknown}, {".missing", t.Missing}} {
		if s.value != "" && s.value != SeverityFail && s.value != SeverityWarning {
			out = append(out, CodeSeverity.Refuse(at+s.field, "fail or warning", fmt.Sprintf("%q", s.value)))
		}
	}
	if kinds := t.kinds(); len(kinds) != 1 {
		return append(out, CodeScope.Refuse(at, "one of file, glob, dir, command and check", fmt.Sprintf("%d of them", len(kinds))))
	}
	if option := t.foreign(); option != "" {
		return append(out, CodeScope.Refuse(at+"."+option, "only where it means something", t.kinds()[0]))
	}
	if _, err := t.test(1); err != nil {
		out = append(out, CodeScope.Refuse(at, "a test that can be run", err.Error()))
	}
	return out
}

// kinds are those that the rule names; one is right.
func (t TestRule) kinds() (out []string) {
	for kind, given := range map[string]bool{
		plan.KindFile: t.File != "", plan.KindGlob: t.Glob != "", plan.KindDir: t.Dir != "",
		plan.KindCommand: len(t.Command) > 0, plan.KindCheck: t.Check != "",
	} {
		if given {
			out = append(out, kind)
		}
	}
	return out
}

// foreign returns an option that is given and doesn't go with the rule's kind, "" if none is.
func (t TestRule) foreign() string {
	files := t.File != "" || t.Glob != "" || t.Dir != ""
	for _, o := range []struct {
		name      string
		given, ok bool
	}{
		{"exclude", len(t.Exclude) > 0, t.Dir != "" || t.Check != ""},
		{"attributes", len(t.Attributes) > 0, files},
		{"direct", t.Direct, files},
		{"chunk", t.Chunk != 0, files},
		{"trust", t.Trust != "", files},
		{"spots", t.Spots != 0, files},
		{"verity", t.Verity, files},
		{"env", len(t.Env) > 0, len(t.Command) > 0},
		{"status", t.Status, len(t.Command) > 0},
		{"bytes", t.Bytes != 0, len(t.Command) > 0},
		{"time", t.Time != 0, len(t.Command) > 0},
		{"paths", len(t.Paths) > 0, t.Check != ""},
		{"names", len(t.Names) > 0, t.Check != ""},
		{"options", len(t.Options) > 0, t.Check != ""},
		{"disclose", t.Disclose, t.Check != ""},
	} {
		if o.given && !o.ok {
			return o.name
		}
	}
	return ""
}

// lintJudges says what is wrong with what the outcomes are compared with.
func (t TestRule) lintJudges(at string) []rats.Reason {
	patterns := 0
	for _, p := range []string{t.Match, t.NoMatch} {
		if p != "" {
			patterns++
		}
	}
	lists := len(t.Allow)+len(t.Deny)+len(t.Expect) > 0
	for key, values := range t.Expect {
		if key == "" || len(values) == 0 {
			return []rats.Reason{CodeJudge.Refuse(at+".expect", "a value at least for each item", fmt.Sprintf("%q", key))}
		}
	}
	switch {
	case t.Check != "":
		if patterns > 0 {
			return []rats.Reason{CodeJudge.Refuse(at, "match and no_match with a command only", "a check")}
		}
	case lists:
		return []rats.Reason{CodeJudge.Refuse(at, "allow, deny and expect with a check only", fmt.Sprint(t.kinds()))}
	case len(t.Command) > 0:
		if t.Reference != "" {
			patterns++
		}
		if patterns != 1 {
			return []rats.Reason{CodeJudge.Refuse(at, "one of reference, match and no_match", fmt.Sprintf("%d of them", patterns))}
		}
		if t.Status && t.Reference == "" {
			return []rats.Reason{CodeJudge.Refuse(at+".status", "a reference that knows the status", "a pattern")}
		}
	case patterns > 0:
		return []rats.Reason{CodeJudge.Refuse(at, "match and no_match with a command only", fmt.Sprint(t.kinds()))}
	case t.Reference == "":
		return []rats.Reason{CodeReference.Refuse(at+".reference", "the name of a set", "nothing")}
	}
	return nil
}

func (t TestRule) alg() string {
	if t.Alg == "" {
		return "sha256"
	}
	return t.Alg
}

func (t TestRule) test(id uint32) (plan.Test, error) {
	out, err := t.plain(id)
	out.Timed, out.Repeat = t.Timed, t.Repeat
	return out, err
}

func (t TestRule) plain(id uint32) (plan.Test, error) {
	options := plan.FileOptions{
		Attributes: t.Attributes, Direct: t.Direct, Chunk: t.Chunk, Trust: t.Trust, Spots: t.Spots, Verity: t.Verity,
	}
	switch {
	case t.File != "":
		return plan.NewFilesTest(id, plan.KindFile, t.alg(), t.File, nil, options)
	case t.Glob != "":
		return plan.NewFilesTest(id, plan.KindGlob, t.alg(), t.Glob, nil, options)
	case t.Dir != "":
		return plan.NewFilesTest(id, plan.KindDir, t.alg(), t.Dir, t.Exclude, options)
	case len(t.Command) > 0:
		return plan.NewCommand(id, t.alg(), plan.CommandArgs{
			Argv: t.Command, Env: t.Env, Match: t.Match + t.NoMatch, Status: t.Status, Bytes: t.Bytes, Time: t.Time,
		})
	default:
		return plan.NewCheck(id, t.alg(), plan.CheckArgs{
			Check: t.Check, Paths: t.Paths, Exclude: t.Exclude, Names: t.Names, Switches: t.Options, Disclose: t.Disclose,
		})
	}
}

// Slots implements rats.Rules: what is measured are files, and what is run comes from files.
func (r *Rules) Slots() []rats.Slot { return []rats.Slot{rats.Executables, rats.FileSystem} }

// Params implements rats.Rules: what is asked of the enclave is a signed order, made of Tests.
func (r *Rules) Params() []byte { return nil }

// Tests returns all that the section wants measured, whether or not it takes turns, with ids 1, 2, … in the section's
// order.
func (r *Rules) Tests(l rats.Lookup, seed [32]byte) ([]plan.Test, plan.Limits, error) {
	return r.TestsAt(l, plan.Moment{Seed: seed})
}

func tier(severity, fallback string) rats.Tier {
	if severity == "" {
		severity = fallback
	}
	if severity == SeverityWarning {
		return rats.Warning
	}
	return rats.Contraindicated
}

// Timeless says that Check depends on its arguments but not on the time, so that equal machines can be judged once.
func (r *Rules) Timeless() bool { return true }
