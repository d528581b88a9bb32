package notify

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// maxFindings bounds the reasons that an event names.
const maxFindings = 16

// Finding is what an event says of one reason: where, how grave, what was seen (R039).
type Finding struct {
	Code     rats.Code `json:"code"`
	Severity string    `json:"severity"` // fail, warning, or unknown for what could not be judged
	Path     string    `json:"path,omitempty"`
	Rule     string    `json:"rule,omitempty"`
	Seen     string    `json:"seen,omitempty"`
}

// Findings returns what events say of reasons: the gravest first, at most 16.
func Findings(reasons []rats.Reason) []Finding {
	sorted := slices.Clone(reasons)
	slices.SortStableFunc(sorted, func(a, b rats.Reason) int {
		switch {
		case a.Tier == b.Tier:
			return 0
		case rats.Worse(a.Tier, b.Tier) == a.Tier:
			return -1
		}
		return 1
	})
	var out []Finding
	for _, r := range sorted[:min(len(sorted), maxFindings)] {
		f := Finding{Code: r.Code, Severity: "unknown", Path: clip(r.Path), Rule: clip(r.Rule), Seen: clip(r.Seen)}
		switch r.Tier {
		case rats.Contraindicated:
			f.Severity = "fail"
		case rats.Warning:
			f.Severity = "warning"
		}
		out = append(out, f)
	}
	return out
}

// Observation is what one result, or the lack of one, says of a node.
type Observation struct {
	At      time.Time
	State   rats.State
	Reasons []rats.Reason
	Result  string // id; empty: silence
	Policy  rats.Ref
}

func (o Observation) codes() []rats.Code {
	var out []rats.Code
	for _, r := range o.Reasons {
		if !slices.Contains(out, r.Code) {
			out = append(out, r.Code)
		}
	}
	return out
}

// Step moves one action on by one observation. It says whether the action fires now, and whether its condition has ended.
// It is a pure function.
func Step(a policy.Action, s store.Acting, holds, result bool, at time.Time) (next store.Acting, fires, ends bool) {
	if holds {
		s.Gone, s.Away = 0, time.Time{}
		if s.Held == 0 {
			s.Since = at
		}
		switch {
		case result:
			s.Held = min(s.Held+1, a.Results) // counts no further, so that what stays is not written again
		default:
			s.Held = a.Results // silence has no results to count
		}
		due := s.Held >= a.Results && at.Sub(s.Since) >= a.For
		again := !s.Fired.IsZero() && a.Again > 0 && at.Sub(s.Fired) >= a.Again
		if due && (s.Fired.IsZero() || again) {
			s.Fired = at
			return s, true, false
		}
		return s, false, false
	}
	if s.Fired.IsZero() {
		return store.Acting{}, false, false
	}
	if s.Away.IsZero() {
		s.Away = at
	}
	if result {
		s.Gone++
	}
	if s.Gone >= a.Results && at.Sub(s.Away) >= a.For {
		return store.Acting{}, false, true
	}
	return s, false, false
}

// Judge moves the actions of the policy in force on by one observation of a node, in the transaction that stores it, and
// writes what fired: events, audit leaves, and the marks on the node that keep secrets from it. The node is the caller's
// to store; changed says whether it must be.
func Judge(tx store.Tx, actions []policy.Action, n *store.Node, o Observation) (changed bool, err error) {
	if len(actions) == 0 && len(n.Acting) == 0 && n.Withheld == "" {
		return false, nil
	}
	acting := make(map[string]store.Acting)
	withheld := ""
	codes := o.codes()
	for _, a := range actions {
		before := n.Acting[a.Name]
		after, fires, ends := Step(a, before, a.Meets(o.State, codes), o.Result != "", o.At)
		if !reflect.DeepEqual(after, store.Acting{}) {
			acting[a.Name] = after
		}
		if fires {
			err = fire(tx, a, n, o)
		} else if ends {
			err = write(tx, o.At, EventEnded, n.ID, a.Name, "action.end", map[string]any{
				"node": n.ID, "name": n.Name, "action": a.Name, "state": o.State, "severity": policy.SeverityInfo, "result": o.Result,
			})
		}
		if err != nil {
			return false, fmt.Errorf("acting on %s: %w", a.Name, err)
		}
		if a.Do == policy.DoWithhold && !after.Fired.IsZero() && withheld == "" {
			withheld = a.Name
		}
	}
	if len(acting) == 0 {
		acting = nil
	}
	changed = !reflect.DeepEqual(acting, n.Acting) || n.Withheld != withheld
	n.Acting, n.Withheld = acting, withheld
	return changed, nil
}

