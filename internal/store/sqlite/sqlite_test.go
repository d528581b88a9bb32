package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/store/storetest"
	"github.com/assay-attest/assay/rats"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func options() Options { return Options{Now: func() time.Time { return start }} }

// opened returns a migrated store at path.
func opened(t testing.TB, path string, tune tuning) *db {
	t.Helper()
	s, err := open(t.Context(), path, options(), tune)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "assay db?#%41.sqlite") }

func TestSQLiteIsAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return opened(t, file(t), defaults) })
}

func TestADatabaseFileIsForItsOwnerOnly(t *testing.T) {
	path := file(t)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, file(t)} {
		s := opened(t, path, defaults)
		if err := s.Create(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", path+suffix, info.Mode())
			}
		}
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	path := file(t)
	s := opened(t, path, defaults)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := dial(path, "rw", defaults)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.script("PRAGMA user_version = 4711"), c.close()); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path, options())
	if !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), "version 4711") {
		t.Errorf("got %v", err)
	}
}

func TestAnUnmigratedDatabaseHoldsNothing(t *testing.T) {
	s, err := Open(t.Context(), file(t), options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Create(t.Context(), "one"); !errors.Is(err, store.ErrSchema) {
		t.Errorf("creating: %v", err)
	}
	if _, err := s.Namespaces(t.Context()); !errors.Is(err, store.ErrSchema) {
		t.Errorf("listing: %v", err)
	}
	for range 2 {
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Error(err)
	}
}

func TestAFailedMigrationLeavesTheSchemaAsItWas(t *testing.T) {
	c, err := openWriter(mustPrepare(t, file(t)), defaults)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ms := append(migrations[:len(migrations):len(migrations)], migration{schemaVersion + 1, "broken", "CREATE TABLE x (y); nonsense"})
	if err := c.script("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	if _, err := steps(c, ms); err == nil {
		t.Fatal("nonsense was applied")
	}
	if err := c.script("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	n, err := c.int("SELECT count(*) FROM sqlite_master")
	v, err2 := c.int("PRAGMA user_version")
	if n != 0 || v != 0 || err != nil || err2 != nil {
		t.Errorf("%d tables, version %d, %v, %v", n, v, err, err2)
	}
}

func mustPrepare(t *testing.T, path string) string {
	t.Helper()
	path, err := prepareFile(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Every table has the namespace in its primary key, so no statement can reach a row without saying whose it is.
func TestEveryTableIsKeyedByNamespace(t *testing.T) {
	s := opened(t, file(t), defaults)
	var tables []string
	err := s.view(t.Context(), "", func(x *tx) error {
		return x.query("SELECT name FROM sqlite_master WHERE type = 'table'", nil, func(r row) error {
			tables = append(tables, r.text(0))
			return nil
		})
	})
	if err != nil || len(tables) < 10 {
		t.Fatal(tables, err)
	}
	for _, table := range tables {
		err := s.view(t.Context(), "", func(x *tx) error {
			pk, err := x.int("SELECT pk FROM pragma_table_info(?) WHERE name = 'namespace' AND \"notnull\" = 1", table)
			if pk != 1 {
				t.Errorf("table %s: namespace is column %d of the primary key", table, pk)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// S41: what SQLite silently doesn't take is noticed when the file is opened.
func TestASettingThatDoesNotTakeIsRefused(t *testing.T) {
	path := mustPrepare(t, file(t))
	c, err := dial(path, "rw", defaults)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.set(pragma{"synchronous", "NORMAL", syncLevels["FULL"]}); err == nil || !strings.Contains(err.Error(), "synchronous") {
		t.Errorf("got %v", err)
	}
	w, err := openWriter(path, defaults)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if level, err := w.int("PRAGMA synchronous"); level != 2 || err != nil {
		t.Errorf("synchronous is %d, %v", level, err)
	}
}

func TestAReaderCannotWriteTheFile(t *testing.T) {
	s := opened(t, file(t), defaults)
	c, err := openReader(s.path, defaults)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.exec("INSERT INTO namespaces (namespace, created) VALUES ('x', 1)"); err == nil {
		t.Error("a reader wrote")
	}
}

// S06: what was spent is forgotten after its time, and refused by the high-water time.
func TestSpentChallengesAreForgottenAfterTheirTime(t *testing.T) {
	s := opened(t, file(t), defaults)
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	spend := func(id byte, until, now time.Duration) error {
		return s.In("one").Update(t.Context(), func(tx store.Tx) error {
			return tx.Records().Spend([16]byte{id}, start.Add(until), start.Add(now))
		})
	}
	steps := []struct {
		id         byte
		until, now time.Duration
		want       error
	}{
		{1, 30 * time.Second, 0, nil},
		{2, 90 * time.Second, 0, nil},
		{3, 90 * time.Second, 70 * time.Second, nil},              // purges what ended before 70 s
		{1, 30 * time.Second, 70 * time.Second, store.ErrTooOld},  // forgotten
		{2, 90 * time.Second, 70 * time.Second, store.ErrSpent},   // kept
		{4, 60 * time.Second, 0, store.ErrTooOld},                 // never seen, but can't be told from a forgotten one
		{5, 200 * time.Second, 100 * time.Second, nil},            // no purge within a minute of the last
		{6, 300 * time.Second, 200 * time.Second, nil},            // purges
		{5, 200 * time.Second, 200 * time.Second, store.ErrSpent}, // ends just at the high-water time: kept
	}
	for i, st := range steps {
		if err := spend(st.id, st.until, st.now); !errors.Is(err, st.want) {
			t.Errorf("step %d: got %v, want %v", i, err, st.want)
		}
	}
	err := s.view(t.Context(), "one", func(x *tx) error {
		n, err := x.int("SELECT count(*) FROM spent")
		if n != 2 {
			t.Errorf("%d rows are kept, want 2", n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// R130: the sealed bytes of a deleted secret are in none of the files any more.
func TestADeletedSecretIsGoneFromTheFiles(t *testing.T) {
	s := opened(t, file(t), defaults)
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	marker := bytes.Repeat([]byte("sealed-marker"), 1000) // overflow pages too
	p := s.In("one")
	put := func(tx store.Tx) error {
		_, err := tx.Secrets().Put(store.Secret{Name: "s", Sealed: marker})
		return err
	}
	for range 2 {
		if err := p.Update(t.Context(), put); err != nil {
			t.Fatal(err)
		}
	}
	if !inFiles(t, s.path, "sealed-marker") {
		t.Fatal("the marker isn't in the files: the test shows nothing")
	}
	// A view of the older snapshot holds the log; the next commit after it tries again.
	err := p.View(t.Context(), func(tx store.Tx) error {
		return p.Update(t.Context(), func(tx store.Tx) error { return tx.Secrets().Delete("s", start) })
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	// The answer comes before the log is emptied; another update stands behind that.
	if err := s.Create(t.Context(), "three"); err != nil {
		t.Fatal(err)
	}
	if inFiles(t, s.path, "sealed-marker") {
		t.Error("the sealed bytes are still in the files")
	}
}

func inFiles(t *testing.T, path, marker string) bool {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(marker)) {
			return true
		}
	}
	return false
}

func TestADamagedBlobIsNotReturned(t *testing.T) {
	s := opened(t, file(t), defaults)
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	err := s.update(t.Context(), "one", func(x *tx) error {
		if _, err := x.Blobs().Put([]byte("good")); err != nil {
			return err
		}
		_, err := x.exec("UPDATE blobs SET data = x'00'")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.In("one").View(t.Context(), func(x store.Tx) error { _, err := x.Blobs().Get(rats.SHA256([]byte("good"))); return err })
	if err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}

// A failure of the database undoes the update even if its function ignores it, and only that update.
func TestASwallowedDatabaseErrorStillFailsTheUpdate(t *testing.T) {
	s := opened(t, file(t), defaults)
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	err := s.update(t.Context(), "one", func(x *tx) error {
		_ = x.Nodes().Put(store.Node{ID: "nd_1", Name: "a"})
		_, _ = x.exec("INSERT INTO nodes (namespace) VALUES (NULL)")
		return nil
	})
	if err == nil {
		t.Error("the update was acknowledged")
	}
	err = s.In("one").View(t.Context(), func(x store.Tx) error { _, err := x.Nodes().Get("nd_1"); return err })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// A transaction that SQLite itself undid fails every member of the batch; the store goes on.
func TestABrokenBatchIsAcknowledgedToNobody(t *testing.T) {
	s := opened(t, file(t), defaults)
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	second := make(chan error, 1)
	err := s.update(t.Context(), "one", func(x *tx) error {
		if err := x.Nodes().Put(store.Node{ID: "nd_1", Name: "a"}); err != nil {
			return err
		}
		wg.Go(func() {
			second <- s.update(t.Context(), "one", func(x *tx) error { return x.c.script("ROLLBACK") })
		})
		for len(s.queue) == 0 { // it joins this batch
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	wg.Wait()
	if err2 := <-second; err == nil || err2 == nil {
		t.Errorf("acknowledged: %v, %v", err, err2)
	}
	err = s.In("one").View(t.Context(), func(x store.Tx) error { _, err := x.Nodes().Get("nd_1"); return err })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := s.Create(t.Context(), "two"); err != nil {
		t.Error(err)
	}
}

func TestManyUpdatesShareACommit(t *testing.T) {
	s := opened(t, file(t), defaults)
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	before := walFrames(t, s)
	var wg sync.WaitGroup
	const n = 64
	err := s.update(t.Context(), "one", func(x *tx) error {
		for i := range n {
			wg.Go(func() {
				_ = s.In("one").Update(t.Context(), func(x store.Tx) error {
					return x.Tokens().Put(store.JoinToken{ID: fmt.Sprint(i)})
				})
			})
		}
		for len(s.queue) < n {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	// One commit writes each changed page once; 64 commits would write at least 64.
	if frames := walFrames(t, s) - before; frames > n/2 {
		t.Errorf("%d updates wrote %d pages", n, frames)
	}
}

func walFrames(t *testing.T, s *db) int64 {
	t.Helper()
	info, err := os.Stat(s.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	return (info.Size() - 32) / (24 + 4096)
}

func TestEventsOfAnotherProcessArriveByPolling(t *testing.T) {
	tune := defaults
	tune.poll = 5 * time.Millisecond
	path := file(t)
	s, other := opened(t, path, tune), opened(t, path, tune)
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	time.AfterFunc(20*time.Millisecond, func() {
		_ = other.In("one").Update(ctx, func(tx store.Tx) error { _, err := tx.Events().Append(store.Event{Kind: "k"}); return err })
	})
	for e, err := range s.In("one").Tail(ctx, 0) {
		if err != nil || e.Seq != 1 || !e.At.Equal(start) {
			t.Errorf("%+v, %v", e, err)
		}
		return
	}
	t.Error("no event came")
}
