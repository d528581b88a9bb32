package postgres

import (
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

type events struct{ t *tx }

// Append numbers the event; its zero At is now.
func (s events) Append(e store.Event) (int64, error) {
	seq := s.t.counters.events + 1
	err := s.t.later("INSERT INTO events (namespace, seq, at, kind, subject, data) VALUES ($1, $2, $3, $4, $5, $6)",
		s.t.namespace, seq, store.Nanos(s.t.orNow(e.At)), e.Kind, e.Subject, nonEmpty(e.Data))
	if err != nil {
		return 0, err
	}
	s.t.counters.events = seq
	return seq, nil
}

func (s events) After(seq int64, limit int) ([]store.Event, error) {
	var list []store.Event
	err := s.t.query("SELECT seq, at, kind, subject, data FROM events WHERE namespace = $1 AND seq > $2 ORDER BY seq LIMIT $3",
		[]any{s.t.namespace, seq, capped(limit)}, func(r pgx.Rows) error {
			var e store.Event
			var at int64
			var data []byte
			err := r.Scan(&e.Seq, &at, &e.Kind, &e.Subject, &data)
			e.At, e.Data = store.TimeOf(at), json.RawMessage(data)
			list = append(list, e)
			return err
		})
	return list, err
}

// Last is the newest sequence number, 0 if there is none.
func (s events) Last() (int64, error) {
	if err := s.t.usable(); err != nil {
		return 0, err
	}
	return s.t.counters.events, nil
}
