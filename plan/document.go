package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/assay-attest/assay/rats"
)

// Bounds of a plan and of what it yields.
const (
	MaxDocument = 1 << 20 // bytes of a plan, and of an order
	MaxTests    = 10_000
	MaxName     = 4096 // bytes of a path
	MaxExcludes = 1000 // of one test
)

// CodeDocument refuses a plan that is not one.
var CodeDocument = rats.CodeInfo{
	Code:  "plan.document.malformed",
	Title: "not a plan in its canonical form",
	Hint:  "plans are made from policies; agent and server may be of different versions",
	Slot:  rats.Configuration,
}

// algSizes are the algorithms a test may name, with the size of their sums in bytes.
var algSizes = map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}

// AlgSize returns the size in bytes of an algorithm's sums, 0 if tests may not name it.
func AlgSize(alg string) int { return algSizes[alg] }

// Encode returns the canonical bytes: JSON without white space, fields in the order of the structs. It returns nil for a
// plan that holds arguments that are not JSON; nil is no plan.
func (p Plan) Encode() []byte {
	if p.Tests == nil {
		p.Tests = []Test{}
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil
	}
	return b
}

// Digest returns the SHA-256 of the canonical bytes.
func (p Plan) Digest() rats.Digest { return rats.SHA256(p.Encode()) }

// Decode reads canonical bytes. It refuses unknown fields, kinds and algorithms, arguments that don't fit the kind, paths
// that are not absolute and clean, and every encoding but the one Encode makes, so that equal plans have equal digests.
func Decode(b []byte) (Plan, error) {
	if len(b) > MaxDocument {
		return Plan{}, CodeDocument.Bad("plan", fmt.Sprintf("at most %d bytes", MaxDocument), fmt.Sprintf("%d bytes", len(b)))
	}
	var p Plan
	if err := strict(b, &p); err != nil {
		return Plan{}, CodeDocument.Bad("plan", "a plan in JSON", err.Error())
	}
	if err := p.Check(); err != nil {
		return Plan{}, err
	}
	if !bytes.Equal(p.Encode(), b) {
		return Plan{}, CodeDocument.Bad("plan", "canonical JSON", "another encoding of the same plan")
	}
	return p, nil
}

// Check says what is wrong with the plan, nil if it is well-formed. A plan without tests is not.
func (p Plan) Check() error {
	switch {
	case p.Version != Version1:
		return CodeDocument.Bad("version", "1", fmt.Sprint(p.Version))
	case len(p.Tests) == 0 || len(p.Tests) > MaxTests:
		return CodeDocument.Bad("tests", fmt.Sprintf("1 to %d tests", MaxTests), fmt.Sprintf("%d tests", len(p.Tests)))
	case p.Limits.Files < 0 || p.Limits.Bytes < 0 || p.Limits.Time < 0:
		return CodeDocument.Bad("limits", "none below zero", fmt.Sprintf("%+v", p.Limits))
	}
	last := uint32(0)
	for i, t := range p.Tests {
		if t.ID <= last {
			return CodeDocument.Bad(fmt.Sprintf("tests[%d].id", i), fmt.Sprintf("above %d: ids ascend from 1", last), fmt.Sprint(t.ID))
		}
		last = t.ID
		if t.Repeat < 0 || t.Repeat > MaxRepeat || t.Repeat > 0 && !t.Timed {
			return CodeDocument.Bad(fmt.Sprintf("tests[%d].repeat", i), fmt.Sprintf("0 to %d, of timed tests", MaxRepeat), fmt.Sprint(t.Repeat))
		}
		if AlgSize(t.Alg) == 0 {
			return CodeDocument.Bad(fmt.Sprintf("tests[%d].alg", i), "sha256, sha384 or sha512", clip(t.Alg))
		}
		// What a newer verifier wants of an older runner is no reason to refuse the rest: the runner says of that test that it
		// doesn't know it.
		if _, err := t.Scope(); err != nil && !errors.Is(err, ErrUnknown) {
			return CodeDocument.Bad(fmt.Sprintf("tests[%d].args", i), "arguments of its kind", err.Error())
		}
	}
	return nil
}

// strict decodes one JSON value and refuses unknown fields and anything after it.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something follows the document")
	}
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
