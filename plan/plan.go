// Package plan is the plan document: the measurements a Verifier wants of a node, the limits they must keep, and the
// outcomes they yield. A plan holds no expected values, so whoever runs it learns what is looked at and not what would
// be right.
//
// It also holds the two envelopes a plan and its outcomes travel in: an [Order] is signed by the verifier and sealed to
// one enclave (S05); a [Report] is signed by that enclave and sealed to the verifier (S04).
//
// The package is a leaf of policy, measure, server and enclave code. It does no input or output and builds for js/wasm
// and wasip1.
package plan

import (
	"encoding/json"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Plan is a list of tests with limits.
type Plan struct {
	ID      [16]byte `json:"id"`
	Version int      `json:"version"` // of this document's form: Version1
	Tests   []Test   `json:"tests"`
	Limits  Limits   `json:"limits"`
}

// Version1 is the only form of a plan so far.
const Version1 = 1

// Test is one thing to measure.
type Test struct {
	ID   uint32          `json:"id"`   // unique in the plan
	Kind string          `json:"kind"` // KindFile, KindGlob, KindDir, KindCommand, KindCheck
	Alg  string          `json:"alg"`  // sha256, sha384, sha512
	Args json.RawMessage `json:"args"` // FileArgs, GlobArgs, DirArgs, CommandArgs, CheckArgs
	// Timed tests are measured in units of a reference hash, and their durations are judged. Repeat is how often each file is
	// measured (1 to MaxRepeat; 0 is 1): the shortest duration counts, and all must yield the same.
	Timed  bool `json:"timed,omitempty"`
	Repeat int  `json:"repeat,omitempty"`
}

// The kinds of tests.
const (
	KindFile = "file" // one file's content
	KindGlob = "glob" // every regular file that matches one pattern
	KindDir  = "dir"  // every regular file below a directory
)

// FileArgs are the arguments of KindFile. Paths are text forms (rats.EscapePath), absolute.
type FileArgs struct {
	Path string `json:"path"`
	FileOptions
}

// FileOptions say what else is measured of files, and how.
type FileOptions struct {
	// Attributes (AttrLinks, AttrMode, AttrOwner, AttrXattrs; ascending) are measured beside contents, of directories, links
	// and special files too: each yields an outcome of its own, called AttributesName(path).
	Attributes []string `json:"attributes,omitempty"`
	Direct     bool     `json:"direct,omitempty"` // read contents past the page cache
	// Chunk makes it a Merkle tree over chunks of that many bytes: see Merkle, as for Trust, Spots and Seed.
	Chunk int64  `json:"chunk,omitempty"`
	Trust string `json:"trust,omitempty"`
	Spots int    `json:"spots,omitempty"`
	Seed  []byte `json:"seed,omitempty"`
	// Verity measures the kernel's fs-verity digest (of sha256 or sha512, as the file has it) instead of the content, which
	// is not read: the kernel checks it page by page whenever it is.
	Verity bool `json:"verity,omitempty"`
}

// GlobArgs are the arguments of KindGlob: an absolute pattern with the syntax of path.Match in each element; '*' does
// not cross '/', and matches are regular files.
type GlobArgs struct {
	Pattern string `json:"pattern"`
	FileOptions
}

// DirArgs are the arguments of KindDir: every regular file below Path, symbolic links not followed, but what lies at or
// below one of Exclude. Excludes are absolute and anchored: /tmp excludes /tmp and /tmp/x, never /tmpevil.
type DirArgs struct {
	Path    string   `json:"path"`
	Exclude []string `json:"exclude,omitempty"`
	FileOptions
}

// Limits bound what one run may read and how long it may take. Zero means the runner's own limit.
type Limits struct {
	Files int64         `json:"files,omitempty"`
	Bytes int64         `json:"bytes,omitempty"`
	Time  time.Duration `json:"time,omitempty"` // nanoseconds
}

// Outcome is what one measurement of a test yielded.
type Outcome struct {
	Test   uint32    // the test's ID
	Name   []byte    // path, or item, that was measured, bytes
	Digest []byte    // sum by the test's algorithm; empty if Err
	Value  []byte    // what the digest is of, where the test discloses it, at most MaxValue bytes; a proof (Tree.Proof)
	Size   int64     // bytes hashed; of a Merkle tree, the file's size
	Nanos  int64     // duration by the runner's clock, of repetitions the shortest
	Unit   int64     // duration of the reference hash at the same moment, of timed tests; 0: not known
	Err    rats.Code // why there is no digest
}
