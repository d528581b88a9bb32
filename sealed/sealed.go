// Package sealed is the box that plans, evidence and secrets travel in: HPKE base mode (RFC 9180) with
// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, one message per box. A box is the encapsulated key (32
// bytes) followed by the ciphertext.
//
// It guarantees that only the holder of the private key reads a box, and that a box made for one purpose (info) opens
// for no other. It does not say who made a box: base mode authenticates no sender, so whatever has an author carries
// that author's signature inside. It hides neither length nor addressee, and keeps no forward secrecy against the loss
// of the recipient's key.
package sealed

import (
	"crypto/ecdh"
	"crypto/hpke"
	"fmt"
	"io"

	"github.com/assay-attest/assay/rats"
)

// Sizes of a box.
const (
	PublicSize = 32      // of a public key
	Overhead   = 32 + 16 // by which a box is longer than its plaintext
)

// CodeBox refuses a box that this key and purpose don't open.
var CodeBox = rats.CodeInfo{
	Code:  "sealed.box.refused",
	Title: "box does not open with this key for this purpose",
	Hint:  "the box was made for another key (a restarted enclave has new ones), for another purpose, or was altered",
	Slot:  rats.RuntimeOpaque,
}

// CodeKey refuses a key that is not an X25519 key.
var CodeKey = rats.CodeInfo{
	Code:  "sealed.key.malformed",
	Title: "not an X25519 key",
	Hint:  "keys of boxes are 32 bytes (RFC 7748)",
	Slot:  rats.RuntimeOpaque,
}

// Codes lists what this package refuses with.
var Codes = []rats.CodeInfo{CodeBox, CodeKey}

// Key is a private key that opens boxes.
type Key struct {
	ecdh *ecdh.PrivateKey
	hpke hpke.PrivateKey
}

// GenerateKey makes a key of 32 bytes of rand.
func GenerateKey(rand io.Reader) (*Key, error) {
	// Not ecdh's GenerateKey: it ignores the reader it is given.
	var b [PublicSize]byte
	defer clear(b[:])
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, fmt.Errorf("reading randomness for an HPKE key: %w", err)
	}
	return ParseKey(b[:])
}

// ParseKey takes the 32 bytes that Bytes returned. The caller may clear them afterwards.
func ParseKey(b []byte) (*Key, error) {
	k, err := ecdh.X25519().NewPrivateKey(b)
	if err != nil {
		return nil, CodeKey.Bad("private key", "32 bytes", fmt.Sprintf("%d bytes", len(b)))
	}
	h, err := hpke.NewDHKEMPrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("making an HPKE key: %w", err)
	}
	return &Key{ecdh: k, hpke: h}, nil
}

// Public returns the 32 bytes to which boxes are sealed.
func (k *Key) Public() []byte { return k.ecdh.PublicKey().Bytes() }

// Bytes returns the private key, for safe keeping. Whoever calls it wipes it.
func (k *Key) Bytes() []byte { return k.ecdh.Bytes() }

// String keeps the private key out of logs.
func (k *Key) String() string { return "sealed.Key" }

// GoString keeps the private key out of logs.
func (k *Key) GoString() string { return "sealed.Key" }

// Open returns the plaintext of a box that was sealed to this key with this info.
func (k *Key) Open(info, box []byte) ([]byte, error) {
	if len(box) < Overhead {
		return nil, CodeBox.Bad("box", fmt.Sprintf("at least %d bytes", Overhead), fmt.Sprintf("%d bytes", len(box)))
	}
	p, err := hpke.Open(k.hpke, hpke.HKDFSHA256(), hpke.AES256GCM(), info, box)
	if err != nil {
		// The cause is left out: which step failed is nobody's business but the recipient's.
		return nil, CodeBox.Bad("box", "", "")
	}
	return p, nil
}

// Seal makes a box that only the holder of the key with this public part opens, for the purpose named by info. Its
// ephemeral key comes from the system's randomness: crypto/hpke takes no other.
func Seal(public, info, plaintext []byte) ([]byte, error) {
	if len(public) != PublicSize {
		return nil, CodeKey.Bad("public key", "32 bytes", fmt.Sprintf("%d bytes", len(public)))
	}
	e, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	pub, err := hpke.NewDHKEMPublicKey(e)
	if err != nil {
		return nil, fmt.Errorf("making an HPKE public key: %w", err)
	}
	box, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plaintext)
	if err != nil {
		// A point of low order gets here.
		return nil, CodeKey.Bad("public key", "an X25519 key", "a point of low order")
	}
	return box, nil
}
