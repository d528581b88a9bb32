package ima

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// hexBytes are bytes whose text is hex.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// state is what one verification leaves to the next of the same boot (S32): how far the list was proven, the register's
// values there, the proven entries, and the digest of the entries that were sent beyond.
type state struct {
	Boot      rats.Digest         `json:"boot"` // AK, reset and restart count
	Count     int                 `json:"count"`
	PCR       int                 `json:"pcr"`
	Extend    string              `json:"extend"`
	Values    map[string]hexBytes `json:"values"` // bank → value after Count entries
	Templates []string            `json:"templates"`
	Tail      hexBytes            `json:"tail,omitempty"`
	TailCount int                 `json:"tail_count,omitempty"`
	summary
	packed []byte
}

// summary is what claims say about entries that needn't be read again.
type summary struct {
	Violations []Violation `json:"violations,omitempty"`
	Violated   int         `json:"violated,omitempty"`
	Aggregates int         `json:"aggregates,omitempty"`
	Algorithms []string    `json:"algorithms,omitempty"`
	Signed     int         `json:"signed,omitempty"`
	Coverage   Coverage    `json:"coverage"`
}

func (s *summary) into(c *Claims) {
	c.Violations, c.Algorithms = slices.Clone(s.Violations), slices.Clone(s.Algorithms)
	c.Violated, c.Aggregates, c.Signed, c.Coverage = s.Violated, s.Aggregates, s.Signed, s.Coverage.clone()
}

func (s *summary) from(c *Claims) {
	*s = summary{c.Violations, c.Violated, c.Aggregates, c.Algorithms, c.Signed, c.Coverage}
}

var stateMagic = []byte("assay/ima-state/2\n")

// encode returns magic, length of the head, head, packed entries, and the SHA-256 of all that: the state is kept by the
// verifier, and a damaged one must not be taken for another.
func (s *state) encode() ([]byte, error) {
	head, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the state of an IMA list: %w", err)
	}
	b := make([]byte, 0, len(stateMagic)+4+len(head)+len(s.packed)+32)
	b = append(b, stateMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)))
	b = append(append(b, head...), s.packed...)
	return append(b, rats.SHA256(b).Sum...), nil
}

func parseState(b []byte) (*state, error) {
	s := &state{}
	if len(b) == 0 {
		return s, nil
	}
	bad := CodeResume.Missing("resume", "the state of a verification", "something else")
	body, ok := bytes.CutPrefix(b, stateMagic)
	if !ok || len(body) < 4+32 {
		return &state{}, bad
	}
	n := len(b) - 32
	if !bytes.Equal(rats.SHA256(b[:n]).Sum, b[n:]) {
		return &state{}, bad
	}
	size := binary.BigEndian.Uint32(body)
	body = body[4 : len(body)-32]
	if uint64(size) > uint64(len(body)) || json.Unmarshal(body[:size], s) != nil {
		return &state{}, bad
	}
	s.packed = body[size:]
	return s, nil
}

// Continue returns the parameters with which to ask for the rest of a list only, given what the last verification left;
// the parameters as they are if there is nothing to continue. After a restart of the machine the Attester's answer is
// refused with CodeOffset, a missing input: ask again with the parameters as they were.
func Continue(params, resume []byte) ([]byte, error) {
	p, err := ParseParams(params)
	if err != nil {
		return nil, err
	}
	s, err := parseState(resume)
	if err != nil || s.Count == 0 {
		return params, nil
	}
	p.Offset = int64(s.Count)
	return json.Marshal(p)
}
