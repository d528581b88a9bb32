// Package postgres keeps the state of several servers in one PostgreSQL database, behind the interfaces of package store.
//
// It guarantees that what Update acknowledged is durable (synchronous_commit=on; fsync and full_page_writes are checked
// when the database is opened: S41), that the updates of one namespace are serial across all servers, that events and
// audit leaves are numbered without gap and become visible in the order of their numbers, that a View sees one snapshot,
// and that a server which lost its lease can't commit any more: a lease is database time, and every commit checks it
// (S41). Many updates share one commit.
//
// It doesn't encrypt what it stores (secrets arrive sealed), doesn't judge it, and doesn't replicate: with standby
// servers, durability is as good as the database's synchronous_standby_names. It holds a session (locks, LISTEN), so
// poolers that share sessions between transactions can't stand in between.
//
// How long a server may stand still in the middle of an update is bounded by the database, which ends the session and
// frees the namespace for the others.
package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/assay-attest/assay/internal/store"
)

// ErrClosed is returned by every use of a store after Close.
var ErrClosed = errors.New("store is closed")

// errReadOnly is a programming error: a write inside a View.
var errReadOnly = errors.New("writing inside a view")

// Options configures Open. Now and Rand are required.
type Options struct {
	// Now is this machine's clock. Its steps don't matter, its rate does: the time told is the database's.
	Now func() time.Time
	// Rand names this server among the others.
	Rand io.Reader
	// Logger gets what no caller can be told; nil discards it.
	Logger *slog.Logger
	// MaxWait is how long a commit may wait for more updates to join it; 0 means 1.5 ms. A lone update doesn't wait.
	MaxWait time.Duration
	// MaxBatch is how many updates one commit may hold; 0 means 60: PostgreSQL is quick up to 64 subtransactions.
	MaxBatch int
	// Lease is for how long the database counts a server as alive after it was last heard; 0 means 6 s. A server that hears
	// nothing of the database for half of it treats itself as cut off.
	Lease time.Duration
}

// The times that aren't worth a setting.
const (
	opTimeout   = 5 * time.Second // of one round trip to the database
	dialTimeout = 5 * time.Second
	poll        = time.Second // between looks for events, where no notification came
	hintEvery   = 10 * time.Millisecond
)

// db implements store.Store.
type db struct {
	opts Options
	log  *slog.Logger

	writers  *pgxpool.Pool // one session per batch under way
	readers  *pgxpool.Pool // read-only sessions
	current  atomic.Bool   // the schema is this binary's
	member   *member
	hints    chan string   // namespaces with new events
	quit     chan struct{} // closed when nothing new is begun
	settled  chan struct{} // closed when nothing is under way any more
	once     sync.Once
	closeErr error
	routines sync.WaitGroup
	updates  sync.WaitGroup // those begun and not yet answered

	mu     sync.Mutex
	queues map[string]*queue // by namespace
	wakers wakers
	closed bool
}

var (
	_ store.Store   = (*db)(nil)
	_ store.Cluster = (*db)(nil)
)

// Open connects to the database at a postgres:// address; libpq's environment variables and password file are honoured.
// It fails with store.ErrSchema if a newer release wrote the schema, and refuses a database that doesn't sync its
// commits. An empty or older database opens, but holds nothing until Migrate. The context bounds the opening only.
func Open(ctx context.Context, address string, opts Options) (store.Store, error) {
	return open(ctx, address, opts)
}

