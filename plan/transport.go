package plan

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

// MaxEvidence bounds sealed evidence, in bytes.
const MaxEvidence = 64 << 20

// Codes of sealed evidence.
var (
	CodeEvidenceSealed = rats.CodeInfo{
		Code:  "plan.evidence.sealed",
		Title: "evidence is not sealed to this verifier",
		Hint:  "results are sealed to the key the signed order names; the server's key may have been replaced meanwhile",
		Slot:  rats.RuntimeOpaque,
	}
	CodeEvidence = rats.CodeInfo{
		Code:  "plan.evidence.malformed",
		Title: "sealed evidence is not in its canonical form",
		Hint:  "agent and server may be of different versions; a run's outcomes may be too many to send",
		Slot:  rats.RuntimeOpaque,
	}
)

// evidenceTag is the purpose of the box and the first field of what it holds.
const evidenceTag = "assay/evidence/1"

const maxParts = 16

// SealEvidence seals evidence to the verifier's HPKE key for transport. Inside the box it is length-prefixed binary:
// "assay/evidence/1", format, media type, body, u32 count of parts, per part name, u64 offset, data.
func SealEvidence(senders *sealed.Senders, public []byte, e rats.Evidence) ([]byte, error) {
	if len(e.Parts) > maxParts {
		return nil, CodeEvidence.Bad("parts", fmt.Sprintf("at most %d", maxParts), fmt.Sprint(len(e.Parts)))
	}
	n := 256 + len(e.Body)
	for _, p := range e.Parts {
		n += 32 + len(p.Name) + len(p.Data)
	}
	if n > MaxEvidence {
		return nil, CodeEvidence.Bad("evidence", fmt.Sprintf("at most %d bytes", MaxEvidence), fmt.Sprintf("%d bytes", n))
	}
	b := appendField(make([]byte, 0, n), []byte(evidenceTag))
	b = appendField(b, []byte(e.Format))
	b = appendField(b, []byte(e.MediaType))
	b = appendField(b, e.Body)
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Parts)))
	for _, p := range e.Parts {
		b = appendField(b, []byte(p.Name))
		b = binary.BigEndian.AppendUint64(b, uint64(p.Offset))
		b = appendField(b, p.Data)
	}
	return senders.Seal(public, []byte(evidenceTag), b)
}

// OpenEvidence opens what SealEvidence made. It believes nothing of it: the box authenticates nobody.
func OpenEvidence(key *sealed.Key, box []byte) (rats.Evidence, error) {
	if len(box) > MaxEvidence+sealed.Overhead {
		return rats.Evidence{}, CodeEvidence.Bad("box", fmt.Sprintf("at most %d bytes", MaxEvidence), fmt.Sprintf("%d bytes", len(box)))
	}
	b, err := key.Open([]byte(evidenceTag), box)
	if err != nil {
		return rats.Evidence{}, CodeEvidenceSealed.Bad("box", "", "")
	}
	return decodeEvidence(b)
}

func decodeEvidence(b []byte) (rats.Evidence, error) {
	r := &reader{rest: b}
	if tag := r.field(); string(tag) != evidenceTag {
		return rats.Evidence{}, CodeEvidence.Bad("tag", evidenceTag, clip(rats.EscapePath(tag)))
	}
	e := rats.Evidence{Format: rats.Format(r.field()), MediaType: string(r.field()), Body: r.field()}
	n := r.uint32()
	if r.bad || n > maxParts {
		return rats.Evidence{}, CodeEvidence.Bad("parts", fmt.Sprintf("at most %d", maxParts), fmt.Sprint(n))
	}
	for range n {
		name := string(r.field())
		offset := r.uint64()
		if offset > math.MaxInt64 {
			return rats.Evidence{}, CodeEvidence.Bad("parts", "an offset", fmt.Sprint(offset))
		}
		e.Parts = append(e.Parts, rats.Part{Name: name, Offset: int64(offset), Data: r.field()})
	}
	if !r.done() {
		return rats.Evidence{}, CodeEvidence.Bad("evidence", "its fields and nothing else", "truncated, or followed by other bytes")
	}
	return e, nil
}
