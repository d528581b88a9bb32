package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// R085: in the initramfs the disk can't be written as a rule. What happened then stands in the audit log as soon as it can, in
// its place.
func TestAuditLogCatchesUpWhenTheDiskCanBeWritten(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	_ = m.created("linux").Close()
	m.boot("linux")
	log := filepath.Join(m.cfg.State, auditFileName)
	aside := log + ".aside"
	if err := errors.Join(os.Rename(log, aside), os.Mkdir(log, 0o700)); err != nil {
		t.Fatal(err)
	}
	k := m.start()
	mustHold(t, k)
	k.Brief()
	if err := errors.Join(os.Remove(log), os.Rename(aside, log)); err != nil {
		t.Fatal(err)
	}
	k.Brief()
	if got := auditEvents(t, m); got[len(got)-1] != "unsealed" {
		t.Errorf("the audit log has %v", got)
	}
	k.Brief()
	if _, err := k.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := auditEvents(t, m)
	if i := slices.Index(got, "unsealed"); i < 0 || slices.Contains(got[i+1:], "unsealed") || got[len(got)-1] != "commit" {
		t.Errorf("the audit log has %v", got)
	}
}

// S10: whoever wrote to the disk before this boot can't keep the keeper from its cap: not by something that can't be read to its
// end, or not at all.
func TestStateThatIsNoFileDoesNotDelayTheCap(t *testing.T) {
	for _, name := range []string{rootFileName, orderFileName, auditFileName, auditFileName + ".new", setsDir} {
		m := newMachine(t, LaunchInitrd)
		_ = m.created("linux").Close()
		file := filepath.Join(m.cfg.State, name)
		if err := errors.Join(os.RemoveAll(file), syscall.Mkfifo(file, 0o600)); err != nil {
			t.Fatal(err)
		}
		m.boot("linux")
		k, err := Start(t.Context(), m.options())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !k.boot.Capped {
			t.Errorf("%s: not capped", name)
		}
		if name == rootFileName || name == orderFileName {
			mustBeLocked(t, k, CodeState)
		}
		_ = k.Close()
	}
}
