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
	t.Log(s.run(m, "ifconfig -a; route -n; lsmod; ls -la /dev/tpm* /dev/vd*; mount; dmesg | tail -20; date; time timeout 5 nc -v 10.0.2.100 8443 </dev/null; dmesg | grep -i -e ima: -e tpm"))
	t.Log(s.run(m, "export HOME=/root; time timeout 10 assay version; timeout -s QUIT 15 assay agent join --server "+GuestServer+" --join-token /etc/passwd --data /state/x; true"))
}
