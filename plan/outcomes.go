package plan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/assay-attest/assay/rats"
)

// Bounds of outcomes.
const (
	MaxOutcomes     = 1_000_000
	MaxOutcomeBytes = 64 << 20
	maxCode         = 64
)

// CodeOutcomes refuses outcomes that are not in their canonical form.
var CodeOutcomes = rats.CodeInfo{
	Code:  "plan.outcomes.malformed",
	Title: "outcomes are not in their canonical form",
	Hint:  "agent and server may be of different versions",
	Slot:  rats.RuntimeOpaque,
}

const (
	outcomesTag = "assay/outcomes/2"
	timingsTag  = "assay/timings/2"
)

// EncodeOutcomes returns the two parts of a report: what was measured, without times, so that equal machines yield equal
// bytes, and the times. Every test of tests gets a section, so that a test that found nothing is distinguishable from one
// that was not run. The outcomes must stand in the order of tests and, within one test, in ascending order of names; the
// empty name is the test itself and needs Err. conditions are those under which times were taken.
//
// outcomes: field "assay/outcomes/2" ‖ u32 tests ‖ per test: u32 id ‖ u32 outcomes ‖ per outcome: u16 length, name ‖ u8 length,
// digest ‖ u16 length, value ‖ u64 size ‖ u8 length, error code. timings: field "assay/timings/2" ‖ u32 outcomes ‖ per
// outcome u64 nanoseconds ‖ u64 of the reference hash ‖ u32 conditions ‖ per condition field name ‖ u64 value. All integers are big-endian; a field is a u32 length and its bytes.
func EncodeOutcomes(tests []uint32, outcomes []Outcome, conditions []Condition) (bulk, timings []byte, err error) {
	if err := checkConditions(conditions); err != nil {
		return nil, nil, err
	}
	if len(tests) > MaxTests || len(outcomes) > MaxOutcomes {
		return nil, nil, badOutcomes(fmt.Sprintf("at most %d tests and %d outcomes", MaxTests, MaxOutcomes), fmt.Sprintf("%d and %d", len(tests), len(outcomes)))
	}
	bulk = appendField(make([]byte, 0, 64+8*len(tests)+112*len(outcomes)), []byte(outcomesTag))
	bulk = binary.BigEndian.AppendUint32(bulk, uint32(len(tests)))
	timings = appendField(make([]byte, 0, 64+16*len(outcomes)), []byte(timingsTag))
	timings = binary.BigEndian.AppendUint32(timings, uint32(len(outcomes)))
	next := 0
	for _, id := range tests {
		first := next
		for next < len(outcomes) && outcomes[next].Test == id {
			next++
		}
		bulk = binary.BigEndian.AppendUint32(bulk, id)
		bulk = binary.BigEndian.AppendUint32(bulk, uint32(next-first))
		for i, o := range outcomes[first:next] {
			if err := o.check(); err != nil {
				return nil, nil, err
			}
			if i > 0 && bytes.Compare(outcomes[first+i-1].Name, o.Name) >= 0 {
				return nil, nil, badOutcomes("names in ascending order, none twice", rats.EscapePath(o.Name))
			}
			bulk = o.append(bulk)
			timings = binary.BigEndian.AppendUint64(timings, uint64(max(o.Nanos, 0)))
			timings = binary.BigEndian.AppendUint64(timings, uint64(max(o.Unit, 0)))
		}
	}
	if next != len(outcomes) {
		return nil, nil, badOutcomes("outcomes in the order of tests", fmt.Sprintf("an outcome of test %d", outcomes[next].Test))
	}
	if len(bulk) > MaxOutcomeBytes {
		return nil, nil, badOutcomes(fmt.Sprintf("at most %d bytes", MaxOutcomeBytes), fmt.Sprintf("%d bytes", len(bulk)))
	}
	return bulk, appendConditions(timings, conditions), nil
}

func (o Outcome) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(o.Name)))
	b = append(b, o.Name...)
	b = append(b, uint8(len(o.Digest)))
	b = append(b, o.Digest...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(o.Value)))
	b = append(b, o.Value...)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Size))
	b = append(b, uint8(len(o.Err)))
	return append(b, o.Err...)
}

