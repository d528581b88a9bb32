// Package sealed is the box that plans, evidence and secrets travel in: HPKE base mode (RFC 9180) with
// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. A box is the encapsulated key (32 bytes), the number of the
// box under that key (8 bytes, big endian) and the ciphertext; its AES-256-GCM key is the context's exported secret
// (section 5.3), its nonce the number behind four zero bytes. So boxes need not arrive, or arrive in order, and the
// public-key work of a [Sender] and of the key that opens is done once for many boxes.
//
// It guarantees that only the holder of the private key reads a box, and that a box made for one purpose (info) opens
// for no other. It does not say who made a box: base mode authenticates no sender, so whatever has an author carries
// that author's signature inside. It doesn't notice a box that comes twice. It hides neither length nor addressee, nor
// that boxes are of one sender, and keeps no forward secrecy against the loss of the recipient's key.
package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/assay-attest/assay/rats"
)

// Sizes of a box.
const (
	PublicSize = 32                           // of a public key
	numberSize = 8                            // of a box's number
	Overhead   = PublicSize + numberSize + 16 // by which a box is longer than its plaintext
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

// exported is the context string of the secret that boxes are encrypted with.
const exported = "assay/box/1"

// maxContexts bounds how many senders a key remembers, and how many keys a Senders does.
const maxContexts = 1 << 16

// Key is a private key that opens boxes. It remembers whom it opened a box of. It is safe for concurrent use.
type Key struct {
	ecdh *ecdh.PrivateKey
	hpke hpke.PrivateKey

	mu       sync.RWMutex
	contexts map[context]cipher.AEAD
}

// context is an encapsulated key, or a public one, and a purpose.
type context struct {
	key  [PublicSize]byte
	info string
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
	c := context{key: [PublicSize]byte(box), info: string(info)}
	k.mu.RLock()
	aead := k.contexts[c]
	k.mu.RUnlock()
	known := aead != nil
	if !known {
		r, err := hpke.NewRecipient(box[:PublicSize], k.hpke, hpke.HKDFSHA256(), hpke.ExportOnly(), info)
		if err != nil {
			return nil, CodeBox.Bad("box", "", "")
		}
		if aead, err = aeadOf(r.Export); err != nil {
			return nil, err
		}
	}
	p, err := aead.Open(nil, nonce(box[PublicSize:]), box[PublicSize+numberSize:], nil)
	if err != nil {
		// The cause is left out: which step failed is nobody's business but the recipient's.
		return nil, CodeBox.Bad("box", "", "")
	}
	if !known { // now that it is authentic
		k.mu.Lock()
		if k.contexts == nil || len(k.contexts) >= maxContexts {
			k.contexts = map[context]cipher.AEAD{}
		}
		k.contexts[c] = aead
		k.mu.Unlock()
	}
	return p, nil
}

// aeadOf makes the cipher of a context's exported secret.
func aeadOf(export func(string, int) ([]byte, error)) (cipher.AEAD, error) {
	secret, err := export(exported, 32)
	if err != nil {
		return nil, fmt.Errorf("exporting the key of a box: %w", err)
	}
	defer clear(secret)
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("making the cipher of a box: %w", err)
	}
	return cipher.NewGCM(block)
}

// nonce is the number at the beginning of b as a nonce.
func nonce(b []byte) []byte { return append(make([]byte, 4, 4+numberSize), b[:numberSize]...) }

// Sender seals boxes to one key for one purpose. It is safe for concurrent use.
type Sender struct {
	enc  []byte
	aead cipher.AEAD
	sent atomic.Uint64
}

// NewSender does the public-key work for boxes that only the holder of the key with this public part opens, for the
// purpose named by info. Its ephemeral key comes from the system's randomness: crypto/hpke takes no other.
func NewSender(public, info []byte) (*Sender, error) {
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
	enc, h, err := hpke.NewSender(pub, hpke.HKDFSHA256(), hpke.ExportOnly(), info)
	if err != nil {
		// A point of low order gets here.
		return nil, CodeKey.Bad("public key", "an X25519 key", "a point of low order")
	}
	s := &Sender{enc: enc}
	s.aead, err = aeadOf(h.Export)
	return s, err
}

// Seal makes a box.
func (s *Sender) Seal(plaintext []byte) ([]byte, error) {
	n := s.sent.Add(1)
	if n >= 1<<32 { // far below what the mode bears; nobody gets here
		return nil, errors.New("a sender's boxes are used up")
	}
	box := append(make([]byte, 0, len(plaintext)+Overhead), s.enc...)
	box = binary.BigEndian.AppendUint64(box, n)
	return s.aead.Seal(box, nonce(box[PublicSize:]), plaintext, nil), nil
}

// String keeps the key out of logs.
func (s *Sender) String() string { return "sealed.Sender" }

// GoString keeps the key out of logs.
func (s *Sender) GoString() string { return "sealed.Sender" }

// Seal makes one box that only the holder of the key with this public part opens, for the purpose named by info.
func Seal(public, info, plaintext []byte) ([]byte, error) {
	s, err := NewSender(public, info)
	if err != nil {
		return nil, err
	}
	return s.Seal(plaintext)
}

// Senders remembers senders, so that whoever seals to the same keys again and again does the public-key work once for
// each. Its zero value is ready; nil remembers nothing. It is safe for concurrent use.
type Senders struct {
	mu  sync.RWMutex
	all map[context]*Sender
}

// Seal is as the function Seal.
func (s *Senders) Seal(public, info, plaintext []byte) ([]byte, error) {
	if s == nil || len(public) != PublicSize {
		return Seal(public, info, plaintext)
	}
	c := context{key: [PublicSize]byte(public), info: string(info)}
	s.mu.RLock()
	known := s.all[c]
	s.mu.RUnlock()
	if known == nil {
		var err error
		if known, err = NewSender(public, info); err != nil {
			return nil, err
		}
		s.mu.Lock()
		if s.all == nil || len(s.all) >= maxContexts {
			s.all = map[context]*Sender{}
		}
		s.all[c] = known
		s.mu.Unlock()
	}
	return known.Seal(plaintext)
}
