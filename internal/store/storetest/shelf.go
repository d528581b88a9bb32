package storetest

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/assay-attest/assay/internal/store"
)

// shelfKeeps: items are found by kind and id, listed by prefix in pages, replaced and deleted.
func shelfKeeps(t *testing.T, s store.Store) {
	p := s.In("one")
	item := func(kind, id, doc string) store.Item {
		return store.Item{Kind: kind, ID: id, Doc: json.RawMessage(doc)}
	}
	update(t, p, func(tx store.Tx) error {
		var errs []error
		for _, i := range []store.Item{item("hook", "b", "2"), item("hook", "a", "1"), item("dead", "a/2", "{}"), item("dead", "a/1", "{}"), item("dead", "b%/1", "{}")} {
			errs = append(errs, tx.Shelf().Put(i))
		}
		return errors.Join(errs...)
	})
	update(t, p, func(tx store.Tx) error { return tx.Shelf().Put(item("hook", "a", "3")) })
	list := func(p store.Space, kind, prefix, after string, limit int) (ids []string) {
		t.Helper()
		view(t, p, func(tx store.Tx) error {
			items, err := tx.Shelf().List(kind, prefix, after, limit)
			for _, i := range items {
				ids = append(ids, i.ID+"="+string(i.Doc))
			}
			return err
		})
		return ids
	}
	same(t, "hooks", list(p, "hook", "", "", 0), []string{"a=3", "b=2"})
	same(t, "of a prefix", list(p, "dead", "a/", "", 0), []string{"a/1={}", "a/2={}"})
	same(t, "after one", list(p, "dead", "a/", "a/1", 5), []string{"a/2={}"})
	same(t, "a page", list(p, "dead", "", "", 1), []string{"a/1={}"})
	same(t, "a prefix is no pattern", list(p, "dead", "b%", "", 0), []string{"b%/1={}"})
	same(t, "in another namespace", len(list(s.In("two"), "hook", "", "", 0)), 0)
	update(t, p, func(tx store.Tx) error { return tx.Shelf().Delete("hook", "a") })
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { return tx.Shelf().Delete("hook", "a") })
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Shelf().Get("hook", "a"); return err })
	view(t, p, func(tx store.Tx) error {
		i, err := tx.Shelf().Get("hook", "b")
		same(t, "got", i, item("hook", "b", "2"))
		return err
	})
	if err := p.Update(t.Context(), func(tx store.Tx) error { return tx.Shelf().Put(item("hook", "", "1")) }); err == nil {
		t.Error("an item without id was stored")
	}
}
