// Package refvalue holds reference values: the digests that files (or anything else with a name) may have. It reads and
// writes their native form, a JSON document of [TypeSet], and answers look-ups in several sets at once ([Index], a
// rats.Lookup).
//
// It guarantees that a set is never empty, that its names are unique and sorted, and that equal sets have equal bytes. It
// does not say where values come from: who may store a set is the server's business, and signatures over sets are
// checked before they get here. It reads no clock: an expired set still answers, and whoever judges must look at the
// expiry (package policy does).
package refvalue

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// TypeSet is the type of the native form.
const TypeSet = "assay/refset/1"

// Bounds of a set.
const (
	MaxBytes      = 256 << 20 // of the native form
	MaxEntries    = 2_000_000
	MaxName       = 4096 // bytes of one name
	MaxDigests    = 64   // of one entry
	maxSourceText = 4096
)

// Header is what a set says of itself.
type Header struct {
	Name    string
	Source  string    // where the values come from; free text, for people
	Created time.Time // UTC, whole seconds
	Expires time.Time // zero: never
}

// Entry is one name with the digests it may have. An entry without digests is refused: it would permit nothing and
// look as if it did.
type Entry struct {
	Name    string // text form of a path (rats.EscapePath), or any other name
	Digests []rats.Digest
	Size    int64 // bytes; zero: empty or not recorded
}

// Set is an immutable reference set, safe for concurrent use. Its zero value is empty and finds nothing.
type Set struct {
	head  Header
	names []string // ascending
	first []uint32 // names[i] has the digests first[i] … first[i+1]
	sizes []int64
	sums  [][32]byte             // of the SHA-256 digests
	other map[uint32]rats.Digest // every other digest, by its position

	windows *plan.Windows // nil: it doesn't say what lab runs took
}

// New builds a set from entries in any order. It refuses what Parse would.
func New(head Header, entries []Entry) (*Set, error) {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	head.Created, head.Expires = wholeUTC(head.Created), wholeUTC(head.Expires)
	s := &Set{head: head}
	for i, e := range sorted {
		if err := s.add(e, fmt.Sprintf("entries[%d]", i)); err != nil {
			return nil, err
		}
	}
	return s, s.finish()
}

func wholeUTC(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second)
}

// add appends an entry; path names it in errors.
func (s *Set) add(e Entry, path string) error {
	if len(s.names) >= MaxEntries {
		return CodeSetBounds.Bad("entries", fmt.Sprintf("at most %d entries", MaxEntries), "more")
	}
	if e.Name == "" || len(e.Name) > MaxName || !canonicalName(e.Name) {
		return CodeEntryName.Bad(path+".name", "the canonical text form of a path", quote(e.Name))
	}
	if n := len(s.names); n > 0 && s.names[n-1] >= e.Name {
		return CodeEntryOrder.Bad(path+".name", "a name after "+quote(s.names[n-1]), quote(e.Name))
	}
	if len(e.Digests) == 0 || len(e.Digests) > MaxDigests {
		return CodeEntryDigest.Bad(path+".digests", fmt.Sprintf("1 to %d digests", MaxDigests), fmt.Sprint(len(e.Digests)))
	}
	if e.Size < 0 {
		return CodeSetField.Bad(path+".size", "zero or more bytes", fmt.Sprint(e.Size))
	}
	at := uint32(len(s.sums))
	for i, d := range e.Digests {
		if d.Check() != nil || slices.ContainsFunc(e.Digests[:i], d.Equal) {
			return CodeEntryDigest.Bad(fmt.Sprintf("%s.digests[%d]", path, i), "well-formed and different digests", quote(d.String()))
		}
		var sum [32]byte
		if d.Alg == "sha256" {
			copy(sum[:], d.Sum)
		} else {
			if s.other == nil {
				s.other = make(map[uint32]rats.Digest)
			}
			s.other[uint32(len(s.sums))] = rats.Digest{Alg: d.Alg, Sum: bytes.Clone(d.Sum)}
		}
		s.sums = append(s.sums, sum)
	}
	s.names, s.first, s.sizes = append(s.names, e.Name), append(s.first, at), append(s.sizes, e.Size)
	return nil
}

// finish checks what only the whole set can show.
func (s *Set) finish() error {
	h := s.head
	switch {
	case h.Name == "" || len(h.Name) > 256:
		return CodeSetField.Bad("name", "1 to 256 bytes", quote(h.Name))
	case len(h.Source) > maxSourceText:
		return CodeSetBounds.Bad("source", fmt.Sprintf("at most %d bytes", maxSourceText), fmt.Sprint(len(h.Source)))
	case h.Created.IsZero():
		return CodeSetTime.Bad("created", "a time", "none")
	case !h.Expires.IsZero() && !h.Expires.After(h.Created):
		return CodeSetTime.Bad("expires", "a time after "+h.Created.Format(time.RFC3339), h.Expires.Format(time.RFC3339))
	case len(s.names) == 0:
		return CodeSetEmpty.Bad("entries", "at least one entry", "none")
	}
	return checkWindows(s.windows)
}

func canonicalName(s string) bool {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '%' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return true
	}
	_, err := rats.UnescapePath(s)
	return err == nil
}

func quote(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// Header returns what the set says of itself.
func (s *Set) Header() Header { return s.head }

// Len returns the number of names.
func (s *Set) Len() int { return len(s.names) }

// Entries returns copies of all entries, in ascending order of name.
func (s *Set) Entries() []Entry {
	out := make([]Entry, len(s.names))
	for i, n := range s.names {
		out[i] = Entry{Name: n, Size: s.sizes[i], Digests: s.digests(i)}
	}
	return out
}

func (s *Set) span(i int) (from, to uint32) {
	if i+1 < len(s.first) {
		return s.first[i], s.first[i+1]
	}
	return s.first[i], uint32(len(s.sums))
}

func (s *Set) digests(i int) []rats.Digest {
	from, to := s.span(i)
	out := make([]rats.Digest, 0, to-from)
	for at := from; at < to; at++ {
		if d, ok := s.other[at]; ok {
			out = append(out, rats.Digest{Alg: d.Alg, Sum: bytes.Clone(d.Sum)})
			continue
		}
		out = append(out, rats.Digest{Alg: "sha256", Sum: bytes.Clone(s.sums[at][:])})
	}
	return out
}

// find returns whether the name has the digest, and every digest it may have; none if the name isn't in the set.
func (s *Set) find(name string, d rats.Digest) (bool, []rats.Digest) {
	i, ok := slices.BinarySearch(s.names, name)
	if !ok {
		return false, nil
	}
	want := s.digests(i)
	return slices.ContainsFunc(want, d.Equal), want
}

// withPrefix returns the names that start with prefix.
func (s *Set) withPrefix(prefix string) []string {
	from, _ := slices.BinarySearch(s.names, prefix)
	n := sort.Search(len(s.names)-from, func(i int) bool {
		name := s.names[from+i]
		return name[:min(len(name), len(prefix))] > prefix
	})
	return s.names[from : from+n]
}
