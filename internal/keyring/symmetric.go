package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"

	"github.com/assay-attest/assay/rats"
)

const (
	keySize  = 32                       // AES-256
	overhead = 12 + 16                  // nonce and tag of AES-256-GCM with a random nonce
	maxAAD   = 4 << 10                  // context of a secret or token
	idDomain = "assay/keyring/id/1\x00" // so that an id is no other hash of the key
)

// symmetric is one AES-256 key. It lies in one place of memory so that it can be wiped.
type symmetric struct{ key *[keySize]byte }

func newSymmetric(b []byte) (symmetric, bool) {
	if len(b) != keySize || bytes.Equal(b, make([]byte, keySize)) {
		return symmetric{}, false
	}
	s := symmetric{key: new([keySize]byte)}
	copy(s.key[:], b)
	return s, true
}

// keyID names a key: the first 8 bytes of a hash over it. The key is random, so the hash tells nothing of it.
type keyID [8]byte

func (id keyID) String() string { return hex.EncodeToString(id[:]) }

func (s symmetric) id() keyID {
	return keyID(rats.SHA256([]byte(idDomain), s.key[:]).Sum[:8])
}

// aead returns AES-256-GCM that draws a random 96-bit nonce for every message and puts it in front. One key is good for
// 2^32 messages (NIST SP 800-38D section 8.3); token keys rotate long before that, data keys seal one message.
func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("keyring: " + err.Error()) // the key's length is fixed by its type
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("keyring: " + err.Error()) // AES has 16-byte blocks
	}
	return gcm
}

func (s symmetric) aead() cipher.AEAD { return aead(s.key[:]) }

// Format keeps the key out of every print.
func (s symmetric) Format(st fmt.State, _ rune) { _, _ = fmt.Fprint(st, "keyring(symmetric key)") }

// LogValue implements slog.LogValuer.
func (s symmetric) LogValue() slog.Value { return slog.StringValue("keyring(symmetric key)") }

func find(keys []symmetric, id []byte) (symmetric, bool) {
	for _, k := range keys {
		if have := k.id(); bytes.Equal(have[:], id) {
			return k, true
		}
	}
	return symmetric{}, false
}

func wipe(keys []symmetric) {
	for _, k := range keys {
		clear(k.key[:])
	}
}

// labelled returns the additional data of one message: what it is, then each part with its length, so that no two lists
// of parts yield the same bytes.
func labelled(label string, parts ...[]byte) []byte {
	b := append([]byte(label), 0)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}
