package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// maxReasons bounds the reasons about single files; what was left out is told in one more.
const maxReasons = 100

// Codes of appraisal.
var (
	CodeChanged    = rats.CodeInfo{Code: "plan.file.changed", Title: "file has another digest than its reference", Hint: "find out what changed it; if it was an update, capture the reference set anew", Slot: rats.FileSystem}
	CodeUnknown    = rats.CodeInfo{Code: "plan.file.unknown", Title: "file is not in the reference set", Hint: "remove the file, exclude its directory, or add it to the reference set", Slot: rats.FileSystem}
	CodeUnreadable = rats.CodeInfo{Code: "plan.file.unreadable", Title: "file could not be measured", Hint: "the seen code says why; what can't be measured can't be trusted", Slot: rats.FileSystem}
	CodeMissing    = rats.CodeInfo{Code: "plan.file.missing", Title: "file of the reference set was not found", Hint: "restore the file, or capture the reference set anew", Slot: rats.FileSystem}
	CodeExpired    = rats.CodeInfo{Code: "plan.reference.expired", Title: "reference value is expired", Hint: "renew the reference set", Slot: rats.FileSystem}
	CodeDenied     = rats.CodeInfo{Code: "plan.item.denied", Title: "check found what policy denies", Hint: "find out how it came there; the rule's deny list names it", Slot: rats.Executables}
	CodeItem       = rats.CodeInfo{Code: "plan.item.unknown", Title: "check found what nothing permits", Hint: "find out what it is; then remove it, allow it by name, or capture the reference set anew", Slot: rats.Executables}
	CodeValue      = rats.CodeInfo{Code: "plan.item.changed", Title: "item of a check has another value than expected", Hint: "find out what changed it; if it was you, correct the policy or capture the reference set anew", Slot: rats.Executables}
	CodeAbsent     = rats.CodeInfo{Code: "plan.item.missing", Title: "item that must be there was not found", Hint: "restore it, or correct the policy's expectation or the reference set", Slot: rats.Executables}
	CodePattern    = rats.CodeInfo{Code: "plan.command.pattern", Title: "output of a command is not as the pattern wants it", Hint: "run the command on the node and look", Slot: rats.Executables}
	CodeUnmeasured = rats.CodeInfo{Code: "plan.item.unmeasured", Title: "command or check could not be carried out", Hint: "the seen code says why; the agent's own lists of roots and commands must permit what is looked at", Slot: rats.Executables}
	CodeMore       = rats.CodeInfo{Code: "plan.reasons.more", Title: "further reasons were left out", Hint: "the claims hold every measurement", Slot: rats.FileSystem}
	CodeFailed     = rats.CodeInfo{Code: "plan.test.failed", Title: "test failed", Hint: "the reasons of the same rule name the files", Slot: rats.Executables}
	CodeUntested   = rats.CodeInfo{Code: "plan.test.missing", Title: "test was not run", Hint: "the claims are of another plan; attest again under this policy", Slot: rats.Executables}
	CodeSet        = rats.CodeInfo{Code: "plan.set.missing", Title: "reference set is missing or empty", Hint: "an empty reference denies: upload the set, or capture it from a machine you trust", Slot: rats.Executables}
	CodeClaims     = rats.CodeInfo{Code: "plan.claims.other", Title: "claims are not of this format", Hint: "this is a defect of the verifier", Slot: rats.Executables}
)

// Codes lists what this package refuses with, those of package plan that its evidence can yield included.
var Codes = append(slices.Clone(plan.Codes),
	CodeProfile, CodeParams, CodeUnvouched, CodeKey, CodePlanSigner, CodeNonce, CodeManifest, CodePlan, CodeSequence, CodeTests, CodeStray, CodeProof,
	CodeNoTests, CodeName, CodeScope, CodeAlg, CodeJudge, CodeReference, CodeSeverity, CodeLimits, CodeTiming, CodeDuration, CodeWindow, CodePace, CodeSpread, CodeWindows,
	CodeSample, CodeSampleSize, CodeCoverage,
	CodeChanged, CodeUnknown, CodeUnreadable, CodeMissing, CodeDenied, CodeItem, CodeValue, CodeAbsent, CodePattern, CodeUnmeasured, CodeExpired, CodeMore, CodeFailed, CodeUntested, CodeSet, CodeClaims,
)

