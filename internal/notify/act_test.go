package notify

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// R015: an action waits until its condition holds, fires once, and is damped while it comes and goes.
func TestAnActionFiresOnceItsConditionHoldsAndNotWhileItFlaps(t *testing.T) {
	for name, tt := range map[string]struct {
		a    policy.Action
		seen string // one letter per minute: x holds, - doesn't, s holds in silence
		want string // F fires, E ends
	}{
		"at once":            {policy.Action{Results: 1}, "xxx--", "F..E."},
		"after three":        {policy.Action{Results: 3}, "xx-xxxx", ".....F."},
		"flapping":           {policy.Action{Results: 3}, "xxxx-x-x--x---xxx", "..F..........E..F"},
		"flapping before":    {policy.Action{Results: 3}, "xx-xx-xx-xx-", "............"},
		"for two minutes":    {policy.Action{Results: 1, For: 2 * time.Minute}, "xxx-xx---", "..F.....E"},
		"again":              {policy.Action{Results: 1, Again: 2 * time.Minute}, "xxxxx", "F.F.F"},
		"silence":            {policy.Action{Results: 5, For: time.Minute}, "sss", ".F."},
		"silence then again": {policy.Action{Results: 2}, "s--s", "F.EF"},
	} {
		var s store.Acting
		got := ""
		for i, c := range tt.seen {
			next, fires, ends := Step(tt.a, s, c != '-', c != 's', start.Add(time.Duration(i)*time.Minute))
			s = next
			switch {
			case fires:
				got += "F"
			case ends:
				got += "E"
			default:
				got += "."
			}
		}
		if got != tt.want {
			t.Errorf("%s: %s gave %s, want %s", name, tt.seen, got, tt.want)
		}
	}
}

func trusted() store.Node {
	return store.Node{
		ID: "nd_1", Name: "web", Enrolment: store.EnrolmentApproved, Last: "at_1", LastTier: rats.Affirming,
		LastAt: time.Now(), Expires: time.Now().Add(time.Hour),
	}
}

func (w *world) judge(actions []policy.Action, state rats.State, reasons ...rats.Reason) store.Node {
	w.Helper()
	var n store.Node
	w.update(func(tx store.Tx) (err error) {
		if n, err = tx.Nodes().Get("nd_1"); err != nil {
			return err
		}
		if _, err = Judge(tx, actions, &n, Observation{At: time.Now(), State: state, Reasons: reasons, Result: "at_2"}); err != nil {
			return err
		}
		return tx.Nodes().Put(n)
	})
	return n
}

func (w *world) kinds() string {
	w.Helper()
	var out []string
	w.update(func(tx store.Tx) error {
		out = nil
		events, err := tx.Events().After(0, 0)
		for _, e := range events {
			out = append(out, e.Kind)
		}
		return err
	})
	return strings.Join(out, " ")
}

var badFile = rats.Reason{Code: "plan.file.unknown", Tier: rats.Contraindicated, Path: "/bin/evil", Seen: "sha256:aa", Rule: "bin"}

// R039: an unknown checksum is reported with path and severity, and what happens then is policy.
func TestAnActionSaysWhatWasFoundWithPathAndSeverity(t *testing.T) {
	w := newWorld(t, local)
	w.update(func(tx store.Tx) error { return tx.Nodes().Put(trusted()) })
	actions := []policy.Action{{Name: "tell", When: []rats.State{rats.StateContraindicated}, Codes: []string{"plan.file.*"}, Results: 1, Do: policy.DoAlert, Severity: policy.SeverityCritical}}
	w.judge(actions, rats.StateContraindicated, rats.Reason{Code: "tpm.x.y", Tier: rats.Contraindicated})
	if k := w.kinds(); k != "" {
		t.Errorf("it fired for another code: %s", k)
	}
	w.judge(actions, rats.StateContraindicated, rats.Reason{Code: "x.y.z", Tier: rats.Warning}, badFile)
	w.update(func(tx store.Tx) error {
		events, err := tx.Events().After(0, 0)
		if len(events) != 1 || events[0].Kind != EventFired || Severity(events[0]) != policy.SeverityCritical {
			t.Fatalf("%+v", events)
		}
		var d struct{ Findings []Finding }
		if err := json.Unmarshal(events[0].Data, &d); err != nil {
			t.Fatal(err)
		}
		want := Finding{Code: badFile.Code, Severity: "fail", Path: "/bin/evil", Rule: "bin", Seen: "sha256:aa"}
		if len(d.Findings) != 2 || d.Findings[0] != want || d.Findings[1].Severity != "warning" {
			t.Errorf("%+v", d.Findings)
		}
		head, err2 := tx.Audit().Head()
		if head.Verb != "action.fire" || err2 != nil {
			t.Errorf("%+v, %v", head, err2)
		}
		return err
	})
}

