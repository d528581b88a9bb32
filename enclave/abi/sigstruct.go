package abi

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
)

// The constant parts of a SIGSTRUCT (SDM 3D, 34.14).
var (
	sigstructHeader  = [16]byte{0x06, 0, 0, 0, 0xe1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0}
	sigstructHeader2 = [16]byte{0x01, 0x01, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 0x01, 0, 0, 0}
)

// Sigstruct is the author's certificate of an enclave (SDM 3D, 34.14; 1808 bytes). Modulus, Signature, Q1 and Q2 are
// little-endian integers.
type Sigstruct struct {
	Header            [16]byte
	Vendor            uint32 // 0x8086 for Intel's enclaves
	Date              uint32 // BCD: 0xyyyymmdd
	Header2           [16]byte
	SWDefined         uint32
	Reserved1         [84]byte
	Modulus           [384]byte
	Exponent          uint32
	Signature         [384]byte
	MiscSelect        uint32
	MiscMask          uint32
	CETAttributes     uint8
	CETAttributesMask uint8
	Reserved2         [2]byte
	ISVFamilyID       [16]byte
	Attributes        Attributes
	AttributesMask    Attributes
	EnclaveHash       [32]byte
	Reserved3         [16]byte
	ISVExtProdID      [16]byte
	ISVProdID         uint16
	ISVSVN            uint16
	Reserved4         [12]byte
	Q1                [384]byte
	Q2                [384]byte
}

// The two signed ranges of a SIGSTRUCT.
const (
	signedHead = 128
	signedFrom = 900
	signedTo   = 1028
)

// NewSigstruct returns a SIGSTRUCT whose constant fields are filled.
func NewSigstruct() Sigstruct { return Sigstruct{Header: sigstructHeader, Header2: sigstructHeader2} }

// ParseSigstruct reads exactly 1808 bytes. It does not check the signature.
func ParseSigstruct(b []byte) (Sigstruct, error) {
	var s Sigstruct
	return s, decode(b, &s, "SIGSTRUCT")
}

// IsSigstruct says cheaply whether b could be a SIGSTRUCT.
func IsSigstruct(b []byte) bool {
	return len(b) == SigstructSize && bytes.Equal(b[:16], sigstructHeader[:])
}

// Bytes returns the 1808 bytes of the SIGSTRUCT.
func (s Sigstruct) Bytes() []byte { return encode(&s) }

// SignedBytes returns what the signature covers: bytes 0 to 127 and 900 to 1027.
func (s Sigstruct) SignedBytes() []byte {
	b := s.Bytes()
	return slices.Concat(b[:signedHead], b[signedFrom:signedTo])
}

// MRSIGNER returns the signer's identity: SHA-256 of the modulus as it stands in the structure, little-endian.
func (s Sigstruct) MRSIGNER() [32]byte { return sha256.Sum256(s.Modulus[:]) }

// DateText returns the signing date as yyyymmdd.
func (s Sigstruct) DateText() string { return fmt.Sprintf("%08x", s.Date) }

// Verify checks what EINIT checks of a SIGSTRUCT alone: the constant fields, the RSA-3072 signature (PKCS #1 v1.5,
// SHA-256, exponent 3) and the quotients Q1 and Q2 (SDM 3D, 34.14 and EINIT). It is silent about who the signer is.
func (s Sigstruct) Verify() error {
	switch {
	case s.Header != sigstructHeader:
		return CodeSigstructHeader.Bad("header at byte 0", hex.EncodeToString(sigstructHeader[:]), hex.EncodeToString(s.Header[:]))
	case s.Header2 != sigstructHeader2:
		return CodeSigstructHeader.Bad("header2 at byte 24", hex.EncodeToString(sigstructHeader2[:]), hex.EncodeToString(s.Header2[:]))
	case s.Exponent != 3:
		return CodeSigstructKey.Bad("exponent at byte 512", "3", fmt.Sprint(s.Exponent))
	}
	n := fromLE(s.Modulus[:])
	if n.BitLen() != 3072 || n.Bit(0) == 0 {
		return CodeSigstructKey.Bad("modulus at byte 128", "an odd modulus of 3072 bits", fmt.Sprintf("%d bits", n.BitLen()))
	}
	digest := sha256.Sum256(s.SignedBytes())
	sig := slices.Clone(s.Signature[:])
	slices.Reverse(sig)
	if err := rsa.VerifyPKCS1v15(&rsa.PublicKey{N: n, E: 3}, crypto.SHA256, digest[:], sig); err != nil {
		return CodeSigstructSignature.Bad("signature at byte 516", "a signature by the key of the structure", "another value")
	}
	q1, q2 := quotients(fromLE(s.Signature[:]), n)
	if fromLE(s.Q1[:]).Cmp(q1) != 0 {
		return CodeSigstructQuotients.Bad("q1 at byte 1040", "signature² / modulus", "another value")
	}
	if fromLE(s.Q2[:]).Cmp(q2) != 0 {
		return CodeSigstructQuotients.Bad("q2 at byte 1424", "(signature³ - q1·signature·modulus) / modulus", "another value")
	}
	return nil
}

// SetSignature stores a modulus and a signature, both big-endian as crypto/rsa has them, and the quotients that
// follow. The key must be RSA-3072 with exponent 3.
func (s *Sigstruct) SetSignature(key *rsa.PublicKey, sig []byte) error {
	if key.N.BitLen() != 3072 || key.E != 3 || len(sig) != sigstructKeySize {
		return CodeSigstructKey.Bad("modulus at byte 128", "RSA-3072 with exponent 3", fmt.Sprintf("%d bits, exponent %d", key.N.BitLen(), key.E))
	}
	value := new(big.Int).SetBytes(sig)
	q1, q2 := quotients(value, key.N)
	s.Exponent = 3
	toLE(key.N, s.Modulus[:])
	toLE(value, s.Signature[:])
	toLE(q1, s.Q1[:])
	toLE(q2, s.Q2[:])
	return nil
}

// quotients returns what spares the processor divisions: q1 = s² / n and q2 = s·(s² - q1·n) / n.
func quotients(s, n *big.Int) (q1, q2 *big.Int) {
	q1, r := new(big.Int).QuoRem(new(big.Int).Mul(s, s), n, new(big.Int))
	return q1, r.Quo(r.Mul(r, s), n)
}

func fromLE(b []byte) *big.Int {
	be := slices.Clone(b)
	slices.Reverse(be)
	return new(big.Int).SetBytes(be)
}

func toLE(v *big.Int, out []byte) {
	v.FillBytes(out)
	slices.Reverse(out)
}
