package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

func putDocument(name, body string, out *store.Document) func(store.Tx) error {
	return func(tx store.Tx) (err error) {
		*out, err = tx.Documents().Put(store.Document{Kind: store.DocPolicy, Name: name, Body: []byte(body), Author: "admin:a", At: at(0)})
		return err
	}
}

func documentVersions(t *testing.T, s store.Store) {
	p := s.In("one")
	var v1, v2, other store.Document
	update(t, p, putDocument("web", "a", &v1))
	update(t, p, putDocument("web", "b", &v2))
	update(t, p, putDocument("db", "", &other))
	same(t, "versions", []int64{v1.Version, v2.Version, other.Version}, []int64{1, 2, 1})
	same(t, "digest", v2.Digest, rats.SHA256([]byte("b")))
	view(t, p, func(tx store.Tx) error {
		d := tx.Documents()
		got, err := d.Get(store.DocPolicy, "web", 0)
		same(t, "newest", got, v2)
		got, err2 := d.Get(store.DocPolicy, "web", 1)
		same(t, "first", got, v1)
		list, err3 := d.List(store.DocPolicy)
		w1, w2, o := v1, v2, other
		w1.Body, w2.Body, o.Body = nil, nil, nil
		same(t, "list", list, []store.Document{o, w2})
		versions, err4 := d.Versions(store.DocPolicy, "web")
		same(t, "versions", versions, []store.Document{w2, w1})
		sets, err5 := d.List(store.DocSet)
		same(t, "sets", len(sets), 0)
		return errors.Join(err, err2, err3, err4, err5)
	})
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Documents().Get(store.DocPolicy, "web", 3); return err })
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Documents().Get(store.DocSet, "web", 0); return err })
	wrong := store.Document{Kind: store.DocPolicy, Name: "web", Body: []byte("c"), Digest: v1.Digest}
	if p.Update(t.Context(), func(tx store.Tx) error { _, err := tx.Documents().Put(wrong); return err }) == nil {
		t.Error("a document with another document's digest was stored")
	}
}

func documentTombstone(t *testing.T, s store.Store) {
	p := s.In("one")
	remove := func(tx store.Tx) error {
		return tx.Documents().Delete(store.DocPolicy, "web", "admin:b", at(time.Hour))
	}
	get := func(version int64) func(store.Tx) error {
		return func(tx store.Tx) error { _, err := tx.Documents().Get(store.DocPolicy, "web", version); return err }
	}
	refused(t, p, store.ErrNotFound, remove)
	var d store.Document
	update(t, p, putDocument("web", "a", &d))
	update(t, p, remove)
	refused(t, p, store.ErrNotFound, remove)
	refused(t, p, store.ErrNotFound, get(0))
	refused(t, p, store.ErrNotFound, get(2))
	update(t, p, get(1)) // history stays readable
	view(t, p, func(tx store.Tx) error {
		list, err := tx.Documents().List(store.DocPolicy)
		same(t, "in force", len(list), 0)
		versions, err2 := tx.Documents().Versions(store.DocPolicy, "web")
		if len(versions) != 2 || !versions[0].Deleted || versions[0].Author != "admin:b" || !versions[0].At.Equal(at(time.Hour)) {
			t.Errorf("history: %+v", versions)
		}
		return errors.Join(err, err2)
	})
	update(t, p, putDocument("web", "b", &d))
	same(t, "version after the tombstone", d.Version, int64(3))
	update(t, p, get(0))
}

// documentsBump: S40, what was judged under older documents can't commit.
func documentsBump(t *testing.T, s store.Store) {
	p := s.In("one")
	last := currentEpoch(t, p)
	if last == 0 {
		t.Error("a new namespace is in epoch 0: a judgement under no epoch would commit")
	}
	var d store.Document
	for i, f := range []func(store.Tx) error{
		putDocument("web", "a", &d), putDocument("web", "a", &d),
		func(tx store.Tx) error { return tx.Documents().Delete(store.DocPolicy, "web", "a", at(0)) },
	} {
		update(t, p, f)
		now := currentEpoch(t, p)
		if now <= last {
			t.Errorf("change %d left the epoch at %d", i, now)
		}
		last = now
	}
	same(t, "epoch of the other namespace", currentEpoch(t, s.In("two")), int64(1))
}

func currentEpoch(t *testing.T, p store.Space) (e int64) {
	t.Helper()
	view(t, p, func(tx store.Tx) (err error) { e, err = tx.Epochs().Get(); return err })
	return e
}

