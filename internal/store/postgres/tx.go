package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// tx implements store.Tx. Every statement takes the namespace as its first argument.
type tx struct {
	s         *session
	ctx       context.Context // of the caller, looked at between statements
	namespace string
	now       func() time.Time
	member    *member
	counters  *counters // of the namespace's row: under its lock in an update, of the snapshot in a view
	writes    bool
	ended     bool
	text      bool              // err is about a text the database can't hold, and nothing was sent
	err       error             // a failure of the database: the transaction can't go on, even if its function ignores this
	names     map[string]string // names of nodes as this transaction read them, by id
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

// writable also refuses a view.
func (t *tx) writable(args []any) error {
	if err := t.usable(); err != nil {
		return err
	}
	if !t.writes {
		return errReadOnly
	}
	if err := textual(args); err != nil {
		t.err, t.text = err, true
		return err
	}
	return nil
}

// textual refuses texts that PostgreSQL can't hold.
func textual(args []any) error {
	for _, a := range args {
		if s, ok := a.(string); ok && (strings.ContainsRune(s, 0) || !utf8.ValidString(s)) {
			return fmt.Errorf("text %q holds a NUL or isn't UTF-8", clip(s))
		}
	}
	return nil
}

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(sql string, args ...any) (int64, error) {
	if err := t.writable(args); err != nil {
		return 0, err
	}
	tag, err := t.s.run(sql, args, nil)
	if err != nil {
		t.err = err
	}
	return tag.RowsAffected(), err
}

// later runs a statement that can't be refused, with the next one.
func (t *tx) later(sql string, args ...any) error {
	if err := t.writable(args); err != nil {
		return err
	}
	t.s.later(sql, args...)
	return nil
}

func (t *tx) query(sql string, args []any, f func(pgx.Rows) error) error {
	if err := t.usable(); err != nil {
		return err
	}
	if textual(args) != nil {
		return nil // no row has such a text
	}
	_, err := t.s.run(sql, args, f)
	if err != nil {
		t.err = err
	}
	return err
}

func (t *tx) int(sql string, args ...any) (n int64, err error) {
	err = t.query(sql, args, func(r pgx.Rows) error { return r.Scan(&n) })
	return n, err
}

// one calls f with the only row, or returns store.ErrNotFound with what was sought.
func (t *tx) one(what, id, sql string, args []any, f func(pgx.Rows) error) error {
	found := false
	err := t.query(sql, args, func(r pgx.Rows) error { found = true; return f(r) })
	if err == nil && !found {
		err = missing(what, id)
	}
	return err
}

// doc reads the JSON of the only row.
func (t *tx) doc(what, id, sql string, args []any, into any) error {
	return t.one(what, id, sql, args, func(r pgx.Rows) error { return decode(what, r, into) })
}

func missing(what, id string) error {
	return fmt.Errorf("%s %q: %w", what, clip(id), store.ErrNotFound)
}

func conflict(what, id string) error {
	return fmt.Errorf("%s %q: %w", what, clip(id), store.ErrConflict)
}

// decode reads the JSON of a row's only column, where the driver has it.
func decode(what string, r pgx.Rows, v any) error {
	if err := json.Unmarshal(r.RawValues()[0], v); err != nil {
		return fmt.Errorf("decoding stored %s: %w", what, err)
	}
	return nil
}

// capped is a limit as SQL wants it: ≤ 0 means all, which is NULL.
func capped(limit int) any {
	if limit <= 0 {
		return nil
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

// nonEmpty is nil for an empty slice: absent and empty are one.
func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

type epochs struct{ t *tx }

func (e epochs) Get() (int64, error) {
	if err := e.t.usable(); err != nil {
		return 0, err
	}
	return e.t.counters.epoch, nil
}

// Hold compares; that it stays so follows from the lock on the namespace's row.
func (e epochs) Hold(want int64) error {
	got, err := e.Get()
	if err == nil && got != want {
		err = fmt.Errorf("epoch is %d, judged under %d: %w", got, want, store.ErrEpoch)
	}
	return err
}

func (e epochs) Bump() (int64, error) {
	if err := e.t.writable(nil); err != nil {
		return 0, err
	}
	e.t.counters.epoch++
	return e.t.counters.epoch, nil
}
