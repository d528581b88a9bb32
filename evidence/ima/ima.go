// Package ima is the evidence format "ima": the list of files that Linux' Integrity Measurement Architecture measured
// since boot (Documentation/security/IMA-templates.rst).
//
// A verified list guarantees that its first Count entries, in this order and with these digests, paths and signatures,
// are what the kernel extended into the registers that another format of the same collection vouches for. It guarantees
// nothing of the entries after them (unquoted: read after the quote), of the paths of violations (a violation extends a
// constant), or of what the kernel's policy did not measure (coverage is a claim, S30). A path is what the process that
// opened the file saw; namespaces choose it (S31).
package ima

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "ima"

// Media types. A whole list is the body; a list that continues an earlier one is the part PartList, whose Offset is the
// number of entries left out.
const (
	MediaType      = "application/vnd.assay.ima-list"       // binary_runtime_measurements, little-endian
	MediaTypeASCII = "application/vnd.assay.ima-list-ascii" // ascii_runtime_measurements
	MediaTypeKeys  = "application/vnd.assay.ima-keys"       // an endorsement: PEM certificates and public keys
	PartList       = "list"
)

// Params is what is asked of the Attester, and what the caller may give besides facts.
type Params struct {
	// Offset is the number of entries the Attester may leave out: those that Inputs.Resume covers.
	Offset int64 `json:"offset,omitempty"`
	// PCRs are register values that the caller trusts, bank → index → hex. They replace the facts of other formats, and
	// are for offline use.
	PCRs map[string]map[string]string `json:"pcrs,omitempty"`
}

// ParseParams reads the JSON of Params; no bytes are no parameters.
func ParseParams(b []byte) (Params, error) {
	var p Params
	if len(b) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return Params{}, fmt.Errorf("reading the parameters of an IMA list: %w", err)
	}
	if p.Offset < 0 {
		return Params{}, fmt.Errorf("reading the parameters of an IMA list: offset %d is below zero", p.Offset)
	}
	return p, nil
}

// States of the first entry, which ties the list to the boot.
const (
	AggregateMatch     = "match"     // it is the digest of PCRs 0 to 9 (0 to 7 with SHA-1 or kernels before 5.8)
	AggregateMismatch  = "mismatch"  // it is of other values
	AggregateUnchecked = "unchecked" // those PCRs are not known
	AggregateMissing   = "missing"   // the list starts with something else
)

// How entries were extended into a bank other than SHA-1's.
const (
	ExtendRehash = "rehash" // by the bank's own digest of the template data
	ExtendPadded = "padded" // by the SHA-1 digest and zeros, as kernels before 5.8 did: as strong as SHA-1
)

