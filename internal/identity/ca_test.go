package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/rats"
)

func TestCACertificateSignsLeavesOnlyForTenYears(t *testing.T) {
	c := &clock{start}
	ca, key := newCA(t, c)
	cert := parse(t, ca.DER())
	if !cert.IsCA || cert.MaxPathLen != 0 || !cert.MaxPathLenZero {
		t.Errorf("CA %v, path length %d", cert.IsCA, cert.MaxPathLen)
	}
	if want := start.Add(10 * 365 * 24 * time.Hour); !cert.NotAfter.Equal(want) {
		t.Errorf("valid until %s, want %s", cert.NotAfter, want)
	}
	id := rats.SHA256([]byte("verifier")).String()
	if want := "Assay CA " + strings.TrimPrefix(id, "sha256:")[:8]; cert.Subject.CommonName != want {
		t.Errorf("named %q, want %q", cert.Subject.CommonName, want)
	}
	again, err := identity.LoadCA(ca.DER(), key, caConfig(c))
	if err != nil || !again.Digest().Equal(ca.Digest()) {
		t.Errorf("loading again: %v", err)
	}
}

func TestCAThatDoesNotFitIsNotLoaded(t *testing.T) {
	c := &clock{start}
	ca, key := newCA(t, c)
	leaf, _, err := ca.NodeCertificate("default", "nd_a", spkiOf(t, key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	intermediates := template(func(x *x509.Certificate) {
		x.IsCA, x.BasicConstraintsValid, x.MaxPathLen, x.KeyUsage = true, true, 1, x509.KeyUsageCertSign
	})
	longPath, err := x509.CreateCertificate(rand.Reader, intermediates, intermediates, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"another key":   func() error { _, err := identity.LoadCA(ca.DER(), newKey(t), caConfig(c)); return err },
		"a leaf":        func() error { _, err := identity.LoadCA(leaf, key, caConfig(c)); return err },
		"garbage":       func() error { _, err := identity.LoadCA([]byte("x"), key, caConfig(c)); return err },
		"intermediates": func() error { _, err := identity.LoadCA(longPath, key, caConfig(c)); return err },
		"expired": func() error {
			_, err := identity.LoadCA(ca.DER(), key, caConfig(&clock{start.AddDate(11, 0, 0)}))
			return err
		},
		"P-384":          func() error { _, err := identity.NewCA(p384, caConfig(c)); return err },
		"no clock":       func() error { _, err := identity.NewCA(key, identity.CAConfig{}); return err },
		"nothing pinned": func() error { _, err := identity.NewPins(nil, c.now); return err },
		"leaf pinned":    func() error { _, err := identity.NewPins([][]byte{leaf}, c.now); return err },
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNodeCertificateNamesTheNodeForThirtyDays(t *testing.T) {
	c := &clock{start}
	ca, _ := newCA(t, c)
	spki := spkiOf(t, newKey(t).Public())
	der, serial, err := ca.NodeCertificate("default", "nd_7f", spki)
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, der)
	if cert.Subject.CommonName != "nd_7f" || cert.URIs[0].String() != "assay://default/node/nd_7f" {
		t.Errorf("names %q, %v", cert.Subject.CommonName, cert.URIs)
	}
	if !cert.NotAfter.Equal(start.Add(30*24*time.Hour)) || cert.NotBefore.After(start) {
		t.Errorf("valid from %s to %s", cert.NotBefore, cert.NotAfter)
	}
	if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || cert.IsCA {
		t.Errorf("usages %v, CA %v", cert.ExtKeyUsage, cert.IsCA)
	}
	_, other, err := ca.NodeCertificate("default", "nd_7f", spki)
	if err != nil || other == serial || len(serial) != 32 {
		t.Errorf("serials %q and %q, %v", serial, other, err)
	}
}

func TestCertificateForAnotherKindOfKeyIsRefused(t *testing.T) {
	ca, _ := newCA(t, &clock{start})
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := spkiOf(t, newKey(t).Public())
	for name, spki := range map[string][]byte{
		"RSA": spkiOf(t, r.Public()), "P-384": spkiOf(t, p384.Public()), "nothing": nil, "trailing byte": append(good, 0),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := ca.NodeCertificate("default", "nd_a", spki)
			wantCode(t, err, identity.CodeKeyInvalid)
		})
	}
}

func TestServerCertificateIsRenewedInProcess(t *testing.T) {
	c := &clock{start}
	ca, _ := newCA(t, c)
	certs, err := ca.ServerCertificates([]string{"verifier.example", "192.0.2.7"})
	if err != nil {
		t.Fatal(err)
	}
	get := func() *tls.Certificate {
		got, err := certs.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := get()
	if first.Leaf.VerifyHostname("verifier.example") != nil || first.Leaf.VerifyHostname("192.0.2.7") != nil {
		t.Error("the certificate lacks a name")
	}
	if len(first.Certificate) != 2 || !rats.SHA256(first.Certificate[1]).Equal(ca.Digest()) {
		t.Error("the chain is not leaf and CA: one who joins could not check it")
	}
	c.t = start.Add(59 * 24 * time.Hour)
	if get() != first {
		t.Error("renewed after 59 days of 90")
	}
	c.t = start.Add(61 * 24 * time.Hour)
	if second := get(); second == first || !second.Leaf.NotAfter.Equal(c.t.Add(90*24*time.Hour)) {
		t.Error("not renewed after 61 days of 90")
	}
	if _, err := ca.ServerCertificates(nil); err == nil {
		t.Error("a server certificate without names was issued")
	}
}
