package vm

import (
	"slices"
	"strings"
	"testing"

	planev "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// The agent in a machine joins by its virtual TPM (EK → AK by credential activation), attests TPM and files, and what happens
// to the machine afterwards shows in the verdict.
// R032: after a reboot it is untrusted until it attests.
func TestAgentInAMachineJoinsAttestsAndIsCaughtTampering(t *testing.T) {
	s := newSite(t, SeaBIOS)
	s.references(tool, GuestAgent)
	s.policy(rules{formats: filesSection})
	m := s.boot(Config{Tier: SeaBIOS, Initrd: s.initrd(), Cmdline: Cmdline})
	s.join(m)
	if st := s.state(); st != rats.StateUnknown {
		t.Fatalf("the guest joined and is %s, expected unknown until it attests", st)
	}
	s.agent(m)

	res := s.trusted()
	if !slices.Equal(res.Marks, []string{rats.MarkSimulated, rats.MarkSoftwareTPM}) {
		t.Errorf("marks %q, expected simulated and software-tpm", res.Marks)
	}
	claims := claimsOf[tpm.Claims](t, res, tpm.Format)
	for _, n := range []string{"0", "4", "7", "10"} {
		text := claims.PCRs["sha256"][n]
		if n != "10" && strings.Trim(text, "0") == "" {
			t.Errorf("PCR %s is %q: SeaBIOS measures into it", n, text)
		}
		if text == "" {
			t.Errorf("PCR %s is not among the claims", n)
		}
	}

	s.run(m, "cp "+tool+" /tmp/tool && echo 'echo and more' >> "+tool)
	s.refused(planev.CodeChanged.Code, tool)
	s.run(m, "cat /tmp/tool > "+tool)
	before := s.trusted()

	s.reboots(m, before.ID)
}

// reboots resets the machine and follows its state.
func (s *site) reboots(m *Machine, last string) {
	t := s.t
	times, err := m.Reboot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.report(SeaBIOS, times)
	t.Logf("rebooted; last result %s", last)
	s.agent(m)
	s.trusted()
}

func (s *site) state() rats.State {
	s.t.Helper()
	st, err := s.admin.Status(s.t.Context(), s.node)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.State
}