// fire writes what an action does.
func fire(tx store.Tx, a policy.Action, n *store.Node, o Observation) error {
	data := map[string]any{
		"node": n.ID, "name": n.Name, "action": a.Name, "do": a.Do, "state": o.State, "severity": a.Severity,
		"result": o.Result, "policy": o.Policy, "codes": o.codes(), "findings": Findings(o.Reasons),
	}
	if err := write(tx, o.At, EventFired, n.ID, a.Name, "action.fire", data); err != nil {
		return err
	}
	switch a.Do {
	case policy.DoQuarantine:
		if n.Quarantine != nil {
			return nil
		}
		return Quarantine(tx, n, store.Quarantine{At: o.At.UTC(), By: byAction + a.Name, Why: why(o)})
	case policy.DoRun:
		data["command"] = a.Command
		return emit(tx, o.At, EventRun, n.ID, data)
	}
	return nil
}

func why(o Observation) string {
	if len(o.Reasons) == 0 {
		return string(o.State)
	}
	r := Findings(o.Reasons)[0]
	return clip(string(r.Code) + " " + r.Path)
}

// Quarantine puts a node into quarantine, with event and audit leaf. The node is the caller's to store.
func Quarantine(tx store.Tx, n *store.Node, q store.Quarantine) error {
	n.Quarantine = &q
	detail := map[string]any{"node": n.ID, "name": n.Name, "by": q.By, "why": q.Why}
	if err := emit(tx, q.At, EventQuarantine, n.ID, detail); err != nil {
		return err
	}
	return leaf(tx, q.At, actorOf(q.By), "node.quarantine", n.ID, detail)
}

// Lift ends a quarantine. The node is the caller's to store. The actions begin to count anew, so that the condition that
// led to it can lead to it again.
func Lift(tx store.Tx, n *store.Node, actor, reason string, at time.Time) error {
	detail := map[string]any{"node": n.ID, "name": n.Name, "by": actor, "why": clip(reason), "was": n.Quarantine}
	n.Quarantine, n.Acting = nil, nil
	if err := emit(tx, at, EventLifted, n.ID, detail); err != nil {
		return err
	}
	return leaf(tx, at, actor, "node.unquarantine", n.ID, detail)
}

// byAction begins Quarantine.By of those that an action set.
const byAction = "action:"

func actorOf(by string) string {
	if strings.HasPrefix(by, byAction) {
		return "server"
	}
	return by
}

// write appends an event of a node and its audit leaf.
func write(tx store.Tx, at time.Time, kind, node, action, verb string, data map[string]any) error {
	if err := emit(tx, at, kind, node, data); err != nil {
		return err
	}
	return leaf(tx, at, "server", verb, node, map[string]any{"action": action, "do": data["do"], "result": data["result"], "state": data["state"]})
}

func emit(tx store.Tx, at time.Time, kind, node string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	_, err = tx.Events().Append(store.Event{At: at, Kind: kind, Subject: rats.Subject(rats.SubjectNode, node), Data: b})
	return err
}

func leaf(tx store.Tx, at time.Time, actor, verb, node string, detail any) error {
	b, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("encoding an audit entry: %w", err)
	}
	_, err = tx.Audit().Append(store.AuditEntry{At: at, Actor: actor, Verb: verb, Object: rats.Subject(rats.SubjectNode, node), Detail: b})
	return err
}
