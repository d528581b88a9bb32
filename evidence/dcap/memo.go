package dcap

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// memo remembers a bounded number of pure results by the digest of everything they depend on. The least recently used
// one makes room.
type memo struct {
	mu    sync.Mutex
	limit int
	byKey map[memoKey]*list.Element
	order *list.List
}

type memoKey [sha256.Size]byte

type memoEntry struct {
	key   memoKey
	value any
}

func newMemo(limit int) *memo {
	return &memo{limit: limit, byKey: make(map[memoKey]*list.Element), order: list.New()}
}

// keyOf digests its parts without ambiguity.
func keyOf(parts ...[]byte) memoKey {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write(p)
	}
	return memoKey(h.Sum(nil))
}

func (m *memo) get(k memoKey) (any, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byKey[k]
	if !ok {
		return nil, false
	}
	m.order.MoveToFront(e)
	return e.Value.(*memoEntry).value, true
}

func (m *memo) put(k memoKey, v any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.byKey[k]; ok {
		return
	}
	m.byKey[k] = m.order.PushFront(&memoEntry{k, v})
	if m.order.Len() > m.limit {
		last := m.order.Back()
		m.order.Remove(last)
		delete(m.byKey, last.Value.(*memoEntry).key)
	}
}