// check says why an outcome is not well-formed: it holds a digest or an error, never both, never none.
func (o Outcome) check() error {
	switch {
	case len(o.Name) > MaxName:
		return badOutcomes(fmt.Sprintf("names of at most %d bytes", MaxName), fmt.Sprintf("%d bytes", len(o.Name)))
	case len(o.Name) == 0 && o.Err == "":
		return badOutcomes("a name, or an error of the test itself", "neither")
	case (len(o.Digest) == 0) != (o.Err != ""):
		return badOutcomes("a digest or an error", fmt.Sprintf("a digest of %d bytes and error %q", len(o.Digest), clip(string(o.Err))))
	case len(o.Digest) != 0 && len(o.Digest) != 32 && len(o.Digest) != 48 && len(o.Digest) != 64:
		return badOutcomes("a digest of 32, 48 or 64 bytes", fmt.Sprintf("%d bytes", len(o.Digest)))
	case len(o.Value) > MaxProof || len(o.Value) > 0 && o.Err != "":
		return badOutcomes(fmt.Sprintf("a value of at most %d bytes, and none beside an error", MaxProof), fmt.Sprintf("%d bytes", len(o.Value)))
	case o.Size < 0:
		return badOutcomes("a size", fmt.Sprint(o.Size))
	case !plainCode(o.Err):
		return badOutcomes("an error code", clip(string(o.Err)))
	}
	return nil
}

func plainCode(c rats.Code) bool {
	if len(c) > maxCode {
		return false
	}
	for i := range len(c) {
		if b := c[i]; (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '.' && b != '-' {
			return false
		}
	}
	return true
}

func badOutcomes(expected, seen string) error { return CodeOutcomes.Bad("outcomes", expected, seen) }

// DecodeOutcomes reads the two parts. It returns the ids of the tests that were run, in order, and their outcomes. Names
// and digests point into bulk. It refuses every encoding but the one EncodeOutcomes makes.
func DecodeOutcomes(bulk, timings []byte) (tests []uint32, outcomes []Outcome, err error) {
	if len(bulk) > MaxOutcomeBytes {
		return nil, nil, badOutcomes(fmt.Sprintf("at most %d bytes", MaxOutcomeBytes), fmt.Sprintf("%d bytes", len(bulk)))
	}
	total, t, _, err := openTimings(timings)
	if err != nil {
		return nil, nil, err
	}
	r := &reader{rest: bulk}
	if string(r.field()) != outcomesTag {
		return nil, nil, badOutcomes(outcomesTag, "")
	}
	n := r.uint32()
	if r.bad || n > MaxTests {
		return nil, nil, badOutcomes(fmt.Sprintf("at most %d tests", MaxTests), fmt.Sprint(n))
	}
	// An outcome takes at least 14 bytes: what is allocated is bounded by what was sent.
	outcomes = make([]Outcome, 0, min(int(total), len(bulk)/14))
	seen := make(map[uint32]bool, min(int(n), len(bulk)/8))
	for range n {
		id, count := r.uint32(), r.uint32()
		if r.bad || seen[id] || uint64(len(outcomes))+uint64(count) > uint64(total) {
			return nil, nil, badOutcomes("each test once, as many outcomes as timings", fmt.Sprintf("test %d with %d outcomes", id, count))
		}
		seen[id] = true
		tests = append(tests, id)
		if outcomes, err = section(r, t, id, count, outcomes); err != nil {
			return nil, nil, err
		}
	}
	if !r.done() || !t.done() {
		return nil, nil, badOutcomes("nothing after the last outcome", fmt.Sprintf("%d bytes and %d timings", len(r.rest), len(t.rest)/16))
	}
	return tests, outcomes, nil
}

func section(r, t *reader, id, count uint32, outcomes []Outcome) ([]Outcome, error) {
	var last []byte
	for i := range count {
		o := Outcome{Test: id, Name: r.take(int(r.uint16())), Digest: r.take(int(r.uint8())), Value: r.take(int(r.uint16()))}
		size := r.uint64()
		o.Err = rats.Code(r.take(int(r.uint8())))
		nanos, unit := t.uint64(), t.uint64()
		if r.bad || size > math.MaxInt64 || nanos > math.MaxInt64 || unit > math.MaxInt64 {
			return nil, badOutcomes("an outcome", "truncated, or a number out of range")
		}
		o.Size, o.Nanos, o.Unit = int64(size), int64(nanos), int64(unit)
		if err := o.check(); err != nil {
			return nil, err
		}
		if i > 0 && bytes.Compare(last, o.Name) >= 0 {
			return nil, badOutcomes("names in ascending order, none twice", rats.EscapePath(o.Name))
		}
		last = o.Name
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}
