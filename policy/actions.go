package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Codes of what a policy does about its verdicts, and of when it wants to be asked.
var (
	CodeActionBad = rats.CodeInfo{
		Code: "policy.action.invalid", Title: "an action can't be carried out as it is written", Slot: rats.Configuration,
		Hint: "docs/events.md lists what an action may say; a command is the name of one in the server's settings, never a command line",
	}
	CodeEventBad = rats.CodeInfo{
		Code: "policy.on.unknown", Title: "there is no such event on a node", Slot: rats.Configuration,
		Hint: "use packages, modules or kexec",
	}
)

// The events on a node for which its agent may ask for an attestation before it is due.
const (
	OnPackages = "packages" // a package manager changed what is installed
	OnModules  = "modules"  // kernel modules were loaded or unloaded
	OnKexec    = "kexec"    // another kernel was loaded, to be started without the firmware
)

// Events lists the events a policy may name under on.
var Events = []string{OnPackages, OnModules, OnKexec}

// What an action does.
const (
	DoAlert      = "alert"          // an event with a severity
	DoWithhold   = "refuse-secrets" // no secrets while the action's condition holds
	DoRun        = "run"            // a command on the server's side, by its name in the server's settings
	DoQuarantine = "quarantine"     // no trust and no secrets until an administrator lifts it
)

// The severities of events, in rising order.
const (
	SeverityInfo     = "info"
	SeverityWarning  = "warning"
	SeverityCritical = "critical"
)

// Severities lists them.
var Severities = []string{SeverityInfo, SeverityWarning, SeverityCritical}

// actionStates are those that an action may be for.
var actionStates = []rats.State{rats.StateTrusted, rats.StateWarning, rats.StateUnknown, rats.StateContraindicated, rats.StateStale}

// Bounds of actions.
const (
	maxActions       = 64
	maxActionResults = 1000
	maxActionTime    = 7 * 24 * time.Hour
)

// Action is what is done about a verdict. It fires once its condition has held for Results results in a row and for the
// time For, and again only after the condition was gone for as long, or after Again: a node that flaps fires once.
type Action struct {
	Name     string
	When     []rats.State
	Codes    []string // patterns (policy.*, plan.file.unknown) of which a reason must match one; empty: whatever the reasons
	Results  int
	For      time.Duration
	Again    time.Duration // zero: once
	Do       string
	Command  string // of DoRun
	Severity string
}

// Meets says whether the condition holds for a state with its reasons.
func (a Action) Meets(s rats.State, codes []rats.Code) bool {
	if !slices.Contains(a.When, s) {
		return false
	}
	return len(a.Codes) == 0 || slices.ContainsFunc(a.Codes, func(p string) bool {
		return slices.ContainsFunc(codes, func(c rats.Code) bool { return MatchCode(p, c) })
	})
}

// MatchCode says whether a code is the one, or below the area ("plan.file.*"), that a pattern names.
func MatchCode(pattern string, c rats.Code) bool {
	if area, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(string(c), area)
	}
	return pattern == string(c)
}

// Actions returns the policy's actions, in its order.
func (p *Policy) Actions() []Action { return slices.Clone(p.actions) }

// On returns the events for which agents may ask for an attestation.
func (p *Policy) On() []string { return slices.Clone(p.on) }

type actionDoc struct {
	Name     string        `yaml:"name"`
	When     []rats.State  `yaml:"when"`
	Codes    []string      `yaml:"codes"`
	Results  int           `yaml:"results"`
	For      time.Duration `yaml:"for"`
	Again    time.Duration `yaml:"again"`
	Do       string        `yaml:"do"`
	Command  string        `yaml:"command"`
	Severity string        `yaml:"severity"`
}

// actions compiles what the policy does, and when it wants to be asked.
func (c *compiler) actions() {
	for i, e := range c.doc.On {
		at := fmt.Sprintf("on[%d]", i)
		switch {
		case !slices.Contains(Events, e):
			c.refuseAt(CodeEventBad, at, strings.Join(Events, ", "), clip(e))
		case slices.Contains(c.doc.On[:i], e):
			c.refuseAt(CodeFieldDuplicate, at, "the event once", clip(e))
		}
	}
	c.p.on = c.doc.On
	if len(c.doc.Actions) > maxActions {
		c.refuseAt(CodeActionBad, "actions", fmt.Sprintf("at most %d actions", maxActions), fmt.Sprint(len(c.doc.Actions)))
		return
	}
	names := make(map[string]bool)
	for i, d := range c.doc.Actions {
		at := fmt.Sprintf("actions[%d]", i)
		if !namePattern.MatchString(d.Name) {
			c.refuseAt(CodeNameBad, at+".name", "letters, digits and hyphens", clip(d.Name))
		}
		if names[d.Name] {
			c.refuseAt(CodeFieldDuplicate, at+".name", "a name of its own", clip(d.Name))
		}
		names[d.Name] = true
		c.p.actions = append(c.p.actions, c.action(d, at))
	}
}

func (c *compiler) action(d actionDoc, at string) Action {
	bad := func(field, want, seen string) { c.refuseAt(CodeActionBad, at+"."+field, want, seen) }
	if len(d.When) == 0 {
		bad("when", "a state at least: "+statesText(), "none")
	}
	for i, s := range d.When {
		if !slices.Contains(actionStates, s) || slices.Contains(d.When[:i], s) {
			bad("when", "each once, of "+statesText(), clip(string(s)))
		}
	}
	for _, p := range d.Codes {
		if p == "" || strings.Contains(strings.TrimSuffix(p, "*"), "*") {
			bad("codes", "codes, or the beginning of codes with * at its end", clip(p))
		}
	}
	if d.Results < 0 || d.Results > maxActionResults {
		bad("results", fmt.Sprintf("1 to %d", maxActionResults), fmt.Sprint(d.Results))
	}
	for field, v := range map[string]time.Duration{"for": d.For, "again": d.Again} {
		if v < 0 || v > maxActionTime {
			bad(field, "at most "+maxActionTime.String(), v.String())
		}
	}
	switch d.Do {
	case DoAlert, DoWithhold, DoRun, DoQuarantine:
	default:
		bad("do", strings.Join([]string{DoAlert, DoWithhold, DoRun, DoQuarantine}, ", "), clip(d.Do))
	}
	if (d.Do == DoRun) != (d.Command != "") || d.Command != "" && !namePattern.MatchString(d.Command) {
		bad("command", "the name of a command of the server's settings, with do: run and only there", clip(d.Command))
	}
	if d.Severity != "" && !slices.Contains(Severities, d.Severity) {
		bad("severity", strings.Join(Severities, ", "), clip(d.Severity))
	}
	a := Action{
		Name: d.Name, When: d.When, Codes: d.Codes, Results: max(d.Results, 1), For: d.For, Again: d.Again,
		Do: d.Do, Command: d.Command, Severity: d.Severity,
	}
	if a.Severity == "" {
		a.Severity = SeverityWarning
		if slices.Contains(a.When, rats.StateContraindicated) {
			a.Severity = SeverityCritical
		}
	}
	return a
}

func statesText() string {
	var out []string
	for _, s := range actionStates {
		out = append(out, string(s))
	}
	return strings.Join(out, ", ")
}
