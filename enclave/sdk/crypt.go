package sdk

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"hash"
	"runtime"
)

// Sizes of AES-GCM as the leaf functions have it.
const (
	NonceSize = 12
	tagSize   = 16
)

// SHA256 returns the SHA-256 of b, computed by the monitor over the enclave's memory.
func SHA256(b []byte) (sum [sha256.Size]byte) {
	out := make([]byte, sha256.Size)
	if refused(leafHash(256, pointer(b), uint32(len(b)), pointer(out))) != nil {
		return sha256.Sum256(b)
	}
	return [sha256.Size]byte(out)
}

// NewSHA256 returns a running SHA-256 whose work is done by the monitor, or one of the enclave's own if the monitor has
// no more. It can't be copied or marshalled. Small writes cost more in crossings than they save. It is an io.Closer:
// closing gives its place back at once, else the garbage collector does.
func NewSHA256() hash.Hash { return NewHash("sha256") }

// NewHash is NewSHA256 for sha256, sha384 and sha512; any other name is sha256.
func NewHash(alg string) hash.Hash {
	bits, own := uint32(256), sha256.New
	switch alg {
	case "sha384":
		bits, own = 384, sha512.New384
	case "sha512":
		bits, own = 512, sha512.New
	}
	n := leafStart(bits)
	if n < 0 {
		return own()
	}
	h := &running{handle: &handle{n: uint32(n)}, bits: bits}
	h.cleanup = runtime.AddCleanup(h, func(n *handle) { n.end() }, h.handle)
	return h
}

// handle is a place among the monitor's running hashes.
type handle struct {
	n     uint32
	ended bool
}

func (h *handle) end() {
	if !h.ended {
		h.ended = true
		leafEnd(h.n)
	}
}

type running struct {
	*handle
	bits    uint32
	cleanup runtime.Cleanup
}

var errClosed = errors.New("the hash was closed")

// Close gives the hash's place back. Nothing can be written afterwards.
func (h *running) Close() error {
	h.cleanup.Stop()
	h.end()
	return nil
}

// Write implements hash.Hash.
func (h *running) Write(b []byte) (int, error) {
	if h.ended {
		return 0, errClosed
	}
	if err := refused(leafWrite(h.n, pointer(b), uint32(len(b)))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Sum implements hash.Hash.
func (h *running) Sum(b []byte) []byte {
	if h.ended {
		panic(errClosed) // another hash may have its place
	}
	out := make([]byte, h.Size())
	if err := refused(leafSum(h.n, pointer(out))); err != nil {
		panic(err) // the handle is this package's
	}
	return append(b, out...)
}

// Reset implements hash.Hash.
func (h *running) Reset() {
	h.end()
	n := leafStart(h.bits)
	if n < 0 { // its own place is free
		panic("no running hash")
	}
	h.n, h.ended = uint32(n), false
}

// Size implements hash.Hash.
func (h *running) Size() int { return int(h.bits / 8) }

// BlockSize implements hash.Hash.
func (h *running) BlockSize() int {
	if h.bits == 256 {
		return sha256.BlockSize
	}
	return sha512.BlockSize
}

// HKDF derives n bytes of a secret by HKDF-SHA256 (RFC 5869).
func HKDF(secret *Secret, salt, info []byte, n int) (*Secret, error) {
	out := make([]byte, n)
	err := refused(leafHKDF(pointer(secret.b), uint32(len(secret.b)), pointer(salt), uint32(len(salt)), pointer(info), uint32(len(info)), pointer(out), uint32(len(out))))
	if err != nil {
		return nil, err
	}
	return &Secret{out}, nil
}

// SealWith encrypts with AES-GCM under a key of 16 or 32 bytes. A nonce is used once with a key.
func SealWith(key *Secret, nonce [NonceSize]byte, extra, plaintext []byte) ([]byte, error) {
	out, once := make([]byte, len(plaintext)+tagSize), append([]byte(nil), nonce[:]...)
	err := refused(leafSeal(pointer(key.b), uint32(len(key.b)), pointer(once), pointer(extra), uint32(len(extra)), pointer(plaintext), uint32(len(plaintext)), pointer(out)))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// OpenWith decrypts what SealWith made.
func OpenWith(key *Secret, nonce [NonceSize]byte, extra, sealed []byte) ([]byte, error) {
	out, once := make([]byte, max(len(sealed)-tagSize, 0)), append([]byte(nil), nonce[:]...)
	err := refused(leafOpen(pointer(key.b), uint32(len(key.b)), pointer(once), pointer(extra), uint32(len(extra)), pointer(sealed), uint32(len(sealed)), pointer(out)))
	if err != nil {
		return nil, err
	}
	return out, nil
}
