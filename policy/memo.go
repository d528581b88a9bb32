package policy

import (
	"container/list"
	"sync"
	"time"

	"github.com/assay-attest/assay/rats"
)

const memoSize = 1024

// memo remembers the checks of equal claims: a thousand equal machines cost one check. It holds only what doesn't
// depend on the clock (Timeless), and an entry is good only while the sets it used are the same versions.
type memo struct {
	mu    sync.Mutex
	size  int
	order *list.List // most recently used first
	byKey map[memoKey]*list.Element
}

type memoKey struct {
	format rats.Format
	claims string
}

type memoEntry struct {
	key memoKey
	checked
}

// checked is the outcome of one section's check.
type checked struct {
	reasons []rats.Reason
	refs    []rats.Ref
	names   []string // the sets as the section calls them
	expires time.Time
}

func newMemo(size int) *memo {
	return &memo{size: size, order: list.New(), byKey: make(map[memoKey]*list.Element)}
}

func (m *memo) get(k memoKey, l rats.Lookup, now time.Time) (checked, bool) {
	m.mu.Lock()
	e, ok := m.byKey[k]
	if !ok {
		m.mu.Unlock()
		return checked{}, false
	}
	m.order.MoveToFront(e)
	c := e.Value.(*memoEntry).checked
	m.mu.Unlock()
	if !c.expires.IsZero() && !now.Before(c.expires) {
		return checked{}, false
	}
	for i, name := range c.names {
		ref, err := l.Ref(name)
		if err != nil || ref.Version != c.refs[i].Version || !ref.Digest.Equal(c.refs[i].Digest) {
			return checked{}, false
		}
	}
	return c, true
}

func (m *memo) put(k memoKey, c checked) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byKey[k]; ok {
		m.order.Remove(e)
	}
	m.byKey[k] = m.order.PushFront(&memoEntry{key: k, checked: c})
	for m.order.Len() > m.size {
		last := m.order.Back()
		m.order.Remove(last)
		delete(m.byKey, last.Value.(*memoEntry).key)
	}
}
