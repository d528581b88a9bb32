package softtpm_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
)

func TestCredentialThatWasTamperedWithDoesNotOpen(t *testing.T) {
	for _, useRSA := range []bool{false, true} {
		s := softtpm.New(rand.Reader, softtpm.Options{RSAEK: useRSA})
		credential, secret, err := tpm.MakeCredential(rand.Reader, s.EKPublic(), s.AKPublic(), []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Activate(credential, secret); err != nil || string(got) != "secret" {
			t.Fatalf("got %q, %v", got, err)
		}
		flipped := bytes.Clone(credential)
		flipped[len(flipped)-1] ^= 1
		for _, c := range [][2][]byte{{flipped, secret}, {credential[:20], secret}, {nil, secret}, {credential, secret[1:]}, {credential, nil}} {
			if _, err := s.Activate(c[0], c[1]); !errors.Is(err, softtpm.ErrCredential) {
				t.Errorf("got %v, want ErrCredential", err)
			}
		}
	}
}

func TestTPMsOfOneMakerShareItsCertificate(t *testing.T) {
	ca := softtpm.NewCA(rand.Reader)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca.PEM())) {
		t.Fatal("the maker's certificate is no PEM")
	}
	for range 2 {
		s := softtpm.New(rand.Reader, softtpm.Options{CA: ca})
		cert, err := x509.ParseCertificate(s.EKCert())
		if err != nil {
			t.Fatal(err)
		}
		cert.UnhandledCriticalExtensions = nil
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(s.CA().DER(), ca.DER()) {
			t.Error("the TPM has another maker")
		}
	}
}

func TestPCRsAndCountersMoveAsOnADevice(t *testing.T) {
	s := softtpm.New(rand.Reader)
	boot, zero := s.BootID(), s.PCR("sha256", 7)
	s.Extend(7, []byte("event"))
	extended := s.PCR("sha256", 7)
	if bytes.Equal(extended, zero) || s.PCR("sha256", 17)[0] != 0xff {
		t.Error("PCR 7 was not extended, or PCR 17 does not start with ones")
	}
	s.Reset()
	if !bytes.Equal(s.PCR("sha256", 7), zero) || s.BootID().Equal(boot) {
		t.Error("a reset changed nothing")
	}
	digest := bytes.Repeat([]byte{1}, 32)
	s.ExtendDigest("sha256", 7, digest)
	if bytes.Equal(s.PCR("sha256", 7), zero) {
		t.Error("PCR 7 was not extended by a digest")
	}
	s.SetCounters(1, 0)
	if !s.BootID().Equal(boot) {
		t.Error("the counters were not set back")
	}
}
