package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/assay-attest/assay/internal/attesters"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/rats"
)

// platform is what evidence comes from: the TPM and the enclave, for one run of the agent.
type platform struct {
	key       crypto.Signer // of the TLS certificate
	boot      func(context.Context) (rats.Digest, error)
	attesters []rats.Attester
	enclave   enclave
	close     func() error
}

// openPlatform opens the real one. The enclave's keys are made anew (R025).
func openPlatform(ctx context.Context, s State, c Config, rand io.Reader, now func() time.Time, log *slog.Logger) (_ *platform, err error) {
	if err := noDumps(); err != nil {
		return nil, err
	}
	path := s.TPM
	if c.TPM != "" {
		path = c.TPM
	}
	dev, err := openTPM(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			dev.Close()
		}
	}()
	ak, err := dev.AK(ctx, s.AKUnique)
	if err != nil {
		return nil, fmt.Errorf("loading the attestation key: %w", err)
	}
	key, err := dev.SigningKey(ctx, s.TLSUnique)
	if err != nil {
		return nil, fmt.Errorf("loading the TLS key: %w", err)
	}
	if err := keyFits(s.Certificate, key.Public()); err != nil {
		return nil, err
	}
	enc, err := openEnclave(ctx, s, c, rand, now, log)
	if err != nil {
		return nil, err
	}
	deps := attesters.OnThisMachine(attesters.Deps{TPM: dev, AK: ak, Plans: enc, Rand: rand})
	if measured, ok := enc.(*measuring.Enclave); ok {
		deps.Quotes, deps.Keeper = measured, attesters.ByMonitor(c.Enclave.Monitor)
	}
	return &platform{
		key:       key,
		boot:      func(ctx context.Context) (rats.Digest, error) { return attesters.Boot(ctx, deps) },
		attesters: attesters.List(deps),
		enclave:   enc,
		close:     func() error { return errors.Join(enc.Close(), dev.Close()) },
	}, nil
}

// keyFits refuses a TPM that doesn't hold the certificate's key: cleared, or another one.
func keyFits(certDER []byte, pub crypto.PublicKey) error {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return CodeStateMalformed.Bad("certificate", "DER", clip(err.Error()))
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fmt.Errorf("encoding the TLS key: %w", err)
	}
	if !bytes.Equal(spki, cert.RawSubjectPublicKeyInfo) {
		return CodeTPMChanged.Bad("TLS key", rats.SHA256(cert.RawSubjectPublicKeyInfo).String(), rats.SHA256(spki).String())
	}
	return nil
}
