package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// tx implements store.Tx. Every statement takes the namespace as its first argument.
type tx struct {
	c         *conn
	ctx       context.Context
	namespace string
	now       func() time.Time
	server    string
	writes    bool
	ended     bool
	err       error // a failure of the database: the transaction can't go on, even if its function ignores this
	appended  bool  // events were written
	forgot    bool  // secrets were deleted
}

func (t *tx) Epochs() store.Epochs       { return epochs{t} }
func (t *tx) Nodes() store.Nodes         { return nodes{t} }
func (t *tx) Records() store.Records     { return records{t} }
func (t *tx) Events() store.Events       { return events{t} }
func (t *tx) Blobs() store.Blobs         { return blobs{t} }
func (t *tx) Documents() store.Documents { return documents{t} }
func (t *tx) Secrets() store.Secrets     { return secrets{t} }
func (t *tx) Tokens() store.Tokens       { return tokens{t} }
func (t *tx) Audit() store.Audit         { return audit{t} }
func (t *tx) Streams() store.Streams     { return streams{t} }
func (t *tx) Purges() store.Purges       { return purges{t} }
func (t *tx) Shelf() store.Shelf         { return shelf{t} }

// exists fixes the snapshot by reading, and refuses a namespace that was never created.
func (t *tx) exists() error {
	if t.namespace == "" {
		return nil
	}
	n, err := t.int("SELECT count(*) FROM namespaces WHERE namespace = ?", t.namespace)
	if err == nil && n == 0 {
		err = fmt.Errorf("namespace %q: %w", clip(t.namespace), store.ErrNotFound)
	}
	return err
}

// usable says why no statement may run now. A transaction kept beyond its function is refused: its connection is
// another's by then.
func (t *tx) usable() error {
	switch {
	case t.ended:
		return errors.New("using a transaction that has ended")
	case t.err != nil:
		return t.err
	}
	return t.ctx.Err()
}

func (t *tx) exec(sql string, args ...any) (int64, error) {
	if err := t.usable(); err != nil {
		return 0, err
	}
	if !t.writes {
		return 0, errReadOnly
	}
	n, err := t.c.exec(sql, args...)
	if err != nil {
		t.err = err
	}
	return n, err
}

func (t *tx) query(sql string, args []any, f func(row) error) error {
	if err := t.usable(); err != nil {
		return err
	}
	err := t.c.query(sql, args, f)
	if err != nil {
		t.err = err
	}
	return err
}

func (t *tx) int(sql string, args ...any) (n int64, err error) {
	err = t.query(sql, args, func(r row) error { n = r.int(0); return nil })
	return n, err
}

// one calls f with the only row, or returns store.ErrNotFound with what was sought.
func (t *tx) one(what, id, sql string, args []any, f func(row) error) error {
	found := false
	err := t.query(sql, args, func(r row) error { found = true; return f(r) })
	if err == nil && !found {
		err = missing(what, id)
	}
	return err
}

func missing(what, id string) error {
	return fmt.Errorf("%s %q: %w", what, clip(id), store.ErrNotFound)
}

func conflict(what, id string) error {
	return fmt.Errorf("%s %q: %w", what, clip(id), store.ErrConflict)
}

func decode(what string, doc []byte, v any) error {
	if err := json.Unmarshal(doc, v); err != nil {
		return fmt.Errorf("decoding stored %s: %w", what, err)
	}
	return nil
}

// capped is a limit as SQL wants it: ≤ 0 means all.
func capped(limit int) int64 {
	if limit <= 0 {
		return -1
	}
	return int64(limit)
}

// orNow is t as it will be read again; the zero time is now.
func (t *tx) orNow(at time.Time) time.Time {
	if at.IsZero() {
		at = t.now()
	}
	return store.TimeOf(store.Nanos(at))
}

func digestOf(s string) (rats.Digest, error) {
	if s == "" {
		return rats.Digest{}, nil
	}
	return rats.ParseDigest(s)
}

type epochs struct{ t *tx }

func (e epochs) Get() (int64, error) {
	return e.t.int("SELECT epoch FROM namespaces WHERE namespace = ?", e.t.namespace)
}

// Hold compares; that it stays so follows from there being one writer.
func (e epochs) Hold(want int64) error {
	got, err := e.Get()
	if err == nil && got != want {
		err = fmt.Errorf("epoch is %d, judged under %d: %w", got, want, store.ErrEpoch)
	}
	return err
}

func (e epochs) Bump() (int64, error) {
	if _, err := e.t.exec("UPDATE namespaces SET epoch = epoch + 1 WHERE namespace = ?", e.t.namespace); err != nil {
		return 0, err
	}
	return e.Get()
}
