package notify

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// The kinds of events this package writes.
const (
	EventFired      = "action.fired"       // an action of a policy fired
	EventEnded      = "action.ended"       // its condition is gone for as long as it had to hold
	EventRun        = "action.run"         // a command is wanted
	EventRan        = "action.ran"         // how it ended
	EventQuarantine = "node.quarantined"   // by an action or an administrator
	EventLifted     = "node.unquarantined" // by an administrator
	EventHook       = "webhook.changed"    // a webhook was added or deleted, or dead letters are to be sent again
	EventDead       = "webhook.dead"       // an event was given up
	EventState      = "node.state"         // the node's state changed; most are package appraiser's
)

// quiet are the kinds that only those get who name them: too many, or the servers' own talk.
var quiet = []string{"node.result", "node.wanted", "node.answered", EventRun, EventHook}

// Severity says how grave an event is. An event that says so itself is believed; else its kind and state decide.
func Severity(e store.Event) string {
	var d struct {
		Severity string     `json:"severity"`
		State    rats.State `json:"state"`
	}
	if len(e.Data) > 0 && e.Data[0] == '{' {
		_ = json.Unmarshal(e.Data, &d) // other kinds' fields may have other types: then they say nothing
	}
	if slices.Contains(policy.Severities, d.Severity) {
		return d.Severity
	}
	switch e.Kind {
	case EventState, "node.result":
		switch d.State {
		case rats.StateTrusted:
			return policy.SeverityInfo
		case rats.StateContraindicated:
			return policy.SeverityCritical
		}
		return policy.SeverityWarning
	case "node.stream", EventQuarantine:
		return policy.SeverityCritical
	case "node.evidence", "node.withdraw", EventDead:
		return policy.SeverityWarning
	}
	return policy.SeverityInfo
}

// Filter says which events somebody wants. The zero value wants all but the quiet kinds.
type Filter struct {
	Kinds    []string `json:"kinds,omitempty"`    // kinds, or "node.*"; empty: all but quiet ones
	Nodes    []string `json:"nodes,omitempty"`    // ids; empty: all
	Severity string   `json:"severity,omitempty"` // at least; empty: any
	Every    bool     `json:"every,omitempty"`    // without kinds: quiet ones too
}

const (
	maxKinds = 64
	maxNodes = 1000
)

var kindPattern = regexp.MustCompile(`^[a-z][a-z0-9-]*(\.[a-z0-9-]+)*(\.\*)?$`)

// Check refuses a filter that can't be used.
func (f Filter) Check() error {
	if len(f.Kinds) > maxKinds || len(f.Nodes) > maxNodes {
		return CodeFilter.Bad("filter", fmt.Sprintf("at most %d kinds and %d nodes", maxKinds, maxNodes), "more")
	}
	for _, k := range f.Kinds {
		if len(k) > 64 || !kindPattern.MatchString(k) {
			return CodeFilter.Bad("kinds", "a kind such as node.state, or node.*", clip(k))
		}
	}
	if f.Severity != "" && !slices.Contains(policy.Severities, f.Severity) {
		return CodeFilter.Bad("severity", strings.Join(policy.Severities, ", "), clip(f.Severity))
	}
	return nil
}

// Wants says whether an event passes.
func (f Filter) Wants(e store.Event) bool {
	if len(f.Kinds) == 0 {
		if !f.Every && slices.Contains(quiet, e.Kind) {
			return false
		}
	} else if !slices.ContainsFunc(f.Kinds, func(k string) bool {
		area, all := strings.CutSuffix(k, "*")
		return k == e.Kind || all && strings.HasPrefix(e.Kind, area)
	}) {
		return false
	}
	if len(f.Nodes) > 0 && !slices.ContainsFunc(f.Nodes, func(n string) bool { return e.Subject == rats.Subject(rats.SubjectNode, n) }) {
		return false
	}
	return f.Severity == "" || slices.Index(policy.Severities, Severity(e)) >= slices.Index(policy.Severities, f.Severity)
}
