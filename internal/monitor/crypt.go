package monitor

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
)

// maxHashes is how many running hashes an enclave may have.
const maxHashes = 64

// maxDerived bounds what HKDF-SHA256 gives (RFC 5869, 2.3).
const maxDerived = 255 * sha256.Size

func newHash(bits uint64) hash.Hash {
	switch bits {
	case 256:
		return sha256.New()
	case 384:
		return sha512.New384()
	case 512:
		return sha512.New()
	}
	return nil
}

// oneHash hashes memory: bits, pointer, length, room for the sum.
func oneHash(_ context.Context, t *guest, a []uint64) uint64 {
	in := t.view(a[1], a[2])
	if a[0] == 256 {
		sum := sha256.Sum256(in)
		copy(t.view(a[3], sha256.Size), sum[:])
		return 0
	}
	h := newHash(a[0])
	if h == nil {
		return t.refuse(CodeArgument.Bad("hash", "256, 384 or 512 bits", fmt.Sprint(a[0])))
	}
	h.Write(in)
	h.Sum(t.view(a[3], uint64(h.Size()))[:0])
	return 0
}

// startHash starts a running hash and returns its handle.
func startHash(_ context.Context, t *guest, a []uint64) uint64 {
	for i, h := range t.hashes {
		if h == nil {
			if h = newHash(a[0]); h == nil {
				return t.refuse(CodeArgument.Bad("hash", "256, 384 or 512 bits", fmt.Sprint(a[0])))
			}
			t.hashes[i] = h
			return uint64(i)
		}
	}
	return t.refuse(CodeArgument.Bad("hash", fmt.Sprintf("at most %d running hashes", maxHashes), "more"))
}

func (t *guest) hash(handle uint64) hash.Hash {
	if handle < maxHashes && t.hashes[handle] != nil {
		return t.hashes[handle]
	}
	t.refusal = CodeArgument.Bad("hash", "the handle of a running hash", fmt.Sprint(int32(handle)))
	return nil
}

// writeHash adds memory to a running hash.
func writeHash(_ context.Context, t *guest, a []uint64) uint64 {
	in := t.view(a[1], a[2])
	h := t.hash(a[0])
	if h == nil {
		return t.refuse(t.refusal)
	}
	h.Write(in)
	return 0
}

// sumHash writes the sum of what a running hash has had so far.
func sumHash(_ context.Context, t *guest, a []uint64) uint64 {
	h := t.hash(a[0])
	if h == nil {
		return t.refuse(t.refusal)
	}
	h.Sum(t.view(a[1], uint64(h.Size()))[:0])
	return 0
}

// endHash forgets a running hash.
func endHash(_ context.Context, t *guest, a []uint64) uint64 {
	if t.hash(a[0]) == nil {
		return t.refuse(t.refusal)
	}
	t.hashes[a[0]] = nil
	return 0
}

// hkdfLeaf derives a key by HKDF-SHA256: secret, salt, info, room.
func hkdfLeaf(_ context.Context, t *guest, a []uint64) uint64 {
	secret, salt, info, out := t.view(a[0], a[1]), t.view(a[2], a[3]), t.view(a[4], a[5]), t.view(a[6], a[7])
	if len(out) == 0 || len(out) > maxDerived {
		return t.refuse(CodeArgument.Bad("hkdf", fmt.Sprintf("1 to %d bytes", maxDerived), fmt.Sprint(len(out))))
	}
	b, err := hkdf.Key(sha256.New, secret, salt, string(info), len(out))
	if err != nil {
		return t.refuse(err)
	}
	copy(out, b)
	clear(b)
	return 0
}

// sealLeaf and openLeaf are AES-GCM: key (16 or 32 bytes), nonce (12 bytes), additional data, input, output. Sealing
// writes 16 bytes more than it reads. Output is the input's own place, or apart from it.
func sealLeaf(_ context.Context, t *guest, a []uint64) uint64 {
	g, nonce, extra, in, err := t.gcm(a, a[6]+16)
	if err != nil {
		return t.refuse(err)
	}
	g.Seal(t.view(a[7], a[6]+16)[:0], nonce, in, extra)
	return 0
}

func openLeaf(_ context.Context, t *guest, a []uint64) uint64 {
	if a[6] < 16 {
		return t.refuse(CodeCipher.Bad("sealed", "16 bytes or more", fmt.Sprint(a[6])))
	}
	g, nonce, extra, in, err := t.gcm(a, a[6]-16)
	if err != nil {
		return t.refuse(err)
	}
	if _, err := g.Open(t.view(a[7], a[6]-16)[:0], nonce, in, extra); err != nil {
		return t.refuse(CodeCipher.Bad("sealed", "", ""))
	}
	return 0
}

// gcm reads the arguments of both: pointers and lengths of key, nonce, additional data and input, and the output's place.
func (t *guest) gcm(a []uint64, out uint64) (g cipher.AEAD, nonce, extra, in []byte, err error) {
	k := t.view(a[0], a[1])
	nonce, extra, in = t.view(a[2], 12), t.view(a[3], a[4]), t.view(a[5], a[6])
	if a[7] != a[5] && overlap(a[7], out, a[5], a[6]) || overlap(a[7], out, a[3], a[4]) || overlap(a[7], out, a[2], 12) || overlap(a[7], out, a[0], a[1]) {
		return nil, nil, nil, nil, CodeArgument.Bad("output", "a place apart from key, nonce and data, or that of the input", "another")
	}
	if len(k) != 16 && len(k) != 32 {
		return nil, nil, nil, nil, CodeArgument.Bad("key", "16 or 32 bytes", fmt.Sprint(len(k)))
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	g, err = cipher.NewGCM(block)
	return g, nonce, extra, in, err
}

func overlap(a, n, b, m uint64) bool { return n > 0 && m > 0 && a < b+m && b < a+n }
