package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/assay-attest/assay/internal/swtpmproc"
)

// TPM is a manufactured software TPM. Its state outlives the machines it is plugged into, one at a time.
type TPM struct {
	dir string
	cas [][]byte
}

// NewTPM manufactures a TPM below dir, with endorsement certificates of a CA that is made for it.
func NewTPM(ctx context.Context, dir string) (*TPM, error) {
	p, err := swtpmproc.StartProcess(ctx, dir, swtpmproc.Options{})
	if err != nil {
		return nil, err
	}
	// The process that manufactured it serves TPM commands on a socket; QEMU wants to be asked first (CMD_INIT).
	if err := p.Stop(); err != nil {
		return nil, fmt.Errorf("stopping the new TPM: %w", err)
	}
	return &TPM{dir: dir, cas: p.CACerts()}, nil
}

// CACerts returns the certificates (DER) by which the endorsement keys are to be trusted.
func (t *TPM) CACerts() [][]byte { return t.cas }

func (t *TPM) control() string { return filepath.Join(t.dir, "vm.sock") }

// run starts the TPM for one QEMU, with whose connection it ends. Power is given by the firmware's TPM2_Startup.
func (t *TPM) run(ctx context.Context, log *os.File) (*exec.Cmd, error) {
	if err := os.Remove(t.control()); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+filepath.Join(t.dir, "state")+",mode=0600",
		"--ctrl", "type=unixio,path="+t.control()+",mode=0600", "--terminate")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting swtpm: %w", err)
	}
	return cmd, nil
}
