package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// intelRoot is the Intel SGX Root CA, from the vendor: published at
// https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem, SHA-256 of the DER
// 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3. An earlier certificate of the same key and name
// (valid until 2033) stands in old chains; what is trusted is the key.
//
//go:embed intel-sgx-root-ca.der
var intelRoot []byte

// IntelRoot returns the built-in root certificate.
func IntelRoot() *x509.Certificate {
	cert, err := x509.ParseCertificate(intelRoot)
	if err != nil {
		panic(err) // embedded
	}
	return cert
}

// The common names of Intel's profile.
const (
	nameRoot      = "Intel SGX Root CA"
	namePCK       = "Intel SGX PCK Certificate"
	nameProcessor = "Intel SGX PCK Processor CA"
	namePlatform  = "Intel SGX PCK Platform CA"
	nameTCBSigner = "Intel SGX TCB Signing"
)

// chain is a PCK chain whose signatures lead to an anchor. Validity times and revocation are judged at each use.
type chain struct {
	leaf, ca, root *x509.Certificate
	pck            PCK
}

// anchors are the trusted roots of one verification: the built-in one, or a pool that replaces it.
type anchors struct {
	pool    *x509.CertPool
	builtin []*x509.Certificate
}

// find returns the anchor that signed cert, or that cert is.
func (a anchors) find(cert *x509.Certificate, now time.Time) *x509.Certificate {
	if a.pool == nil {
		for _, root := range a.builtin {
			if bytes.Equal(cert.RawIssuer, root.RawSubject) && cert.CheckSignatureFrom(root) == nil {
				return root
			}
		}
		return nil
	}
	// A pool doesn't tell its certificates: a verification at a time within their validity does. The times are judged
	// by the caller.
	for _, at := range []time.Time{now, cert.NotBefore, cert.NotAfter} {
		chains, err := cert.Verify(x509.VerifyOptions{
			Roots: a.pool, Intermediates: x509.NewCertPool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err == nil {
			return chains[0][len(chains[0])-1]
		}
	}
	return nil
}

// parseCerts reads the certificates of a quote: PEM, or DER one after another. PEM must be canonical but for white
// space, so that no bit of it can change unseen.
func parseCerts(b []byte) ([]*x509.Certificate, error) {
	const most = 8
	if len(b) > 0 && b[0] == 0x30 {
		certs, err := x509.ParseCertificates(b)
		if err != nil || len(certs) > most {
			return nil, errors.New("certificates that can't be read")
		}
		return certs, nil
	}
	var certs []*x509.Certificate
	var canonical bytes.Buffer
	for rest := b; len(certs) < most; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errors.New("a PEM block that is no certificate")
		}
		if err := pem.Encode(&canonical, block); err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 || squeeze(b) != squeeze(canonical.Bytes()) {
		return nil, errors.New("PEM with other bytes around or inside")
	}
	return certs, nil
}

// squeeze removes white space, and the NUL that ends a C string.
func squeeze(b []byte) string {
	return strings.NewReplacer("\n", "", "\r", "", " ", "", "\t", "").Replace(strings.TrimRight(string(b), "\x00"))
}

// chainFor finds the PCK chain of a quote: in its certification data, or in the collateral beside it.
func (v *Verifier) chainFor(q *Quote, c *Collateral, a anchors, now time.Time) (*chain, error) {
	key := keyOf([]byte("chain"), q.CertData)
	if q.CertType == CertPCKChain && a.pool == nil {
		if known, ok := v.memo.get(key); ok {
			return known.(*chain), nil
		}
	}
	leaves, others, err := q.certificates(c)
	if err != nil {
		return nil, err
	}
	var found *chain
	var problem error
	for _, leaf := range leaves {
		ch, err := buildChain(leaf, others, a, now)
		if err != nil {
			problem = err
			continue
		}
		found = ch
		if verifyRS(leaf.PublicKey, q.QEReport, q.QESig) {
			break // of several certificates handed over, the one whose key signed
		}
	}
	if found == nil {
		return nil, problem
	}
	if q.CertType == CertPCKChain {
		if err := checkRest(found, others); err != nil {
			return nil, err
		}
		if a.pool == nil {
			v.memo.put(key, found)
		}
	}
	return found, nil
}

// certificates returns the candidates for the leaf, and the others that may complete its chain.
func (q *Quote) certificates(c *Collateral) (leaves, others []*x509.Certificate, err error) {
	if q.CertType == CertPCKChain || q.CertType == CertPCKLeaf {
		certs, err := parseCerts(q.CertData)
		if err != nil {
			return nil, nil, CodeChainMalformed.Bad("certification data", "a chain of certificates", err.Error())
		}
		if (q.CertType == CertPCKLeaf) != (len(certs) == 1) {
			return nil, nil, CodeChainMalformed.Bad("certification data", "one certificate in type 4, more in type 5", fmt.Sprintf("%d in type %d", len(certs), q.CertType))
		}
		if len(certs) == 1 {
			return certs, c.Certs, nil
		}
		return certs[:1], certs[1:], nil
	}
	leaves, err = q.leavesBeside(c)
	return leaves, c.Certs, err
}

// leavesBeside returns the PCK certificates beside a quote that may be its own. Where the quote names its key they are
// those of the same TCB: that one of them signed is seen later.
func (q *Quote) leavesBeside(c *Collateral) (leaves []*x509.Certificate, err error) {
	const most = 32
	id := q.PCKID()
	var other error
	for _, cert := range c.Certs {
		if !slices.ContainsFunc(cert.Extensions, isSGX) || len(leaves) == most {
			continue
		}
		if id != nil {
			if p, err := ParsePCK(cert); err != nil || !id.names(p) {
				other = CodeChainOther.Bad("PCK certificate", id.String(), fmt.Sprintf("CPUSVN %x, PCESVN %d, PCE id %x, or another PPID", p.CPUSVN, p.PCESVN, p.PCEID))
				continue
			}
		}
		leaves = append(leaves, cert)
	}
	switch {
	case len(leaves) > 0:
		return leaves, nil
	case other != nil:
		return nil, other
	}
	return nil, CodeChainMissing.Missing("certification data", "a PCK certificate in the quote or beside it", "none")
}

func buildChain(leaf *x509.Certificate, others []*x509.Certificate, a anchors, now time.Time) (*chain, error) {
	ch := &chain{leaf: leaf}
	named := false
	for _, cert := range others {
		if bytes.Equal(leaf.RawIssuer, cert.RawSubject) {
			named = true
			if leaf.CheckSignatureFrom(cert) == nil {
				ch.ca = cert
				break
			}
		}
	}
	switch {
	case ch.ca == nil && !named && len(others) == 0:
		return nil, CodeChainMissing.Missing("certification data", "the CA of the PCK certificate", "none")
	case ch.ca == nil:
		return nil, CodeChainSignature.Bad("PCK certificate", "a signature by its CA", "another signature or issuer")
	}
	if ch.root = a.find(ch.ca, now); ch.root == nil {
		return nil, CodeChainRoot.Bad("PCK CA", "a certificate signed by "+nameRoot, clip(ch.ca.Issuer.CommonName))
	}
	return ch, ch.checkProfile()
}

// checkProfile checks what each certificate is for (PCK Certificate Profile, sections 2 and 3).
func (c *chain) checkProfile() error {
	if len(c.leaf.UnhandledCriticalExtensions) > 0 || len(c.ca.UnhandledCriticalExtensions) > 0 {
		return CodeChainProfile.Bad("PCK certificate", "no unknown critical extension", "one")
	}
	if c.leaf.Subject.CommonName != namePCK || c.leaf.IsCA {
		return CodeChainProfile.Bad("PCK certificate", namePCK, clip(c.leaf.Subject.CommonName))
	}
	if n := c.ca.Subject.CommonName; n != nameProcessor && n != namePlatform {
		return CodeChainProfile.Bad("PCK CA", nameProcessor+" or "+namePlatform, clip(n))
	}
	var err error
	if c.pck, err = ParsePCK(c.leaf); err != nil {
		return CodeChainProfile.Bad("PCK certificate", "the SGX extension of a PCK certificate", err.Error())
	}
	return nil
}

// checkRest checks the certificates of a quote that the chain didn't need: only the root may stand there, as the
// anchor's key signed it.
func checkRest(c *chain, others []*x509.Certificate) error {
	for _, cert := range others {
		if cert.Equal(c.ca) || cert.Equal(c.root) {
			continue
		}
		if !bytes.Equal(cert.RawSubject, c.root.RawSubject) || cert.CheckSignatureFrom(c.root) != nil || !samePublic(cert, c.root) {
			return CodeChainRoot.Bad("certification data", "the trusted root after its CA", clip(cert.Subject.CommonName))
		}
	}
	return nil
}

func samePublic(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

func isSGX(e pkix.Extension) bool { return e.Id.Equal(oidSGX) }

// checkDates judges validity at a time, both ends included.
func (c *chain) checkDates(now time.Time) error {
	for _, cert := range []*x509.Certificate{c.leaf, c.ca, c.root} {
		if now.After(cert.NotAfter) {
			return CodeChainExpired.Bad(clip(cert.Subject.CommonName), "valid at "+stamp(now), "until "+stamp(cert.NotAfter))
		}
		if now.Before(cert.NotBefore) {
			return CodeChainEarly.Bad(clip(cert.Subject.CommonName), "valid at "+stamp(now), "from "+stamp(cert.NotBefore))
		}
	}
	return nil
}

// notAfter returns when the first certificate of the chain ends.
func (c *chain) notAfter() time.Time {
	t := c.leaf.NotAfter
	for _, cert := range []*x509.Certificate{c.ca, c.root} {
		if cert.NotAfter.Before(t) {
			t = cert.NotAfter
		}
	}
	return t
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// verifyRS checks an ECDSA signature r ‖ s over SHA-256 with a P-256 key.
func verifyRS(public any, signed, sig []byte) bool {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || len(sig) != quoteSignatureLen {
		return false
	}
	digest := sha256.Sum256(signed)
	return ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}