// Check implements rats.Rules: every measurement is compared with the reference set of its test, and every name of the set
// that lies in the test's scope must have been measured. Tests are found in the claims by what they measure, so claims of
// an older policy can be judged by a newer one as far as both measure the same.
func (r *Rules) Check(claims rats.Claims, refs rats.Lookup, now time.Time) []rats.Reason {
	c, ok := claims.(*Claims)
	if !ok || c == nil {
		return []rats.Reason{CodeClaims.At(rats.None, "claims", "claims of format plan", fmt.Sprintf("%T", claims))}
	}
	measured := make(map[uint32][]Measurement, len(c.Tests))
	for _, m := range c.Measurements {
		measured[m.Test] = append(measured[m.Test], m)
	}
	run := make(map[string][]uint32, len(c.Tests))
	for _, t := range c.Tests {
		k := t.key()
		run[k] = append(run[k], t.ID)
	}
	out := &report{}
	rules := make(map[uint32]TestRule)
	for _, rule := range r.List {
		t, err := rule.test(1)
		if err != nil {
			out.test(CodeUntested.At(rats.None, rule.Name, "a test", err.Error()), rule)
			continue
		}
		k, scope := rule.key(t)
		ids := run[k]
		if rule.Sample != nil && len(ids) == 0 {
			if !rule.many() {
				continue // it wasn't its turn: the verifier saw to it that what was ordered was run
			}
			s := &check{codes: codesOf(scope.Kind), rule: rule, scope: scope, refs: refs, now: now, out: out}
			if refs == nil || !s.populated() || s.sampled(run, measured) {
				continue
			}
		}
		if len(ids) == 0 {
			out.test(CodeUntested.At(rats.None, rats.EscapePath(scope.Path), "a run of this test", "none"), rule)
			continue
		}
		if len(ids) > 1 { // two rules may measure the same against different sets
			run[k] = ids[1:]
		}
		rules[ids[0]] = rule
		rule.times(c, ids[0], out)
		c := &check{codes: codesOf(scope.Kind), rule: rule, scope: scope, refs: refs, now: now, out: out}
		c.run(measured[ids[0]])
	}
	r.coverage(c.Coverage, refs, out)
	r.Timing.run(c, refs, rules, out)
	return out.reasons()
}

// key is what a test measures: kind, algorithm, path, excludes and arguments.
func (t Test) key() string {
	return strings.Join(append([]string{t.Kind, t.Alg, t.Path, t.Args}, t.Exclude...), "\x00")
}

// testOf describes a test in claims.
func testOf(t plan.Test, s plan.Scope) Test {
	if plain, err := t.WithSeed(nil); err == nil {
		t = plain
	}
	out := Test{ID: t.ID, Kind: t.Kind, Alg: t.Alg, Path: rats.EscapePath(s.Path)}
	for _, e := range s.Exclude {
		out.Exclude = append(out.Exclude, rats.EscapePath(e))
	}
	if s.Kind == plan.KindCommand || s.Kind == plan.KindCheck || len(s.Attributes) > 0 || s.Direct || s.Merkle != nil || s.Verity {
		out.Args = string(t.Args)
	}
	return out
}

func (t TestRule) key(p plan.Test) (string, plan.Scope) {
	s, err := p.Scope()
	if err != nil {
		return "", s // test made it of a scope: not reached
	}
	return testOf(p, s).key(), s
}

// report collects reasons: those about tests, and the first of those about files.
type report struct {
	tests, files []rats.Reason
	left         int
	leftTier     rats.Tier
}

func (r *report) test(reason rats.Reason, rule TestRule) {
	reason.Rule = rule.Name
	r.tests = append(r.tests, reason)
}

func (r *report) file(reason rats.Reason) {
	if len(r.files) < maxReasons {
		r.files = append(r.files, reason)
		return
	}
	if r.left == 0 {
		r.leftTier = reason.Tier
	}
	r.left++
	r.leftTier = rats.Worse(r.leftTier, reason.Tier)
}

func (r *report) reasons() []rats.Reason {
	out := append(r.tests, r.files...)
	if r.left > 0 {
		out = append(out, CodeMore.At(r.leftTier, "", fmt.Sprintf("at most %d reasons", maxReasons), fmt.Sprintf("%d more", r.left)))
	}
	return out
}

// codes are the reasons a test's outcomes can yield.
type codes struct{ changed, unknown, unreadable, missing rats.CodeInfo }

func codesOf(kind string) codes {
	if kind == plan.KindCommand || kind == plan.KindCheck {
		return codes{changed: CodeValue, unknown: CodeItem, unreadable: CodeUnmeasured, missing: CodeAbsent}
	}
	return codes{changed: CodeChanged, unknown: CodeUnknown, unreadable: CodeUnreadable, missing: CodeMissing}
}

// check judges one test.
type check struct {
	codes codes
	rule  TestRule
	scope plan.Scope
	refs  rats.Lookup
	now   time.Time
	out   *report

	lowered                               int
	worst                                 rats.Tier
	changed, unknown, unreadable, missing int
}

