package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

func namespaceNames(t *testing.T, s store.Store) {
	for _, bad := range []string{"", "A", "a_b", "a/b", "a.b", "ä", "a b", "a\x00", strings.Repeat("a", 64)} {
		if s.Create(t.Context(), bad) == nil {
			t.Errorf("namespace %q was created", bad)
		}
	}
	long := strings.Repeat("a", 63)
	for _, good := range []string{"0", "three-3", long} {
		if err := s.Create(t.Context(), good); err != nil {
			t.Error(err)
		}
	}
	if err := s.Create(t.Context(), "one"); !errors.Is(err, store.ErrConflict) {
		t.Errorf("creating twice: %v", err)
	}
	got, err := s.Namespaces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	same(t, "namespaces", got, []string{"0", long, "one", "three-3", "two"})
}

func unknownNamespace(t *testing.T, s store.Store) {
	for _, ns := range []string{"three", "", "ONE", "one "} {
		f := func(store.Tx) error { t.Errorf("a transaction ran in %q", ns); return nil }
		if err := s.In(ns).View(t.Context(), f); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("viewing %q: %v", ns, err)
		}
		if err := s.In(ns).Update(t.Context(), f); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("updating %q: %v", ns, err)
		}
		for _, err := range s.In(ns).Tail(t.Context(), 0) {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("tailing %q: %v", ns, err)
			}
		}
	}
}

// isolation fills one namespace and then tries every method in the other.
func isolation(t *testing.T, s store.Store) {
	blob := rats.SHA256([]byte("blob"))
	fill := func(tx store.Tx) error {
		_, e1 := tx.Events().Append(store.Event{At: at(0), Kind: "k"})
		_, e2 := tx.Blobs().Put([]byte("blob"))
		_, e3 := tx.Documents().Put(store.Document{Kind: store.DocPolicy, Name: "d", Body: []byte("b"), At: at(0)})
		_, e4 := tx.Secrets().Put(store.Secret{Name: "s", Sealed: []byte("s"), CreatedAt: at(0)})
		_, e5 := tx.Audit().Append(store.AuditEntry{At: at(0), Verb: "v"})
		return errors.Join(e1, e2, e3, e4, e5, tx.Nodes().Put(node("nd_1", "alpha")), tx.Records().Put(record("at_1", "node/nd_1", at(0))),
			tx.Records().Spend([16]byte{1}, at(time.Minute), at(0)), tx.Tokens().Put(store.JoinToken{ID: "jt_1"}))
	}
	update(t, s.In("one"), fill)
	empty := func(tx store.Tx) error {
		for name, err := range lookups(tx, blob) {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s finds a row of the other namespace: %v", name, err)
			}
		}
		for name, n := range counts(t, tx) {
			same(t, name, n, 0)
		}
		return tx.Epochs().Hold(1)
	}
	view(t, s.In("two"), empty)
	other := s.In("two")
	for name, f := range map[string]func(store.Tx) error{
		"node":     func(tx store.Tx) error { return tx.Nodes().Delete("nd_1") },
		"document": func(tx store.Tx) error { return tx.Documents().Delete(store.DocPolicy, "d", "a", at(0)) },
		"secret":   func(tx store.Tx) error { return tx.Secrets().Delete("s", at(0)) },
		"token":    func(tx store.Tx) error { return tx.Tokens().Delete("jt_1") },
		"use":      func(tx store.Tx) error { return tx.Tokens().Use("jt_1", "nd", at(0)) },
	} {
		if err := other.Update(t.Context(), f); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s of the other namespace: %v", name, err)
		}
	}
	// The same ids and names are free here, also the challenge; and using them changes nothing there.
	update(t, other, fill)
	update(t, other, func(tx store.Tx) error {
		return errors.Join(tx.Nodes().Delete("nd_1"), tx.Secrets().Delete("s", at(0)), tx.Tokens().Delete("jt_1"),
			tx.Documents().Delete(store.DocPolicy, "d", "a", at(0)))
	})
	view(t, s.In("one"), func(tx store.Tx) error {
		for name, err := range lookups(tx, blob) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, n := range counts(t, tx) {
			same(t, name, n, 1)
		}
		return tx.Epochs().Hold(2)
	})
}

func lookups(tx store.Tx, blob rats.Digest) map[string]error {
	_, node := tx.Nodes().Get("nd_1")
	_, name := tx.Nodes().ByName("alpha")
	_, rec := tx.Records().Get("at_1")
	_, data := tx.Blobs().Get(blob)
	_, doc := tx.Documents().Get(store.DocPolicy, "d", 0)
	_, doc1 := tx.Documents().Get(store.DocPolicy, "d", 1)
	_, sec := tx.Secrets().Get("s")
	_, tok := tx.Tokens().Get("jt_1")
	_, head := tx.Audit().Head()
	return map[string]error{"node": node, "name": name, "record": rec, "blob": data, "document": doc, "version": doc1, "secret": sec,
		"token": tok, "audit": head}
}

