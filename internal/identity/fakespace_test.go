package identity_test

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/assay-attest/assay/internal/store"
)

// fakeSpace keeps a namespace in memory: transactions one after another, undone on error. It holds what joining needs.
type fakeSpace struct {
	mu   sync.Mutex
	data fakeData
	// onUpdate, if set, runs before each Update, outside of its transaction.
	onUpdate func()
}

type fakeData struct {
	epoch  int64
	nodes  map[string]store.Node
	tokens map[string]store.JoinToken
	events []store.Event
	audit  []store.AuditEntry
	docs   map[string]store.Document
}

func newFakeSpace() *fakeSpace {
	return &fakeSpace{data: fakeData{nodes: map[string]store.Node{}, tokens: map[string]store.JoinToken{}, docs: map[string]store.Document{}}}
}

func (s *fakeSpace) View(_ context.Context, f func(store.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f(&fakeTx{d: &s.data})
}

func (s *fakeSpace) Update(_ context.Context, f func(store.Tx) error) error {
	if s.onUpdate != nil {
		s.onUpdate()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// As the contract allows, f runs twice: what it does besides the transaction shows.
	for i := range 2 {
		d := fakeData{
			epoch: s.data.epoch, nodes: maps.Clone(s.data.nodes), tokens: maps.Clone(s.data.tokens),
			events: slices.Clone(s.data.events), audit: slices.Clone(s.data.audit), docs: maps.Clone(s.data.docs),
		}
		if err := f(&fakeTx{d: &d}); err != nil {
			return err
		}
		if i == 1 {
			s.data = d
		}
	}
	return nil
}

func (s *fakeSpace) Tail(context.Context, int64) iter.Seq2[store.Event, error] { return nil }

// fakeTx panics for the parts that joining has no business with.
type fakeTx struct {
	store.Tx
	d *fakeData
}

func (t *fakeTx) Epochs() store.Epochs { return fakeEpochs{t.d} }
func (t *fakeTx) Nodes() store.Nodes   { return fakeNodes{t.d} }
func (t *fakeTx) Tokens() store.Tokens { return fakeTokens{t.d} }
func (t *fakeTx) Events() store.Events { return fakeEvents{d: t.d} }
func (t *fakeTx) Audit() store.Audit   { return fakeAudit{d: t.d} }

func (t *fakeTx) Documents() store.Documents { return fakeDocuments{d: t.d} }

type fakeDocuments struct {
	store.Documents
	d *fakeData
}

func (f fakeDocuments) Put(x store.Document) (store.Document, error) {
	f.d.docs[x.Kind+"/"+x.Name] = x
	return x, nil
}

func (f fakeDocuments) Get(kind, name string, _ int64) (store.Document, error) {
	x, ok := f.d.docs[kind+"/"+name]
	if !ok {
		return x, store.ErrNotFound
	}
	return x, nil
}

type fakeEpochs struct{ d *fakeData }

func (e fakeEpochs) Get() (int64, error) { return e.d.epoch, nil }

func (e fakeEpochs) Bump() (int64, error) {
	e.d.epoch++
	return e.d.epoch, nil
}

func (e fakeEpochs) Hold(want int64) error {
	if want != e.d.epoch {
		return store.ErrEpoch
	}
	return nil
}

type fakeNodes struct{ d *fakeData }

func (n fakeNodes) Put(x store.Node) error {
	if o, err := n.ByName(x.Name); err == nil && o.ID != x.ID {
		return store.ErrConflict
	}
	n.d.nodes[x.ID] = x
	return nil
}

func (n fakeNodes) Get(id string) (store.Node, error) {
	x, ok := n.d.nodes[id]
	if !ok {
		return x, store.ErrNotFound
	}
	return x, nil
}

func (n fakeNodes) ByName(name string) (store.Node, error) {
	for _, x := range n.d.nodes {
		if x.Name == name {
			return x, nil
		}
	}
	return store.Node{}, store.ErrNotFound
}

func (n fakeNodes) List(after string, _ int) ([]store.Node, error) {
	return slices.Collect(maps.Values(n.d.nodes)), nil
}

func (n fakeNodes) Delete(id string) error {
	delete(n.d.nodes, id)
	return nil
}

type fakeTokens struct{ d *fakeData }

func (t fakeTokens) Put(x store.JoinToken) error {
	t.d.tokens[x.ID] = x
	return nil
}

func (t fakeTokens) Get(id string) (store.JoinToken, error) {
	x, ok := t.d.tokens[id]
	if !ok {
		return x, store.ErrNotFound
	}
	return x, nil
}

func (t fakeTokens) Use(id, node string, at time.Time) error {
	x, err := t.Get(id)
	if err != nil {
		return err
	}
	if x.UsedBy != "" {
		return store.ErrSpent
	}
	x.UsedBy, x.UsedAt = node, at
	return t.Put(x)
}

func (t fakeTokens) List() ([]store.JoinToken, error) {
	return slices.Collect(maps.Values(t.d.tokens)), nil
}

func (t fakeTokens) Delete(id string) error {
	delete(t.d.tokens, id)
	return nil
}

type fakeEvents struct {
	store.Events
	d *fakeData
}

func (e fakeEvents) Append(x store.Event) (int64, error) {
	x.Seq = int64(len(e.d.events) + 1)
	e.d.events = append(e.d.events, x)
	return x.Seq, nil
}

func (e fakeEvents) Last() (int64, error) { return int64(len(e.d.events)), nil }

func (e fakeEvents) After(seq int64, limit int) ([]store.Event, error) {
	list := e.d.events[seq:]
	return list[:min(limit, len(list))], nil
}

type fakeAudit struct {
	store.Audit
	d *fakeData
}

func (a fakeAudit) Append(x store.AuditEntry) (store.AuditEntry, error) {
	x.Seq = int64(len(a.d.audit) + 1)
	a.d.audit = append(a.d.audit, x)
	return x, nil
}
