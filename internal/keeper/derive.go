package keeper

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/assay-attest/assay/rats"
)

// MaxSVN is the highest security version a client can have.
const MaxSVN = 1023

// MaxDerived is the most bytes one derivation yields.
const MaxDerived = 255 * sha256.Size

const seedSize = 32

// The seed is the root of MaxSVN. Everything else follows from it by HKDF-SHA256 (RFC 5869), with a label of its own and
// parts whose lengths are part of the input:
//
//	root(MaxSVN) = seed        root(n) = expand(root(n+1), "svn", n)
//	key          = expand(root(n), "key", launch, root class, marks, client, label, context)
//
// Who has root(n) computes those of older versions, never of newer ones (S15).
func expand(key []byte, size int, label string, parts ...[]byte) []byte {
	info := []byte("assay keeper 1\x00")
	for _, p := range append([][]byte{[]byte(label)}, parts...) {
		info = binary.BigEndian.AppendUint32(info, uint32(len(p)))
		info = append(info, p...)
	}
	out, err := hkdf.Expand(sha256.New, key, string(info), size)
	if err != nil {
		panic("keeper: " + err.Error()) // only for sizes no caller asks for
	}
	return out
}

// rootID names a root without saying anything about it.
func rootID(seed []byte) rats.Digest {
	return rats.Digest{Alg: "sha256", Sum: expand(seed, sha256.Size, "id")}
}

// counterPassword is what incrementing the revision takes: who may commit holds the root. It is 128 bits in hexadecimal: a
// TPM password must not hold zero bytes.
func counterPassword(seed []byte) []byte {
	raw := expand(seed, 16, "revision counter")
	defer clear(raw)
	return hex.AppendEncode(nil, raw)
}

// rootAt is the root of a security version. The caller wipes it.
func rootAt(seed []byte, svn uint16) []byte {
	key := append([]byte(nil), seed...)
	for n := MaxSVN; n > int(svn); n-- {
		next := expand(key, seedSize, "svn", binary.BigEndian.AppendUint16(nil, uint16(n-1)))
		clear(key)
		key = next
	}
	return key
}

// mix makes the seed of the TPM's randomness and the system's: either suffices.
func mix(tpm, system []byte) ([]byte, error) { return hkdf.Extract(sha256.New, tpm, system) }
