package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	// The hashes that names, quotes and signatures use.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/assay-attest/assay/rats"
)

// Object attributes (TPM 2.0 part 2, table 31).
const (
	attrFixedTPM            = 1 << 1
	attrFixedParent         = 1 << 4
	attrSensitiveDataOrigin = 1 << 5
	attrNoDA                = 1 << 10
	attrRestricted          = 1 << 16
	attrDecrypt             = 1 << 17
	attrSign                = 1 << 18
)

// public is a TPMT_PUBLIC of an asymmetric key.
type public struct {
	raw        []byte // TPMT_PUBLIC
	nameAlg    uint16
	attributes uint32
	symAlg     uint16 // of a storage key; algNull: none
	symBits    uint16
	symMode    uint16
	scheme     uint16 // algNull: chosen with each command
	schemeHash uint16
	key        crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
}

// parsePublic reads a TPM2B_PUBLIC (TPM 2.0 part 2, section 12.2.5). It takes RSA keys of 2048 to 4096 bits with
// exponent 65537, and points on P-256 and P-384.
func parsePublic(b []byte) (*public, error) {
	if len(b) > maxPublic {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxPublic)
	}
	outer := newCursor(b)
	raw := outer.sized()
	if err := outer.end(); err != nil {
		return nil, err
	}
	c := newCursor(raw)
	kind := c.uint16()
	p := &public{raw: raw, nameAlg: c.uint16(), attributes: c.uint32()}
	if _, ok := hashes[p.nameAlg]; !ok {
		c.fail("its name algorithm is 0x%04x, expected SHA-256, SHA-384 or SHA-512", p.nameAlg)
	}
	c.sized() // authorisation policy
	p.symAlg = c.uint16()
	if p.symAlg != algNull {
		p.symBits, p.symMode = c.uint16(), c.uint16()
	}
	p.scheme = c.uint16()
	switch p.scheme {
	case algNull:
	case algRSASSA, algRSAPSS, algECDSA:
		p.schemeHash = c.uint16()
	default:
		c.fail("its scheme is 0x%04x, expected RSASSA, RSAPSS, ECDSA or none", p.scheme)
	}
	switch kind {
	case algRSA:
		p.readRSA(c)
	case algECC:
		p.readECC(c)
	default:
		c.fail("its type is 0x%04x, expected RSA or ECC", kind)
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *public) readRSA(c *cursor) {
	bits, exponent, modulus := c.uint16(), c.uint32(), c.sized()
	n := new(big.Int).SetBytes(modulus)
	switch {
	case c.err != nil:
	case bits < 2048 || bits > 4096 || n.BitLen() != int(bits) || len(modulus) != int(bits+7)/8:
		c.fail("it announces an RSA key of %d bits and has one of %d, expected 2048 to 4096", bits, n.BitLen())
	case n.Bit(0) == 0:
		c.fail("its RSA modulus is even")
	case exponent != 0 && exponent != 65537:
		c.fail("its RSA exponent is %d, expected 65537", exponent)
	case p.scheme == algECDSA:
		c.fail("an RSA key has the scheme ECDSA")
	}
	p.key = &rsa.PublicKey{N: n, E: 65537}
}

func (p *public) readECC(c *cursor) {
	curveID := c.uint16()
	if kdf := c.uint16(); kdf != algNull {
		c.fail("it has the key derivation 0x%04x, expected none", kdf)
	}
	x, y := c.sized(), c.sized()
	if c.err != nil {
		return
	}
	var curve elliptic.Curve
	switch curveID {
	case curveP256:
		curve = elliptic.P256()
	case curveP384:
		curve = elliptic.P384()
	default:
		c.fail("its curve is 0x%04x, expected P-256 or P-384", curveID)
		return
	}
	if p.scheme == algRSASSA || p.scheme == algRSAPSS {
		c.fail("an ECC key has an RSA scheme")
		return
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		c.fail("its point has coordinates of %d and %d bytes, at most %d", len(x), len(y), size)
		return
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		c.fail("its point is not on the curve")
		return
	}
	p.key = key
}

// has says whether all these attributes are set.
func (p *public) has(attributes uint32) bool { return p.attributes&attributes == attributes }

