package policy_test

import (
	"strings"
	"testing"

	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

func TestConditionIsMetOnlyIfItEvaluatesToTrue(t *testing.T) {
	result := &rats.Result{
		Tier: rats.Affirming, At: now.Add(-1e9), Expires: now.Add(1e9), Marks: []string{"simulated"},
		Policy: rats.Ref{Name: "lab"},
	}
	full := policy.Env{Node: host, Set: goodSet(), Result: result, Now: now}
	bare := policy.Env{Node: host}
	tests := []struct {
		expr string
		env  policy.Env
		code rats.CodeInfo // none: met
	}{
		{`box.secure && box.level == 3 && box.name == "box" && box.restart_count == 0u`, full, rats.CodeInfo{}},
		{`box.clock.ticks == 7u`, full, rats.CodeInfo{}},
		{`box.pcrs["7"] == "` + abc.String() + `"`, full, rats.CodeInfo{}},
		{`box.pcrs.all(k, k == "7") && size(box.pcrs) == 1`, full, rats.CodeInfo{}},
		{`box.events.exists(e, e.kind == "load") && box.events[0].kind == "boot"`, full, rats.CodeInfo{}},
		{`box.events.exists_one(e, e.kind == "load")`, full, rats.CodeInfo{}},
		{`box.made <= now && box.age == duration("1m") && box.raw == b"\x01\x02" && box.ratio < 0.6`, full, rats.CodeInfo{}},
		{`box.made + duration("1s") > now`, full, rats.CodeInfo{}},
		{`!has(box.vendor) && has(box.name)`, full, rats.CodeInfo{}},
		{`node.kind == "host" && node.labels["env"] == "lab" && node.parent == ""`, full, rats.CodeInfo{}},
		{`present("box") && present("run")`, full, rats.CodeInfo{}},
		{`!present("box") || box.secure`, bare, rats.CodeInfo{}},
		{`result.tier == "affirming" && result.state == "trusted" && result.word == "trusted"`, full, rats.CodeInfo{}},
		{`result.age <= duration("1s") && result.policy == "lab" && "simulated" in result.marks`, full, rats.CodeInfo{}},
		{`box.events[0] == box.events[0] && box.events[0] != box.events[1]`, full, rats.CodeInfo{}},

		{`box.level == 4`, full, policy.CodeConditionFalse},
		{`box.secure`, bare, policy.CodeConditionUnevaluable},
		{`!box.secure`, bare, policy.CodeConditionUnevaluable},
		{`has(box.vendor)`, bare, policy.CodeConditionUnevaluable},
		{`box.vendor == ""`, full, policy.CodeConditionUnevaluable},
		{`box.vendor != "evil"`, full, policy.CodeConditionUnevaluable},
		{`box.pcrs["8"] != "x"`, full, policy.CodeConditionUnevaluable},
		{`box.events[9].kind != "x"`, full, policy.CodeConditionUnevaluable},
		{`node.labels["zone"] != "dmz"`, full, policy.CodeConditionUnevaluable},
		{`result.tier != "none"`, bare, policy.CodeConditionUnevaluable},
		{`now > timestamp("2000-01-01T00:00:00Z")`, bare, policy.CodeConditionUnevaluable},
		{`1 / box.level == 0 && 1 / (box.level - 3) == 0`, full, policy.CodeConditionUnevaluable},
		{`dyn(box).secured`, full, policy.CodeConditionUnevaluable},
	}
	for _, test := range tests {
		t.Run(test.expr, func(t *testing.T) {
			c, reasons := policy.CompileCondition(test.expr, descriptors())
			if c == nil {
				if test.expr == `dyn(box).secured` { // need not compile
					return
				}
				t.Fatalf("compiling: %v", reasons)
			}
			ok, reasons := c.Eval(test.env)
			if ok != (test.code.Code == "") || ok != (len(reasons) == 0) {
				t.Fatalf("got %v, %v", ok, reasons)
			}
			if !ok && has(reasons, test.code) == nil {
				t.Errorf("expected %s, got %v", test.code.Code, reasons)
			}
			if c.String() != test.expr {
				t.Errorf("text %q", c.String())
			}
		})
	}
}

func TestAbsentClaimPointerIsNotZero(t *testing.T) {
	set := goodSet()
	v := set.Verified[formatBox]
	v.Claims = &boxClaims{}
	set.Verified[formatBox] = v
	c, _ := policy.CompileCondition(`box.clock.ticks == 0u`, descriptors())
	if ok, r := c.Eval(policy.Env{Set: set}); ok || has(r, policy.CodeConditionUnevaluable) == nil {
		t.Errorf("got %v, %v", ok, r)
	}
}

func TestExpiredResultIsSeenAsStale(t *testing.T) {
	c, _ := policy.CompileCondition(`result.state == "stale" && result.tier == "none"`, descriptors())
	if ok, r := c.Eval(policy.Env{Result: &rats.Result{Tier: rats.Affirming, Expires: now}, Now: now}); !ok {
		t.Error(r)
	}
}

func TestBadConditionIsRefusedWithItsPlace(t *testing.T) {
	tests := []struct {
		expr, path string
		code       rats.CodeInfo
	}{
		{"", "line 1, column 1", policy.CodeConditionSize},
		{"box.secured", "line 1, column 4", policy.CodeConditionSyntax},
		{"box.secure &&\n  box.lvl == 1", "line 2, column 6", policy.CodeConditionSyntax},
		{"box.level == 'x'", "line 1, column 11", policy.CodeConditionSyntax},
		{"box.level", "line 1, column 1", policy.CodeConditionType},
		{"dyn(true)", "line 1, column 1", policy.CodeConditionType},
		{"assay.claims.box{level: 1}.secure", "line 1", policy.CodeConditionSyntax},
		{strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100), "line 1", policy.CodeConditionSyntax},
	}
	for _, test := range tests {
		c, reasons := policy.CompileCondition(test.expr, descriptors())
		if c != nil {
			if ok, _ := c.Eval(policy.Env{Set: goodSet()}); ok {
				t.Errorf("%q holds", test.expr)
			}
			continue
		}
		if r := has(reasons, test.code); r == nil || !strings.HasPrefix(r.Path, test.path) {
			t.Errorf("%q: expected %s at %s, got %v", test.expr, test.code.Code, test.path, reasons)
		}
	}
}

