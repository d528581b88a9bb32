package sigma

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// KeyID is how a server's key is pinned: the SHA-256 of its SubjectPublicKeyInfo.
func KeyID(spki []byte) [32]byte { return sha256.Sum256(spki) }

// publicOf returns the SubjectPublicKeyInfo of a signer of this protocol.
func publicOf(k crypto.Signer) ([]byte, error) {
	pub, ok := k.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("the identity key of a key exchange is not an ECDSA P-256 key")
	}
	b, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding an identity key: %w", err)
	}
	return b, nil
}

// newIdentity makes a signing key of the reader's bytes; ecdsa's own generator would ignore the reader.
func newIdentity(rand io.Reader) (*ecdsa.PrivateKey, error) {
	var b [32]byte
	defer clear(b[:])
	for range 128 {
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return nil, fmt.Errorf("reading randomness for an identity key: %w", err)
		}
		if k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b[:]); err == nil {
			return k, nil
		}
	}
	return nil, errors.New("randomness yields no identity key")
}

// sign signs a hash: r ‖ s.
func sign(rand io.Reader, k crypto.Signer, sum [32]byte) ([]byte, error) {
	der, err := k.Sign(rand, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing a key exchange: %w", err)
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
		return nil, errors.New("signing a key exchange: the signer's signature is not one of P-256")
	}
	b := make([]byte, sigSize)
	rs.R.FillBytes(b[:32])
	rs.S.FillBytes(b[32:])
	return b, nil
}

// verify checks a signature. The key must have the one encoding that it is known by.
func verify(spki, sig []byte, sum [32]byte) error {
	bad := CodeSignature.Bad("proof.signature", "one by the key that the message names", "another")
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return bad
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return bad
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, spki) {
		return bad
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
	if err != nil || !ecdsa.VerifyASN1(pub, sum[:], der) {
		return bad
	}
	return nil
}

// AEAD makes AES-GCM of a key of 32 bytes. An enclave has the monitor's, which is faster.
type AEAD func(key []byte) (cipher.AEAD, error)

func native(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

func (f AEAD) of(key []byte) (cipher.AEAD, error) {
	if f == nil {
		f = native
	}
	a, err := f(key)
	if err != nil {
		return nil, fmt.Errorf("making a cipher: %w", err)
	}
	if a.NonceSize() != 12 || a.Overhead() != tagSize {
		return nil, errors.New("making a cipher: it is not AES-GCM")
	}
	return a, nil
}

// seal encrypts the one box of a role; its key is used once, so the nonce is zero.
func (h *handshake) seal(f AEAD, role string, p proof) ([]byte, error) {
	a, err := f.of(h.box[role])
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, make([]byte, 12), p.encode(), h.th[:]), nil
}

func (h *handshake) open(f AEAD, role string, box []byte) ([]byte, error) {
	a, err := f.of(h.box[role])
	if err != nil {
		return nil, err
	}
	b, err := a.Open(nil, make([]byte, 12), box, h.th[:])
	if err != nil {
		return nil, CodeSealed.Bad("message.box", "what the other side encrypted for this exchange", "other bytes")
	}
	return b, nil
}
