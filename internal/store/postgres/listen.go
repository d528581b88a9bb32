package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

// channel carries the names of namespaces that got events. What comes over it is a hint: nothing is lost without it.
const channel = "assay_events"

// hint tells the other servers of new events, after their commit and not in it: PostgreSQL would take a lock of the whole
// database for that. Many commits make one hint.
func (s *db) hint() {
	for {
		var names map[string]bool
		select {
		case <-s.settled:
			return
		case n := <-s.hints:
			names = map[string]bool{n: true}
		}
		for more := true; more; {
			select {
			case n := <-s.hints:
				names[n] = true
			default:
				more = false
			}
		}
		for n := range names {
			ctx, cancel := deadline(opTimeout)
			_, _ = s.writers.Exec(ctx, "SELECT pg_notify($1, $2)", channel, n) // they poll
			cancel()
		}
		select {
		case <-s.settled:
			return
		case <-time.After(hintEvery):
		}
	}
}

// listen wakes this server's tails on hints of the others.
func (s *db) listen(cfg *pgx.ConnConfig) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-s.settled:
			cancel()
		case <-stop:
		}
	}()
	for ctx.Err() == nil {
		err := s.listenOnce(ctx, cfg)
		if ctx.Err() != nil {
			return
		}
		s.log.Debug("listening for events of other servers", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(poll):
		}
	}
}

func (s *db) listenOnce(ctx context.Context, cfg *pgx.ConnConfig) error {
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := pgx.ConnectConfig(dial, cfg.Copy())
	if err != nil {
		return err
	}
	defer func() {
		done, cancel := deadline(time.Second)
		defer cancel()
		_ = c.Close(done)
	}()
	if _, err := c.Exec(dial, "LISTEN "+channel); err != nil {
		return err
	}
	s.wakers.all() // whatever was missed
	for {
		n, err := c.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if store.ValidNamespace(n.Payload) {
			s.wakers.wake(n.Payload)
		}
	}
}