func TestCostlyConditionIsStopped(t *testing.T) {
	set := goodSet()
	many := &boxClaims{Events: make([]boxEvent, 20000)}
	set.Verified[formatBox] = rats.Verified{Claims: many}
	c, reasons := policy.CompileCondition(`box.events.all(a, box.events.all(b, a.kind == b.kind))`, descriptors())
	if c == nil {
		t.Fatal(reasons)
	}
	if ok, r := c.Eval(policy.Env{Set: set}); ok || has(r, policy.CodeConditionUnevaluable) == nil {
		t.Errorf("got %v, %v", ok, r)
	}
}

func FuzzCompileCondition(f *testing.F) {
	for _, s := range []string{"box.secure", `present("box")`, "box.events.all(e, e.kind.matches('b.*'))", "result.age < duration('1m')", "((("} {
		f.Add(s)
	}
	ds := descriptors()
	f.Fuzz(func(t *testing.T, expr string) {
		c, reasons := policy.CompileCondition(expr, ds)
		if (c == nil) == (len(reasons) == 0) {
			t.Fatalf("condition %v with reasons %v", c, reasons)
		}
		if c != nil {
			c.Eval(policy.Env{Node: host, Set: goodSet(), Now: now})
		}
	})
}

func BenchmarkCondition(b *testing.B) {
	c, _ := policy.CompileCondition(`box.secure && box.clock.ticks == 7u && node.labels["env"] == "lab"`, descriptors())
	env := policy.Env{Node: host, Set: goodSet(), Now: now}
	for b.Loop() {
		if ok, r := c.Eval(env); !ok {
			b.Fatal(r)
		}
	}
}
