package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// streamsOpen: S07, a second live stream of a node is noticed.
func streamsOpen(t *testing.T, s store.Store) {
	p := s.In("one")
	first, second := rats.SHA256([]byte("1")), rats.SHA256([]byte("2"))
	open := func(instance rats.Digest) (x store.Stream, others []store.Stream) {
		t.Helper()
		update(t, p, func(tx store.Tx) (err error) { x, others, err = tx.Streams().Open("nd_1", instance); return err })
		return x, others
	}
	of := func(p store.Space, node string) (list []store.Stream) {
		t.Helper()
		view(t, p, func(tx store.Tx) (err error) { list, err = tx.Streams().Of(node); return err })
		return list
	}
	a, others := open(first)
	same(t, "others of the first", len(others), 0)
	b, others := open(second)
	same(t, "others of the second", others, []store.Stream{a})
	if b.Fence <= a.Fence {
		t.Errorf("fences %d, %d don't grow", a.Fence, b.Fence)
	}
	again, others := open(first)
	same(t, "others of the first, opened again", others, []store.Stream{b})
	same(t, "open", of(p, "nd_1"), []store.Stream{b, again})
	closing := func(x store.Stream) {
		t.Helper()
		update(t, p, func(tx store.Tx) error { return tx.Streams().Close(x) })
	}
	closing(a) // a newer stream took its place
	same(t, "after closing the older", of(p, "nd_1"), []store.Stream{b, again})
	closing(again)
	same(t, "after closing the newer", of(p, "nd_1"), []store.Stream{b})
	same(t, "of another node", len(of(p, "nd_2")), 0)
	same(t, "in another namespace", len(of(s.In("two"), "nd_1")), 0)
}

// distant is later than anything the tests store, by any clock.
var distant = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// fillPast stores two records of a node, of which it stands on the second, one pending blob, a resume blob, events, tokens.
func fillPast(t *testing.T, p store.Space) (gone, kept []rats.Digest) {
	t.Helper()
	update(t, p, func(tx store.Tx) error {
		gone, kept = nil, nil
		put := func(list *[]rats.Digest, s string) rats.Digest {
			d, err := tx.Blobs().Put([]byte(s))
			if err != nil {
				t.Error(err)
			}
			*list = append(*list, d)
			return d
		}
		put(&gone, "pending")
		for i, list := range []*[]rats.Digest{&gone, &kept} {
			id := fmt.Sprintf("at_%d", i+1)
			r := record(id, "node/nd_1", at(time.Duration(i)*time.Hour))
			r.Evidence = map[rats.Format][]rats.Digest{"x": {put(list, id+"index"), put(list, id+"body")}}
			r.Claims = map[rats.Format]rats.Digest{"x": put(list, id+"claims")}
			r.Inputs = []rats.Digest{put(list, id+"input")}
			if err := tx.Records().Put(r); err != nil {
				return err
			}
		}
		n := node("nd_1", "alpha")
		n.Last, n.LastAt = "at_2", at(time.Hour)
		n.ResumeBlob = map[rats.Format]rats.Digest{"x": put(&kept, "resume")}
		return errors.Join(tx.Nodes().Put(n),
			tx.Tokens().Put(store.JoinToken{ID: "jt_used", Expires: distant.Add(time.Hour), UsedAt: at(0)}),
			tx.Tokens().Put(store.JoinToken{ID: "jt_ended", Expires: at(0)}),
			tx.Tokens().Put(store.JoinToken{ID: "jt_good", Expires: distant.Add(time.Hour)}))
	})
	for i := range 5 {
		update(t, p, func(tx store.Tx) error {
			_, err := tx.Events().Append(store.Event{At: at(time.Duration(i)), Kind: "k", Data: json.RawMessage("1")})
			return errors.Join(err, appendAudit(i)(tx))
		})
	}
	return gone, kept
}

func purgeOld(t *testing.T, s store.Store) {
	p := s.In("one")
	gone, kept := fillPast(t, p)
	_, others := fillPast(t, s.In("two"))
	retention := store.Retention{Records: distant, Events: distant, Tokens: distant, Pending: distant, Batch: 2}
	done, err := store.Purge(t.Context(), p, retention)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "purged", done, store.Purged{Records: 1, Events: 4, Tokens: 2, Blobs: len(gone)})
	view(t, p, func(tx store.Tx) error {
		for i, d := range kept {
			if _, err := tx.Blobs().Get(d); err != nil {
				t.Errorf("blob %d of the record the node stands on: %v", i, err)
			}
		}
		for i, d := range gone {
			if _, err := tx.Blobs().Get(d); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("blob %d that nothing needs: %v", i, err)
			}
		}
		records, err := tx.Records().Since("node/nd_1", time.Time{}, 0)
		if len(records) != 1 || records[0].Result.ID != "at_2" {
			t.Errorf("records left: %+v", records)
		}
		events, err2 := tx.Events().After(0, 0)
		if len(events) != 1 || events[0].Seq != 5 {
			t.Errorf("events left: %+v", events)
		}
		list, err3 := tx.Tokens().List()
		if len(list) != 1 || list[0].ID != "jt_good" {
			t.Errorf("tokens left: %+v", list)
		}
		chain, err4 := tx.Audit().After(0, 0)
		same(t, "audit entries", len(chain), 5)
		return errors.Join(err, err2, err3, err4, store.VerifyAudit(chain))
	})
	update(t, p, func(tx store.Tx) error {
		seq, err := tx.Events().Append(store.Event{At: at(0), Kind: "k"})
		same(t, "next event", seq, int64(6))
		return err
	})
	done, err = store.Purge(t.Context(), p, retention)
	same(t, "purged the second time", done, store.Purged{Events: 1})
	if err != nil {
		t.Error(err)
	}
	view(t, s.In("two"), func(tx store.Tx) error {
		_, err := tx.Blobs().Get(others[0])
		all, err2 := tx.Events().After(0, 0)
		same(t, "events of the other namespace", len(all), 5)
		return errors.Join(err, err2)
	})
}

func purgeYoung(t *testing.T, s store.Store) {
	p := s.In("one")
	gone, kept := fillPast(t, p)
	early := at(-100 * 365 * 24 * time.Hour)
	for _, r := range []store.Retention{{}, {Records: early, Events: early, Tokens: early, Pending: early}} {
		done, err := store.Purge(t.Context(), p, r)
		same(t, "purged", done, store.Purged{})
		if err != nil {
			t.Error(err)
		}
	}
	view(t, p, func(tx store.Tx) error {
		for _, d := range append(gone, kept...) {
			if _, err := tx.Blobs().Get(d); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
}
