package vm

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	planev "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/rats"
)

// The agent in a machine joins by its virtual TPM (EK → AK by credential activation), attests TPM and files, and what happens
// to the machine afterwards shows in the verdict.
// R032: after a reboot it is untrusted until it attests.
func TestAgentInAMachineJoinsAttestsAndIsCaughtTampering(t *testing.T) {
	s := newSite(t, SeaBIOS)
	s.references()
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

	// The disk keeps the agent's identity; the tool is the initramfs's again, and is changed before the agent says a word.
	times, err := m.Reboot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.report(SeaBIOS, times)
	since := s.lastEvent()
	s.run(m, "cp "+tool+" /tmp/tool && echo 'echo and more' >> "+tool)
	s.agent(m)
	s.refused(planev.CodeChanged.Code, tool)
	s.run(m, "cat /tmp/tool > "+tool)
	after := s.trusted()
	if len(before.Boots) != 1 || len(after.Boots) != 1 || before.Boots[0].ID.Equal(after.Boots[0].ID) {
		t.Errorf("boots %v before and %v after the reboot, expected two", before.Boots, after.Boots)
	}
	s.untrustedFirst(since)
}

// lastEvent returns the number of the last event.
func (s *site) lastEvent() int64 {
	s.t.Helper()
	var last int64
	for _, e := range s.events(0) {
		last = e.Seq
	}
	return last
}

// events returns the events so far.
func (s *site) events(after int64) []api.Event {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
	defer cancel()
	var out []api.Event
	for e, err := range s.admin.Events(ctx, after) {
		if err != nil {
			break // the time is over: events have no end
		}
		out = append(out, e)
	}
	return out
}

// untrustedFirst expects that the guest was not trusted from its first word after the reboot on, until it attested.
func (s *site) untrustedFirst(since int64) {
	s.t.Helper()
	for _, e := range s.events(since) {
		if e.Kind != appraiser.EventBoot {
			continue
		}
		data, _ := e.Data.(map[string]any)
		if data["before"] != string(rats.StateTrusted) || data["state"] != string(rats.StateUnknown) {
			s.t.Errorf("the reboot made the guest %v, expected unknown instead of trusted", data)
		}
		return
	}
	s.t.Error("no event tells of the reboot")
}

func (s *site) state() rats.State {
	s.t.Helper()
	st, err := s.admin.Status(s.t.Context(), s.node)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.State
}
