// Package policy is the policy document: which nodes it is for, which evidence it demands, what that evidence must say,
// and how long a result holds. [Compile] reads a document strictly, [Policy.Appraise] judges what package appraise
// verified.
//
// It guarantees: whatever isn't demanded, verified and judged is not trusted; every reason can only lower trust; a
// condition that can't be evaluated refuses; the zero value and the empty list permit nothing. Appraisal is a pure
// function of its arguments.
//
// It doesn't verify evidence, and doesn't choose who may write policies. It knows no format by name: sections, claims
// and checks come from descriptors.
package policy

import (
	"slices"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// What a policy document says it is.
const (
	APIVersion = "assay/v1"
	Kind       = "Policy"
)

// Policy is a compiled policy. It is immutable and safe for concurrent use.
type Policy struct {
	name           string
	digest         rats.Digest
	selector       string
	selects        cel.Program
	selectorEnv    *environment
	priority       int
	every          time.Duration
	validFor       time.Duration
	maxEvidenceAge time.Duration
	allow          []string
	demand         []rats.Slot // empty: every slot that the sections judge
	links          []rats.Link
	sections       []section // needs first
	rules          []rule
	on             []string
	actions        []Action
	env            *environment
	warnings       []rats.Reason
	memo           *memo
}

// section is what the policy says about one format.
type section struct {
	desc     *rats.Descriptor
	rules    rats.Rules
	optional bool
}

// Planned is implemented by Rules whose evidence is the outcome of a plan: their format is collected by sealing that
// plan to the platform, after the platform part was found good.
type Planned interface {
	// Tests lists what is to be measured. The seed is fresh for every challenge and chooses spot checks.
	Tests(l rats.Lookup, seed [32]byte) ([]plan.Test, plan.Limits, error)
}

// Rotating is implemented by planned rules whose tests may take turns.
type Rotating interface {
	TestsAt(rats.Lookup, plan.Moment) ([]plan.Test, plan.Limits, error)
}

// Timeless is implemented by Rules whose Check doesn't depend on its time argument (apart from the expiry of sets, which
// this package looks after), so that equal claims need to be checked once.
type Timeless interface{ Timeless() bool }

type rule struct {
	name, text, message string
	program             cel.Program
	slot                rats.Slot
	warning             bool
}

// Name returns the policy's name.
func (p *Policy) Name() string { return p.name }

// Digest returns the SHA-256 of the document as it was compiled.
func (p *Policy) Digest() rats.Digest { return p.digest }

// Priority returns the priority: of the policies that select a node, the highest is active.
func (p *Policy) Priority() int { return p.priority }

// Selector returns the CEL text of the selector.
func (p *Policy) Selector() string { return p.selector }

// Every returns the attestation period.
func (p *Policy) Every() time.Duration { return p.every }

// ValidFor returns how long a result holds at most.
func (p *Policy) ValidFor() time.Duration { return p.validFor }

// MaxEvidenceAge returns the most that may lie between challenge and receipt.
func (p *Policy) MaxEvidenceAge() time.Duration { return p.maxEvidenceAge }

// Allow returns the marks that are accepted.
func (p *Policy) Allow() []string { return slices.Clone(p.allow) }

// Warnings returns what lint says of the policy, as Compile did: reasons of tier warning, which don't stop it from being
// used.
func (p *Policy) Warnings() []rats.Reason { return slices.Clone(p.warnings) }

// Formats returns the formats that have a section, those that others need first; optional ones too.
func (p *Policy) Formats() []rats.Format {
	out := make([]rats.Format, 0, len(p.sections))
	for _, s := range p.sections {
		out = append(out, s.desc.ID)
	}
	return out
}

// Optional says whether the policy does without evidence of a format.
func (p *Policy) Optional(f rats.Format) bool {
	return slices.ContainsFunc(p.sections, func(s section) bool { return s.desc.ID == f && s.optional })
}

// Asks returns what to ask of the platform: every format that isn't planned, with its parameters. Bindings are left to
// the caller.
func (p *Policy) Asks() []rats.Ask {
	var out []rats.Ask
	for _, s := range p.sections {
		if !s.planned() {
			out = append(out, rats.Ask{Format: s.desc.ID, Params: s.rules.Params()})
		}
	}
	return out
}

// Planned returns the formats whose evidence is the outcome of a plan.
func (p *Policy) Planned() []rats.Format {
	var out []rats.Format
	for _, s := range p.sections {
		if s.planned() {
			out = append(out, s.desc.ID)
		}
	}
	return out
}

func (s section) planned() bool {
	_, ok := s.rules.(Planned)
	return ok
}

// Plan returns the plan of all planned formats together. It is a function of policy, reference values and seed: the
// verifier makes it again to know what was asked. Its error is a MissingInput of a reference set, a BadEvidence of
// CodePlanInvalid, or the section's own. Without planned formats the plan has no tests.
func (p *Policy) Plan(l rats.Lookup, seed [32]byte) (plan.Plan, error) {
	return p.PlanAt(l, plan.Moment{Seed: seed})
}

// PlanAt is Plan at a moment: of tests that take turns it holds those whose turn it is, and some chosen by the seed.
func (p *Policy) PlanAt(l rats.Lookup, m plan.Moment) (plan.Plan, error) {
	m.Every = p.every
	out := plan.Plan{ID: [16]byte(rats.SHA256(m.Seed[:]).Sum[:16]), Version: plan.Version1}
	if l == nil {
		l = &noLookup{}
	}
	ids := make(map[uint32]bool)
	for _, s := range p.sections {
		r, ok := s.rules.(Planned)
		if !ok {
			continue
		}
		var tests []plan.Test
		var limits plan.Limits
		var err error
		if t, ok := s.rules.(Rotating); ok {
			tests, limits, err = t.TestsAt(l, m)
		} else {
			tests, limits, err = r.Tests(l, m.Seed)
		}
		if err != nil {
			return plan.Plan{}, err
		}
		for _, t := range tests {
			if ids[t.ID] {
				return plan.Plan{}, CodePlanInvalid.Bad(string(s.desc.ID), "tests with ids of their own", "one id twice")
			}
			ids[t.ID] = true
		}
		out.Tests = append(out.Tests, tests...)
		out.Limits = tighter(out.Limits, limits)
	}
	return out, nil
}

// tighter returns the smaller of each limit; zero is no limit.
func tighter(a, b plan.Limits) plan.Limits {
	return plan.Limits{Files: least(a.Files, b.Files), Bytes: least(a.Bytes, b.Bytes), Time: least(a.Time, b.Time)}
}

func least[T int64 | time.Duration](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Selects says whether the policy is meant for a node. A selector that can't be evaluated, for it names a label that
// the node doesn't have, doesn't select; the reason (of tier warning) says so, and the caller must not pass over it: the
// policy may be the stricter one. Of the policies that select a node the one with the highest priority is meant; two of
// the highest priority are ambiguous, and it is the caller who refuses that.
func (p *Policy) Selects(n NodeFacts) (bool, []rats.Reason) {
	ok, err := holds(p.selects, p.selectorEnv.vars(Env{Node: n}))
	if err != nil {
		return false, []rats.Reason{CodeSelectorUnevaluable.At(rats.Warning, p.name+".selector", p.selector, clip(err.Error()))}
	}
	return ok, nil
}

// Vouch judges the enrolment record of a node that joins. At least one section must be able to judge it and find
// nothing against it; else the reasons of all of them.
func (p *Policy) Vouch(e rats.Endorsement, now time.Time) []rats.Reason {
	var out []rats.Reason
	asked := false
	for _, s := range p.sections {
		r, ok := s.rules.(rats.EnrolmentRules)
		if !ok {
			continue
		}
		asked = true
		rs := r.Vouch(e, now)
		if len(rs) == 0 {
			return nil
		}
		for i := range rs {
			if rs[i].Format == "" {
				rs[i].Format = s.desc.ID
			}
		}
		out = append(out, rs...)
	}
	if !asked {
		return []rats.Reason{CodeEnrolmentUnvouched.Refuse("formats", "a section that judges enrolment records", "none")}
	}
	return out
}