func holdEpoch(t *testing.T, s store.Store) {
	p := s.In("one")
	e := currentEpoch(t, p)
	hold := func(e int64) func(store.Tx) error { return func(tx store.Tx) error { return tx.Epochs().Hold(e) } }
	update(t, p, hold(e))
	refused(t, p, store.ErrEpoch, hold(e-1))
	refused(t, p, store.ErrEpoch, hold(e+1))
	refused(t, p, store.ErrEpoch, hold(0))
	update(t, p, func(tx store.Tx) error {
		now, err := tx.Epochs().Bump()
		same(t, "bumped", now, e+1)
		return err
	})
	refused(t, p, store.ErrEpoch, hold(e))
	update(t, p, hold(e+1))
}

// epochRule: once Bump has returned, no update that holds an older epoch returns nil (S40).
func epochRule(t *testing.T, s store.Store) {
	p := s.In("one")
	var current atomic.Int64 // the newest epoch whose Bump has returned
	current.Store(currentEpoch(t, p))
	stop := make(chan struct{})
	var accepted, late atomic.Int64
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				judged := current.Load()
				id := fmt.Sprintf("at_%d_%d", w, i)
				started := current.Load()
				err := p.Update(t.Context(), func(tx store.Tx) error {
					if err := tx.Epochs().Hold(judged); err != nil {
						return err
					}
					r := record(id, "node/a", at(0))
					r.Epoch = judged
					return tx.Records().Put(r)
				})
				switch {
				case err == nil && judged < started:
					late.Add(1)
				case err == nil:
					accepted.Add(1)
				case !errors.Is(err, store.ErrEpoch):
					t.Errorf("updating: %v", err)
				}
			}
		})
	}
	// After every Bump: what is stored under older epochs no longer grows.
	count := func(before int64) (n int) {
		view(t, p, func(tx store.Tx) error {
			rs, err := tx.Records().Since("node/a", time.Time{}, 0)
			for _, r := range rs {
				if r.Epoch < before {
					n++
				}
			}
			return err
		})
		return n
	}
	for range 10 {
		var bumped int64
		update(t, p, func(tx store.Tx) (err error) { bumped, err = tx.Epochs().Bump(); return err })
		n := count(bumped)
		current.Store(bumped)
		time.Sleep(2 * time.Millisecond) // real concurrency is the point here
		if m := count(bumped); m != n {
			t.Errorf("%d updates judged before epoch %d committed after its Bump had returned", m-n, bumped)
		}
	}
	close(stop)
	wg.Wait()
	same(t, "late", late.Load(), int64(0))
	if accepted.Load() == 0 {
		t.Error("nothing was accepted: the test shows nothing")
	}
}

func secretVersions(t *testing.T, s store.Store) {
	p := s.In("one")
	var v1, v2 store.Secret
	put := func(sealed string, out *store.Secret) func(store.Tx) error {
		return func(tx store.Tx) (err error) {
			*out, err = tx.Secrets().Put(store.Secret{Name: "db", Sealed: []byte(sealed), Rule: "r", Warning: true, MaxAge: time.Minute, CreatedAt: at(0)})
			return err
		}
	}
	update(t, p, put("one", &v1))
	update(t, p, put("two", &v2))
	same(t, "versions", []int64{v1.Version, v2.Version}, []int64{1, 2})
	view(t, p, func(tx store.Tx) error {
		got, err := tx.Secrets().Get("db")
		same(t, "newest", got, v2)
		list, err2 := tx.Secrets().List()
		w := v2
		w.Sealed = nil
		same(t, "list", list, []store.Secret{w})
		return errors.Join(err, err2)
	})
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Secrets().Get("other"); return err })
}

// R130: a deleted key is never released again.
func secretTombstone(t *testing.T, s store.Store) {
	p := s.In("one")
	put := func(tx store.Tx) error {
		x, err := tx.Secrets().Put(store.Secret{Name: "db", Sealed: []byte("sealed"), CreatedAt: at(0)})
		if err == nil && x.Version == 3 {
			return nil
		}
		if err == nil && x.Version > 3 {
			err = fmt.Errorf("version %d", x.Version)
		}
		return err
	}
	remove := func(tx store.Tx) error { return tx.Secrets().Delete("db", at(0)) }
	refused(t, p, store.ErrNotFound, remove)
	update(t, p, put)
	update(t, p, put)
	update(t, p, remove)
	refused(t, p, store.ErrNotFound, remove)
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Secrets().Get("db"); return err })
	view(t, p, func(tx store.Tx) error {
		list, err := tx.Secrets().List()
		same(t, "list", len(list), 0)
		return err
	})
	update(t, p, put)
	view(t, p, func(tx store.Tx) error {
		got, err := tx.Secrets().Get("db")
		same(t, "version after the tombstone", got.Version, int64(3))
		return err
	})
}