func counts(t *testing.T, tx store.Tx) map[string]int {
	n, e1 := tx.Nodes().List("", 0)
	since, e2 := tx.Records().Since("node/nd_1", time.Time{}, 0)
	latest, e3 := tx.Records().Latest("node/nd_1", 0)
	ev, e4 := tx.Events().After(0, 0)
	last, e5 := tx.Events().Last()
	docs, e6 := tx.Documents().List(store.DocPolicy)
	vs, e7 := tx.Documents().Versions(store.DocPolicy, "d")
	sec, e8 := tx.Secrets().List()
	tok, e9 := tx.Tokens().List()
	log, e10 := tx.Audit().After(0, 0)
	if err := errors.Join(e1, e2, e3, e4, e5, e6, e7, e8, e9, e10); err != nil {
		t.Error(err)
	}
	return map[string]int{"nodes": len(n), "since": len(since), "latest": len(latest), "events": len(ev), "last": int(last),
		"documents": len(docs), "versions": len(vs), "secrets": len(sec), "tokens": len(tok), "audit": len(log)}
}

func rollback(t *testing.T, s store.Store) {
	p := s.In("one")
	stop := errors.New("stop")
	refused(t, p, stop, func(tx store.Tx) error {
		_, e1 := tx.Events().Append(store.Event{At: at(0), Kind: "k"})
		_, e2 := tx.Blobs().Put([]byte("blob"))
		_, e3 := tx.Documents().Put(store.Document{Kind: store.DocPolicy, Name: "d", Body: []byte("b")})
		_, e4 := tx.Secrets().Put(store.Secret{Name: "s", Sealed: []byte("s")})
		_, e5 := tx.Audit().Append(store.AuditEntry{Verb: "v"})
		err := errors.Join(e1, e2, e3, e4, e5, tx.Nodes().Put(node("nd_1", "alpha")), tx.Records().Put(record("at_1", "node/nd_1", at(0))),
			tx.Tokens().Put(store.JoinToken{ID: "jt_1"}))
		if err != nil {
			t.Error(err)
		}
		for name, n := range counts(t, tx) {
			same(t, name+" inside", n, 1)
		}
		return stop
	})
	view(t, p, func(tx store.Tx) error {
		for name, n := range counts(t, tx) {
			same(t, name+" afterwards", n, 0)
		}
		return tx.Epochs().Hold(1)
	})
}

func rollbackInBatch(t *testing.T, s store.Store) {
	p := s.In("one")
	stop := errors.New("stop")
	var wg sync.WaitGroup
	const n = 64
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprintf("n%02d", i)
			err := p.Update(t.Context(), func(tx store.Tx) error {
				if err := tx.Nodes().Put(node("nd_"+name, name)); err != nil {
					return err
				}
				if _, err := tx.Events().Append(store.Event{At: at(0), Subject: name}); err != nil {
					return err
				}
				if i%2 == 1 {
					return stop
				}
				return nil
			})
			if (i%2 == 1) != errors.Is(err, stop) || (i%2 == 0) != (err == nil) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	view(t, p, func(tx store.Tx) error {
		list, err := tx.Nodes().List("", 0)
		same(t, "nodes", len(list), n/2)
		for i, nd := range list {
			same(t, "node", nd.Name, fmt.Sprintf("n%02d", 2*i))
		}
		events, err2 := tx.Events().After(0, 0)
		same(t, "events", len(events), n/2)
		for i, e := range events {
			same(t, "number", e.Seq, int64(i+1))
		}
		return errors.Join(err, err2)
	})
}

