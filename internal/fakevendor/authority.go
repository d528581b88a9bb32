package fakevendor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"sync"
	"time"
)

// How long what is made here is valid.
const (
	rootYears = 20
	leafYears = 7
	listDays  = 30 // revocation lists and signed documents
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("fakevendor: %v", err))
	}
	return v
}

// Authority is a certificate with its key, and the list of what it revoked.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer

	rand io.Reader
	alg  x509.SignatureAlgorithm

	mu      sync.Mutex
	revoked []x509.RevocationListEntry
	number  int64
}

// CRL is a revocation list before it is signed.
type CRL struct {
	List   x509.RevocationList
	Signer *Authority // signs instead of the issuer, under its own name
}

// Revoke puts a certificate on the list.
func (a *Authority) Revoke(cert *x509.Certificate, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked = append(a.revoked, x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: at})
}

// CRL returns the list in DER, as of now.
func (a *Authority) CRL(now time.Time, changes ...func(*CRL)) []byte {
	a.mu.Lock()
	a.number++
	c := CRL{List: x509.RevocationList{
		Number: big.NewInt(a.number), ThisUpdate: now.UTC().Truncate(time.Second), NextUpdate: now.UTC().Truncate(time.Second).AddDate(0, 0, listDays),
		RevokedCertificateEntries: append([]x509.RevocationListEntry(nil), a.revoked...), SignatureAlgorithm: a.alg,
	}, Signer: a}
	a.mu.Unlock()
	for _, change := range changes {
		change(&c)
	}
	return must(x509.CreateRevocationList(a.rand, &c.List, c.Signer.Cert, c.Signer.Key))
}

// PEM returns certificates as PEM, in this order.
func PEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Pool returns certificates as trust anchors.
func Pool(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

// KeyP256 makes a key, for faults.
func KeyP256(rand io.Reader) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand))
}

// request is a certificate to be made.
type request struct {
	subject  pkix.Name
	ca       bool
	from, to time.Time
	serial   *big.Int // nil: random
	alg      x509.SignatureAlgorithm
	points   []string
	extra    []pkix.Extension
	change   func(*x509.Certificate)
}

// issue makes a certificate for a key. Without issuer it is self-signed.
func issue(rand io.Reader, key crypto.Signer, issuer *Authority, r request) *Authority {
	t := &x509.Certificate{
		SerialNumber: r.serial, Subject: r.subject, NotBefore: r.from.UTC().Truncate(time.Second), NotAfter: r.to.UTC().Truncate(time.Second),
		BasicConstraintsValid: true, IsCA: r.ca, KeyUsage: x509.KeyUsageDigitalSignature, SignatureAlgorithm: r.alg,
		CRLDistributionPoints: r.points, ExtraExtensions: r.extra,
	}
	if r.serial == nil {
		b := make([]byte, 20)
		must(io.ReadFull(rand, b))
		b[0] = b[0]&0x7f | 1
		t.SerialNumber = new(big.Int).SetBytes(b)
	}
	if r.ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if r.change != nil {
		r.change(t)
	}
	parent, signer := t, key
	if issuer != nil {
		parent, signer = issuer.Cert, issuer.Key
	}
	der := must(x509.CreateCertificate(rand, t, parent, key.Public(), signer))
	return &Authority{Cert: must(x509.ParseCertificate(der)), Key: key, rand: rand, alg: r.alg}
}

func keyRSA(rand io.Reader, bits int) crypto.Signer { return must(rsa.GenerateKey(rand, bits)) }
