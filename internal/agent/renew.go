package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/assay-attest/assay/api"
)

// The pause between attempts to renew: after a failure, and at least between any two.
const (
	renewRetry = 10 * time.Minute
	renewCheck = time.Hour // clocks jump and machines sleep: the date is looked at again
)

// renew renews the certificate when two thirds of its life are over.
func (a *agent) renew(ctx context.Context) error {
	for {
		a.certifyAK(ctx)
		wait, err := a.renewalDue()
		if err == nil && wait <= 0 {
			if err = a.renewNow(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a.log.Warn("renewing the certificate", "code", codeOf(err), "error", text(err))
			wait = renewRetry
		}
		if err := sleep(ctx, min(wait, renewCheck)); err != nil {
			return err
		}
	}
}

// renewalDue returns how long the certificate is good enough; ≤ 0: no longer.
func (a *agent) renewalDue() (time.Duration, error) {
	a.mu.Lock()
	der := a.state.Certificate
	a.mu.Unlock()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return 0, CodeStateMalformed.Bad("certificate", "DER", clip(err.Error()))
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotBefore.Add(life / 3 * 2).Sub(a.now()), nil
}

// renewNow gets a certificate for the same key and uses it from the next connection on.
func (a *agent) renewNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := a.upstream().RenewCertificate(ctx, a.state.Node, api.CertificateRequest{TLSKey: a.spki})
	if err != nil {
		return err
	}
	if err := certificateFits(r.Certificate, a.spki, a.state.Node); err != nil {
		return CodeRenewal.Bad("certificate", "one for this machine's key and node", clip(err.Error()))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state
	s.Certificate = r.Certificate
	if len(r.CAs) > 0 {
		s.CAs = r.CAs
	}
	up, err := a.dial(s)
	if err != nil {
		return CodeRenewal.Bad("cas", "certificates", clip(err.Error()))
	}
	stored := s
	if old, err := LoadState(a.dir); err == nil {
		stored.Server = old.Server // the configuration's server stays out of the state
	}
	if err := stored.save(a.dir); err != nil {
		return fmt.Errorf("storing the renewed certificate: %w", err)
	}
	// The stream keeps the old connection; the next one is made with the new certificate.
	a.state.Certificate, a.state.CAs = s.Certificate, s.CAs
	a.up = up
	a.log.Info("certificate renewed")
	return nil
}
