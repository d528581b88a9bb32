package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

// member is this server's lease: until when the database counts it as alive, and what the database's time is.
//
// The lease is renewed every sixth of its length over a connection of its own. Renewing counts from when it was asked
// for, by this machine's clock without its steps: after half the length without an answer the server stops by itself,
// which is before the database lets the others take over.
type member struct {
	s  *db
	id string

	mu     sync.Mutex
	fence  int64
	heard  time.Time // when the last renewal that succeeded was asked for, on our clock; zero: never, or lost
	offset time.Duration
	lease  context.Context // ends when the lease is lost
	lose   context.CancelFunc
	joined bool
	wake   chan struct{}

	failing bool // only run looks at it
}

func newMember(s *db, id string) *member {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return &member{s: s, id: id, lease: ctx, lose: func() {}, wake: make(chan struct{}, 1)}
}

func (m *member) silence() time.Duration { return m.s.opts.Lease / 2 }

// alive says why this server must not speak for the database.
func (m *member) alive() error {
	_, _, err := m.held()
	return err
}

// held returns the lease's fence and a context that ends with it.
func (m *member) held() (int64, context.Context, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.heard.IsZero() || m.s.opts.Now().Sub(m.heard) > m.silence() {
		return 0, nil, fmt.Errorf("%w: this server holds no lease", store.ErrUnavailable)
	}
	return m.fence, m.lease, nil
}

func (m *member) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.s.opts.Now().Add(m.offset)
}

// joinNow takes the first lease before the first use: Open and Migrate return with it.
func (m *member) joinNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*opTimeout)
	defer cancel()
	m.mu.Lock()
	m.joined = true
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		if m.alive() == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: no lease was given", store.ErrUnavailable)
		case <-m.s.quit:
			return ErrClosed
		case <-t.C:
		}
	}
}

// run keeps the lease until the store is closed, then gives it back.
func (m *member) run(cfg *pgx.ConnConfig) {
	var c *pgx.Conn
	tick := time.NewTicker(m.s.opts.Lease / 6)
	defer tick.Stop()
	if m.s.current.Load() {
		m.mu.Lock()
		m.joined = true
		m.mu.Unlock()
	}
	sweep := 0
	for {
		if m.ready() {
			err := m.beat(cfg, &c)
			m.report(err)
			if sweep++; err == nil && sweep%60 == 1 {
				m.sweep(c)
			}
		}
		select {
		case <-m.s.settled:
			m.leave(c)
			return
		case <-m.wake:
		case <-tick.C:
		}
	}
}

func (m *member) ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.joined
}

// beat renews the lease, or takes a new one with a higher fence.
func (m *member) beat(cfg *pgx.ConnConfig, c **pgx.Conn) error {
	ctx, cancel := deadline(m.silence() / 2)
	defer cancel()
	if *c == nil || (*c).IsClosed() {
		cfg := cfg.Copy()
		cfg.RuntimeParams["synchronous_commit"] = "off" // a lease lost in a crash is taken anew
		fresh, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return err
		}
		*c = fresh
	}
	lease := m.s.opts.Lease.Seconds()
	m.mu.Lock()
	fence := m.fence
	m.mu.Unlock()
	for _, sql := range []string{
		`UPDATE servers SET until = clock_timestamp() + $2 * interval '1 second'
			WHERE id = $1 AND fence = $3 AND until > clock_timestamp() RETURNING fence, clock_timestamp()`,
		`INSERT INTO servers (id, until, fence) VALUES ($1, clock_timestamp() + $2 * interval '1 second', nextval('fences') + 0 * $3::bigint)
			ON CONFLICT (id) DO UPDATE SET until = excluded.until, fence = excluded.fence RETURNING fence, clock_timestamp()`,
	} {
		asked := m.s.opts.Now()
		var got int64
		var at time.Time
		err := (*c).QueryRow(ctx, sql, m.id, lease, fence).Scan(&got, &at)
		if err == pgx.ErrNoRows {
			m.lost()
			continue
		}
		if err != nil {
			_ = (*c).Close(ctx)
			return err
		}
		m.renewed(asked, got, at)
		return nil
	}
	return fmt.Errorf("%w: no lease was given", store.ErrUnavailable)
}

func (m *member) renewed(asked time.Time, fence int64, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	answered := m.s.opts.Now()
	// The database looked at its clock somewhere between question and answer.
	offset := at.Sub(asked.Add(answered.Sub(asked) / 2))
	if d := offset - m.offset; m.heard.IsZero() && d.Abs() > 2*time.Second {
		m.s.log.Warn("this machine's clock differs from the database's; the database's counts", "difference", offset.Round(time.Millisecond).String())
	}
	m.offset = offset
	if m.heard.IsZero() || m.fence != fence || asked.Sub(m.heard) > m.silence() {
		m.lose()
		m.lease, m.lose = context.WithCancel(context.Background())
	}
	m.fence, m.heard = fence, asked
}

// lost ends what goes on under the lease.
func (m *member) lost() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.heard.IsZero() {
		m.s.log.Error("lease lost: this server is cut off from the database, or stood still")
	}
	m.heard = time.Time{}
	m.lose()
}

// watch gives the lease up when it is due, by our own clock, also while a renewal waits for its answer.
func (m *member) watch() {
	tick := time.NewTicker(m.s.opts.Lease / 24)
	defer tick.Stop()
	for {
		select {
		case <-m.s.settled:
			return
		case <-tick.C:
		}
		m.mu.Lock()
		due := !m.heard.IsZero() && m.s.opts.Now().Sub(m.heard) > m.silence()
		m.mu.Unlock()
		if due {
			m.lost()
		}
	}
}

// report says once when renewing begins to fail, and when it succeeds again.
func (m *member) report(err error) {
	if failing := err != nil; failing != m.failing {
		if m.failing = failing; failing {
			m.s.log.Warn("the lease can't be renewed", "error", err)
		} else {
			m.s.log.Info("the lease is renewed again")
		}
	}
}

// sweep forgets servers that are long gone, and their streams.
func (m *member) sweep(c *pgx.Conn) {
	ctx, cancel := deadline(opTimeout)
	defer cancel()
	for _, sql := range []string{
		"DELETE FROM streams WHERE NOT EXISTS (SELECT 1 FROM servers WHERE id = server AND until > clock_timestamp() - interval '1 hour')",
		"DELETE FROM servers WHERE until < clock_timestamp() - interval '1 hour'",
	} {
		if _, err := c.Exec(ctx, sql); err != nil {
			m.s.log.Warn("sweeping dead servers", "error", err)
			return
		}
	}
}

// leave gives the lease back, so that the others need not wait for its end.
func (m *member) leave(c *pgx.Conn) {
	m.mu.Lock()
	m.lose()
	m.heard = time.Time{}
	m.mu.Unlock()
	if c == nil || c.IsClosed() {
		return
	}
	ctx, cancel := deadline(time.Second)
	defer cancel()
	_, _ = c.Exec(ctx, "DELETE FROM servers WHERE id = $1", m.id)
	_ = c.Close(ctx)
}
