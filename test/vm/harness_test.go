package vm

import (
	"errors"
	"net"
	"testing"
)

// The harness itself: a machine boots, its shell answers, and its network ends at the server.
func TestMachineBootsRunsScriptsAndReachesNothingElse(t *testing.T) {
	s := newSite(t, SeaBIOS)
	m := s.boot(Config{Tier: SeaBIOS, Initrd: s.initrd(), Cmdline: Cmdline})
	if out := s.run(m, "echo one; echo two >&2"); out != "one\ntwo" {
		t.Errorf("the shell said %q", out)
	}
	var failed *ExitError
	if _, err := m.Run(t.Context(), "echo no; false"); !errors.As(err, &failed) || failed.Code != "1" || failed.Output != "no" {
		t.Errorf("a failing script gave %v", err)
	}
	if _, err := m.Run(t.Context(), "exit 7"); !errors.As(err, &failed) || failed.Code != "7" {
		t.Errorf("a script that exits gave %v", err)
	}
	// Nothing but the server can be reached: neither the host's other ports nor the network.
	for _, other := range []string{"10.0.2.2 " + port(s.addr), "10.0.2.100 22", "1.1.1.1 443"} {
		if out, err := m.Run(t.Context(), "timeout 2 nc "+other+" </dev/null"); err == nil {
			t.Errorf("the guest reached %s: %s", other, out)
		}
	}
	m.Stop()
	if _, err := m.Run(t.Context(), "true"); !errors.Is(err, ErrEnded) {
		t.Errorf("a script for a stopped machine gave %v", err)
	}
	m.Stop()
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

func TestMachineIsRefusedWhatItCannotBoot(t *testing.T) {
	tpm := &TPM{dir: t.TempDir()}
	for _, c := range []Config{
		{Tier: SeaBIOS, Image: []byte("x")},
		{Tier: UKI, Initrd: []byte("x")},
		{Tier: OVMF},
		{Tier: Shim, Image: []byte("x")},
		{Tier: UKI, Image: []byte("x"), ESP: map[string][]byte{"x": nil}},
		{Tier: SeaBIOS, Initrd: []byte("x"), Server: "nowhere"},
		{Tier: SeaBIOS, Initrd: []byte("x"), Dir: "a,readonly=off"},
	} {
		c.TPM = tpm
		if _, err := Start(t.Context(), c); err == nil {
			t.Errorf("a machine was started of %+v", c)
		}
	}
}
