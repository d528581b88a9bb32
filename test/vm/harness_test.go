package vm

import (
	"errors"
	"testing"
)

// The harness itself: a machine boots, its shell answers, its server is reachable, its disk survives a reboot.
func TestMachineBootsRunsScriptsAndKeepsItsDisk(t *testing.T) {
	s := newSite(t, SeaBIOS)
	m := s.boot(Config{Tier: SeaBIOS, Initrd: s.initrd(), Cmdline: Cmdline})
	if out := s.run(m, "echo one; echo two >&2"); out != "one\ntwo" {
		t.Errorf("the shell said %q", out)
	}
	var failed *ExitError
	if _, err := m.Run(t.Context(), "echo no; false"); !errors.As(err, &failed) || failed.Code != "1" || failed.Output != "no" {
		t.Errorf("a failing script gave %v", err)
	}
	t.Log(s.run(m, "busybox nc; time timeout 5 busybox nc 10.0.2.100 8443 </dev/null; true"))
	s.run(m, "echo kept > "+GuestState+"/file")
	times, err := m.Reboot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.report(SeaBIOS, times)
	if out := s.run(m, "cat "+GuestState+"/file"); out != "kept" {
		t.Errorf("after the reboot the disk holds %q", out)
	}
}
