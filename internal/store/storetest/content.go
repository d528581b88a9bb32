package storetest

import (
	"encoding/json"
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

func nodesKeep(t *testing.T, s store.Store) {
	p := s.In("one")
	want := node("nd_1", "alpha")
	update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(want) })
	view(t, p, func(tx store.Tx) error {
		got, err := tx.Nodes().Get("nd_1")
		same(t, "by id", got, want)
		if err != nil {
			return err
		}
		got, err = tx.Nodes().ByName("alpha")
		same(t, "by name", got, want)
		return err
	})
	want.Name, want.Resume = "omega", nil
	update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(want) })
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Nodes().ByName("alpha"); return err })
	update(t, p, func(tx store.Tx) error {
		got, err := tx.Nodes().Get("nd_1")
		same(t, "replaced", got, want)
		return errors.Join(err, tx.Nodes().Delete("nd_1"))
	})
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Nodes().Get("nd_1"); return err })
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { return tx.Nodes().Delete("nd_1") })
}

func nodeNames(t *testing.T, s store.Store) {
	p := s.In("one")
	update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(node("nd_1", "alpha")) })
	refused(t, p, store.ErrConflict, func(tx store.Tx) error { return tx.Nodes().Put(node("nd_2", "alpha")) })
	update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(node("nd_2", "beta")) })
	refused(t, p, store.ErrConflict, func(tx store.Tx) error { return tx.Nodes().Put(node("nd_2", "alpha")) })
	update(t, p, func(tx store.Tx) error { return tx.Nodes().Delete("nd_1") })
	update(t, p, func(tx store.Tx) error { return tx.Nodes().Put(node("nd_2", "alpha")) })
}

func nodePages(t *testing.T, s store.Store) {
	p := s.In("one")
	update(t, p, func(tx store.Tx) error {
		for _, n := range []string{"c", "a", "d", "b"} {
			if err := tx.Nodes().Put(node("nd_"+n, n)); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, p, func(tx store.Tx) error {
		for _, tt := range []struct {
			after string
			limit int
			want  string
		}{{"", 0, "[a b c d]"}, {"", 2, "[a b]"}, {"b", 2, "[c d]"}, {"bb", 1, "[c]"}, {"d", 0, "[]"}} {
			list, err := tx.Nodes().List(tt.after, tt.limit)
			if err != nil {
				return err
			}
			names := []string{}
			for _, n := range list {
				names = append(names, n.Name)
			}
			same(t, fmt.Sprintf("after %q, at most %d", tt.after, tt.limit), fmt.Sprint(names), tt.want)
		}
		return nil
	})
}

func recordsKeep(t *testing.T, s store.Store) {
	p := s.In("one")
	want := record("at_1", "node/nd_1", at(0))
	update(t, p, func(tx store.Tx) error { return tx.Records().Put(want) })
	view(t, p, func(tx store.Tx) error {
		got, err := tx.Records().Get("at_1")
		same(t, "record", asJSON(got), asJSON(want))
		return err
	})
	refused(t, p, store.ErrConflict, func(tx store.Tx) error { return tx.Records().Put(want) })
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Records().Get("at_2"); return err })
	foreign := record("at_3", "node/nd_1", at(0))
	foreign.Result.Namespace = "two"
	if p.Update(t.Context(), func(tx store.Tx) error { return tx.Records().Put(foreign) }) == nil {
		t.Error("a result of another namespace was stored")
	}
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func recordsByTime(t *testing.T, s store.Store) {
	p := s.In("one")
	update(t, p, func(tx store.Tx) error {
		for i, sec := range []int{3, 1, 2, 2} {
			r := record(fmt.Sprintf("at_%d_%d", sec, i), "node/a", at(time.Duration(sec)*time.Second))
			if err := tx.Records().Put(r); err != nil {
				return err
			}
		}
		return tx.Records().Put(record("at_other", "node/b", at(0)))
	})
	ids := func(rs []store.Record, err error) string {
		if err != nil {
			t.Error(err)
		}
		var out []string
		for _, r := range rs {
			out = append(out, r.Result.ID)
		}
		return fmt.Sprint(out)
	}
	view(t, p, func(tx store.Tx) error {
		r := tx.Records()
		same(t, "all", ids(r.Since("node/a", time.Time{}, 0)), "[at_1_1 at_2_2 at_2_3 at_3_0]")
		same(t, "since 2 s", ids(r.Since("node/a", at(2*time.Second), 0)), "[at_2_2 at_2_3 at_3_0]")
		same(t, "two since 2 s", ids(r.Since("node/a", at(2*time.Second), 2)), "[at_2_2 at_2_3]")
		same(t, "latest", ids(r.Latest("node/a", 3)), "[at_3_0 at_2_3 at_2_2]")
		same(t, "of nobody", ids(r.Latest("node/c", 3)), "[]")
		return nil
	})
}

// spendOnce: S06, a challenge is used up by the transaction that stores its step.
func spendOnce(t *testing.T, s store.Store) {
	p := s.In("one")
	spend := func(id byte) func(store.Tx) error {
		return func(tx store.Tx) error { return tx.Records().Spend([16]byte{id}, at(30*time.Second), at(0)) }
	}
	update(t, p, spend(1))
	refused(t, p, store.ErrSpent, spend(1))
	update(t, p, spend(2))
	// What was undone is not spent.
	stop := errors.New("stop")
	refused(t, p, stop, func(tx store.Tx) error { return errors.Join(spend(3)(tx), stop) })
	update(t, p, spend(3))
	refused(t, p, store.ErrSpent, spend(3))
}

func spendForgotten(t *testing.T, s store.Store) {
	p := s.In("one")
	until := at(30 * time.Second)
	update(t, p, func(tx store.Tx) error { return tx.Records().Spend([16]byte{1}, until, at(0)) })
	for h := 1; h < 4; h++ { // each may purge
		now := at(time.Duration(h) * time.Hour)
		update(t, p, func(tx store.Tx) error { return tx.Records().Spend([16]byte{2, byte(h)}, now.Add(time.Minute), now) })
		err := p.Update(t.Context(), func(tx store.Tx) error { return tx.Records().Spend([16]byte{1}, until, now) })
		if !errors.Is(err, store.ErrSpent) && !errors.Is(err, store.ErrTooOld) {
			t.Fatalf("after %d h a spent challenge gives %v", h, err)
		}
	}
	// Also with a clock that was set back.
	err := p.Update(t.Context(), func(tx store.Tx) error { return tx.Records().Spend([16]byte{1}, until, at(0)) })
	if !errors.Is(err, store.ErrSpent) && !errors.Is(err, store.ErrTooOld) {
		t.Fatalf("with the clock set back a spent challenge gives %v", err)
	}
}

func spendConcurrently(t *testing.T, s store.Store) {
	p := s.In("one")
	var wg sync.WaitGroup
	var spent [8]atomic.Int32
	for range 8 {
		for id := range spent {
			wg.Go(func() {
				err := p.Update(t.Context(), func(tx store.Tx) error {
					return tx.Records().Spend([16]byte{byte(id)}, at(time.Minute), at(0))
				})
				switch {
				case err == nil:
					spent[id].Add(1)
				case !errors.Is(err, store.ErrSpent):
					t.Errorf("spending: %v", err)
				}
			})
		}
	}
	wg.Wait()
	for id := range spent {
		if n := spent[id].Load(); n != 1 {
			t.Errorf("challenge %d was spent %d times", id, n)
		}
	}
}

func eventNumbers(t *testing.T, s store.Store) {
	p := s.In("one")
	var want []store.Event
	for i := range 5 {
		e := store.Event{At: at(time.Duration(i)), Kind: "node.state", Subject: fmt.Sprint("node/", i), Data: json.RawMessage(`{"a": "<1>"}`)}
		update(t, p, func(tx store.Tx) error {
			seq, err := tx.Events().Append(e)
			same(t, "number", seq, int64(i+1))
			return err
		})
		refused(t, p, errAgain, func(tx store.Tx) error { _, err := tx.Events().Append(e); return errors.Join(err, errAgain) })
		e.Seq = int64(i + 1)
		want = append(want, e)
	}
	view(t, p, func(tx store.Tx) error {
		got, err := tx.Events().After(0, 0)
		same(t, "all", got, want)
		two, err2 := tx.Events().After(2, 2)
		same(t, "two", two, want[2:4])
		last, err3 := tx.Events().Last()
		same(t, "last", last, int64(5))
		return errors.Join(err, err2, err3)
	})
	view(t, s.In("two"), func(tx store.Tx) error {
		last, err := tx.Events().Last()
		same(t, "last of none", last, int64(0))
		return err
	})
}

func blobsKeep(t *testing.T, s store.Store) {
	p := s.In("one")
	for _, data := range [][]byte{{}, {0}, make([]byte, 300_000)} {
		for range 2 {
			update(t, p, func(tx store.Tx) error {
				d, err := tx.Blobs().Put(data)
				same(t, "digest", d, rats.SHA256(data))
				return err
			})
		}
		view(t, p, func(tx store.Tx) error {
			got, err := tx.Blobs().Get(rats.SHA256(data))
			if !slices.Equal(got, data) {
				t.Errorf("got %d other bytes, want %d", len(got), len(data))
			}
			return err
		})
	}
	for _, d := range []rats.Digest{rats.SHA256([]byte("?")), {}, rats.SHA384([]byte{0})} {
		refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Blobs().Get(d); return err })
	}
}