// A quarantine outlives good results; only an administrator lifts it, and both are audited.
func TestQuarantineSurvivesAGoodResultUntilItIsLifted(t *testing.T) {
	w := newWorld(t, local)
	w.update(func(tx store.Tx) error { return tx.Nodes().Put(trusted()) })
	actions := []policy.Action{{Name: "apart", When: []rats.State{rats.StateContraindicated}, Results: 1, Do: policy.DoQuarantine, Severity: policy.SeverityCritical}}
	n := w.judge(actions, rats.StateContraindicated, badFile)
	if n.Quarantine == nil || n.Quarantine.By != "action:apart" || !strings.Contains(n.Quarantine.Why, "/bin/evil") {
		t.Fatalf("%+v", n.Quarantine)
	}
	for range 5 {
		n = w.judge(actions, rats.StateTrusted)
	}
	st := node.StatusOf(n, nil, time.Now())
	if n.Quarantine == nil || st.State != rats.StateContraindicated || st.Why[0].Code != node.CodeQuarantined.Code {
		t.Fatalf("a good result ended the quarantine: %+v", st)
	}
	w.update(func(tx store.Tx) error {
		if err := Lift(tx, &n, "admin:a", "looked at it", time.Now()); err != nil {
			return err
		}
		return tx.Nodes().Put(n)
	})
	if st := node.StatusOf(n, nil, time.Now()); st.State != rats.StateTrusted {
		t.Errorf("%+v", st)
	}
	if k := w.kinds(); k != "action.fired node.quarantined action.ended node.unquarantined" {
		t.Error(k)
	}
	w.update(func(tx store.Tx) error {
		chain, err := tx.Audit().After(0, 0)
		verbs := ""
		for _, e := range chain {
			verbs += e.Actor + "=" + e.Verb + " "
		}
		if verbs != "server=action.fire server=node.quarantine server=action.end admin:a=node.unquarantine " {
			t.Error(verbs)
		}
		return err
	})
}

func TestWithholdingEndsWithItsCondition(t *testing.T) {
	w := newWorld(t, local)
	w.update(func(tx store.Tx) error { return tx.Nodes().Put(trusted()) })
	actions := []policy.Action{{Name: "keep", When: []rats.State{rats.StateWarning}, Results: 2, Do: policy.DoWithhold, Severity: policy.SeverityWarning}}
	for i, step := range []struct {
		state rats.State
		want  string
	}{{rats.StateWarning, ""}, {rats.StateWarning, "keep"}, {rats.StateTrusted, "keep"}, {rats.StateTrusted, ""}} {
		if n := w.judge(actions, step.state); n.Withheld != step.want {
			t.Errorf("step %d: %q, want %q", i, n.Withheld, step.want)
		}
	}
	w.judge(actions, rats.StateWarning)
	w.judge(actions, rats.StateWarning)
	if n := w.judge(nil, rats.StateWarning); n.Withheld != "" || n.Acting != nil {
		t.Errorf("an action that is gone from the policy still withholds: %+v", n)
	}
}

// A command gets facts on standard input and nothing of them in its arguments or environment.
func TestCommandsOfActionsRunAsTheServersOwnerWroteThem(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "page")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n/bin/cat > "+dir+"/facts\n/usr/bin/env > "+dir+"/env\necho \"$#\" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := local
	s.Commands = map[string]Command{
		"page":  {Argv: []string{script, "one two", "$(id)"}, Env: []string{"TEAM=x"}},
		"fail":  {Argv: []string{"/bin/false"}},
		"hang":  {Argv: []string{"/bin/sh", "-c", "sleep 60 & sleep 60"}, Timeout: "200ms"},
		"chat":  {Argv: []string{"/bin/sh", "-c", "yes | head -c 10000000"}},
		"ghost": {Argv: []string{dir + "/nothing"}},
	}
	t.Setenv("ASSAY_TEST_SECRET", "hush")
	w := newWorld(t, s)
	w.update(func(tx store.Tx) error { return tx.Nodes().Put(trusted()) })
	w.run(w.d)
	w.until("a place among the events", func() bool {
		ok := false
		w.update(func(tx store.Tx) error { _, err := tx.Shelf().Get(itemCursor, "commands"); ok = err == nil; return nil })
		return ok
	})
	names := []string{"page", "fail", "hang", "chat", "ghost", "unknown"}
	var actions []policy.Action
	for _, name := range names {
		actions = append(actions, policy.Action{Name: name, When: []rats.State{rats.StateContraindicated}, Results: 1, Do: policy.DoRun, Command: name, Severity: policy.SeverityCritical})
	}
	w.judge(actions, rats.StateContraindicated, rats.Reason{Code: "x.y.z", Tier: rats.Contraindicated, Path: "/tmp/$(touch " + dir + "/pwned)"})
	results := map[string]ran{}
	w.until("all commands", func() bool {
		w.update(func(tx store.Tx) error {
			events, err := tx.Events().After(0, 0)
			for _, e := range events {
				if e.Kind == EventRan {
					var r ran
					if err := json.Unmarshal(e.Data, &r); err != nil {
						t.Fatal(err)
					}
					results[r.Command] = r
				}
			}
			return err
		})
		return len(results) == len(names)
	})
	for name, want := range map[string]rats.CodeInfo{
		"page": {}, "chat": {}, "fail": CodeCommandFailed, "hang": CodeCommandTimeout, "ghost": CodeCommandFailed, "unknown": CodeCommandUnknown,
	} {
		got := rats.Code("")
		if r := results[name].Reason; r != nil {
			got = r.Code
		}
		if got != want.Code {
			t.Errorf("%s: %q, want %q: %+v", name, got, want.Code, results[name])
		}
	}
	if out := results["page"].Output; out != "2 one two $(id)\n" {
		t.Errorf("arguments: %q", out)
	}
	if n := len(results["chat"].Output); n != maxOutput {
		t.Errorf("%d bytes of output kept", n)
	}
	env, _ := os.ReadFile(dir + "/env")
	if !strings.Contains(string(env), "TEAM=x") || strings.Contains(string(env), "hush") || strings.Contains(string(env), "HOME=") {
		t.Errorf("environment: %s", env)
	}
	facts, _ := os.ReadFile(dir + "/facts")
	if !strings.Contains(string(facts), `"action":"page"`) || !strings.Contains(string(facts), "pwned") {
		t.Errorf("facts: %s", facts)
	}
	if _, err := os.Stat(dir + "/pwned"); err == nil {
		t.Error("facts were run")
	}
}

