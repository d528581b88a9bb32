package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/store/postgres"
	"github.com/assay-attest/assay/internal/store/sqlite"
)

// lease is for how long the database counts a silent server as alive, unless RunOptions say otherwise.
const lease = 6 * time.Second

// takeover is how long it takes, at most, until another server has taken the nodes of one that died or lost its database:
// half a lease until a server that is cut off ends its streams, the agents' first pause, and a new connection. Challenges
// come that much before a node's period is over.
func takeover(lease time.Duration) time.Duration { return lease/2 + 2*time.Second }

// openDatabase opens the database of a data directory: the file in it, or the one at address, which other servers share.
func openDatabase(ctx context.Context, dir, address string, rand io.Reader, now func() time.Time, log *slog.Logger, lease time.Duration) (store.Store, error) {
	if address == "" {
		return sqlite.Open(ctx, filepath.Join(dir, dbFile), sqlite.Options{Now: now, Logger: log})
	}
	return postgres.Open(ctx, address, postgres.Options{Now: now, Rand: rand, Logger: log, Lease: lease})
}

// initDatabase makes the tables and the first namespace. Where servers share the database both may be there.
func initDatabase(ctx context.Context, o InitOptions) (err error) {
	db, err := openDatabase(ctx, o.Dir, o.Database, o.Rand, o.Now, slog.New(slog.DiscardHandler), lease)
	if err != nil {
		return fmt.Errorf("making the database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Migrate(ctx); err != nil {
		return fmt.Errorf("making the database's tables: %w", err)
	}
	err = db.Create(ctx, DefaultNamespace)
	switch {
	case !errors.Is(err, store.ErrConflict):
		return err
	case o.Join != "":
		return nil
	}
	return fmt.Errorf("the database is another server's already: to add a server to it, use --join with what `assay server export` wrote there")
}

// Retention says for how long the past is kept; zero is for ever.
type Retention struct {
	Records Duration `json:"records,omitempty"` // results with their evidence
	Events  Duration `json:"events,omitempty"`
	Tokens  Duration `json:"tokens,omitempty"` // join tokens that were used or have ended
}

// Duration is a time.Duration that JSON has as text, "720h".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil && v < 0 {
		err = errors.New("a retention can't be negative")
	}
	*d = Duration(v)
	return err
}

const (
	purgeEvery = time.Hour
	pending    = 24 * time.Hour // platform evidence whose second step never came
	leastKept  = time.Hour
)

// purge deletes, every hour, what needs to be kept no longer. On several servers each does: what one deleted the next
// doesn't find.
func purge(ctx context.Context, db store.Store, r Retention, now func() time.Time, log *slog.Logger) {
	before := func(d Duration) time.Time {
		if d <= 0 {
			return time.Time{}
		}
		return now().Add(-max(time.Duration(d), leastKept))
	}
	for tick := time.NewTicker(purgeEvery); ; {
		names, err := db.Namespaces(ctx)
		for _, ns := range names {
			var done store.Purged
			done, err = store.Purge(ctx, db.In(ns), store.Retention{
				Records: before(r.Records), Events: before(r.Events), Tokens: before(r.Tokens), Pending: before(Duration(pending)),
			})
			if err != nil {
				break
			}
			if done != (store.Purged{}) {
				log.Info("purged", "namespace", ns, "records", done.Records, "events", done.Events, "tokens", done.Tokens, "blobs", done.Blobs)
			}
		}
		if err != nil && ctx.Err() == nil {
			log.Error("purging", "error", err)
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}
