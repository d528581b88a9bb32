package store

import (
	"encoding/binary"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// Packed is the size up to which what belongs to one attestation alone is kept within its record: as blobs, the dozen
// small pieces would be a dozen rows that nothing ever shares. What is larger, the outcomes of a plan above all, is mostly
// what it was last time, and stored once.
const Packed = 1024

// Pack is small pieces, each found by its digest: a sequence of SHA-256, 32-bit length (big endian), bytes.
type Pack []byte

// Add appends a piece, once, and returns its digest.
func (p *Pack) Add(b []byte) rats.Digest {
	d := rats.SHA256(b)
	if _, ok := p.find(d); ok {
		return d
	}
	*p = append(*p, d.Sum...)
	*p = binary.BigEndian.AppendUint32(*p, uint32(len(b)))
	*p = append(*p, b...)
	return d
}

func (p Pack) find(d rats.Digest) ([]byte, bool) {
	const head = 32 + 4
	for rest := p; len(rest) >= head; {
		n := int64(binary.BigEndian.Uint32(rest[32:]))
		if n > int64(len(rest)-head) {
			return nil, false
		}
		if string(rest[:32]) == string(d.Sum) {
			return rest[head : head+n : head+n], true
		}
		rest = rest[head+n:]
	}
	return nil, false
}

// Piece returns what the record means by a digest: a piece of its pack, or a blob. The bytes have that digest.
func (r Record) Piece(tx Tx, d rats.Digest) ([]byte, error) {
	b, ok := r.Pack.find(d)
	if !ok {
		return tx.Blobs().Get(d)
	}
	if !rats.SHA256(b).Equal(d) {
		return nil, fmt.Errorf("record %s: piece %s is damaged: the stored bytes have another digest", r.Result.ID, d)
	}
	return b, nil
}
