package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

func compileActions(tail string) (*policy.Policy, []rats.Reason) {
	return policy.Compile([]byte(minimal(tail)), descriptors())
}

func TestActionsAndEventsOfAPolicyAreRead(t *testing.T) {
	p, reasons := compileActions(`on: [packages, kexec]
actions:
  - {name: page, when: [contraindicated, stale], codes: ["plan.*"], results: 3, for: 2m, again: 1h, do: run, command: page-oncall}
  - {name: mark, when: [warning], do: alert}
`)
	if p == nil {
		t.Fatal(reasons)
	}
	if got := strings.Join(p.On(), " "); got != "packages kexec" {
		t.Error(got)
	}
	a := p.Actions()
	if len(a) != 2 || a[0].Results != 3 || a[0].For != 2*time.Minute || a[0].Severity != policy.SeverityCritical || a[1].Results != 1 || a[1].Severity != policy.SeverityWarning {
		t.Errorf("%+v", a)
	}
	for _, tt := range []struct {
		state rats.State
		codes []rats.Code
		want  bool
	}{
		{rats.StateContraindicated, []rats.Code{"tpm.pcr.value", "plan.file.changed"}, true},
		{rats.StateContraindicated, []rats.Code{"tpm.pcr.value"}, false},
		{rats.StateContraindicated, nil, false},
		{rats.StateTrusted, []rats.Code{"plan.file.changed"}, false},
	} {
		if got := a[0].Meets(tt.state, tt.codes); got != tt.want {
			t.Errorf("%s %v: %v", tt.state, tt.codes, got)
		}
	}
}

func TestActionsThatCannotBeCarriedOutAreRefused(t *testing.T) {
	for tail, want := range map[string]rats.CodeInfo{
		"on: [reboot]":                                                                        policy.CodeEventBad,
		"on: [kexec, kexec]":                                                                  policy.CodeFieldDuplicate,
		"actions: [{name: a, do: alert}]":                                                     policy.CodeActionBad,
		"actions: [{name: a, when: [angry], do: alert}]":                                      policy.CodeActionBad,
		"actions: [{name: a, when: [stale, stale], do: alert}]":                               policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: shout}]":                                      policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: run}]":                                        policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: run, command: '/bin/sh -c x'}]":               policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: alert, command: x}]":                          policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: alert, severity: loud}]":                      policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: alert, results: -1}]":                         policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: alert, for: 1000h}]":                          policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: alert, codes: ['pl*n.x']}]":                   policy.CodeActionBad,
		"actions: [{name: a, when: [stale], do: alert, argv: [x]}]":                           policy.CodeFieldUnknown,
		"actions: [{name: A!, when: [stale], do: alert}]":                                     policy.CodeNameBad,
		"actions: [{name: a, when: [stale], do: alert}, {name: a, when: [stale], do: alert}]": policy.CodeFieldDuplicate,
	} {
		p, reasons := compileActions(tail + "\n")
		if p != nil || len(reasons) == 0 || reasons[0].Code != want.Code {
			t.Errorf("%s: %v, want %s", tail, reasons, want.Code)
		}
	}
}
