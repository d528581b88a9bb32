package vm

import (
	"fmt"
	"testing"

	"github.com/assay-attest/assay/evidence/ima"
	"github.com/assay-attest/assay/rats"
)

// changeAndRun changes the tool, runs it and puts it back: a look at the files finds nothing afterwards.
const changeAndRun = "cp " + tool + " /tmp/tool && echo 'echo and more' >> " + tool + " && " + tool + "; cat /tmp/tool > " + tool

// runFromMemory runs a program that lies on a tmpfs.
const runFromMemory = "echo '#!/bin/sh' > /dev/shm/evil && echo 'echo evil' >> /dev/shm/evil && chmod 755 /dev/shm/evil && /dev/shm/evil"

// imaSection judges the kernel's list. missing is the severity where the list doesn't show that all code is measured.
func imaSection(missing string) string {
	return fmt.Sprintf(`ima:
  allow: [guest]
  data: ["/state/.*", "/tmp/.*", "/run/.*"]
  coverage:
    policies: ['%s']
    code_only: true
    missing: %s
`, rats.SHA256([]byte(IMAPolicy)), missing)
}

const quoteIMA = "quote: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n"

// Under our policy, loaded by the guest's init and measured, whatever is run is in the list: a program that was changed, run and
// put back, and code on a tmpfs.
// R179: code run from tmpfs is caught (S30).
func TestCodeThatRanIsRememberedUnderOurPolicyWhereverItLay(t *testing.T) {
	s := newSite(t, SeaBIOS)
	s.references()
	s.policy(rules{tpm: quoteIMA, formats: filesSection + imaSection("fail")})
	m := s.boot(Config{Tier: SeaBIOS, Initrd: s.initrd(), Cmdline: Cmdline + IMAOwn})
	s.run(m, tool)
	s.join(m)
	s.agent(m)
	claims := claimsOf[ima.Claims](t, s.trusted(), ima.Format)
	if claims.Aggregate != ima.AggregateMatch || !lists(claims, tool) {
		t.Errorf("boot aggregate %s, %d entries; the tool among them: %v", claims.Aggregate, claims.Count, lists(claims, tool))
	}

	s.run(m, changeAndRun)
	s.refused(ima.CodeChanged.Code, tool)
	s.run(m, runFromMemory)
	s.refused(ima.CodeUnknown.Code, "/dev/shm/evil")
}

// The kernel's built-in policy leaves out tmpfs: what is run there leaves no trace, and so a list under that policy is a
// warning, or refused where policy says so.
// R179: that the built-in policy has this hole is said by the verdict (S30).
func TestBuiltInPolicyAloneIsAWarning(t *testing.T) {
	s := newSite(t, SeaBIOS)
	s.references()
	s.policy(rules{tpm: quoteIMA, formats: filesSection + imaSection("warning")})
	m := s.boot(Config{Tier: SeaBIOS, Initrd: s.initrd(), Cmdline: Cmdline + IMATCB})
	s.run(m, runFromMemory)
	s.join(m)
	s.agent(m)
	res := s.attest()
	if res.State != rats.StateWarning || !because(res, ima.CodeCoverage.Code) {
		t.Fatalf("the verdict is %s, expected a warning for coverage:\n%s", res.Verdict, reasons(res))
	}
	if claims := claimsOf[ima.Claims](t, res, ima.Format); lists(claims, "/dev/shm/evil") || !lists(claims, "/bin/busybox") {
		t.Error("the built-in policy measures code on a tmpfs by now: docs/vm.md and S30 say otherwise")
	}
	s.policy(rules{tpm: quoteIMA, formats: filesSection + imaSection("fail")})
	s.refused(ima.CodeCoverage.Code)

	s.run(m, changeAndRun)
	s.refused(ima.CodeChanged.Code, tool)
}

func lists(c ima.Claims, path string) bool {
	for e := range c.All() {
		if e.Text() == path {
			return true
		}
	}
	return false
}
