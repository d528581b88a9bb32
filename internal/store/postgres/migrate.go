package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/assay-attest/assay/internal/store"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one file: its number is the schema version it leads to.
type migration struct {
	version int64
	name    string
	sql     string
}

// migrations are the embedded files in order, numbered 1, 2, … without gap. A file that was released is never edited.
var migrations = mustMigrations(migrationFiles)

// schemaVersion is what this binary reads and writes.
var schemaVersion = int64(len(migrations))

func mustMigrations(files fs.FS) []migration {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	var ms []migration
	for i, name := range names { // Glob sorts
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil || v != int64(i+1) {
			panic(fmt.Sprintf("migration %s should be number %d", name, i+1))
		}
		sql, err := fs.ReadFile(files, name)
		if err != nil {
			panic(err)
		}
		ms = append(ms, migration{v, name, string(sql)})
	}
	return ms
}

func checkVersion(v int64) error {
	if v > schemaVersion {
		return fmt.Errorf("%w: the database has version %d, this release knows up to %d: "+
			"start the release that wrote it or a later one, or restore the backup made before the upgrade", store.ErrSchema, v, schemaVersion)
	}
	return nil
}

// version is the schema's, 0 of an empty database.
func version(ctx context.Context, c *pgx.Conn) (v int64, err error) {
	var there bool
	err = c.QueryRow(ctx, "SELECT to_regclass('assay_schema') IS NOT NULL").Scan(&there)
	if err != nil || !there {
		return 0, err
	}
	err = c.QueryRow(ctx, "SELECT version FROM assay_schema").Scan(&v)
	return v, err
}

// migrationLock serialises the migrations of several servers.
const migrationLock = 0x61737361795f6d31

// Migrate brings the schema to this binary's version in one transaction; a newer schema is store.ErrSchema. Servers of
// the older release that still run go on with the statements they know: migrations must leave those working, or say
// that all servers have to stop.
func (s *db) Migrate(ctx context.Context) error {
	err := s.writers.AcquireFunc(ctx, func(c *pgxpool.Conn) error { return migrate(ctx, c.Conn()) })
	if err != nil {
		return fmt.Errorf("migrating database: %w", unavailable(err))
	}
	s.current.Store(true)
	return s.member.joinNow(ctx)
}

func migrate(ctx context.Context, c *pgx.Conn) (err error) {
	t, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Rollback(context.WithoutCancel(ctx)))
		}
	}()
	if _, err := t.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
		return err
	}
	v, err := version(ctx, c)
	if err != nil {
		return err
	}
	if err := checkVersion(v); err != nil {
		return err
	}
	if v == schemaVersion {
		return t.Commit(ctx)
	}
	if v == 0 {
		if _, err := t.Exec(ctx, "CREATE TABLE assay_schema (version bigint NOT NULL); INSERT INTO assay_schema VALUES (0)",
			pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	for _, m := range migrations[v:] {
		if _, err := t.Exec(ctx, m.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("applying %s: %w", m.name, err)
		}
	}
	if _, err := t.Exec(ctx, "UPDATE assay_schema SET version = $1", schemaVersion); err != nil {
		return err
	}
	return t.Commit(ctx)
}
