package tpm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
)

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// A CA that TPM makers' certificates stand beside must not be able to vouch for TPMs by certificates of other kinds.
func TestCertificateOfAnotherUseVouchesForNoTPM(t *testing.T) {
	s := softtpm.New(rand.Reader, softtpm.Options{WithoutEKCert: true})
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	for usage, ok := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageServerAuth: false, -1: true} {
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}
		if usage >= 0 {
			leaf.ExtKeyUsage = []x509.ExtKeyUsage{usage}
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, ekKey(t, s), caKey)
		if err != nil {
			t.Fatal(err)
		}
		record, err := tpm.Enrol(s.EKPublic(), der, s.AKPublic(), now)
		if err != nil {
			t.Fatal(err)
		}
		if !record.Software {
			t.Error("a certificate that names no maker makes a hardware TPM")
		}
		r := section(t, "ek_cas: |"+indent(certPEM(caDER)))
		if reasons := r.Lint(); len(reasons) > 0 {
			t.Fatal(reasons)
		}
		if got := r.Vouch(record.Endorsement(), now); (len(got) == 0) != ok {
			t.Errorf("key usage %d: %v", usage, got)
		}
	}
}

// ekKey returns the public endorsement key of a TPM, out of a certificate made for the purpose.
func ekKey(t *testing.T, s *softtpm.TPM) any {
	t.Helper()
	cert, err := x509.ParseCertificate(s.Certified())
	if err != nil {
		t.Fatal(err)
	}
	return cert.PublicKey
}
