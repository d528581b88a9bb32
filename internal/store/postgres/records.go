package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

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
	n, err := s.t.exec("INSERT INTO records (namespace, id, subject, at, doc) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
		s.t.namespace, r.ID, r.Subject, store.Nanos(r.At), doc)
	if err == nil && n == 0 {
		err = conflict("record", r.ID)
	}
	return err
}

func (s records) Get(resultID string) (rec store.Record, err error) {
	err = s.t.doc("record", resultID, "SELECT doc FROM records WHERE namespace = $1 AND id = $2", []any{s.t.namespace, resultID}, &rec)
	return rec, err
}

// Since includes t itself; records of one time stand in the order they were put.
func (s records) Since(subject string, t time.Time, limit int) ([]store.Record, error) {
	return s.list("SELECT doc FROM records WHERE namespace = $1 AND subject = $2 AND at >= $3 ORDER BY at, n LIMIT $4",
		s.t.namespace, subject, store.Nanos(t), capped(limit))
}

func (s records) Latest(subject string, limit int) ([]store.Record, error) {
	return s.list("SELECT doc FROM records WHERE namespace = $1 AND subject = $2 ORDER BY at DESC, n DESC LIMIT $3",
		s.t.namespace, subject, capped(limit))
}

func (s records) list(sql string, args ...any) ([]store.Record, error) {
	var list []store.Record
	err := s.t.query(sql, args, func(r pgx.Rows) error {
		var rec store.Record
		if err := decode("record", r, &rec); err != nil {
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
	if err := s.t.writable(nil); err != nil {
		return err
	}
	if store.Nanos(now.Add(-purgeEvery)) >= s.t.counters.purged {
		purged := store.Nanos(now)
		if err := s.t.later("DELETE FROM spent WHERE namespace = $1 AND until < $2", s.t.namespace, purged); err != nil {
			return err
		}
		s.t.counters.purged = purged
	}
	if store.Nanos(until) < s.t.counters.purged {
		return fmt.Errorf("spending: %w", store.ErrTooOld)
	}
	n, err := s.t.exec("INSERT INTO spent (namespace, id, until) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
		s.t.namespace, id[:], store.Nanos(until))
	if err == nil && n == 0 {
		err = fmt.Errorf("spending: %w", store.ErrSpent)
	}
	return err
}

type blobs struct{ t *tx }

func (b blobs) Put(data []byte) (rats.Digest, error) {
	d, now := rats.SHA256(data), b.t.now()
	if data == nil {
		data = []byte{}
	}
	return d, b.t.later(`INSERT INTO blobs AS b (namespace, digest, data, at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (namespace, digest) DO UPDATE SET at = excluded.at WHERE b.at < $5`,
		b.t.namespace, d.Sum, data, store.Nanos(now), store.Nanos(now.Add(-store.BlobTouch)))
}

// Get checks that the bytes still have their digest: a damaged disk must not become evidence.
func (b blobs) Get(d rats.Digest) (data []byte, err error) {
	if d.Alg != "sha256" {
		return nil, missing("blob", d.String())
	}
	err = b.t.one("blob", d.String(), "SELECT data FROM blobs WHERE namespace = $1 AND digest = $2", []any{b.t.namespace, d.Sum},
		func(r pgx.Rows) error { return r.Scan(&data) })
	if err == nil && !rats.SHA256(data).Equal(d) {
		return nil, fmt.Errorf("blob %s is damaged: the stored bytes have another digest", d)
	}
	return data, err
}
