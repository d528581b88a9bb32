package tpm

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Package x509 builds no chain over SHA-1 signatures, which the first TPMs of 2014 have. Here it is built, and the rules
// refuse SHA-1.

const (
	maxChain      = 6
	maxChecks     = 64 // signatures tried for one chain
	oidTCGPurpose = "2.23.133.8."
	oidTCGPolicy  = "2.23.133.11."
)

var (
	oidRSAPSS           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidHardwareModule   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}         // HardwareModuleName: TPMs in device certificates
	oidGoogleInstance   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 21} // the instance of a virtual TPM's keys
	oidSubjectDirectory = asn1.ObjectIdentifier{2, 5, 29, 9}
)

type chainBuilder struct {
	anchors, others []*x509.Certificate
	now             time.Time
	checks          int
	first           error // the most telling refusal so far
	firstRank       int
}

// buildChain returns the certificates from leaf to an anchor. The leaf itself may be an anchor. The zero time asks for no
// dates.
func buildChain(leaf *x509.Certificate, anchors, others []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	b := &chainBuilder{anchors: anchors, others: others, now: now}
	if err := usable(leaf, now); err != nil {
		return nil, err
	}
	for _, a := range anchors {
		if a.Equal(leaf) && checkSigned(leaf, leaf) == nil {
			return []*x509.Certificate{leaf, leaf}, nil
		}
	}
	chain, err := b.extend([]*x509.Certificate{leaf})
	if chain != nil {
		return chain, nil
	}
	return nil, err
}

// note keeps the refusal that says most: a bad signature by the right name says more than an unknown name.
func (b *chainBuilder) note(rank int, err error) {
	if b.first == nil || rank > b.firstRank {
		b.first, b.firstRank = err, rank
	}
}

func (b *chainBuilder) extend(chain []*x509.Certificate) ([]*x509.Certificate, error) {
	last := chain[len(chain)-1]
	b.note(0, CodeCertUntrusted.Bad("issuer", "one of the trust anchors", clip(last.Issuer.String())))
	if len(chain) >= maxChain {
		return nil, b.first
	}
	for i, list := range [][]*x509.Certificate{b.anchors, b.others} {
		for _, c := range list {
			if string(c.RawSubject) != string(last.RawIssuer) || slices.ContainsFunc(chain, c.Equal) {
				continue
			}
			if b.checks++; b.checks > maxChecks {
				return nil, b.first
			}
			if err := checkSigned(last, c); err != nil {
				b.note(1, CodeCertSignature.Bad(clip(last.Subject.String()), "a signature by "+clip(c.Subject.String()), err.Error()))
				continue
			}
			if err := b.issuer(c, len(chain)-1); err != nil {
				b.note(2, err)
				continue
			}
			next := append(slices.Clone(chain), c)
			if i == 0 {
				return next, nil
			}
			if whole, _ := b.extend(next); whole != nil {
				return whole, nil
			}
		}
	}
	return nil, b.first
}

// issuer says whether c may issue with below CA certificates under it.
func (b *chainBuilder) issuer(c *x509.Certificate, below int) error {
	if c.Version >= 3 && !c.IsCA {
		return CodeCertIssuer.Bad(clip(c.Subject.String()), "a CA", "basic constraints that say it is none")
	}
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return CodeCertIssuer.Bad(clip(c.Subject.String()), "key usage keyCertSign", "another")
	}
	if (c.MaxPathLen > 0 || c.MaxPathLenZero) && below > c.MaxPathLen {
		return CodeCertIssuer.Bad(clip(c.Subject.String()), fmt.Sprintf("at most %d CAs under it", c.MaxPathLen), fmt.Sprint(below))
	}
	if constrained(c) {
		return CodeCertCritical.Bad(clip(c.Subject.String()), "extensions that are understood", "name constraints")
	}
	return usable(c, b.now)
}

// constrained says whether a CA may issue for some names only, which no chain of a TPM needs and nothing here judges.
func constrained(c *x509.Certificate) bool {
	return c.PermittedDNSDomainsCritical || len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges)+
		len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses)+len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) > 0
}

// usable checks validity, both ends included, and that no critical extension is of unknown meaning.
func usable(c *x509.Certificate, now time.Time) error {
	path := clip(c.Subject.String())
	if path == "" {
		path = "certificate"
	}
	if !now.IsZero() && now.Before(c.NotBefore) {
		return CodeCertEarly.Bad(path, "a moment from "+c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if !now.IsZero() && now.After(c.NotAfter) {
		return CodeCertExpired.Bad(path, "a moment up to "+c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	for _, id := range c.UnhandledCriticalExtensions {
		if !id.Equal(oidSAN) && !id.Equal(oidSubjectDirectory) {
			return CodeCertCritical.Bad(path, "extensions that are understood", id.String())
		}
	}
	return nil
}

// checkSigned checks c's signature by the issuer's key.
func checkSigned(c, issuer *x509.Certificate) error {
	return checkSignature(issuer.PublicKey, c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature, issuer)
}

// weakestHash returns the hash of the weakest signature below the anchor.
func weakestHash(chain []*x509.Certificate) string {
	hash := signatureHash(chain[0])
	for _, c := range chain[:len(chain)-1] {
		if h := signatureHash(c); h == "sha1" {
			hash = h
		}
	}
	return hash
}

// climb returns the certificate with those of others that signed their way up from it, as far as it goes. It proves
// nothing: where the way leads is for buildChain to say.
func climb(leaf *x509.Certificate, others []*x509.Certificate) []*x509.Certificate {
	path := []*x509.Certificate{leaf}
	for checks := 0; len(path) < maxChain; {
		last := path[len(path)-1]
		i := slices.IndexFunc(others, func(c *x509.Certificate) bool {
			if string(c.RawSubject) != string(last.RawIssuer) || slices.ContainsFunc(path, c.Equal) || checks >= maxChecks {
				return false
			}
			checks++
			return checkSigned(last, c) == nil
		})
		if i < 0 {
			return path
		}
		path = append(path, others[i])
	}
	return path
}

func signatureHash(c *x509.Certificate) string {
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		return "sha1"
	case x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		return "sha256"
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		return "sha384"
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		return "sha512"
	}
	return "unknown"
}

func keyKind(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	}
	return "unknown"
}

func keyOID(c *x509.Certificate) string {
	var spki struct {
		Algorithm struct {
			OID    asn1.ObjectIdentifier
			Params asn1.RawValue `asn1:"optional"`
		}
		Key asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
		return ""
	}
	return spki.Algorithm.OID.String()
}

// kindOf says what a certificate is for: an EK by its usage tcg-kp-EKCertificate, or, on older ones without any usage,
// by the TPM's maker in its name; IAK and IDevID by a usage or policy of the TCG's, or a hardware module name.
func kindOf(c *x509.Certificate, manufacturer string) string {
	if c.IsCA {
		return KindCA
	}
	if slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal) ||
		len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 && manufacturer != "" {
		return KindEK
	}
	if slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidGoogleInstance) }) {
		if c.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
			return KindEK
		}
		return KindDevice
	}
	tcg := func(prefix string) func(asn1.ObjectIdentifier) bool {
		return func(id asn1.ObjectIdentifier) bool { return strings.HasPrefix(id.String()+".", prefix) }
	}
	if slices.ContainsFunc(c.UnknownExtKeyUsage, tcg(oidTCGPurpose)) || slices.ContainsFunc(c.PolicyIdentifiers, tcg(oidTCGPolicy)) ||
		deviceOf(c).HWType != "" {
		return KindDevice
	}
	return KindUnknown
}
