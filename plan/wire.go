package plan

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
)

// appendField appends a 32-bit big-endian length and the field.
func appendField(b, field []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
	return append(b, field...)
}

// reader reads big-endian integers and length-prefixed fields in place; after the first error it yields zeros.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) field() []byte {
	n := r.uint32()
	if uint64(n) > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

// done says whether everything was read and nothing is left.
func (r *reader) done() bool { return !r.bad && len(r.rest) == 0 }

// pair splits the length-prefixed pair (signed bytes, signature).
func pair(b []byte) (signed, signature []byte, ok bool) {
	r := &reader{rest: b}
	signed, signature = r.field(), r.field()
	return signed, signature, r.done()
}

var errNotP256 = errors.New("not an ECDSA P-256 key")

// parseKey reads a SubjectPublicKeyInfo of an ECDSA P-256 key.
func parseKey(spki []byte) (*ecdsa.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	e, ok := k.(*ecdsa.PublicKey)
	if !ok || e.Curve != elliptic.P256() {
		return nil, errNotP256
	}
	return e, nil
}

// sign signs the SHA-256 of msg. No randomness is passed: ECDSA keys of the standard library then sign
// deterministically (RFC 6979), and keys in hardware have their own.
func sign(signer crypto.Signer, msg []byte) ([]byte, error) {
	if e, ok := signer.Public().(*ecdsa.PublicKey); !ok || e.Curve != elliptic.P256() {
		return nil, errNotP256
	}
	sum := sha256.Sum256(msg)
	return signer.Sign(nil, sum[:], crypto.SHA256)
}

func verify(k *ecdsa.PublicKey, msg, signature []byte) bool {
	sum := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(k, sum[:], signature)
}
