package tpm

import (
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
)

// Bounds of the structures read here; the largest real ones are an RSA-4096 key and its signature.
const (
	maxPublic    = 1024
	maxSignature = 1024
	maxAttest    = 2048
)

// Algorithm ids (TPM 2.0 part 2, table 9).
const (
	algRSA    = 0x0001
	algAES    = 0x0006
	algSHA256 = 0x000b
	algSHA384 = 0x000c
	algSHA512 = 0x000d
	algNull   = 0x0010
	algRSASSA = 0x0014
	algRSAPSS = 0x0016
	algECDSA  = 0x0018
	algECC    = 0x0023
	algCFB    = 0x0043
)

// Curves (TPM 2.0 part 2, table 12).
const (
	curveP256 = 0x0003
	curveP384 = 0x0004
)

// hashes are the hash algorithms that count.
var hashes = map[uint16]crypto.Hash{algSHA256: crypto.SHA256, algSHA384: crypto.SHA384, algSHA512: crypto.SHA512}

// bankOf names the PCR bank of a hash algorithm.
var bankOf = map[uint16]string{algSHA256: "sha256", algSHA384: "sha384", algSHA512: "sha512"}

var errTruncated = errors.New("it ends too early")

// cursor reads big-endian TPM structures; after the first error it yields zeroes. Its errors say at which byte.
type cursor struct {
	rest []byte
	size int
	err  error
}

func newCursor(b []byte) *cursor { return &cursor{rest: b, size: len(b)} }

func (c *cursor) offset() int { return c.size - len(c.rest) }

func (c *cursor) take(n int) []byte {
	if c.err == nil && n > len(c.rest) {
		c.err = fmt.Errorf("%w: %d bytes at byte %d, expected %d", errTruncated, len(c.rest), c.offset(), n)
	}
	if c.err != nil {
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) uint8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// sized reads a TPM2B.
func (c *cursor) sized() []byte { return c.take(int(c.uint16())) }

// fail records the first error.
func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format+" (before byte %d)", append(args, c.offset())...)
	}
}

// end returns the first error, or one about bytes that are left over.
func (c *cursor) end() error {
	if c.err == nil && len(c.rest) > 0 {
		c.err = fmt.Errorf("%d bytes follow it at byte %d", len(c.rest), c.offset())
	}
	return c.err
}
