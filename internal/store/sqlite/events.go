package sqlite

import "github.com/assay-attest/assay/internal/store"

type events struct{ t *tx }

// Append numbers the event; its zero At is now.
func (s events) Append(e store.Event) (int64, error) {
	last, err := s.Last()
	if err != nil {
		return 0, err
	}
	_, err = s.t.exec("INSERT INTO events (namespace, seq, at, kind, subject, data) VALUES (?, ?, ?, ?, ?, ?)",
		s.t.namespace, last+1, store.Nanos(s.t.orNow(e.At)), e.Kind, e.Subject, nonEmpty(e.Data))
	if err != nil {
		return 0, err
	}
	s.t.appended = true
	return last + 1, nil
}

func (s events) After(seq int64, limit int) ([]store.Event, error) {
	var list []store.Event
	err := s.t.query("SELECT seq, at, kind, subject, data FROM events WHERE namespace = ? AND seq > ? ORDER BY seq LIMIT ?",
		[]any{s.t.namespace, seq, capped(limit)}, func(r row) error {
			list = append(list, store.Event{Seq: r.int(0), At: store.TimeOf(r.int(1)), Kind: r.text(2), Subject: r.text(3), Data: r.bytes(4)})
			return nil
		})
	return list, err
}

// Last is the newest sequence number, 0 if there is none.
func (s events) Last() (int64, error) {
	return s.t.int("SELECT max(seq) FROM events WHERE namespace = ?", s.t.namespace)
}
