package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-attest/assay/internal/store"
)

// session is one transaction's use of a connection. Statements whose outcome nobody has to know at once wait for the next
// that is asked something, and go with it in one round trip.
type session struct {
	c      *pgx.Conn
	ctx    context.Context // of the transaction, not of a caller: a caller's end would tear down the connection
	queue  *pgx.Batch
	broken error // the connection or the transaction can't be used any more
}

func newSession(ctx context.Context, c *pgx.Conn) *session {
	return &session{c: c, ctx: ctx, queue: &pgx.Batch{}}
}

// later runs a statement with the next one. Its failing breaks the transaction.
func (s *session) later(sql string, args ...any) { s.queue.Queue(sql, args...) }

// run sends what waits and the statement, and hands its rows to f.
func (s *session) run(sql string, args []any, f func(pgx.Rows) error) (tag pgconn.CommandTag, err error) {
	if s.broken != nil {
		return tag, s.broken
	}
	ctx, cancel := context.WithTimeout(s.ctx, opTimeout)
	defer cancel()
	waiting := s.queue.Len()
	if waiting == 0 {
		rows, err := s.c.Query(ctx, sql, args...)
		if err != nil {
			return tag, s.failed(err, sql)
		}
		return s.read(rows, sql, f)
	}
	s.queue.Queue(sql, args...)
	res := s.c.SendBatch(ctx, s.queue)
	s.queue = &pgx.Batch{}
	for range waiting {
		if _, err := res.Exec(); err != nil {
			_ = res.Close()
			err = s.failed(err, "an earlier statement")
			s.broken = err
			return tag, err
		}
	}
	rows, err := res.Query()
	if err != nil {
		_ = res.Close()
		return tag, s.failed(err, sql)
	}
	tag, err = s.read(rows, sql, f)
	if cerr := res.Close(); err == nil && cerr != nil {
		err = s.failed(cerr, sql)
	}
	return tag, err
}

// read calls f for every row. An error of f is returned as it is: the transaction goes on.
func (s *session) read(rows pgx.Rows, sql string, f func(pgx.Rows) error) (pgconn.CommandTag, error) {
	var ferr error
	for rows.Next() {
		if f == nil || ferr != nil {
			continue
		}
		ferr = f(rows)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return pgconn.CommandTag{}, s.failed(err, sql)
	}
	return rows.CommandTag(), ferr
}

// failed notes what a database error means for the session.
func (s *session) failed(err error, what string) error {
	err = unavailable(err)
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || s.c.IsClosed() || s.c.PgConn().IsClosed() {
		s.broken = err
	}
	if len(what) > 60 {
		what = what[:60] + "…"
	}
	return fmt.Errorf("%s: %w", what, err)
}

// unavailable marks errors that say nothing but that the database can't be asked now.
func unavailable(err error) error {
	var refused *pgconn.PgError
	if err == nil || errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrConflict) {
		return err
	}
	if errors.As(err, &refused) {
		switch refused.Code[:2] {
		case "08", "40", "53", "55", "57", "25": // connection, rollback, resources, lock, operator, transaction state
			return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// deadline bounds what has no caller's context.
func deadline(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
