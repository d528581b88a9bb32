package appraiser

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/assay-attest/assay/rats"
)

// tokenVersion is the first byte of a token's content.
const tokenVersion = 2

// encode returns the challenge as its token holds it: version, step, steady, id, epoch, four times in Unix nanoseconds
// (asked, issued, expires, age), then fields with their length before them (32 bits). Integers are big-endian.
func (c challenge) encode() []byte {
	steady := byte(0)
	if c.Steady {
		steady = 1
	}
	b := append(make([]byte, 0, 512), tokenVersion, c.Step, steady)
	b = append(b, c.ID[:]...)
	for _, n := range []int64{c.Epoch, c.Asked.UnixNano(), c.Issued.UnixNano(), c.Expires.UnixNano(), int64(c.Age), c.Policy.Version} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	field := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	for _, s := range []string{
		c.Namespace, c.Node, c.Purpose, string(c.Nonce), c.Policy.Name, c.Policy.Digest.String(), c.Pending.String(), c.Manifest.String(),
	} {
		field(s)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Formats)))
	for _, f := range c.Formats {
		field(string(f))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Params)))
	for _, f := range slices.Sorted(maps.Keys(c.Params)) {
		field(string(f))
		field(string(c.Params[f]))
	}
	return b
}

var errToken = errors.New("it is of another release, or truncated")

// decodeChallenge reads what encode wrote.
func decodeChallenge(b []byte) (challenge, error) {
	var c challenge
	if len(b) < 3+16+6*8 || b[0] != tokenVersion {
		return c, errToken
	}
	c.Step, c.Steady = b[1], b[2] == 1
	c.ID = [16]byte(b[3:])
	r := &tokenReader{rest: b[19:]}
	c.Epoch = r.number()
	c.Asked, c.Issued, c.Expires = r.time(), r.time(), r.time()
	c.Age, c.Policy.Version = time.Duration(r.number()), r.number()
	c.Namespace, c.Node, c.Purpose = r.field(), r.field(), r.field()
	c.Nonce, c.Policy.Name = []byte(r.field()), r.field()
	for _, d := range []*rats.Digest{&c.Policy.Digest, &c.Pending, &c.Manifest} {
		if d.UnmarshalText([]byte(r.field())) != nil {
			return challenge{}, errToken
		}
	}
	for range r.count() {
		c.Formats = append(c.Formats, rats.Format(r.field()))
	}
	for n := r.count(); n > 0; n-- {
		if c.Params == nil {
			c.Params = map[rats.Format][]byte{}
		}
		f := rats.Format(r.field())
		c.Params[f] = []byte(r.field())
	}
	if r.bad || len(r.rest) > 0 {
		return challenge{}, errToken
	}
	return c, nil
}

// tokenReader reads fields until one is bad; then all are empty.
type tokenReader struct {
	rest []byte
	bad  bool
}

func (r *tokenReader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return make([]byte, min(n, 8))
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *tokenReader) number() int64   { return int64(binary.BigEndian.Uint64(r.take(8))) }
func (r *tokenReader) time() time.Time { return time.Unix(0, r.number()).UTC() }

// count is a number of elements, each of which has at least a length.
func (r *tokenReader) count() int {
	n := int64(binary.BigEndian.Uint32(r.take(4)))
	if n*4 > int64(len(r.rest)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *tokenReader) field() string {
	n := int64(binary.BigEndian.Uint32(r.take(4)))
	if r.bad || n > int64(len(r.rest)) {
		r.bad = true
		return ""
	}
	return string(r.take(int(n)))
}
