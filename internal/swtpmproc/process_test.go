package swtpmproc

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestSoftwareTPMSurvivesResetAndRestartOnItsDirectory(t *testing.T) {
	if _, err := exec.LookPath("swtpm_setup"); err != nil && os.Getenv("CI") == "" {
		t.Skip("swtpm is not installed: run make tools")
	}
	dir, err := os.MkdirTemp("", "swtpm-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := StartProcess(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.CACerts()) != 2 {
		t.Errorf("got %d CA certificates, want issuer and root", len(p.CACerts()))
	}
	if err := p.Reset(); err != nil {
		t.Fatalf("reset: %v", err)
	}
	if err := p.Stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if err := p.Stop(); err != nil {
		t.Fatalf("second stop: %v", err)
	}
	again, err := StartProcess(t.Context(), dir, Options{})
	if err != nil {
		t.Fatalf("starting on the same directory: %v", err)
	}
	if err := again.Stop(); err != nil {
		t.Fatal(err)
	}
}

func TestSocketPathBeyondTheSystemsLimitIsRefused(t *testing.T) {
	_, err := StartProcess(t.Context(), "/tmp/"+strings.Repeat("x", 120), Options{})
	if err == nil || !strings.Contains(err.Error(), "shorter directory") {
		t.Errorf("got %v, want an error that asks for a shorter directory", err)
	}
}
