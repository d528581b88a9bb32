package refvalue

import (
	"iter"
	"slices"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Versioned is one version of a set, with the name it is stored under.
type Versioned struct {
	Set *Set
	Ref rats.Ref
}

// Index answers look-ups in several sets. It is immutable, safe for concurrent use, and implements rats.Lookup. The zero
// Index has no sets.
type Index struct{ sets map[string]Versioned }

// NewIndex returns an index of sets by the name that policies use. A nil or empty set is as good as absent: whoever
// looks into it gets CodeSetMissing.
func NewIndex(sets map[string]Versioned) *Index {
	x := &Index{sets: make(map[string]Versioned, len(sets))}
	for name, v := range sets {
		if v.Set != nil && v.Set.Len() > 0 {
			x.sets[name] = v
		}
	}
	return x
}

func (x *Index) get(set string) (Versioned, error) {
	v, ok := x.sets[set]
	if !ok {
		return Versioned{}, CodeSetMissing.Missing(set, "a reference set called "+quote(set), "none")
	}
	return v, nil
}

// Find implements rats.Lookup. It doesn't refuse an expired set: it says when it expires. Its error is
// CodeSetMissing.
func (x *Index) Find(set, name string, d rats.Digest) (rats.RefHit, error) {
	v, err := x.get(set)
	if err != nil {
		return rats.RefHit{}, err
	}
	known, want := v.Set.find(name, d)
	return rats.RefHit{Set: set, Version: v.Ref.Version, Known: known, Expected: want, Expires: v.Set.head.Expires}, nil
}

// Names implements rats.Lookup. Its error is CodeSetMissing.
func (x *Index) Names(set, prefix string) (iter.Seq[string], error) {
	v, err := x.get(set)
	if err != nil {
		return nil, err
	}
	return slices.Values(v.Set.withPrefix(prefix)), nil
}

// Ref implements rats.Lookup. Its error is CodeSetMissing.
func (x *Index) Ref(set string) (rats.Ref, error) {
	v, err := x.get(set)
	return v.Ref, err
}

// Windows returns what lab runs took, nil if the set doesn't say. Its error is CodeSetMissing.
func (x *Index) Windows(set string) (*plan.Windows, error) {
	v, err := x.get(set)
	if err != nil {
		return nil, err
	}
	return v.Set.windows, nil
}

// Expires says when a set expires, the zero time if never. Its error is CodeSetMissing.
func (x *Index) Expires(set string) (time.Time, error) {
	v, err := x.get(set)
	if err != nil {
		return time.Time{}, err
	}
	return v.Set.head.Expires, nil
}