// serial counts in a node's label: an update that doesn't see the one before loses a count.
func serial(t *testing.T, s store.Store) {
	var wg sync.WaitGroup
	const workers, each = 8, 20
	for _, ns := range []string{"one", "two"} {
		p := s.In(ns)
		update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(store.Node{ID: "nd", Name: "n"}) })
		for range workers {
			wg.Go(func() {
				for range each {
					err := p.Update(t.Context(), func(tx store.Tx) error {
						nd, err := tx.Nodes().Get("nd")
						if err != nil {
							return err
						}
						nd.Serial += "x"
						return tx.Nodes().Put(nd)
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, ns := range []string{"one", "two"} {
		view(t, s.In(ns), func(tx store.Tx) error {
			nd, err := tx.Nodes().Get("nd")
			same(t, "count", len(nd.Serial), workers*each)
			return err
		})
	}
}

func snapshot(t *testing.T, s store.Store) {
	p := s.In("one")
	update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(node("nd_1", "alpha")) })
	view(t, p, func(tx store.Tx) error {
		update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(node("nd_2", "beta")) })
		list, err := tx.Nodes().List("", 0)
		same(t, "nodes in the older view", len(list), 1)
		return err
	})
	view(t, p, func(tx store.Tx) error {
		list, err := tx.Nodes().List("", 0)
		same(t, "nodes in a newer view", len(list), 2)
		return err
	})
}

func viewWrites(t *testing.T, s store.Store) {
	p := s.In("one")
	err := p.View(t.Context(), func(tx store.Tx) error {
		_, e1 := tx.Epochs().Bump()
		_, e2 := tx.Events().Append(store.Event{})
		for i, err := range []error{e1, e2, tx.Nodes().Put(node("nd_1", "alpha"))} {
			if err == nil {
				t.Errorf("write %d in a view succeeded", i)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	view(t, p, func(tx store.Tx) error {
		_, err := tx.Nodes().Get("nd_1")
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the node is there: %v", err)
		}
		return tx.Epochs().Hold(1)
	})
}

// panics: a function that panics, or whose goroutine ends in it, is undone; the panic strikes its caller, or comes as an
// error; all others go on.
func panics(t *testing.T, s store.Store) {
	p := s.In("one")
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			defer func() { _ = recover() }()
			name := fmt.Sprint("n", i)
			err := p.Update(t.Context(), func(tx store.Tx) error {
				if err := tx.Nodes().Put(node("nd_"+name, name)); err != nil {
					return err
				}
				if i%3 == 1 {
					panic("in the middle")
				}
				return nil
			})
			if i%3 != 1 && err != nil {
				t.Errorf("update %d: %v", i, err)
			}
			if i%3 == 1 && err == nil {
				t.Errorf("update %d panicked and was acknowledged", i)
			}
		})
	}
	wg.Wait()
	func() {
		defer func() { _ = recover() }()
		_ = p.View(t.Context(), func(store.Tx) error { panic("in a view") })
	}()
	view(t, p, func(tx store.Tx) error {
		list, err := tx.Nodes().List("", 0)
		same(t, "nodes", len(list), 16)
		return err
	})
}

func cancelled(t *testing.T, s store.Store) {
	p := s.In("one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := func(store.Tx) error { t.Error("the function ran"); return nil }
	if err := p.Update(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("updating: %v", err)
	}
	if err := p.View(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("viewing: %v", err)
	}
	// Waiting behind another update, and dropped there.
	ctx, cancel = context.WithCancel(t.Context())
	var done sync.WaitGroup
	var once atomic.Bool
	update(t, p, func(tx store.Tx) error {
		if once.Swap(true) {
			return nil
		}
		done.Go(func() {
			if err := p.Update(ctx, f); !errors.Is(err, context.Canceled) {
				t.Errorf("waiting: %v", err)
			}
		})
		cancel()
		done.Wait()
		return nil
	})
	update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(node("nd_1", "alpha")) })
}

func leaked(t *testing.T, s store.Store) {
	p := s.In("one")
	var kept []store.Tx
	update(t, p, func(tx store.Tx) error { kept = append(kept, tx); return nil })
	view(t, p, func(tx store.Tx) error { kept = append(kept, tx); return nil })
	for _, tx := range kept {
		if _, err := tx.Epochs().Get(); err == nil {
			t.Error("a transaction answers after its end")
		}
		if tx.Nodes().Put(node("nd_1", "alpha")) == nil {
			t.Error("a transaction writes after its end")
		}
	}
}

func tailOrder(t *testing.T, s store.Store) {
	p := s.In("one")
	const workers, each, tails = 6, 30, 3
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var readers, writers sync.WaitGroup
	for i := range tails {
		readers.Go(func() {
			after := int64(i * 10)
			next := after + 1
			for e, err := range p.Tail(ctx, after) {
				if err != nil {
					t.Errorf("tail %d: %v", i, err)
					return
				}
				if e.Seq != next {
					t.Errorf("tail %d got event %d, want %d", i, e.Seq, next)
					return
				}
				if next++; e.Seq == workers*each {
					return
				}
			}
			t.Errorf("tail %d ended before event %d", i, next)
		})
	}
	for w := range workers {
		writers.Go(func() {
			for i := range each {
				err := p.Update(ctx, func(tx store.Tx) error {
					_, err := tx.Events().Append(store.Event{At: at(0), Kind: "k", Subject: fmt.Sprintf("%d/%d", w, i)})
					return err
				})
				_ = s.In("two").Update(ctx, func(tx store.Tx) error { _, err := tx.Events().Append(store.Event{At: at(0)}); return err })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	readers.Wait()
}

func tailEnds(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e, err := range s.In("one").Tail(ctx, 0) {
			t.Errorf("got %+v, %v", e, err)
		}
	}()
	time.AfterFunc(10*time.Millisecond, cancel)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("tail didn't end")
	}
}

func closed(t *testing.T, s store.Store) {
	p := s.In("one")
	ended := make(chan error, 1)
	go func() {
		for _, err := range p.Tail(context.WithoutCancel(t.Context()), 0) {
			ended <- err
		}
		close(ended)
	}()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() { // acknowledged or refused, never left waiting
			_ = p.Update(t.Context(), func(tx store.Tx) error { return tx.Nodes().Put(node(fmt.Sprint("nd_", i), fmt.Sprint(i))) })
		})
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	wg.Wait()
	f := func(store.Tx) error { t.Error("a transaction ran"); return nil }
	if p.Update(t.Context(), f) == nil || p.View(t.Context(), f) == nil || s.Create(t.Context(), "three") == nil {
		t.Error("a closed store accepts work")
	}
	if err := <-ended; err == nil {
		t.Error("a tail of a closed store ended without error")
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}
