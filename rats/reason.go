package rats

import (
	"errors"
	"fmt"
	"strings"
)

// Code is the stable name of a problem, "area.thing.problem". A code is never reused for another meaning.
type Code string

// CodeInfo is a code with its meaning. It is declared as a variable beside the check that yields it and listed in the
// package's Codes (formats: their Descriptor), from which docs/reference/codes.md is generated.
type CodeInfo struct {
	Code  Code   `json:"code"`
	Title string `json:"title"` // what is wrong, lower case, no full stop
	Hint  string `json:"hint"`  // what to do about it
	Slot  Slot   `json:"slot"`  // AR4SI slot that the reason lowers
}

// Reason says why trust was lowered: what was looked at, expected and seen, and what to do.
type Reason struct {
	Code     Code   `json:"code"`
	Title    string `json:"title,omitempty"`
	Format   Format `json:"format,omitempty"`
	Slot     Slot   `json:"slot"`
	Tier     Tier   `json:"tier"` // to which the slot is lowered
	Path     string `json:"path,omitempty"`
	Rule     string `json:"rule,omitempty"`
	Expected string `json:"expected,omitempty"`
	Seen     string `json:"seen,omitempty"`
	Hint     string `json:"hint,omitempty"`
}

// Refuse returns a contraindicated Reason of this code.
//
//	path      what was looked at: a file, a field ("pcrs.sha256.7"), a line ("line 3, column 5")
//	expected  what would have been accepted
//	seen      what was there instead
func (c CodeInfo) Refuse(path, expected, seen string) Reason {
	return c.At(Contraindicated, path, expected, seen)
}

// At returns a Reason of this code that lowers its slot to tier t.
func (c CodeInfo) At(t Tier, path, expected, seen string) Reason {
	return Reason{
		Code: c.Code, Title: c.Title, Slot: c.Slot, Tier: t,
		Path: path, Expected: expected, Seen: seen, Hint: c.Hint,
	}
}

// Bad returns the error for evidence that is not authentic or not well-formed.
func (c CodeInfo) Bad(path, expected, seen string) error {
	return &BadEvidence{Reason: c.Refuse(path, expected, seen)}
}

// Missing returns the error for an input (collateral, enrolment, reference value) that was not at hand.
func (c CodeInfo) Missing(path, expected, seen string) error {
	return &MissingInput{Reason: c.At(None, path, expected, seen)}
}

// String returns one line: code, path, expected and seen.
func (r Reason) String() string {
	var b strings.Builder
	b.WriteString(string(r.Code))
	if r.Path != "" {
		fmt.Fprintf(&b, " at %s", r.Path)
	}
	if r.Title != "" {
		fmt.Fprintf(&b, ": %s", r.Title)
	}
	if r.Expected != "" {
		fmt.Fprintf(&b, "; expected %s", r.Expected)
	}
	if r.Seen != "" {
		fmt.Fprintf(&b, "; seen %s", r.Seen)
	}
	return b.String()
}

// BadEvidence is the error class of evidence that is forged, stale, malformed or about something else: the result is
// contraindicated.
type BadEvidence struct{ Reason Reason }

func (e *BadEvidence) Error() string { return e.Reason.String() }

// MissingInput is the error class of a verification that could not be finished because an input was not at hand: the
// result is none, and trying again with the input can succeed.
type MissingInput struct{ Reason Reason }

func (e *MissingInput) Error() string { return e.Reason.String() }

// ReasonOf returns the Reason inside a BadEvidence or MissingInput error. Any other error is a malfunction of the
// verifier and has none.
func ReasonOf(err error) (Reason, bool) {
	var bad *BadEvidence
	if errors.As(err, &bad) {
		return bad.Reason, true
	}
	var missing *MissingInput
	if errors.As(err, &missing) {
		return missing.Reason, true
	}
	return Reason{}, false
}
