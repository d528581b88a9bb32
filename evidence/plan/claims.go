package plan

import (
	"github.com/assay-attest/assay/rats"
)

// Claims is what is true of a run. It holds no sequence or nonce, and times only if the plan has timed tests, so equal machines
// have equal claims.
type Claims struct {
	Backend      string        `json:"backend"`            // what ran the plan: native, enclave
	Simulated    bool          `json:"simulated"`          // nothing attests that anything isolated it from the machine
	Tests        []Test        `json:"tests"`              // of the plan, in its order
	Measurements []Measurement `json:"measurements"`       // in the order of tests, then of names
	Coverage     *Coverage     `json:"coverage,omitempty"` // of tests that take turns
	Timing       *Timing       `json:"timing,omitempty"`
}

// Test is a test that was run, whether or not it found anything.
type Test struct {
	ID      uint32   `json:"id"`
	Kind    string   `json:"kind"` // file, glob, dir, command, check
	Alg     string   `json:"alg"`
	Path    string   `json:"path"` // text form; of a glob the pattern; "command:…"; "CHECK:"
	Exclude []string `json:"exclude,omitempty"`
	Args    string   `json:"args,omitempty"` // arguments as in the plan but for seeds, where path and exclude don't say it all
}

// Measurement is what one file, or a test as a whole, yielded.
type Measurement struct {
	Test   uint32      `json:"test"`
	Name   string      `json:"name,omitempty"`  // text form of the path or item; empty: the test as a whole
	Digest rats.Digest `json:"digest,omitzero"` // empty if Err
	Value  string      `json:"value,omitempty"` // text form of what the digest is of, where the test discloses it
	Size   int64       `json:"size"`            // bytes hashed; of a Merkle tree, the file's
	Spots  *Spots      `json:"spots,omitempty"` // of a spot check: what it is worth
	Err    rats.Code   `json:"err,omitempty"`   // why there is no digest
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// Highlights implements rats.Highlighter: what ran the plan.
func (c *Claims) Highlights() []rats.Highlight {
	backend := c.Backend
	if c.Simulated {
		backend += ", simulated"
	}
	return []rats.Highlight{{Name: "backend", Value: backend}}
}
