package swtpmproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// manufacture makes state and endorsement certificates unless the state is there.
func (p *Process) manufacture(ctx context.Context, opt Options) error {
	if _, err := os.Stat(filepath.Join(p.state(), "tpm2-00.permall")); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("looking for the software TPM's state: %w", err)
	}
	for _, d := range []string{p.state(), opt.CADir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("making the software TPM's directory: %w", err)
		}
	}
	config, err := p.configure(opt.CADir)
	if err != nil {
		return err
	}
	args := []string{"--tpm2", "--tpmstate", p.state(), "--config", config, "--createek", "--overwrite"}
	if !opt.WithoutEKCert {
		args = append(args, "--create-ek-cert")
	}
	out, err := exec.CommandContext(ctx, "swtpm_setup", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("making a software TPM with swtpm_setup (package swtpm-tools): %w: %s", err, lastLine(out))
	}
	return nil
}

// configure writes the configuration that keeps swtpm_setup and its CA inside their directories, and returns its path.
// Values can't be quoted there, so directories with line breaks are refused.
func (p *Process) configure(ca string) (string, error) {
	if strings.ContainsAny(p.dir+ca, "\n\r") {
		return "", errors.New("making a software TPM: its directory has a line break in its name")
	}
	tool, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return "", fmt.Errorf("making a software TPM (package swtpm-tools): %w", err)
	}
	in := func(name string) string { return filepath.Join(ca, name) }
	setup := filepath.Join(p.dir, "swtpm_setup.conf")
	files := map[string]string{
		filepath.Join(p.dir, "swtpm-localca.conf"): fmt.Sprintf("statedir = %s\nsigningkey = %s\nissuercert = %s\ncertserial = %s\n",
			ca, in("signkey.pem"), in("issuercert.pem"), in("certserial")),
		filepath.Join(p.dir, "swtpm-localca.options"): "",
		setup: fmt.Sprintf("create_certs_tool= %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = sha1,sha256,sha384\n",
			tool, filepath.Join(p.dir, "swtpm-localca.conf"), filepath.Join(p.dir, "swtpm-localca.options")),
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("writing the configuration of swtpm_setup: %w", err)
		}
	}
	return setup, nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
