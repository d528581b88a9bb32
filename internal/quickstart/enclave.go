package quickstart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/monitor/daemon"
	"github.com/assay-attest/assay/rats"
)

// What `make build` puts beside the binary.
const (
	imageFile     = "assay-measuring.enclave"
	sigstructFile = "assay-measuring.sig"
)

// measuringImage is the measuring enclave. Its zero value: there is none.
type measuringImage struct {
	image, sigstruct string // files
	mrenclave        string
	mrsigner         rats.Digest
}

// findImage looks for the measuring enclave beside the binary.
func findImage(binary string) (m measuringImage, err error) {
	dir := filepath.Dir(binary)
	image, err := os.ReadFile(filepath.Join(dir, imageFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	i, err := enclave.Parse(image)
	if err != nil {
		return m, fmt.Errorf("reading the measuring enclave: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, sigstructFile))
	if err != nil {
		return m, err
	}
	s, err := abi.ParseSigstruct(text)
	if err != nil {
		return m, fmt.Errorf("reading the measuring enclave: %w", err)
	}
	sum, signer := i.Measure(), s.MRSIGNER()
	return measuringImage{
		image: filepath.Join(dir, imageFile), sigstruct: filepath.Join(dir, sigstructFile),
		mrenclave: fmt.Sprintf("sha256:%x", sum), mrsigner: rats.Digest{Alg: "sha256", Sum: signer[:]},
	}, nil
}

// startMonitor starts the monitor as a process of its own, with a simulated root.
func (r *run) startMonitor(ctx context.Context, s *Step) error {
	if r.enclave.image == "" {
		s.Detail = "none: there is no " + imageFile + " beside the binary (`make build` makes it), so the agent measures in its own process"
		return nil
	}
	config, err := json.Marshal(daemon.Config{
		Version: 1, Socket: r.path("monitor.sock"), UIDs: []uint32{uint32(os.Geteuid())}, Root: daemon.Root{Simulated: r.path("monitor", "root")},
		SVN: 1, Own: []rats.Digest{r.enclave.mrsigner}, Modes: []string{abi.ModeProcess.String()},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path("monitor.json"), config, 0o600); err != nil {
		return err
	}
	if err := r.start("monitor", append(strings.Fields("enclave monitor --config"), r.path("monitor.json"))...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		if _, err := os.Stat(r.path("monitor.sock")); err == nil {
			break
		}
		if err := r.pause(ctx); err != nil {
			return fmt.Errorf("waiting for the monitor: %w", err)
		}
	}
	s.Detail = fmt.Sprintf("a process of its own, with a root key of its own; it lets enclaves of signer %.19s… run", r.enclave.mrsigner)
	return nil
}

// agentEnclave is the agent's configuration of its measuring enclave.
func (r *run) agentEnclave() string {
	if r.enclave.image == "" {
		return ""
	}
	q := func(s string) string {
		t, _ := quote(s) // a string always encodes
		return t
	}
	return fmt.Sprintf("enclave:\n  monitor: %s\n  image: %s\n  sigstruct: %s\n  mode: process\n",
		q(r.path("monitor.sock")), q(r.enclave.image), q(r.enclave.sigstruct))
}
