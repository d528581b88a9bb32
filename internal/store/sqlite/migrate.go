package sqlite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

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
		return fmt.Errorf("%w: the file has version %d, this release knows up to %d: "+
			"start the release that wrote it or a later one, or restore the backup made before the upgrade", store.ErrSchema, v, schemaVersion)
	}
	return nil
}

// current refuses to work on a schema that isn't this binary's.
func (s *db) current() error {
	v := s.version.Load()
	if v < schemaVersion {
		return fmt.Errorf("%w: the file has version %d, this release needs %d: migrate it first", store.ErrSchema, v, schemaVersion)
	}
	return checkVersion(v)
}

// Migrate brings the schema to this binary's version in one transaction; a newer schema is store.ErrSchema.
func (s *db) Migrate(ctx context.Context) error {
	u := &update{ctx: ctx, raw: s.migrate}
	if err := s.submit(u); err != nil {
		return fmt.Errorf("migrating database: %w", err)
	}
	return nil
}

func (s *db) migrate(c *conn) error {
	if err := c.script("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	v, err := steps(c, migrations)
	if err == nil {
		err = c.script("COMMIT")
	}
	if err != nil {
		return errors.Join(err, c.script("ROLLBACK"))
	}
	s.version.Store(v)
	return nil
}

// steps applies what is missing; the version is read inside the transaction, since another process may have migrated.
func steps(c *conn, ms []migration) (int64, error) {
	v, err := c.int("PRAGMA user_version")
	if err != nil {
		return 0, err
	}
	if err := checkVersion(v); err != nil {
		return 0, err
	}
	for _, m := range ms[min(int(v), len(ms)):] {
		if err := c.script(m.sql); err != nil {
			return 0, fmt.Errorf("applying %s: %w", m.name, err)
		}
		if err := c.script("PRAGMA user_version = " + strconv.FormatInt(m.version, 10)); err != nil {
			return 0, err
		}
		v = m.version
	}
	return v, nil
}
