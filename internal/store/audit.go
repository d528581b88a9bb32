package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// ErrAudit is wrapped by every error of VerifyAudit: an entry was changed, removed, inserted or reordered.
var ErrAudit = errors.New("audit chain broken")

// auditTag keeps the hashes of this encoding apart from any other; a changed encoding gets another number.
const auditTag = "assay-audit/1"

// ChainAudit returns e as the entry after prev: Seq, Prev and Hash are set, At is cut to what the hash covers (UTC,
// nanoseconds). The zero AuditEntry as prev starts a chain: Seq 1, no Prev. Every implementation of Audit uses it, so
// that a chain verifies alike wherever it is kept.
//
// The hash is SHA-256 over the tag and then prev's hash and every field of e, each with its length before it (8 bytes,
// big endian): no two different entries have one encoding. The chain shows tampering by whoever can't rewrite all that
// follows; against the rewriting of a whole tail it needs a checkpoint kept elsewhere (S47).
func ChainAudit(prev AuditEntry, e AuditEntry) AuditEntry {
	e.Seq = prev.Seq + 1
	e.At = e.At.Round(0).UTC()
	e.Prev = prev.Hash
	e.Hash = auditHash(e)
	return e
}

// VerifyAudit checks a contiguous part of a chain: sequence numbers without gap, every Prev the Hash before it, every
// Hash right. A part that begins at Seq 1 must begin without Prev; of a later part the first Prev is taken as given, and
// the caller compares it with the entry it already holds. No entries verify.
func VerifyAudit(entries []AuditEntry) error {
	for i, e := range entries {
		switch {
		case e.Seq < 1:
			return fmt.Errorf("%w: entry %d has sequence number %d", ErrAudit, i, e.Seq)
		case e.Seq == 1 && !e.Prev.IsZero():
			return fmt.Errorf("%w: entry 1 has a predecessor", ErrAudit)
		case i > 0 && e.Seq != entries[i-1].Seq+1:
			return fmt.Errorf("%w: entry %d follows entry %d", ErrAudit, e.Seq, entries[i-1].Seq)
		case i > 0 && !e.Prev.Equal(entries[i-1].Hash), e.Seq > 1 && e.Prev.IsZero():
			return fmt.Errorf("%w: entry %d doesn't continue entry %d", ErrAudit, e.Seq, e.Seq-1)
		case !e.Hash.Equal(auditHash(e)):
			return fmt.Errorf("%w: entry %d doesn't have its hash", ErrAudit, e.Seq)
		}
	}
	return nil
}

func auditHash(e AuditEntry) rats.Digest {
	h := sha256.New()
	var n [8]byte
	number := func(v int64) {
		binary.BigEndian.PutUint64(n[:], uint64(v))
		h.Write(n[:])
	}
	field := func(b []byte) {
		number(int64(len(b)))
		h.Write(b)
	}
	field([]byte(auditTag))
	field([]byte(e.Prev.Alg))
	field(e.Prev.Sum)
	number(e.Seq)
	at := e.At.Round(0).UTC()
	number(at.Unix())
	number(int64(at.Nanosecond()))
	field([]byte(e.Actor))
	field([]byte(e.Verb))
	field([]byte(e.Object))
	field(e.Detail)
	return rats.Digest{Alg: "sha256", Sum: h.Sum(nil)}
}