// name returns the key's Name: the name algorithm and the digest of the public area (part 1, section 16).
func (p *public) name() []byte {
	h := hashes[p.nameAlg].New()
	h.Write(p.raw)
	return h.Sum(binary.BigEndian.AppendUint16(nil, p.nameAlg))
}

func (p *public) spki() ([]byte, error) { return x509.MarshalPKIXPublicKey(p.key) }

// verify checks a TPMT_SIGNATURE over message (part 2, section 11.3.4) and returns its hash algorithm.
func (p *public) verify(message, signature []byte) (uint16, error) {
	s, err := parseSignature(signature)
	if err != nil {
		return 0, err
	}
	return s.hash, p.check(message, s, hashes)
}

// check checks a signature by one of the hash algorithms in known.
func (p *public) check(message []byte, s *signature, known map[uint16]crypto.Hash) error {
	if p.scheme != algNull && (p.scheme != s.scheme || p.schemeHash != s.hash) {
		return fmt.Errorf("it was made by scheme 0x%04x with hash 0x%04x, the key's are 0x%04x and 0x%04x", s.scheme, s.hash, p.scheme, p.schemeHash)
	}
	hash := known[s.hash]
	h := hash.New()
	h.Write(message)
	digest := h.Sum(nil)
	ok := false
	switch key := p.key.(type) {
	case *ecdsa.PublicKey:
		ok = s.scheme == algECDSA && ecdsa.Verify(key, digest, s.r, s.s)
	case *rsa.PublicKey:
		switch s.scheme {
		case algRSASSA:
			ok = rsa.VerifyPKCS1v15(key, hash, digest, s.rsa) == nil
		case algRSAPSS:
			// TPMs of different ages take the longest salt that fits, or one as long as the hash.
			ok = rsa.VerifyPSS(key, hash, digest, s.rsa, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
		}
	}
	if !ok {
		return errors.New("it is not the key's signature of these bytes")
	}
	return nil
}

// signature is a TPMT_SIGNATURE.
type signature struct {
	scheme uint16
	hash   uint16
	rsa    []byte
	r, s   *big.Int
}

func parseSignature(b []byte) (*signature, error) { return parseSignatureOf(b, hashes) }

// parseSignatureOf reads a signature by one of the hash algorithms in known.
func parseSignatureOf(b []byte, known map[uint16]crypto.Hash) (*signature, error) {
	if len(b) > maxSignature {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxSignature)
	}
	c := newCursor(b)
	s := &signature{scheme: c.uint16(), hash: c.uint16()}
	if _, ok := known[s.hash]; !ok {
		c.fail("its hash algorithm is 0x%04x, expected SHA-256, SHA-384 or SHA-512", s.hash)
	}
	switch s.scheme {
	case algRSASSA, algRSAPSS:
		s.rsa = c.sized()
	case algECDSA:
		s.r, s.s = new(big.Int).SetBytes(c.sized()), new(big.Int).SetBytes(c.sized())
	default:
		c.fail("its scheme is 0x%04x, expected RSASSA, RSAPSS or ECDSA", s.scheme)
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	return s, nil
}

// EKDigest returns the SHA-256 of the SubjectPublicKeyInfo (DER) of an endorsement key given as TPM2B_PUBLIC: the value
// that ek_pins names. It can be computed of the EK's certificate as well.
func EKDigest(ekPub []byte) (rats.Digest, error) {
	p, err := parsePublic(ekPub)
	if err != nil {
		return rats.Digest{}, CodeEKMalformed.Bad("ek", "TPM2B_PUBLIC", err.Error())
	}
	spki, err := p.spki()
	if err != nil {
		return rats.Digest{}, fmt.Errorf("encoding the endorsement key: %w", err)
	}
	return rats.SHA256(spki), nil
}

// samePublic says whether two public keys are one.
func samePublic(a, b crypto.PublicKey) bool {
	da, errA := x509.MarshalPKIXPublicKey(a)
	db, errB := x509.MarshalPKIXPublicKey(b)
	return errA == nil && errB == nil && bytes.Equal(da, db)
}
