package refs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// DefaultMemory bounds the reference sets in memory, in bytes: some four million values. The set in use stays, however
// large.
const DefaultMemory = 512 << 20

// readTime is how long reading a set again may take.
const readTime = 30 * time.Second

var errBroken = errors.New("not a reference set")

// sets are the reference sets in memory, by digest.
type sets struct {
	limit int64

	mu       sync.RWMutex
	byDigest map[string]*held
	bytes    int64
	reading  sync.Mutex // one set is read at a time
	clock    atomic.Int64
}

type held struct {
	set   *refvalue.Set
	bytes int64
	used  atomic.Int64 // clock of the last use
}

// has returns a set that is in memory.
func (s *sets) has(digest string) *refvalue.Set {
	s.mu.RLock()
	defer s.mu.RUnlock()
	h := s.byDigest[digest]
	if h == nil {
		return nil
	}
	h.used.Store(s.clock.Load())
	return h.set
}

// get returns a set, read from the database if need be; errBroken if it is none.
func (s *sets) get(tx store.Tx, ref rats.Ref) (*refvalue.Set, error) {
	digest := ref.Digest.String()
	if set := s.has(digest); set != nil {
		return set, nil
	}
	doc, err := tx.Documents().Get(store.DocSet, ref.Name, ref.Version)
	if err != nil {
		return nil, err
	}
	if !doc.Digest.Equal(ref.Digest) {
		return nil, fmt.Errorf("reference set %s version %d has another digest than before", ref.Name, ref.Version)
	}
	set, err := refvalue.Parse(doc.Body)
	if err != nil {
		return nil, errBroken
	}
	s.put(digest, set)
	return set, nil
}

// put takes a set in and lets others go, those longest unused first.
func (s *sets) put(digest string, set *refvalue.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byDigest[digest] != nil {
		return
	}
	h := &held{set: set, bytes: set.Bytes()}
	h.used.Store(s.clock.Add(1))
	s.byDigest[digest], s.bytes = h, s.bytes+h.bytes
	for s.bytes > s.limit && len(s.byDigest) > 1 {
		oldest := ""
		for d, o := range s.byDigest {
			if d != digest && (oldest == "" || o.used.Load() < s.byDigest[oldest].used.Load()) {
				oldest = d
			}
		}
		s.drop(oldest)
	}
}

func (s *sets) drop(digest string) {
	s.bytes -= s.byDigest[digest].bytes
	delete(s.byDigest, digest)
}

// keep drops all sets but those.
func (s *sets) keep(live map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.byDigest {
		if !live[d] {
			s.drop(d)
		}
	}
}

// Index answers look-ups in the sets of a View. It implements rats.Lookup.
type Index struct {
	cache *Cache
	space store.Space
	sets  map[string]entry
}

type entry struct {
	key     string // text of ref.Digest
	ref     rats.Ref
	expires time.Time
}

func (x *Index) get(set string) (entry, error) {
	e, ok := x.sets[set]
	if !ok {
		return e, refvalue.CodeSetMissing.Missing(set, fmt.Sprintf("a reference set called %.80q", set), "none")
	}
	return e, nil
}

// open returns a set from memory, or from the database.
func (x *Index) open(set string) (*refvalue.Set, entry, error) {
	e, err := x.get(set)
	if err != nil {
		return nil, e, err
	}
	c := x.cache
	if s := c.sets.has(e.key); s != nil {
		c.stats.memory.hits.Add(1)
		return s, e, nil
	}
	c.stats.memory.misses.Add(1)
	c.sets.reading.Lock()
	defer c.sets.reading.Unlock()
	c.sets.clock.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), readTime) // look-ups have no context of their own
	defer cancel()
	var s *refvalue.Set
	err = x.space.View(ctx, func(tx store.Tx) (err error) {
		s, err = c.sets.get(tx, e.ref)
		return err
	})
	if err != nil {
		c.stats.database.misses.Add(1)
		return nil, e, fmt.Errorf("reading reference set %s again: %w", e.ref.Name, err)
	}
	c.stats.database.hits.Add(1)
	return s, e, nil
}

// Find implements rats.Lookup. It doesn't refuse an expired set: it says when it expires. It may read the set from the
// database again; its error is refvalue.CodeSetMissing or a failure of that.
func (x *Index) Find(set, name string, d rats.Digest) (rats.RefHit, error) {
	s, e, err := x.open(set)
	if err != nil {
		return rats.RefHit{}, err
	}
	known, want := s.Find(name, d)
	return rats.RefHit{Set: set, Version: e.ref.Version, Known: known, Expected: want, Expires: e.expires}, nil
}

// Names implements rats.Lookup; errors are as Find's.
func (x *Index) Names(set, prefix string) (iter.Seq[string], error) {
	s, _, err := x.open(set)
	if err != nil {
		return nil, err
	}
	return s.Names(prefix), nil
}

// Ref implements rats.Lookup. Its error is refvalue.CodeSetMissing.
func (x *Index) Ref(set string) (rats.Ref, error) {
	e, err := x.get(set)
	return e.ref, err
}

// Windows returns what lab runs took, nil if the set doesn't say; errors are as Find's.
func (x *Index) Windows(set string) (*plan.Windows, error) {
	s, _, err := x.open(set)
	if err != nil {
		return nil, err
	}
	return s.Windows(), nil
}

// Expires says when a set expires, the zero time if never. Its error is refvalue.CodeSetMissing.
func (x *Index) Expires(set string) (time.Time, error) {
	e, err := x.get(set)
	return e.expires, err
}

// Remembered implements policy.Rememberer.
func (x *Index) Remembered(hit bool) {
	if hit {
		x.cache.stats.recent.hits.Add(1)
	} else {
		x.cache.stats.recent.misses.Add(1)
	}
}

// level counts what one level of look-ups did.
type level struct{ hits, misses atomic.Uint64 }

type counters struct{ recent, memory, database level }

// Level is how often a level had what was asked of it.
type Level struct{ Hits, Misses uint64 }

// Stats says what look-ups cost so far, and what is in memory now.
type Stats struct {
	Recent   Level // judgements of equal claims; what follows wasn't asked then
	Memory   Level // look-ups in sets in memory
	Database Level // sets read again; a miss is a failure
	Sets     int
	Bytes    int64
}

// Stats returns the present numbers.
func (c *Cache) Stats() Stats {
	of := func(l *level) Level { return Level{Hits: l.hits.Load(), Misses: l.misses.Load()} }
	c.sets.mu.RLock()
	defer c.sets.mu.RUnlock()
	return Stats{
		Recent: of(&c.stats.recent), Memory: of(&c.stats.memory), Database: of(&c.stats.database),
		Sets: len(c.sets.byDigest), Bytes: c.sets.bytes,
	}
}

var _ rats.Lookup = (*Index)(nil)
