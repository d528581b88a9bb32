package softtpm

import (
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// CA is a maker of TPMs that doesn't exist. It may make any number.
type CA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// The validity of every certificate here; "no end" is what RFC 5280 and TPM makers write.
var (
	notBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// NewCA makes a maker. It panics if rand fails.
func NewCA(rand io.Reader) *CA {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand))
	template := &x509.Certificate{
		SerialNumber: serial(rand), Subject: pkix.Name{CommonName: "Fake TPM Maker Root"},
		NotBefore: notBefore, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand, template, template, key.Public(), key))
	return &CA{key: key, cert: must(x509.ParseCertificate(der))}
}

func serial(rand io.Reader) *big.Int {
	b := make([]byte, 16)
	must(io.ReadFull(rand, b))
	b[0] = b[0]&0x7f | 1
	return new(big.Int).SetBytes(b)
}

// DER returns the maker's certificate.
func (c *CA) DER() []byte { return c.cert.Raw }

// PEM returns the maker's certificate as policies hold it.
func (c *CA) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

// certify makes an EK certificate as the TCG EK Credential Profile wants it.
func (c *CA) certify(rand io.Reader, ek crypto.PublicKey, software bool) []byte {
	model := "softtpm"
	if software {
		model = "swtpm"
	}
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	var rdns []byte
	for i, text := range []string{"id:46414B45", model, "id:00010002"} {
		a := must(asn1.Marshal(attribute{asn1.ObjectIdentifier{2, 23, 133, 2, i + 1}, text}))
		rdns = append(rdns, must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: a}))...)
	}
	directory := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: rdns}))
	general := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directory}))
	san := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: general}))
	return must(x509.CreateCertificate(rand, &x509.Certificate{
		SerialNumber: serial(rand), NotBefore: notBefore, NotAfter: notAfter,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions:    []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}, c.cert, ek, c.key))
}

// newEK makes an endorsement key of the TCG's template L-1 (RSA) or L-2 (ECC).
func newEK(rand io.Reader, useRSA bool) key {
	if useRSA {
		private := must(rsa.GenerateKey(rand, 2048))
		public := tpm2.RSAEKTemplate
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: private.N.Bytes()})
		return key{private: private, public: public}
	}
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand))
	public := tpm2.ECCEKTemplate
	public.Unique = eccUnique(&private.PublicKey)
	return key{private: private, public: public}
}

// ErrCredential is returned for a credential that was made for another TPM or another AK.
var ErrCredential = errors.New("softtpm: the credential is not for this TPM and this AK")

// Activate opens a credential as TPM2_ActivateCredential does; both arguments are the contents of their TPM2B.
func (t *TPM) Activate(credential, secret []byte) ([]byte, error) {
	seed, err := t.openSeed(secret)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(&t.ak.public)
	if err != nil {
		return nil, fmt.Errorf("softtpm: naming the AK: %w", err)
	}
	if len(credential) < 2+sha256.Size || binary.BigEndian.Uint16(credential) != sha256.Size {
		return nil, ErrCredential
	}
	sum, identity := credential[2:2+sha256.Size], credential[2+sha256.Size:]
	mac := hmac.New(sha256.New, tpm2.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256))
	mac.Write(identity)
	mac.Write(name.Buffer)
	if !hmac.Equal(mac.Sum(nil), sum) {
		return nil, ErrCredential
	}
	block, err := aes.NewCipher(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", name.Buffer, nil, 128))
	if err != nil {
		return nil, fmt.Errorf("softtpm: %w", err)
	}
	// CFB: each block of plain text is masked with the encryption of the cipher text before it.
	plain, before := make([]byte, len(identity)), make([]byte, aes.BlockSize)
	for i := 0; i < len(identity); i += aes.BlockSize {
		mask := make([]byte, aes.BlockSize)
		block.Encrypt(mask, before)
		n := subtle.XORBytes(plain[i:], identity[i:], mask)
		copy(before, identity[i:i+n])
	}
	if len(plain) < 2 || int(binary.BigEndian.Uint16(plain)) != len(plain)-2 {
		return nil, ErrCredential
	}
	return plain[2:], nil
}

func (t *TPM) openSeed(secret []byte) ([]byte, error) {
	switch private := t.ek.private.(type) {
	case *rsa.PrivateKey:
		seed, err := rsa.DecryptOAEP(sha256.New(), nil, private, secret, []byte("IDENTITY\x00"))
		if err != nil {
			return nil, ErrCredential
		}
		return seed, nil
	case *ecdsa.PrivateKey:
		point, err := tpm2.Unmarshal[tpm2.TPMSECCPoint](secret)
		if err != nil || len(point.X.Buffer) != 32 || len(point.Y.Buffer) != 32 {
			return nil, ErrCredential
		}
		ours, err := private.ECDH()
		if err != nil {
			return nil, fmt.Errorf("softtpm: %w", err)
		}
		theirs, err := ours.Curve().NewPublicKey(append(append([]byte{4}, point.X.Buffer...), point.Y.Buffer...))
		if err != nil {
			return nil, ErrCredential
		}
		z, err := ours.ECDH(theirs)
		if err != nil {
			return nil, ErrCredential
		}
		return tpm2.KDFe(crypto.SHA256, z, "IDENTITY", point.X.Buffer, ours.PublicKey().Bytes()[1:33], 256), nil
	}
	return nil, ErrCredential
}
