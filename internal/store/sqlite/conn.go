package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"modernc.org/sqlite"
)

// conn is one connection with its prepared statements, for one goroutine at a time. It stands directly on the driver:
// database/sql would add a pool and a lock around a writer that is alone by design.
type conn struct {
	raw   driver.Conn
	stmts map[string]driver.Stmt // by their SQL, which is always a constant of this package
}

// dsn names the file as a SQLite URI; everything in the path is escaped, so that no path is read as a parameter.
func dsn(path, mode string, tune tuning) string {
	q := url.Values{"mode": {mode}, "_dqs": {"0"}, "_defensive": {"1"}}
	if tune.vfs != "" {
		q.Set("vfs", tune.vfs)
	}
	return "file:" + url.PathEscape(path) + "?" + q.Encode()
}

func dial(path, mode string, tune tuning) (*conn, error) {
	raw, err := (&sqlite.Driver{}).Open(dsn(path, mode, tune))
	if err != nil {
		return nil, err
	}
	return &conn{raw: raw, stmts: map[string]driver.Stmt{}}, nil
}

// pragma is a setting, and what reading it back must say.
type pragma struct{ name, value, want string }

var syncLevels = map[string]string{"OFF": "0", "NORMAL": "1", "FULL": "2", "EXTRA": "3"}

func openWriter(path string, tune tuning) (*conn, error) {
	return dialWith(path, "rw", tune, []pragma{
		{"busy_timeout", "5000", "5000"},
		{"journal_mode", "WAL", "wal"},
		{"synchronous", tune.synchronous, syncLevels[tune.synchronous]},
		{"fullfsync", "ON", "1"},
		{"checkpoint_fullfsync", "ON", "1"},
		{"foreign_keys", "ON", "1"},
		{"secure_delete", "ON", "1"},
		{"trusted_schema", "OFF", "0"},
		{"temp_store", "MEMORY", "2"},
		{"cache_size", "-16384", "-16384"},
		{"wal_autocheckpoint", strconv.Itoa(tune.checkpoint), strconv.Itoa(tune.checkpoint)},
		{"journal_size_limit", "67108864", "67108864"},
	})
}

func openReader(path string, tune tuning) (*conn, error) {
	return dialWith(path, "ro", tune, []pragma{
		{"busy_timeout", "5000", "5000"},
		{"query_only", "ON", "1"},
		{"trusted_schema", "OFF", "0"},
		{"temp_store", "MEMORY", "2"},
		{"cache_size", "-4096", "-4096"},
	})
}

// dialWith opens a connection and applies settings, each read back: SQLite ignores silently what it can't do (S41).
func dialWith(path, mode string, tune tuning, settings []pragma) (*conn, error) {
	c, err := dial(path, mode, tune)
	if err != nil {
		return nil, err
	}
	for _, p := range settings {
		if err := c.set(p); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

func (c *conn) set(p pragma) error {
	if err := c.script("PRAGMA " + p.name + " = " + p.value); err != nil {
		return fmt.Errorf("setting %s: %w", p.name, err)
	}
	var got string
	err := c.query("PRAGMA "+p.name, nil, func(r row) error {
		got = fmt.Sprint(r[0])
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", p.name, err)
	}
	if !strings.EqualFold(got, p.want) {
		return fmt.Errorf("database doesn't take %s = %s: it says %q; is the file on a local file system?", p.name, p.value, got)
	}
	return nil
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.raw.Close())...)
}

// script runs statements without arguments and without keeping them prepared.
func (c *conn) script(sql string) error {
	_, err := c.raw.(driver.ExecerContext).ExecContext(context.Background(), sql, nil)
	return err
}

func (c *conn) prepare(sql string) (driver.Stmt, error) {
	if s, ok := c.stmts[sql]; ok {
		return s, nil
	}
	s, err := c.raw.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("preparing statement: %w", err)
	}
	c.stmts[sql] = s
	return s, nil
}

// exec runs a statement and returns how many rows it changed. The driver gets a context without end: its other way of
// watching one costs a goroutine per statement; transactions look at theirs between statements.
func (c *conn) exec(sql string, args ...any) (int64, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	res, err := s.(driver.StmtExecContext).ExecContext(context.Background(), values(args))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// row is one row of an answer. Its accessors return the zero value for NULL.
type row []driver.Value

func (r row) text(i int) string  { s, _ := r[i].(string); return s }
func (r row) bytes(i int) []byte { b, _ := r[i].([]byte); return b }
func (r row) int(i int) int64    { n, _ := r[i].(int64); return n }

// query calls f for each row; the values belong to f. f must not use the connection.
func (c *conn) query(sql string, args []any, f func(row) error) (err error) {
	s, err := c.prepare(sql)
	if err != nil {
		return err
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(context.Background(), values(args))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	r := make(row, len(rows.Columns()))
	for {
		if err := rows.Next(r); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := f(r); err != nil {
			return err
		}
	}
}

// hold runs a query up to its first row and leaves it there; nil if there is no row.
func (c *conn) hold(sql string, args []any) (driver.Rows, row, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return nil, nil, err
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(context.Background(), values(args))
	if err != nil {
		return nil, nil, err
	}
	r := make(row, len(rows.Columns()))
	if err := rows.Next(r); err != nil {
		if err == io.EOF {
			err = nil
		}
		return nil, nil, errors.Join(err, rows.Close())
	}
	return rows, r, nil
}

func (c *conn) int(sql string, args ...any) (n int64, err error) {
	err = c.query(sql, args, func(r row) error { n = r.int(0); return nil })
	return n, err
}

func values(args []any) []driver.NamedValue {
	vs := make([]driver.NamedValue, len(args))
	for i, a := range args {
		switch x := a.(type) {
		case int:
			a = int64(x)
		case bool:
			a = int64(0)
			if x {
				a = int64(1)
			}
		}
		vs[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return vs
}
