// Package swtpm gives tests a software TPM that lives as long as the test.
//
// It needs the Debian packages swtpm and swtpm-tools. Without them a test is skipped, so that go test works on a fresh
// clone; where CI is set it fails instead: a test that is skipped proves nothing.
package swtpm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/assay-attest/assay/internal/swtpmproc"
)

// TPM is a running software TPM.
type TPM struct{ proc *swtpmproc.Process }

// ca is the certificate authority that all TPMs of one test binary share: making its keys takes longer than making a
// TPM.
var ca = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "swtpm-ca-") })

// manufacture serialises the making of TPMs, which share the CA.
var manufacture sync.Mutex

// Start makes a new TPM with certified endorsement keys and stops it when the test ends.
func Start(tb testing.TB) *TPM {
	tb.Helper()
	dir, err := ca()
	if err != nil {
		tb.Fatalf("making a directory for the CA: %v", err)
	}
	return start(tb, swtpmproc.Options{CADir: filepath.Join(dir, "ca")})
}

// StartUncertified makes a new TPM without endorsement certificates.
func StartUncertified(tb testing.TB) *TPM {
	tb.Helper()
	return start(tb, swtpmproc.Options{WithoutEKCert: true})
}

func start(tb testing.TB, opt swtpmproc.Options) *TPM {
	tb.Helper()
	if _, err := exec.LookPath("swtpm_setup"); err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatal("swtpm is not installed")
		}
		tb.Skip("swtpm is not installed: run make tools, or apt-get install swtpm swtpm-tools")
	}
	// Not tb.TempDir: with a sentence for a name its path is longer than a socket's may be.
	dir, err := os.MkdirTemp("", "swtpm-")
	if err != nil {
		tb.Fatalf("making a directory for the software TPM: %v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	manufacture.Lock()
	defer manufacture.Unlock()
	// Not tb.Context, which ends before the clean-ups do: devices are closed in clean-ups.
	proc, err := swtpmproc.StartProcess(context.Background(), dir, opt)
	if err != nil {
		tb.Fatalf("starting a software TPM: %v", err)
	}
	tb.Cleanup(func() {
		if err := proc.Stop(); err != nil {
			tb.Errorf("stopping the software TPM: %v", err)
		}
	})
	return &TPM{proc: proc}
}

// Path returns the address of the TPM, as tpm.Open takes it.
func (t *TPM) Path() string { return t.proc.Path() }

// CACerts returns the certificates (DER) of the local CA: issuer and root.
func (t *TPM) CACerts() [][]byte { return t.proc.CACerts() }

// Reset cycles the power of the TPM, so that its resetCount grows.
func (t *TPM) Reset() error { return t.proc.Reset() }

// Stop stops the TPM before the test ends.
func (t *TPM) Stop() { _ = t.proc.Stop() }
