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
	CodeScope     = rats.CodeInfo{Code: "plan.rules.scope", Title: "test does not say what to measure", Hint: "give exactly one of file, glob and dir, as an absolute path without // . .. or a trailing slash; exclude goes with dir only", Slot: rats.Configuration}
	CodeAlg       = rats.CodeInfo{Code: "plan.rules.alg", Title: "unknown digest algorithm", Hint: "use sha256 (default), sha384 or sha512", Slot: rats.Configuration}
	CodeReference = rats.CodeInfo{Code: "plan.rules.reference", Title: "test names no reference set", Hint: "without a reference nothing could be right: name a set", Slot: rats.Configuration}
	CodeSeverity  = rats.CodeInfo{Code: "plan.rules.severity", Title: "unknown severity", Hint: "use fail (default) or warning", Slot: rats.Configuration}
	CodeLimits    = rats.CodeInfo{Code: "plan.rules.limits", Title: "limit is below zero", Hint: "leave it out for the agent's own limit", Slot: rats.Configuration}
)

// Severities of a rule.
const (
	SeverityFail    = "fail"
	SeverityWarning = "warning"
	// MissingIgnore is for sets larger than a node, a distribution's whole archive: that a file is absent says nothing.
	MissingIgnore = "ignore"
)

// Rules is the section `plan:` of a policy.
type Rules struct {
	List   []TestRule `yaml:"tests"`
	Limits Limits     `yaml:"limits,omitempty"`
}

// TestRule is one test with what its outcomes are compared with. Paths are absolute, in text form (control bytes, % and
// bytes that are not UTF-8 as %XX).
type TestRule struct {
	Name      string   `yaml:"name"`               // names the test in reasons
	File      string   `yaml:"file,omitempty"`     // one file
	Glob      string   `yaml:"glob,omitempty"`     // regular files by a pattern: * ? [a-z], none crosses a slash
	Dir       string   `yaml:"dir,omitempty"`      // every regular file below a directory
	Exclude   []string `yaml:"exclude,omitempty"`  // of dir: paths at and below which nothing is measured
	Alg       string   `yaml:"alg,omitempty"`      // sha256 (default), sha384, sha512
	Reference string   `yaml:"reference"`          // reference set
	Severity  string   `yaml:"severity,omitempty"` // of changed and unreadable files: fail (default), warning
	Unknown   string   `yaml:"unknown,omitempty"`  // of files the set doesn't name; default: severity
	Missing   string   `yaml:"missing,omitempty"`  // of files of the set that were not found: fail, warning, ignore; default: severity
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
	names := make(map[string]bool, len(r.List))
	for i, t := range r.List {
		at := fmt.Sprintf("plan.tests[%d]", i)
		if t.Name == "" || names[t.Name] {
			out = append(out, CodeName.Refuse(at+".name", "a name of its own", fmt.Sprintf("%q", t.Name)))
		}
		names[t.Name] = true
		out = append(out, t.lint(at)...)
	}
	return out
}

func (t TestRule) lint(at string) []rats.Reason {
	var out []rats.Reason
	if plan.AlgSize(t.alg()) == 0 {
		out = append(out, CodeAlg.Refuse(at+".alg", "sha256, sha384 or sha512", fmt.Sprintf("%q", t.Alg)))
	}
	if t.Reference == "" {
		out = append(out, CodeReference.Refuse(at+".reference", "the name of a set", "nothing"))
	}
	for _, s := range []struct{ field, value string }{{".severity", t.Severity}, {".unknown", t.Unknown}, {".missing", t.Missing}} {
		if s.field == ".missing" && s.value == MissingIgnore {
			continue
		}
		if s.value != "" && s.value != SeverityFail && s.value != SeverityWarning {
			out = append(out, CodeSeverity.Refuse(at+s.field, "fail or warning", fmt.Sprintf("%q", s.value)))
		}
	}
	given := 0
	for _, p := range []string{t.File, t.Glob, t.Dir} {
		if p != "" {
			given++
		}
	}
	switch {
	case given != 1:
		out = append(out, CodeScope.Refuse(at, "one of file, glob and dir", fmt.Sprintf("%d of them", given)))
	case len(t.Exclude) > 0 && t.Dir == "":
		out = append(out, CodeScope.Refuse(at+".exclude", "only with dir", fmt.Sprint(t.Exclude)))
	default:
		if _, err := t.test(1); err != nil {
			out = append(out, CodeScope.Refuse(at, "an absolute, clean path", err.Error()))
		}
	}
	return out
}

func (t TestRule) alg() string {
	if t.Alg == "" {
		return "sha256"
	}
	return t.Alg
}

func (t TestRule) test(id uint32) (plan.Test, error) {
	switch {
	case t.File != "":
		return plan.NewTest(id, plan.KindFile, t.alg(), t.File, nil)
	case t.Glob != "":
		return plan.NewTest(id, plan.KindGlob, t.alg(), t.Glob, nil)
	default:
		return plan.NewTest(id, plan.KindDir, t.alg(), t.Dir, t.Exclude)
	}
}

// Slots implements rats.Rules: what is measured are files, and what is run comes from files.
func (r *Rules) Slots() []rats.Slot { return []rats.Slot{rats.Executables, rats.FileSystem} }

// Params implements rats.Rules: what is asked of the enclave is a signed order, made of Tests.
func (r *Rules) Params() []byte { return nil }

// Tests returns what the section wants measured, with ids 1, 2, … in the section's order. It depends on neither the
// reference values nor the seed yet: a test names all files of its scope.
func (r *Rules) Tests(rats.Lookup, [32]byte) ([]plan.Test, plan.Limits, error) {
	out := make([]plan.Test, len(r.List))
	for i, t := range r.List {
		var err error
		if out[i], err = t.test(uint32(i + 1)); err != nil {
			return nil, plan.Limits{}, fmt.Errorf("making test %q: %w", t.Name, err)
		}
	}
	return out, plan.Limits{Files: r.Limits.Files, Bytes: r.Limits.Bytes, Time: r.Limits.Time}, nil
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
