// Package sqlite keeps a server's state in one SQLite file, behind the interfaces of package store.
//
// It guarantees that what Update acknowledged survives power loss (WAL with synchronous=FULL, checked when the file is
// opened: S41), that updates are serial, that an update either happened as a whole or not at all, that a View sees one
// snapshot, and that no row of one namespace is reachable from another. Many updates share one synced commit.
//
// It doesn't encrypt the file (secrets arrive sealed), doesn't judge what it stores, and isn't for more than one server:
// a second process may read and write the same file on the same machine, but its events reach Tail only by polling.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-attest/assay/internal/store"
)

// ErrClosed is returned by every use of a store after Close.
var ErrClosed = errors.New("store is closed")

// errReadOnly is a programming error: a write inside a View.
var errReadOnly = errors.New("writing inside a view")

// Options configures Open.
type Options struct {
	// Now is the clock, for rows that bear no time of their own. Required.
	Now func() time.Time
	// Logger gets what no caller can be told; nil discards it.
	Logger *slog.Logger
	// MaxWait is how long a commit may wait for more updates to join it; 0 means 1.5 ms. A lone update doesn't wait.
	MaxWait time.Duration
	// MaxBatch is how many updates one commit may hold; 0 means 256.
	MaxBatch int
}

// tuning is what only tests change: the VFS under SQLite, and settings that are unsafe.
type tuning struct {
	vfs         string
	synchronous string // FULL
	checkpoint  int    // WAL pages after which the log is copied into the database
	poll        time.Duration
}

var defaults = tuning{synchronous: "FULL", checkpoint: 1000, poll: time.Second}

// db implements store.Store.
type db struct {
	opts   Options
	tuning tuning
	path   string
	server string // of this process: streams of an earlier one are closed
	log    *slog.Logger

	version atomic.Int64 // of the schema in the file

	queue    chan *update
	inflight atomic.Int64 // updates that were begun and not yet answered
	quit     chan struct{}
	stopped  chan struct{} // the writer is gone
	once     sync.Once
	closeErr error

	readers readers
	wakers  wakers
}

// Open opens or creates the database file at path, mode 0600 (a wider mode is narrowed). It fails with store.ErrSchema if
// the file was written by a newer release, and it refuses a file system on which WAL or synchronous writes don't take.
// An older or empty file opens, but holds nothing until Migrate. The context bounds the opening only.
func Open(ctx context.Context, path string, opts Options) (store.Store, error) {
	return open(ctx, path, opts, defaults)
}

func open(ctx context.Context, path string, opts Options, tune tuning) (*db, error) {
	if opts.Now == nil {
		return nil, errors.New("opening database: no clock given")
	}
	if opts.MaxWait <= 0 {
		opts.MaxWait = 1500 * time.Microsecond
	}
	if opts.MaxBatch <= 0 {
		opts.MaxBatch = 256
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := prepareFile(path, opts.Logger)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	s := &db{
		opts: opts, tuning: tune, path: path, log: opts.Logger,
		server: fmt.Sprintf("%d-%d", opts.Now().UnixNano(), os.Getpid()),
		queue:  make(chan *update, opts.MaxBatch), quit: make(chan struct{}), stopped: make(chan struct{}),
		wakers: wakers{m: map[string]chan struct{}{}},
	}
	w, err := openWriter(path, tune)
	if err != nil {
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	v, err := w.int("PRAGMA user_version")
	if err == nil {
		err = checkVersion(v)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening database %s: %w", path, err), w.close())
	}
	s.version.Store(v)
	s.readers = newReaders(max(4, runtime.GOMAXPROCS(0)), func() (*conn, error) { return openReader(path, tune) })
	go s.write(w)
	return s, nil
}

// prepareFile makes the file with mode 0600 before SQLite sees it (its -wal and -shm files inherit the mode), and makes
// its name durable. It never opens an existing database: closing that descriptor would drop the locks of this process.
func prepareFile(path string, log *slog.Logger) (string, error) {
	if path == "" {
		return "", errors.New("no path given")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return "", err
		}
		return path, syncDir(filepath.Dir(path))
	}
	if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		log.Warn("database file was open to others; narrowing its mode to 0600", "path", path, "mode", info.Mode().Perm().String())
		return path, os.Chmod(path, 0o600)
	}
	return path, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close waits for the updates in progress, refuses later ones, and closes the file. A View that still runs keeps its
// connection until it ends.
func (s *db) Close() error {
	s.once.Do(func() {
		close(s.quit)
		s.wakers.all()
		<-s.stopped
		s.closeErr = errors.Join(s.closeErr, s.readers.close())
	})
	return s.closeErr
}

// Create makes a namespace, in epoch 1. Its name is 1 to 63 of a-z, 0-9 and '-', as in a DNS label.
func (s *db) Create(ctx context.Context, namespace string) error {
	if !store.ValidNamespace(namespace) {
		return fmt.Errorf("creating namespace %q: a name is 1 to 63 of a-z, 0-9 and '-'", clip(namespace))
	}
	err := s.update(ctx, "", func(t *tx) error {
		n, err := t.exec("INSERT INTO namespaces (namespace, created) VALUES (?, ?) ON CONFLICT DO NOTHING",
			namespace, store.Nanos(s.opts.Now()))
		if err == nil && n == 0 {
			err = store.ErrConflict
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("creating namespace %q: %w", namespace, err)
	}
	return nil
}

// Namespaces returns the names in ascending order.
func (s *db) Namespaces(ctx context.Context) ([]string, error) {
	names := []string{}
	err := s.view(ctx, "", func(t *tx) error {
		return t.query("SELECT namespace FROM namespaces ORDER BY namespace", nil, func(r row) error {
			names = append(names, r.text(0))
			return nil
		})
	})
	return names, err
}

// In returns a namespace. That it exists is checked by each use, which is store.ErrNotFound if not.
func (s *db) In(namespace string) store.Space { return space{s, namespace} }

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
