package plan_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/assay-attest/assay/plan"
)

// Every check has an entry in the documentation, and every example there is a section that can be run.
func TestExamplesOfMeasuringAreRight(t *testing.T) {
	b, err := os.ReadFile("../../docs/measuring.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(b), -1) {
		examples++
		if rs := rules(t, m[1]).Lint(); len(rs) != 0 {
			t.Errorf("%s\n%v", m[1], rs)
		}
	}
	for _, name := range plan.CheckNames() {
		_, entry, ok := strings.Cut(string(b), "\n### "+name+"\n")
		if example, _, _ := strings.Cut(entry, "\n## "); !ok || !strings.Contains(example, "check: "+name) {
			t.Errorf("check %s has no entry with an example", name)
		}
		for _, s := range plan.Checks[name].Switches {
			if !strings.Contains(entry, "`"+s+"`") && !strings.Contains(entry, s) {
				t.Errorf("option %s of check %s is not explained", s, name)
			}
		}
	}
	if examples < len(plan.Checks) {
		t.Errorf("%d examples", examples)
	}
}