// Claims are what a verified list says about the machine since boot.
type Claims struct {
	Count      int         `json:"count"` // entries that are proven
	PCR        int         `json:"pcr"`
	Bank       string      `json:"bank"` // the strongest bank the list was replayed in
	Extend     string      `json:"extend"`
	Templates  []string    `json:"templates"` // in order of appearance; text
	Violations []Violation `json:"violations,omitempty"`
	Violated   int         `json:"violated"` // number of violations; the first 64 are listed
	Aggregate  string      `json:"boot_aggregate"`
	Aggregates int         `json:"boot_aggregates"` // above 1: kernels were replaced by kexec
	Unquoted   int         `json:"unquoted"`        // entries after those that are proven; never judged
	Tail       []string    `json:"tail,omitempty"`  // paths of the first 16 of them
	Algorithms []string    `json:"algorithms"`      // of file digests
	Signed     int         `json:"signed"`          // entries with a signature, valid or not
	// Signatures are those of the entries, verified by the keys that were given as endorsements; none if none were given.
	Signatures []Signature `json:"signatures,omitempty"`
	Coverage   Coverage    `json:"coverage"`
	List       rats.Digest `json:"list"` // SHA-256 of Entries
	// Entries are the proven entries, packed; All reads them.
	Entries []byte `json:"entries"`
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// Violation is an entry that says a file was measured while it was open for writing. Its path is text.
type Violation struct {
	Entry int    `json:"entry"`
	Path  string `json:"path"`
}

// Bounds of claims.
const (
	maxViolations = 64
	maxTail       = 16
	maxTemplates  = 32
	maxPacked     = 64 << 20
)

// Flags of an entry.
const (
	FlagViolation uint8 = 1 << iota // the digest is that of no file, the path is text
	FlagSig                         // with a signature
	FlagBuf                         // of a buffer, not a file; its content follows
	FlagVerity                      // the digest is fs-verity's
	FlagModsig                      // with an appended signature: a module, kernel or policy
	FlagEVM                         // with fields of template evm-sig
	FlagExec                        // its mode allows execution
)

// Entry is one entry of a list. Its slices are parts of the packed entries.
type Entry struct {
	Index  int
	PCR    int // 0 in entries of claims, which have one PCR
	Flags  uint8
	Alg    string
	Digest []byte
	Path   []byte
	Sig    []byte // security.ima, with its type
	Buf    []byte
	Mod    Modsig
	EVM    EVM
}

// Modsig is an appended signature.
type Modsig struct {
	Alg    string
	Digest []byte // of the file without it, by Alg
	Sig    []byte // PKCS #7, DER
}

// EVM is what an EVM signature covers, as far as a list carries it.
type EVM struct {
	Sig      []byte // security.evm, with its type
	Names    []byte // of the extended attributes: joined by |, then NUL
	Lengths  []byte // of their values, 4 bytes each, little-endian
	Values   []byte // one after another
	UID, GID uint32
	Mode     uint16
	Has      uint8 // which of UID (1), GID (2) and Mode (4) there are
}

const (
	hasUID uint8 = 1 << iota
	hasGID
	hasMode
)

// Text returns the path in its canonical text form.
func (e *Entry) Text() string { return rats.EscapePath(e.Path) }

// Sum returns the digest; it is malformed (rats.Digest.Check) if reference values can't name its algorithm.
func (e *Entry) Sum() rats.Digest {
	return rats.Digest{Alg: bankOf(e.Alg), Sum: e.Digest}
}

// algNames are the file digest algorithms that pack into one byte; others carry their name.
var algNames = []string{"", "sha256", "sha1", "sha384", "sha512", "md5", "sha224", "sm3", "sm3-256", "sha3-256", "sha3-384", "sha3-512", "streebog256", "streebog512", "rmd160"}

// pack appends an entry.
func (e *Entry) pack(b []byte) []byte {
	b = append(b, e.Flags)
	id := 0
	for i, n := range algNames {
		if n == e.Alg {
			id = i
			break
		}
	}
	b = append(b, byte(id))
	if id == 0 {
		b = appendBytes(b, []byte(e.Alg))
	}
	b = append(b, byte(len(e.Digest)))
	b = append(b, e.Digest...)
	b = appendBytes(b, e.Path)
	if e.Flags&FlagSig != 0 {
		b = appendBytes(b, e.Sig)
	}
	if e.Flags&FlagBuf != 0 {
		b = appendBytes(b, e.Buf)
	}
	if e.Flags&FlagModsig != 0 {
		b = appendBytes(b, []byte(e.Mod.Alg))
		b = appendBytes(b, e.Mod.Digest)
		b = appendBytes(b, e.Mod.Sig)
	}
	if m := &e.EVM; e.Flags&FlagEVM != 0 {
		for _, p := range [][]byte{m.Sig, m.Names, m.Lengths, m.Values} {
			b = appendBytes(b, p)
		}
		b = append(b, m.Has)
		b = binary.LittleEndian.AppendUint32(b, m.UID)
		b = binary.LittleEndian.AppendUint32(b, m.GID)
		b = binary.LittleEndian.AppendUint16(b, m.Mode)
	}
	return b
}

func appendBytes(b, p []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(p))), p...)
}

// unpack reads the next entry and returns what follows; false if the bytes are not packed entries.
func (e *Entry) unpack(b []byte) ([]byte, bool) {
	ok := true
	next := func() []byte {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			ok = false
			return nil
		}
		p := b[w : w+int(n)]
		b = b[w+int(n):]
		return p
	}
	if len(b) < 3 || int(b[1]) >= len(algNames) {
		return nil, false
	}
	*e = Entry{Index: e.Index, Flags: b[0], Alg: algNames[b[1]]}
	other := b[1] == 0
	b = b[2:]
	if other {
		e.Alg = string(next())
	}
	if len(b) == 0 || int(b[0]) > len(b)-1 {
		return nil, false
	}
	e.Digest, b = b[1:1+int(b[0])], b[1+int(b[0]):]
	e.Path = next()
	if e.Flags&FlagSig != 0 {
		e.Sig = next()
	}
	if e.Flags&FlagBuf != 0 {
		e.Buf = next()
	}
	if e.Flags&FlagModsig != 0 {
		e.Mod.Alg, e.Mod.Digest, e.Mod.Sig = string(next()), next(), next()
	}
	if m := &e.EVM; e.Flags&FlagEVM != 0 {
		m.Sig, m.Names, m.Lengths, m.Values = next(), next(), next(), next()
		if len(b) < 11 {
			return nil, false
		}
		m.Has, m.UID, m.GID, m.Mode = b[0], binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint32(b[5:]), binary.LittleEndian.Uint16(b[9:])
		b = b[11:]
	}
	return b, ok
}

// All yields the proven entries. It stops early if Entries was not made by this package: Check compares their number
// with Count.
func (c *Claims) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		var e Entry
		b, ok := c.Entries, true
		for i := 0; len(b) > 0; i++ {
			e.Index = i
			if b, ok = e.unpack(b); !ok || !yield(&e) {
				return
			}
		}
	}
}

// Codes are all reasons that this package gives.
var Codes = slices.Concat(parseCodes, verifyCodes, ruleCodes)

var descriptor = &rats.Descriptor{
	ID:            Format,
	Title:         "IMA measurement list",
	Doc:           "formats/ima.md",
	MediaTypes:    []string{MediaType, MediaTypeASCII},
	Needs:         []rats.Format{"tpm"},
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 2,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         Codes,
}

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

func clipHex(b []byte) string { return clip(hex.EncodeToString(b), 160) }
