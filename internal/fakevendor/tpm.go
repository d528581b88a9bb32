package fakevendor

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"time"
)

// TPMMaker certifies keys of TPMs, as a maker with a root and an issuing CA does.
type TPMMaker struct {
	Root, Issuer *Authority

	rand io.Reader
	now  func() time.Time
}

// NewTPMMaker makes a maker.
func NewTPMMaker(rand io.Reader, now func() time.Time) *TPMMaker {
	m := &TPMMaker{rand: rand, now: now}
	from := now().AddDate(-1, 0, 0)
	make := func(cn string, issuer *Authority) *Authority {
		return issue(rand, KeyP256(rand), issuer, request{
			subject: pkix.Name{CommonName: cn, Organization: []string{"Fake TPM Maker"}}, ca: true, from: from, to: from.AddDate(rootYears, 0, 0),
		})
	}
	m.Root = make("Fake TPM Root CA", nil)
	m.Issuer = make("Fake TPM Issuing CA", m.Root)
	return m
}

// publicKey stands in for the key of a TPM, which signs nothing here.
type publicKey struct{ key crypto.PublicKey }

func (p publicKey) Public() crypto.PublicKey { return p.key }

func (publicKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("fakevendor: the key is in a TPM")
}

func (m *TPMMaker) certify(key crypto.PublicKey, subject pkix.Name, ext []pkix.Extension, changes []func(*x509.Certificate), policies ...[]uint64) *x509.Certificate {
	from := m.now().AddDate(0, -1, 0)
	return issue(m.rand, publicKey{key}, m.Issuer, request{
		subject: subject, from: from, to: from.AddDate(leafYears, 0, 0), extra: ext,
		change: func(c *x509.Certificate) {
			for _, p := range policies {
				c.Policies = append(c.Policies, must(x509.OIDFromInts(p)))
			}
			for _, change := range changes {
				change(c)
			}
		},
	}).Cert
}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

func wrap(class, tag int, b []byte) []byte {
	return must(asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: b}))
}

// EK makes a certificate of an endorsement key (TCG EK Credential Profile).
func (m *TPMMaker) EK(key crypto.PublicKey, changes ...func(*x509.Certificate)) *x509.Certificate {
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	var names []byte
	for i, text := range []string{"id:46414B45", "Fake", "id:00010002"} {
		names = append(names, wrap(asn1.ClassUniversal, asn1.TagSet, must(asn1.Marshal(attribute{asn1.ObjectIdentifier{2, 23, 133, 2, i + 1}, text})))...)
	}
	directory := wrap(asn1.ClassContextSpecific, 4, wrap(asn1.ClassUniversal, asn1.TagSequence, names))
	san := wrap(asn1.ClassUniversal, asn1.TagSequence, directory)
	change := func(c *x509.Certificate) {
		c.KeyUsage, c.UnknownExtKeyUsage = x509.KeyUsageKeyEncipherment, []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}
	}
	return m.certify(key, pkix.Name{}, []pkix.Extension{{Id: oidSAN, Critical: true, Value: san}}, append([]func(*x509.Certificate){change}, changes...))
}

// hardwareModule is the alternative name of a device key: TPM 2.0, and a serial number.
func hardwareModule(serial string) []pkix.Extension {
	module := must(asn1.Marshal(struct {
		Type   asn1.ObjectIdentifier
		Serial []byte
	}{asn1.ObjectIdentifier{2, 23, 133, 1, 2}, []byte(serial)}))
	other := append(must(asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4})), wrap(asn1.ClassContextSpecific, 0, module)...)
	return []pkix.Extension{{Id: oidSAN, Value: wrap(asn1.ClassUniversal, asn1.TagSequence, wrap(asn1.ClassContextSpecific, 0, other))}}
}

// The capabilities that an issuer of device keys verified (TPM 2.0 Keys for Device Identity and Attestation).
var (
	residency  = []uint64{2, 23, 133, 11, 1, 1}
	fixed      = []uint64{2, 23, 133, 11, 1, 2}
	restricted = []uint64{2, 23, 133, 11, 1, 3}
)

// IAK makes a certificate of an initial attestation key.
func (m *TPMMaker) IAK(key crypto.PublicKey, serial string, changes ...func(*x509.Certificate)) *x509.Certificate {
	return m.certify(key, pkix.Name{CommonName: "machine", SerialNumber: serial}, hardwareModule(serial), changes, residency, restricted)
}

// IDevID makes a certificate of an initial device identity.
func (m *TPMMaker) IDevID(key crypto.PublicKey, serial string, changes ...func(*x509.Certificate)) *x509.Certificate {
	return m.certify(key, pkix.Name{CommonName: "machine", SerialNumber: serial}, hardwareModule(serial), changes, residency, fixed)
}