func (c *check) lower(code rats.CodeInfo, t rats.Tier, path, expected, seen string) {
	reason := code.At(t, path, expected, seen)
	reason.Rule = c.rule.Name
	if c.lowered == 0 {
		c.worst = t
	}
	c.lowered++
	c.worst = rats.Worse(c.worst, t)
	c.out.file(reason)
}

func (c *check) run(ms []Measurement) {
	if c.rule.Reference != "" && !c.populated() {
		return
	}
	seen := make(map[string]bool, len(ms))
	for _, m := range ms {
		seen[m.Name] = true
		if !c.measurement(m) {
			return
		}
	}
	c.expected(seen)
	if c.rule.Reference != "" {
		inScope, ok := c.absent(seen)
		if !ok {
			return
		}
		if inScope == 0 && len(ms) > 0 && len(c.rule.Allow)+len(c.rule.Expect) == 0 {
			// Nothing could have been right, so severities are not asked: an empty reference denies (R127).
			c.out.test(CodeSet.At(rats.None, c.rule.Reference, "reference values for "+rats.EscapePath(c.scope.Path), "none"), c.rule)
		}
	}
	if c.lowered > 0 {
		c.out.test(CodeFailed.At(c.worst, rats.EscapePath(c.scope.Path), "everything as the rule wants it", fmt.Sprintf(
			"of %d measurements %d changed, %d unknown, %d unreadable; %d missing", len(ms), c.changed, c.unknown, c.unreadable, c.missing)), c.rule)
	}
}

// populated says whether the reference set exists and holds anything (R127).
func (c *check) populated() bool {
	if c.refs == nil {
		return c.lookup(CodeSet.Missing(c.rule.Reference, "a reference set", "no reference values at all"))
	}
	names, err := c.refs.Names(c.rule.Reference, "")
	if err != nil {
		return c.lookup(err)
	}
	for range names {
		return true
	}
	c.out.test(CodeSet.At(rats.None, c.rule.Reference, "reference values", "an empty set"), c.rule)
	return false
}

// lookup records that the reference values can't be asked.
func (c *check) lookup(err error) bool {
	c.out.test(CodeSet.At(rats.None, c.rule.Reference, "a reference set", err.Error()), c.rule)
	return false
}

// measurement judges one outcome; it is false if the reference values can't be asked.
func (c *check) measurement(m Measurement) bool {
	severity := tier(c.rule.Severity, SeverityFail)
	if m.Err != "" || m.Digest.IsZero() {
		c.unreadable++
		path := m.Name
		if path == "" {
			path = rats.EscapePath(c.scope.Path)
		}
		c.lower(c.codes.unreadable, severity, path, "a digest", string(m.Err))
		return true
	}
	if judged := c.listed(m, severity); judged {
		return true
	}
	if c.rule.Reference == "" {
		c.unknown++
		c.lower(c.codes.unknown, tier(c.rule.Unknown, c.rule.Severity), m.Name, "", seenOf(m))
		return true
	}
	hit, err := c.refs.Find(c.rule.Reference, m.Name, m.Digest)
	switch {
	case err != nil:
		return c.lookup(err)
	case hit.Known && (hit.Expires.IsZero() || c.now.Before(hit.Expires)):
	case hit.Known:
		c.changed++
		c.lower(CodeExpired, severity, m.Name, "a reference value valid at "+c.now.UTC().Format(time.RFC3339), "valid until "+hit.Expires.UTC().Format(time.RFC3339))
	case len(hit.Expected) > 0:
		c.changed++
		c.lower(c.codes.changed, severity, m.Name, digests(hit.Expected), seenOf(m))
	default:
		c.unknown++
		c.lower(c.codes.unknown, tier(c.rule.Unknown, c.rule.Severity), m.Name, "", seenOf(m))
	}
	return true
}

func digests(ds []rats.Digest) string {
	const most = 8
	var b strings.Builder
	for i, d := range ds {
		if i > 0 {
			b.WriteString(" or ")
		}
		if i == most {
			fmt.Fprintf(&b, "%d others", len(ds)-most)
			break
		}
		b.WriteString(d.String())
	}
	return b.String()
}

// absent finds the names of the set in the test's scope that were not measured, and says how many are in scope.
func (c *check) absent(seen map[string]bool) (inScope int, ok bool) {
	names, err := c.refs.Names(c.rule.Reference, rats.EscapePath(c.scope.Literal()))
	if err != nil {
		return 0, c.lookup(err)
	}
	for name := range names {
		p, err := rats.UnescapePath(name)
		if err != nil || !c.scope.Covers(p) {
			continue
		}
		inScope++
		if !seen[name] {
			c.missing++
			c.lower(c.codes.missing, tier(c.rule.Missing, c.rule.Severity), name, "its reference value", "nothing")
		}
	}
	return inScope, true
}
