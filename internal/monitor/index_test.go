package monitor_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tables of docs/enclave.md that name a test for each bad input name tests there are, and none of the weaknesses of
// HyperEnclave is left out.
func TestEveryBadInputHasItsTest(t *testing.T) {
	page, err := os.ReadFile("../../docs/enclave.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)` in `([a-z/]+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 30 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, n := range named {
		files, err := filepath.Glob(filepath.Join("../..", n[2], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(b), "\nfunc "+n[1]+"(t *testing.T)")
		}
		if !found {
			t.Errorf("there is no %s in %s", n[1], n[2])
		}
	}
	for _, w := range []string{"w1", "w2", "w3", "w4", "w5", "w6", "w7"} {
		if !strings.Contains(string(page), "\n| "+w+" | ") {
			t.Errorf("%s is not in the table", w)
		}
	}
	for _, r := range []string{"R095", "R163", "R164", "R165", "R166", "R168", "R174", "R177", "R178"} {
		if !strings.Contains(string(page), r) {
			t.Errorf("%s is not in the table", r)
		}
	}
}
