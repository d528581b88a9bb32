package policy

import (
	"iter"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// noLookup has no sets.
type noLookup struct{ refvalue.Index }

// expirer is implemented by look-ups that know when a set expires even if nothing is found in it.
type expirer interface {
	Expires(set string) (time.Time, error)
}

// recorder notes which sets a check used, when they expire, and what went wrong: a check that passes over an error of
// its look-up must not thereby trust anything. It serves one check at a time.
type recorder struct {
	lookup  rats.Lookup
	now     time.Time
	refs    []rats.Ref
	names   []string             // of refs, as the policy calls the sets
	sets    map[string]time.Time // used sets and their expiry, zero if never
	reasons []rats.Reason
}

func record(l rats.Lookup, now time.Time) *recorder {
	if l == nil {
		l = &noLookup{}
	}
	return &recorder{lookup: l, now: now, sets: make(map[string]time.Time)}
}

// Find implements rats.Lookup.
func (r *recorder) Find(set, name string, d rats.Digest) (rats.RefHit, error) {
	r.use(set)
	hit, err := r.lookup.Find(set, name, d)
	if err != nil {
		r.failed(set, err)
		return rats.RefHit{}, err
	}
	r.until(set, hit.Expires)
	return hit, nil
}

// Names implements rats.Lookup.
func (r *recorder) Names(set, prefix string) (iter.Seq[string], error) {
	r.use(set)
	names, err := r.lookup.Names(set, prefix)
	if err != nil {
		r.failed(set, err)
	}
	return names, err
}

// Windows returns what lab runs took, nil if the set, or the look-up, doesn't know it.
func (r *recorder) Windows(set string) (*plan.Windows, error) {
	r.use(set)
	x, ok := r.lookup.(interface {
		Windows(set string) (*plan.Windows, error)
	})
	if !ok {
		return nil, nil
	}
	w, err := x.Windows(set)
	if err != nil {
		r.failed(set, err)
	}
	return w, err
}

// Ref implements rats.Lookup.
func (r *recorder) Ref(set string) (rats.Ref, error) {
	r.use(set)
	ref, err := r.lookup.Ref(set)
	if err != nil {
		r.failed(set, err)
	}
	return ref, err
}

func (r *recorder) use(set string) {
	if _, ok := r.sets[set]; ok {
		return
	}
	r.sets[set] = time.Time{}
	ref, err := r.lookup.Ref(set)
	if err != nil {
		return // Find and Names will say so
	}
	if ref.Name == "" {
		ref.Name = set
	}
	r.refs, r.names = append(r.refs, ref), append(r.names, set)
	if x, ok := r.lookup.(expirer); ok {
		if t, err := x.Expires(set); err == nil {
			r.until(set, t)
		}
	}
}

func (r *recorder) until(set string, t time.Time) {
	if t.IsZero() || !r.sets[set].IsZero() && !t.Before(r.sets[set]) {
		return
	}
	r.sets[set] = t
	if !r.now.Before(t) {
		r.add(refvalue.CodeSetExpired.At(rats.None, set, "a set that holds at "+r.now.UTC().Format(time.RFC3339), "expired "+t.UTC().Format(time.RFC3339)))
	}
}

func (r *recorder) failed(set string, err error) {
	if reason, ok := rats.ReasonOf(err); ok {
		r.add(reason)
		return
	}
	r.add(CodeLookupFailed.At(rats.None, set, "an answer", "an error of the verifier"))
}

func (r *recorder) add(reason rats.Reason) {
	for _, old := range r.reasons {
		if old.Code == reason.Code && old.Path == reason.Path {
			return
		}
	}
	r.reasons = append(r.reasons, reason)
}

// merge returns a check's reasons and those it kept to itself.
func (r *recorder) merge(reasons []rats.Reason) []rats.Reason {
	for _, mine := range r.reasons {
		told := false
		for _, his := range reasons {
			told = told || his.Code == mine.Code && rats.Worse(his.Tier, mine.Tier) == his.Tier
		}
		if !told {
			reasons = append(reasons, mine)
		}
	}
	return reasons
}

// expires returns the earliest expiry of the sets used, zero if none expires.
func (r *recorder) expires() time.Time {
	var out time.Time
	for _, t := range r.sets {
		out = earlier(out, t)
	}
	return out
}

// earlier returns the earlier of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
