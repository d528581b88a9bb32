package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Lifetimes. Certificates begin a little before their issue, so that a peer whose clock is slightly behind accepts them.
const (
	caLifetime     = 10 * 365 * 24 * time.Hour
	serverLifetime = 90 * 24 * time.Hour
	nodeLifetime   = 30 * 24 * time.Hour // S48
	backdate       = 5 * time.Minute
)

// CAConfig is what a CA depends on. All fields are required.
type CAConfig struct {
	VerifierID rats.Digest // SHA-256 of the verifier key's SubjectPublicKeyInfo; its first 8 hex digits name the CA
	Now        func() time.Time
	Rand       io.Reader // serial numbers
}

// CA is the verifier's certificate authority: one self-signed certificate that signs leaves only. It is immutable and
// safe for concurrent use if its key is.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
	cfg  CAConfig
}

// NewCA makes the self-signed certificate (RFC 5280) for a P-256 key: ten years, path length 0.
func NewCA(key crypto.Signer, cfg CAConfig) (*CA, error) {
	if err := cfg.check(key); err != nil {
		return nil, err
	}
	serial, err := newSerial(cfg.Rand)
	if err != nil {
		return nil, err
	}
	now := cfg.Now().UTC()
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Assay CA " + hex.EncodeToString(cfg.VerifierID.Sum[:4])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(cfg.Rand, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the CA certificate: %w", err)
	}
	return LoadCA(der, key, cfg)
}

// LoadCA takes up a CA from its certificate and key. It refuses a certificate that is not this key's, not self-signed,
// that permits intermediates, or is not valid now.
func LoadCA(certDER []byte, key crypto.Signer, cfg CAConfig) (*CA, error) {
	if err := cfg.check(key); err != nil {
		return nil, err
	}
	cert, err := parseCA(certDER)
	if err != nil {
		return nil, err
	}
	if pub, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("loading the CA: the certificate belongs to another key")
	}
	if !validAt(cert, cfg.Now()) {
		return nil, fmt.Errorf("loading the CA: the certificate is valid from %s to %s only",
			cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return &CA{cert: cert, key: key, cfg: cfg}, nil
}

func (c CAConfig) check(key crypto.Signer) error {
	if c.Now == nil || c.Rand == nil || c.VerifierID.Check() != nil {
		return errors.New("CA configuration lacks a clock, randomness or the verifier's id")
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return errors.New("the CA key is not an ECDSA P-256 key")
	}
	return nil
}

// parseCA reads a certificate that may be pinned: a self-signed CA which signs leaves only.
func parseCA(der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the CA certificate: %w", err)
	}
	if !cert.IsCA || !cert.BasicConstraintsValid || cert.MaxPathLen != 0 || !cert.MaxPathLenZero {
		return nil, errors.New("the CA certificate is not one of a CA with path length 0")
	}
	if !bytes.Equal(cert.RawIssuer, cert.RawSubject) {
		return nil, errors.New("the CA certificate is not self-signed")
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, fmt.Errorf("the CA certificate is not self-signed: %w", err)
	}
	return cert, nil
}

// DER returns the CA's certificate.
func (c *CA) DER() []byte { return bytes.Clone(c.cert.Raw) }

// Digest returns the SHA-256 of the CA's certificate: what join tokens pin.
func (c *CA) Digest() rats.Digest { return rats.SHA256(c.cert.Raw) }

// NodeCertificate issues the client certificate of a node for the holder of spki: common name the node's id, one URI
// SAN assay://NAMESPACE/node/ID, client authentication only, 30 days. It returns DER and the serial in hex. The caller
// has made sure that the key is the node's.
func (c *CA) NodeCertificate(namespace, node string, spki []byte) (der []byte, serial string, err error) {
	pub, err := parseTLSKey(spki)
	if err != nil {
		return nil, "", err
	}
	if !validNamespace(namespace) || !validNodeID(node) {
		return nil, "", fmt.Errorf("issuing a certificate: %q in %q is not a node's id in a namespace", node, namespace)
	}
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: node},
		URIs:        []*url.URL{nodeURI(namespace, node)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	return c.issue(t, pub, nodeLifetime)
}

// ServerCertificate issues a server certificate for names and IP addresses, 90 days.
func (c *CA) ServerCertificate(hosts []string, pub crypto.PublicKey) (der []byte, err error) {
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "assay-server"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	if len(hosts) == 0 {
		return nil, errors.New("issuing a server certificate: no names or addresses")
	}
	der, _, err = c.issue(t, pub, serverLifetime)
	return der, err
}

func (c *CA) issue(t *x509.Certificate, pub crypto.PublicKey, life time.Duration) ([]byte, string, error) {
	serial, err := newSerial(c.cfg.Rand)
	if err != nil {
		return nil, "", err
	}
	now := c.cfg.Now().UTC()
	t.SerialNumber = serial
	t.NotBefore, t.NotAfter = now.Add(-backdate), now.Add(life)
	if t.NotAfter.After(c.cert.NotAfter) {
		t.NotAfter = c.cert.NotAfter
	}
	t.BasicConstraintsValid = true
	t.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(c.cfg.Rand, t, c.cert, pub, c.key)
	if err != nil {
		return nil, "", fmt.Errorf("signing a certificate: %w", err)
	}
	return der, serialText(serial), nil
}

// newSerial returns a random positive serial of 128 bits at most (RFC 5280 section 4.1.2.2), never zero.
func newSerial(rand io.Reader) (*big.Int, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, fmt.Errorf("reading randomness for a serial: %w", err)
	}
	n := new(big.Int).SetBytes(b[:])
	if n.Sign() == 0 {
		return nil, errors.New("reading randomness for a serial: it is all zero")
	}
	return n, nil
}

func serialText(n *big.Int) string { return hex.EncodeToString(n.FillBytes(make([]byte, 16))) }

func validAt(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

// CodeKeyInvalid refuses a key no certificate is issued for.
var CodeKeyInvalid = rats.CodeInfo{
	Code:  "join.key.invalid",
	Title: "the TLS key is not a P-256 SubjectPublicKeyInfo in DER",
	Hint:  "let the agent make its key: it uses the TPM's ECC P-256",
	Slot:  rats.InstanceIdentity,
}

// parseTLSKey reads a SubjectPublicKeyInfo and refuses every encoding but the one certificates carry, because nodes are
// known by the hash of these bytes.
func parseTLSKey(spki []byte) (*ecdsa.PublicKey, error) {
	const want = "ECDSA P-256 SubjectPublicKeyInfo"
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, CodeKeyInvalid.Bad("tls_key", want, "bytes that do not parse")
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, CodeKeyInvalid.Bad("tls_key", want, fmt.Sprintf("a key of type %T", k))
	}
	again, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil || !bytes.Equal(again, spki) {
		return nil, CodeKeyInvalid.Bad("tls_key", want, "another encoding of the same key")
	}
	return pub, nil
}
