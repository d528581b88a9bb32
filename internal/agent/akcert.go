package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-attest/assay/api"
)

// akFile holds the certificate of the attestation key, in PEM, for whoever on this machine shows quotes to relying parties. It
// is no secret, but what it names isn't everybody's business either.
const akFile = "ak.pem"

// akIssuer is a server that issues such certificates; one before it knew how still takes evidence.
type akIssuer interface {
	AKCertificate(ctx context.Context, node string) (api.AKCertificate, error)
}

// certifyAK gets a certificate for the attestation key if there is none, or two thirds of its life are over. What is wrong
// with it harms no attestation.
func (a *agent) certifyAK(ctx context.Context) {
	path := filepath.Join(a.dir, akFile)
	if b, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(b); block != nil {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil && c.Subject.CommonName == a.state.Node &&
				a.now().Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore)/3*2)) {
				return
			}
		}
	}
	if err := a.fetchAK(ctx, path); err != nil && ctx.Err() == nil {
		a.log.Info("getting a certificate for the attestation key", "code", codeOf(err), "error", text(err))
	}
}

func (a *agent) fetchAK(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	up, ok := a.upstream().(akIssuer)
	if !ok {
		return nil
	}
	c, err := up.AKCertificate(ctx, a.state.Node)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate})
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("storing the certificate of the attestation key: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("storing the certificate of the attestation key: %w", err)
	}
	return nil
}