func appendAudit(n int) func(store.Tx) error {
	return func(tx store.Tx) error {
		_, err := tx.Audit().Append(store.AuditEntry{At: at(time.Duration(n)), Actor: "admin:a", Verb: "policy.apply",
			Object: fmt.Sprint("policy/", n), Detail: []byte(`{"n": 1}`)})
		return err
	}
}

func auditVerifies(t *testing.T, s store.Store) {
	p := s.In("one")
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Audit().Head(); return err })
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			err := p.Update(t.Context(), func(tx store.Tx) error {
				if err := appendAudit(i)(tx); err != nil {
					return err
				}
				if i%4 == 3 {
					return errAgain // leaves no gap
				}
				return nil
			})
			if err != nil && i%4 != 3 {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	view(t, p, func(tx store.Tx) error {
		all, err := tx.Audit().After(0, 0)
		same(t, "entries", len(all), 30)
		head, err2 := tx.Audit().Head()
		same(t, "head", head, all[len(all)-1])
		page, err3 := tx.Audit().After(10, 5)
		same(t, "page", page, all[10:15])
		return errors.Join(err, err2, err3, store.VerifyAudit(all), store.VerifyAudit(page))
	})
	view(t, s.In("two"), func(tx store.Tx) error {
		all, err := tx.Audit().After(0, 0)
		same(t, "entries of the other namespace", len(all), 0)
		return err
	})
}

func auditTampering(t *testing.T, s store.Store) {
	p := s.In("one")
	for i := range 5 {
		update(t, p, appendAudit(i))
	}
	var chain []store.AuditEntry
	view(t, p, func(tx store.Tx) (err error) { chain, err = tx.Audit().After(0, 0); return err })
	if err := store.VerifyAudit(chain); err != nil {
		t.Fatal(err)
	}
	for name, tamper := range Tamperings {
		if err := store.VerifyAudit(tamper(slices.Clone(chain))); !errors.Is(err, store.ErrAudit) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Tamperings are ways to falsify a chain of five entries, none of which may verify.
var Tamperings = map[string]func([]store.AuditEntry) []store.AuditEntry{
	"time":   func(c []store.AuditEntry) []store.AuditEntry { c[2].At = c[2].At.Add(1); return c },
	"actor":  func(c []store.AuditEntry) []store.AuditEntry { c[2].Actor = "admin:b"; return c },
	"verb":   func(c []store.AuditEntry) []store.AuditEntry { c[2].Verb += "x"; return c },
	"object": func(c []store.AuditEntry) []store.AuditEntry { c[2].Object = ""; return c },
	"detail": func(c []store.AuditEntry) []store.AuditEntry { c[2].Detail = nil; return c },
	"boundary": func(c []store.AuditEntry) []store.AuditEntry {
		c[2].Verb, c[2].Object = c[2].Verb+"p", c[2].Object[1:]
		return c
	},
	"hash":     func(c []store.AuditEntry) []store.AuditEntry { c[2].Hash = rats.SHA256(nil); return c },
	"no hash":  func(c []store.AuditEntry) []store.AuditEntry { c[4].Hash = rats.Digest{}; return c },
	"prev":     func(c []store.AuditEntry) []store.AuditEntry { c[2].Prev = c[0].Hash; return c },
	"number":   func(c []store.AuditEntry) []store.AuditEntry { c[4].Seq++; return c },
	"removed":  func(c []store.AuditEntry) []store.AuditEntry { return slices.Delete(c, 2, 3) },
	"beheaded": func(c []store.AuditEntry) []store.AuditEntry { c = c[1:]; c[0].Seq = 1; return c },
	"swapped":  func(c []store.AuditEntry) []store.AuditEntry { c[1], c[2] = c[2], c[1]; return c },
	"repeated": func(c []store.AuditEntry) []store.AuditEntry { return slices.Insert(c, 2, c[1]) },
	"rechained": func(c []store.AuditEntry) []store.AuditEntry {
		c[2].Actor = "x"
		c[2] = store.ChainAudit(c[1], c[2])
		return c
	},
}
