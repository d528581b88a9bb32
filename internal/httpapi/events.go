package httpapi

import (
	"encoding/json"
	"math"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/notify"
	"github.com/assay-attest/assay/internal/store"
)

func (a *API) events(r *request) (any, error) {
	after, err := r.number("after", 0, math.MaxInt64, -1)
	if err != nil {
		return nil, err
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" && after < 0 {
		q := r.URL.Query()
		q.Set("after", last)
		r.URL.RawQuery = q.Encode()
		if after, err = r.number("after", 0, math.MaxInt64, -1); err != nil {
			return nil, err
		}
	}
	f, err := r.filter()
	if err != nil {
		return nil, err
	}
	if after < 0 {
		if err := r.view(func(tx store.Tx) (err error) { after, err = tx.Events().Last(); return err }); err != nil {
			return nil, err
		}
	}
	s, err := a.openEvents(r)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for e, err := range r.space.Tail(s.ctx, after) {
		if err != nil {
			return streamed{}, err
		}
		if !f.Wants(e) {
			continue
		}
		out := api.Event{Seq: e.Seq, At: e.At.UTC(), Kind: e.Kind, Subject: e.Subject}
		if len(e.Data) > 0 {
			out.Data = json.RawMessage(e.Data)
		}
		if err := s.send(e.Kind, e.Seq, out); err != nil {
			return streamed{}, nil //nolint:nilerr // the reader has gone
		}
	}
	return streamed{}, nil
}

// filter reads which events are wanted: kind and node, each repeatable, and severity. Without kinds it is all of them.
func (r *request) filter() (notify.Filter, error) {
	q := r.URL.Query()
	f := notify.Filter{Kinds: q["kind"], Severity: q.Get("severity"), Every: true}
	err := r.view(func(tx store.Tx) error {
		f.Nodes = nil
		for _, key := range q["node"] {
			n, err := findNode(tx, key)
			if err != nil {
				return err
			}
			f.Nodes = append(f.Nodes, n.ID)
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	return f, f.Check()
}

func (a *API) auditList(r *request) (any, error) {
	after, err := r.number("after", 0, math.MaxInt64, 0)
	if err != nil {
		return nil, err
	}
	limit, err := r.number("limit", 1, 1000, 100)
	if err != nil {
		return nil, err
	}
	out := api.AuditList{Entries: []api.AuditEntry{}}
	err = r.view(func(tx store.Tx) error {
		entries, err := tx.Audit().After(after, int(limit))
		for _, e := range entries {
			v := api.AuditEntry{
				Seq: e.Seq, At: e.At.UTC(), Actor: e.Actor, Verb: e.Verb, Object: e.Object, Prev: e.Prev, Hash: e.Hash,
			}
			if len(e.Detail) > 0 {
				v.Detail = json.RawMessage(e.Detail)
			}
			out.Entries = append(out.Entries, v)
		}
		return err
	})
	return out, err
}
