package sqlite

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

type records struct{ t *tx }

// Put stores a record once: records are history, so an id that exists is a conflict.
func (s records) Put(rec store.Record) error {
	r := rec.Result
	if r.ID == "" {
		return errors.New("storing record: its result has no id")
	}
	if r.Namespace != "" && r.Namespace != s.t.namespace {
		return fmt.Errorf("storing record: its result is of namespace %q, not %q", clip(r.Namespace), s.t.namespace)
	}
	doc, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	n, err := s.t.exec("INSERT INTO records (namespace, id, subject, at, doc) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		s.t.namespace, r.ID, r.Subject, store.Nanos(r.At), doc)
	if err == nil && n == 0 {
		err = conflict("record", r.ID)
	}
	return err
}

func (s records) Get(resultID string) (rec store.Record, err error) {
	err = s.t.one("record", resultID, "SELECT doc FROM records WHERE namespace = ? AND id = ?", []any{s.t.namespace, resultID},
		func(r row) error { return decode("record", r.bytes(0), &rec) })
	return rec, err
}

// Since includes t itself; records of one time stand in the order they were put.
func (s records) Since(subject string, t time.Time, limit int) ([]store.Record, error) {
	return s.list("SELECT doc FROM records WHERE namespace = ? AND subject = ? AND at >= ? ORDER BY at, rowid LIMIT ?",
		s.t.namespace, subject, store.Nanos(t), capped(limit))
}

func (s records) Latest(subject string, limit int) ([]store.Record, error) {
	return s.list("SELECT doc FROM records WHERE namespace = ? AND subject = ? ORDER BY at DESC, rowid DESC LIMIT ?",
		s.t.namespace, subject, capped(limit))
}

func (s records) list(sql string, args ...any) ([]store.Record, error) {
	var list []store.Record
	err := s.t.query(sql, args, func(r row) error {
		var rec store.Record
		if err := decode("record", r.bytes(0), &rec); err != nil {
			return err
		}
		list = append(list, rec)
		return nil
	})
	return list, err
}

// purgeEvery is how far the high-water time may lag behind the newest spending.
const purgeEvery = time.Minute

// Spend forgets, about once a minute, the ids whose time is over, and from then on refuses everything that ended before
// (S06): an id that was forgotten can't come back as unspent.
func (s records) Spend(id [16]byte, until, now time.Time) error {
	purged, err := s.t.int("SELECT purged FROM namespaces WHERE namespace = ?", s.t.namespace)
	if err != nil {
		return err
	}
	if store.Nanos(now.Add(-purgeEvery)) >= purged {
		purged = store.Nanos(now)
		if _, err := s.t.exec("DELETE FROM spent WHERE namespace = ? AND until < ?", s.t.namespace, purged); err != nil {
			return err
		}
		if _, err := s.t.exec("UPDATE namespaces SET purged = ? WHERE namespace = ?", purged, s.t.namespace); err != nil {
			return err
		}
	}
	if store.Nanos(until) < purged {
		return fmt.Errorf("spending: %w", store.ErrTooOld)
	}
	n, err := s.t.exec("INSERT INTO spent (namespace, id, until) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
		s.t.namespace, id[:], store.Nanos(until))
	if err == nil && n == 0 {
		err = fmt.Errorf("spending: %w", store.ErrSpent)
	}
	return err
}

type blobs struct{ t *tx }

func (b blobs) Put(data []byte) (rats.Digest, error) {
	d, now := rats.SHA256(data), b.t.now()
	_, err := b.t.exec(`INSERT INTO blobs (namespace, digest, data, at) VALUES (?, ?, coalesce(?, x''), ?)
		ON CONFLICT DO UPDATE SET at = excluded.at WHERE at < ?`,
		b.t.namespace, d.Sum, nonEmpty(data), store.Nanos(now), store.Nanos(now.Add(-store.BlobTouch)))
	return d, err
}

// Get checks that the bytes still have their digest: a damaged disk must not become evidence.
func (b blobs) Get(d rats.Digest) (data []byte, err error) {
	if d.Alg != "sha256" {
		return nil, missing("blob", d.String())
	}
	err = b.t.one("blob", d.String(), "SELECT data FROM blobs WHERE namespace = ? AND digest = ?", []any{b.t.namespace, d.Sum},
		func(r row) error { data = r.bytes(0); return nil })
	if err == nil && !rats.SHA256(data).Equal(d) {
		return nil, fmt.Errorf("blob %s is damaged: the stored bytes have another digest", d)
	}
	return data, err
}

// nonEmpty is nil for an empty slice, which the driver would bind as NULL anyway.
func nonEmpty(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}