// tokenOnce: S07, a join token has one use.
func tokenOnce(t *testing.T, s store.Store) {
	p := s.In("one")
	want := store.JoinToken{ID: "jt_1", Hash: rats.SHA256([]byte("h")), Name: "alpha", Kind: "host", Labels: map[string]string{"a": "b"},
		EK: rats.SHA256([]byte("ek")), Expires: at(time.Hour)}
	put := func(tx store.Tx) error { return tx.Tokens().Put(want) }
	update(t, p, put)
	refused(t, p, store.ErrConflict, put)
	var used atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			err := p.Update(t.Context(), func(tx store.Tx) error { return tx.Tokens().Use("jt_1", fmt.Sprint("nd_", i), at(time.Minute)) })
			if err == nil {
				used.Add(1)
			} else if !errors.Is(err, store.ErrSpent) {
				t.Errorf("using: %v", err)
			}
		})
	}
	wg.Wait()
	same(t, "uses", used.Load(), int32(1))
	refused(t, p, store.ErrConflict, put)
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { return tx.Tokens().Use("jt_2", "nd", at(0)) })
	update(t, p, func(tx store.Tx) error {
		got, err := tx.Tokens().Get("jt_1")
		if !got.UsedAt.Equal(at(time.Minute)) || got.UsedBy == "" {
			t.Errorf("used token: %+v", got)
		}
		list, err2 := tx.Tokens().List()
		same(t, "list", list, []store.JoinToken{got})
		got.UsedAt, got.UsedBy = time.Time{}, ""
		same(t, "token", got, want)
		return errors.Join(err, err2, tx.Tokens().Delete("jt_1"))
	})
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Tokens().Get("jt_1"); return err })
	refused(t, p, store.ErrNotFound, func(tx store.Tx) error { return tx.Tokens().Delete("jt_1") })
}