func open(ctx context.Context, address string, opts Options) (*db, error) {
	if opts.Now == nil || opts.Rand == nil {
		return nil, errors.New("opening database: no clock or no randomness given")
	}
	if opts.MaxWait <= 0 {
		opts.MaxWait = 1500 * time.Microsecond
	}
	if opts.MaxBatch <= 0 {
		opts.MaxBatch = 60
	}
	if opts.Lease <= 0 {
		opts.Lease = 6 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	cfg, err := parse(address)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	id := make([]byte, 12)
	if _, err := io.ReadFull(opts.Rand, id); err != nil {
		return nil, fmt.Errorf("opening database: reading randomness: %w", err)
	}
	s := &db{
		opts: opts, log: opts.Logger, hints: make(chan string, 256), quit: make(chan struct{}),
		settled: make(chan struct{}), queues: map[string]*queue{}, wakers: wakers{m: map[string]chan struct{}{}},
	}
	s.member = newMember(s, "sv_"+hex.EncodeToString(id))
	if err := s.connect(ctx, cfg); err != nil {
		s.closePools()
		return nil, fmt.Errorf("opening database: %w", err)
	}
	s.routines.Go(s.hint)
	s.routines.Go(func() { s.listen(cfg.ConnConfig) })
	s.routines.Go(func() { s.member.run(cfg.ConnConfig) })
	s.routines.Go(s.member.watch)
	return s, nil
}

func (s *db) connect(ctx context.Context, cfg *pgxpool.Config) (err error) {
	cfg.ConnConfig.ConnectTimeout = dialTimeout
	cfg.MaxConnLifetime, cfg.MaxConnIdleTime, cfg.MinConns = time.Hour, 10*time.Minute, 0
	p := cfg.ConnConfig.RuntimeParams
	p["application_name"] = "assay " + s.member.id
	p["statement_timeout"] = ms(opTimeout)
	p["lock_timeout"] = ms(opTimeout)
	p["client_min_messages"] = "warning"
	w := cfg.Copy()
	w.MaxConns = int32(max(4, runtime.GOMAXPROCS(0)))
	w.ConnConfig.RuntimeParams["synchronous_commit"] = "on"
	// A server that stops in the middle of an update must not keep a namespace from the others.
	w.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = ms(s.opts.Lease)
	if s.writers, err = pgxpool.NewWithConfig(ctx, w); err != nil {
		return err
	}
	r := cfg.Copy()
	r.MaxConns = int32(max(8, 2*runtime.GOMAXPROCS(0)))
	r.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	if s.readers, err = pgxpool.NewWithConfig(ctx, r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*opTimeout)
	defer cancel()
	return s.writers.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		if err := safe(ctx, c.Conn()); err != nil {
			return err
		}
		v, err := version(ctx, c.Conn())
		if err != nil {
			return err
		}
		s.current.Store(v == schemaVersion)
		return checkVersion(v)
	})
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// safe refuses a database whose commits may be lost, or that can't hold every text.
func safe(ctx context.Context, c *pgx.Conn) error {
	for name, want := range map[string]string{
		"synchronous_commit": "on", "fsync": "on", "full_page_writes": "on", "server_encoding": "UTF8", "transaction_read_only": "off",
	} {
		var got string
		if err := c.QueryRow(ctx, "SHOW "+name).Scan(&got); err != nil {
			return fmt.Errorf("reading setting %s: %w", name, err)
		}
		if got != want {
			return fmt.Errorf("the database has %s = %s; it must be %s", name, got, want)
		}
	}
	var n string
	if err := c.QueryRow(ctx, "SHOW server_version_num").Scan(&n); err != nil {
		return err
	}
	if v, err := strconv.Atoi(n); err != nil || v < 140000 {
		return fmt.Errorf("the database is PostgreSQL %s; 14 or newer is needed", n)
	}
	return nil
}

// Close waits for the updates in progress, refuses later ones, gives the lease back and closes the connections. A View
// that still runs is ended.
func (s *db) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.quit)
		s.wakers.all()
		s.updates.Wait()
		close(s.settled)
		s.routines.Wait()
		s.closePools()
	})
	return s.closeErr
}

func (s *db) closePools() {
	for _, p := range []*pgxpool.Pool{s.writers, s.readers} {
		if p != nil {
			p.Close()
		}
	}
}

// usable says why nothing can be asked of the database now.
func (s *db) usable() error {
	select {
	case <-s.quit:
		return ErrClosed
	default:
	}
	if !s.current.Load() {
		return fmt.Errorf("%w: the database has another version than this release needs: migrate it first", store.ErrSchema)
	}
	return s.member.alive()
}

// Create makes a namespace, in epoch 1. Its name is 1 to 63 of a-z, 0-9 and '-', as in a DNS label.
func (s *db) Create(ctx context.Context, namespace string) error {
	if !store.ValidNamespace(namespace) {
		return fmt.Errorf("creating namespace %q: a name is 1 to 63 of a-z, 0-9 and '-'", clip(namespace))
	}
	err := s.begin()
	if err != nil {
		return err
	}
	defer s.updates.Done()
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	tag, err := s.writers.Exec(ctx, "INSERT INTO namespaces (namespace, created) VALUES ($1, $2) ON CONFLICT DO NOTHING",
		namespace, store.Nanos(s.Now()))
	if err == nil && tag.RowsAffected() == 0 {
		err = store.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("creating namespace %q: %w", namespace, unavailable(err))
	}
	return nil
}

// begin counts an update as under way, unless the store can't take it. The caller calls updates.Done.
func (s *db) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if err := s.usable(); err != nil {
		return err
	}
	s.updates.Add(1)
	return nil
}

// Namespaces returns the names in ascending order.
func (s *db) Namespaces(ctx context.Context) ([]string, error) {
	names := []string{}
	err := s.view(ctx, "", func(t *tx) error {
		return t.query("SELECT namespace FROM namespaces ORDER BY namespace", nil, func(r pgx.Rows) error {
			var n string
			err := r.Scan(&n)
			names = append(names, n)
			return err
		})
	})
	return names, err
}

// In returns a namespace. That it exists is checked by each use, which is store.ErrNotFound if not.
func (s *db) In(namespace string) store.Space { return space{s, namespace} }

// Server implements store.Cluster.
func (s *db) Server() string { return s.member.id }

// Alive implements store.Cluster.
func (s *db) Alive() error { return s.usable() }

// Now implements store.Cluster.
func (s *db) Now() time.Time { return s.member.now() }

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
