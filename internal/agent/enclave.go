package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/assay-attest/assay/api"
	enclaves "github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/internal/attesters"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/rats"
)

// enclave is what the agent needs of the measuring enclave.
type enclave interface {
	attesters.Runner
	// Keys returns what a manifest binds of it; an enclave that was stopped is started anew, with other keys.
	Keys(context.Context) ([]rats.BoundKey, error)
	// OpenRelease opens a secret that was sealed to the enclave's hpke key for this node.
	OpenRelease(context.Context, api.Release) ([]byte, error)
	Close() error
}

// openEnclave starts the measuring enclave that the configuration names. Its keys are made anew (R025).
func openEnclave(ctx context.Context, s State, c Config, rand io.Reader, now func() time.Time, log *slog.Logger) (enclave, error) {
	system := measure.Restrict(measure.Local(), c.Allow.Roots, c.Allow.Commands)
	if c.Enclave == (Enclave{}) {
		e, err := measure.NewEnclave(measure.Config{
			System: system, PlanSigner: s.PlanSigner, Rand: rand, Now: now, Namespace: s.Namespace, Node: s.Node,
		})
		if err != nil {
			return nil, fmt.Errorf("starting the measuring enclave: %w", err)
		}
		return native{e}, nil
	}
	image, err := readPart("enclave.image", c.Enclave.Image, enclaves.MaxModule+4096)
	if err != nil {
		return nil, err
	}
	sigstruct, err := readPart("enclave.sigstruct", c.Enclave.Sigstruct, 4096)
	if err != nil {
		return nil, err
	}
	return measuring.Start(ctx, measuring.Config{
		Load: measuring.ByDaemon(c.Enclave.Monitor), Image: image, Sigstruct: sigstruct, Mode: c.Enclave.mode(), System: system,
		PlanSigner: s.PlanSigner, Namespace: s.Namespace, Node: s.Node, Log: log,
	})
}

// readPart reads a file that the configuration names.
func readPart(field, file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, CodeEnclaveFile.Missing(field, "a file that can be read", clip(err.Error()))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	if int64(len(b)) > limit {
		return nil, CodeEnclaveFile.Bad(field, fmt.Sprintf("at most %d bytes", limit), "more")
	}
	return b, nil
}

// native is the enclave in this process: simulated, by its own reports.
type native struct{ *measure.Enclave }

// Keys implements enclave.
func (n native) Keys(context.Context) ([]rats.BoundKey, error) { return n.Enclave.Keys(), nil }

// OpenRelease implements enclave.
func (n native) OpenRelease(_ context.Context, r api.Release) ([]byte, error) {
	return n.Enclave.OpenRelease(r)
}

// Close implements enclave.
func (native) Close() error { return nil }
