package refvalue_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

func windows() *plan.Windows {
	return &plan.Windows{
		Backend: "native", Runs: 50, Repeat: 3, Pace: plan.Range{Low: 700, High: 1400}, Spread: plan.Range{High: 300},
		Names: []plan.Window{{Name: "/usr/bin/ls", Low: 10, Median: 12, High: 20, MAD: 1}, {Name: "/usr/lib", Low: 1, Median: 1, High: 1}},
	}
}

// R030: what lab runs took is part of the set, in one form.
func TestWindowsSurviveTheNativeForm(t *testing.T) {
	plainSet := sample(t)
	s, err := plainSet.WithWindows(windows())
	if err != nil {
		t.Fatal(err)
	}
	p, err := refvalue.Parse(s.Encode())
	if err != nil || !bytes.Equal(p.Encode(), s.Encode()) || !reflect.DeepEqual(p.Windows(), windows()) {
		t.Fatalf("%v: %s", err, s.Encode())
	}
	if plainSet.Windows() != nil || bytes.Equal(plainSet.Encode(), s.Encode()) {
		t.Error("the set itself was changed")
	}
	x := refvalue.NewIndex(map[string]refvalue.Versioned{"lab": {Set: p}, "plain": {Set: plainSet}})
	if w, err := x.Windows("lab"); err != nil || w.Runs != 50 {
		t.Error(w, err)
	}
	if w, err := x.Windows("plain"); err != nil || w != nil {
		t.Error(w, err)
	}
	if _, err := x.Windows("none"); err == nil {
		t.Error("a set that isn't there has windows")
	}
}

func TestBadWindowsAreRefused(t *testing.T) {
	good, err := sample(t).WithWindows(windows())
	if err != nil {
		t.Fatal(err)
	}
	doc := string(good.Encode())
	for name, c := range map[string]struct {
		old, now string
		code     rats.CodeInfo
	}{
		"version":         {`"version":1`, `"version":2`, refvalue.CodeTiming},
		"no backend":      {`"native"`, `""`, refvalue.CodeTiming},
		"few runs":        {`"runs":50`, `"runs":4`, refvalue.CodeTiming},
		"many runs":       {`"runs":50`, `"runs":9007199254740991`, refvalue.CodeTiming},
		"many repeats":    {`"repeat":3`, `"repeat":17`, refvalue.CodeTiming},
		"range":           {`[700,1400]`, `[1400,700]`, refvalue.CodeTiming},
		"one number":      {`[700,1400]`, `[700]`, refvalue.CodeTiming},
		"three numbers":   {`[700,1400]`, `[700,1400,1]`, refvalue.CodeTiming},
		"huge":            {`[700,1400]`, `[700,9007199254740991]`, refvalue.CodeTiming},
		"negative":        {`[700,`, `[-1,`, refvalue.CodeSetSyntax},
		"order of window": {`[10,12,20,1]`, `[12,10,20,1]`, refvalue.CodeTiming},
		"order of names":  {`{"name":"/usr/lib","window"`, `{"name":"/a","window"`, refvalue.CodeTiming},
		"name twice":      {`{"name":"/usr/lib","window"`, `{"name":"/usr/bin/ls","window"`, refvalue.CodeTiming},
		"name":            {`{"name":"/usr/lib","window"`, `{"name":"/x%41","window"`, refvalue.CodeTiming},
		"unknown field":   {`"runs"`, `"x":1,"runs"`, refvalue.CodeSetField},
		"field twice":     {`"runs"`, `"runs":50,"runs"`, refvalue.CodeSetField},
		"missing field":   {`"spread":[0,300],`, ``, refvalue.CodeSetField},
	} {
		_, err := refvalue.Parse([]byte(strings.Replace(doc, c.old, c.now, 1)))
		if r, ok := rats.ReasonOf(err); !ok || r.Code != c.code.Code {
			t.Errorf("%s: %v, want %s", name, err, c.code.Code)
		}
	}
	w := windows()
	w.Names = nil
	if _, err := good.WithWindows(w); err == nil {
		t.Error("no windows at all")
	}
}
