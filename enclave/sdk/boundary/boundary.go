// Package boundary is what enclave code and its monitor agree on: the encoding of parameters that cross in the
// marshalling buffer, refusals, and the wire form of the six raw operations that reach the outside.
//
// It guarantees that a value has one encoding, that decoding takes no more memory than a small multiple of the bytes it
// is given, and that it refuses everything that encoding would not have made. It moves no bytes: package sdk does inside
// the enclave, the monitor outside.
package boundary

import (
	"errors"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with what crosses.
var (
	CodeMalformed = rats.CodeInfo{Code: "enclave.call.malformed", Slot: rats.RuntimeOpaque,
		Title: "the parameters are not those of the entry point", Hint: "application and enclave must be built with the same types"}
	CodeSize = rats.CodeInfo{Code: "enclave.call.size", Slot: rats.RuntimeOpaque,
		Title: "the parameters don't fit into the marshalling buffer", Hint: "send less at a time, or build the enclave with a larger buffer"}
)

// Codes are all reasons that this package gives.
var Codes = []rats.CodeInfo{CodeMalformed, CodeSize}

// Names of what the monitor and the module find in one another.
const (
	Module     = "assay"       // the module whose functions are the leaf functions
	Initialize = "_initialize" // what the monitor calls once, before any entry point
)

// Refused is what a leaf function returns when it refuses; Refusal holds why. Lengths and handles are never negative.
const Refused = -1

// Status is the first byte of an entry point's reply.
const (
	StatusOK      = 0 // the result follows
	StatusRefused = 1 // a Refusal follows
)

// MaxRefusal bounds an encoded Refusal in bytes.
const MaxRefusal = 4096

// Refusal carries a coded error over the boundary. Errors without a code cross as code and title alone: their text
// could hold what the enclave keeps secret.
type Refusal struct {
	Code, Title, Hint    string
	Path, Expected, Seen string
	Slot                 uint8
	Missing              bool // an input wasn't at hand: trying again can succeed
}

// RefusalOf returns what crosses of an error, with other's code if it has none of its own.
func RefusalOf(err error, other rats.CodeInfo) Refusal {
	r, ok := rats.ReasonOf(err)
	if !ok {
		return Refusal{Code: string(other.Code), Title: other.Title, Hint: other.Hint, Slot: uint8(other.Slot)}
	}
	var missing *rats.MissingInput
	return Refusal{
		Code: cut(string(r.Code)), Title: cut(r.Title), Hint: cut(r.Hint), Path: cut(r.Path), Expected: cut(r.Expected), Seen: cut(r.Seen),
		Slot: uint8(r.Slot), Missing: errors.As(err, &missing),
	}
}

// cut keeps a refusal below MaxRefusal.
func cut(s string) string { return s[:min(len(s), 512)] }

// Err returns the error that was carried.
func (r Refusal) Err() error {
	reason := rats.Reason{
		Code: rats.Code(r.Code), Title: r.Title, Hint: r.Hint, Slot: rats.Slot(r.Slot), Tier: rats.Contraindicated,
		Path: r.Path, Expected: r.Expected, Seen: r.Seen,
	}
	if r.Missing {
		reason.Tier = rats.None
		return &rats.MissingInput{Reason: reason}
	}
	return &rats.BadEvidence{Reason: reason}
}

// ParseReply returns what an entry point answered: the encoded result, which shares the memory of b, or its error.
func ParseReply(b []byte) ([]byte, error) {
	if len(b) == 0 || b[0] > StatusRefused {
		return nil, CodeMalformed.Bad("reply", "a status", "none that is known")
	}
	if b[0] == StatusOK {
		return b[1:], nil
	}
	var r Refusal
	if err := Decode(b[1:], &r); err != nil {
		return nil, err
	}
	return nil, r.Err()
}