func TestSettingsThatCannotBeUsedAreRefused(t *testing.T) {
	for name, s := range map[string]Settings{
		"network":  {AllowNetworks: []string{"10.0.0.1/8"}},
		"give up":  {GiveUp: "soon"},
		"relative": {Commands: map[string]Command{"x": {Argv: []string{"sh", "-c"}}}},
		"empty":    {Commands: map[string]Command{"x": {}}},
		"name":     {Commands: map[string]Command{"X y": {Argv: []string{"/bin/true"}}}},
		"env":      {Commands: map[string]Command{"x": {Argv: []string{"/bin/true"}, Env: []string{"PATH"}}}},
		"dir":      {Commands: map[string]Command{"x": {Argv: []string{"/bin/true"}, Dir: "tmp"}}},
		"timeout":  {Commands: map[string]Command{"x": {Argv: []string{"/bin/true"}, Timeout: "1h"}}},
	} {
		_, err := New(Config{}, s)
		if r, _ := rats.ReasonOf(err); r.Code != CodeSettings.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Silence is told once, and acted on like any other state: whoever cuts a node off gains nothing by it.
func TestANodeThatFallsSilentIsToldOnceAndActedOn(t *testing.T) {
	w := newWorld(t, local)
	n := trusted()
	n.Expires = time.Now().Add(100 * time.Millisecond)
	w.update(func(tx store.Tx) error { return tx.Nodes().Put(n) })
	w.d.cfg.Policy = func(context.Context, string, store.Node) ([]policy.Action, rats.Ref, error) {
		return []policy.Action{{Name: "gone", When: []rats.State{rats.StateStale}, Results: 3, For: 100 * time.Millisecond, Do: policy.DoAlert, Severity: policy.SeverityCritical}}, rats.Ref{}, nil
	}
	w.run(w.d)
	w.until("the alert", func() bool { return strings.Contains(w.kinds(), EventFired) })
	time.Sleep(200 * time.Millisecond)
	if k := w.kinds(); k != "node.state action.fired" {
		t.Error(k)
	}
}

func TestFiltersChooseByKindNodeAndSeverity(t *testing.T) {
	e := store.Event{Kind: "node.state", Subject: "node/nd_1", Data: json.RawMessage(`{"state":"stale"}`)}
	for _, tt := range []struct {
		f    Filter
		e    store.Event
		want bool
	}{
		{Filter{}, e, true},
		{Filter{}, store.Event{Kind: "node.result"}, false},
		{Filter{Every: true}, store.Event{Kind: "node.result"}, true},
		{Filter{Kinds: []string{"node.result"}}, store.Event{Kind: "node.result"}, true},
		{Filter{Kinds: []string{"node.*"}}, e, true},
		{Filter{Kinds: []string{"nod.*"}}, e, false},
		{Filter{Kinds: []string{"node.st"}}, e, false},
		{Filter{Nodes: []string{"nd_1"}}, e, true},
		{Filter{Nodes: []string{"nd_2"}}, e, false},
		{Filter{Severity: "warning"}, e, true},
		{Filter{Severity: "critical"}, e, false},
		{Filter{Severity: "critical"}, store.Event{Kind: "x", Data: json.RawMessage(`{"severity":"critical"}`)}, true},
		{Filter{Severity: "critical"}, store.Event{Kind: "x", Data: json.RawMessage(`{"severity":5}`)}, false},
	} {
		if got := tt.f.Wants(tt.e); got != tt.want {
			t.Errorf("%+v of %+v: %v", tt.f, tt.e, got)
		}
	}
}
