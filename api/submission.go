package api

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/assay-attest/assay/rats"
)

// TypeSubmission is the media type of a Submission in its binary form (Submission.MarshalBinary), which agents send; JSON
// is taken too.
const TypeSubmission = "application/vnd.assay.submission"

// submissionTag begins the binary form.
const submissionTag = "assay/submission/1"

// ErrSubmission refuses bytes that are not a submission in its binary form.
var ErrSubmission = errors.New("not a submission in its binary form: truncated, or followed by other bytes")

// MarshalBinary returns the submission as it travels: the tag, token and manifest; the number of pieces of evidence, per
// piece format, media type, body, the number of its parts, and per part name, offset (64 bits) and data; the number of
// sealed pieces, per piece format and data. All but numbers are fields: a length of 32 bits and that many bytes. Integers
// are big-endian.
func (s Submission) MarshalBinary() ([]byte, error) {
	n := 64 + len(s.Token) + len(s.Manifest)
	for _, e := range s.Evidence {
		n += 128 + len(e.Body)
		for _, p := range e.Parts {
			n += 64 + len(p.Data)
		}
	}
	for _, e := range s.Sealed {
		n += 64 + len(e.Data)
	}
	if n > math.MaxInt32 {
		return nil, ErrSubmission
	}
	b := make([]byte, 0, n)
	count := func(n int) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	field := func(f []byte) {
		count(len(f))
		b = append(b, f...)
	}
	field([]byte(submissionTag))
	field(s.Token)
	field(s.Manifest)
	count(len(s.Evidence))
	for _, e := range s.Evidence {
		field([]byte(e.Format))
		field([]byte(e.MediaType))
		field(e.Body)
		count(len(e.Parts))
		for _, p := range e.Parts {
			field([]byte(p.Name))
			b = binary.BigEndian.AppendUint64(b, uint64(p.Offset))
			field(p.Data)
		}
	}
	count(len(s.Sealed))
	for _, e := range s.Sealed {
		field([]byte(e.Format))
		field(e.Data)
	}
	return b, nil
}

// UnmarshalBinary reads the binary form. What it yields lies within b.
func (s *Submission) UnmarshalBinary(b []byte) error {
	r := &fieldReader{rest: b}
	if string(r.field()) != submissionTag {
		return ErrSubmission
	}
	out := Submission{Token: r.field(), Manifest: r.field()}
	for n := r.count(16); n > 0; n-- {
		e := rats.Evidence{Format: rats.Format(r.field()), MediaType: string(r.field()), Body: r.field()}
		for m := r.count(16); m > 0; m-- {
			p := rats.Part{Name: string(r.field()), Offset: r.offset()}
			p.Data = r.field()
			e.Parts = append(e.Parts, p)
		}
		out.Evidence = append(out.Evidence, e)
	}
	for n := r.count(8); n > 0; n-- {
		out.Sealed = append(out.Sealed, Sealed{Format: rats.Format(r.field()), Data: r.field()})
	}
	if r.bad || len(r.rest) > 0 {
		return ErrSubmission
	}
	*s = out
	return nil
}

// fieldReader reads until something is wrong; from then on everything is empty.
type fieldReader struct {
	rest []byte
	bad  bool
}

func (r *fieldReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *fieldReader) number(size uint64) uint64 {
	var n uint64
	for _, b := range r.take(size) {
		n = n<<8 | uint64(b)
	}
	return n
}

func (r *fieldReader) field() []byte { return r.take(r.number(4)) }

// count is a number of elements that have at least size bytes each.
func (r *fieldReader) count(size uint64) uint64 {
	n := r.number(4)
	if n*size > uint64(len(r.rest)) {
		r.bad = true
		return 0
	}
	return n
}

func (r *fieldReader) offset() int64 {
	n := r.number(8)
	if n > math.MaxInt64 {
		r.bad = true
		return 0
	}
	return int64(n)
}
