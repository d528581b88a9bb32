package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/rats"
)

// start is the time at which the tests' clocks begin.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a clock that tests set.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func spkiOf(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func caConfig(c *clock) identity.CAConfig {
	return identity.CAConfig{VerifierID: rats.SHA256([]byte("verifier")), Now: c.now, Rand: rand.Reader}
}

func newCA(t testing.TB, c *clock) (*identity.CA, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	ca, err := identity.NewCA(key, caConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

func newPins(t testing.TB, c *clock, cas ...*identity.CA) *identity.Pins {
	t.Helper()
	var ders [][]byte
	for _, ca := range cas {
		ders = append(ders, ca.DER())
	}
	p, err := identity.NewPins(ders, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantCode fails unless err is the refusal with this code.
func wantCode(t testing.TB, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("got %v, want %s", err, want.Code)
	}
}
