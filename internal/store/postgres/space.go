package postgres

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

// space implements store.Space.
type space struct {
	s         *db
	namespace string
}

// View runs f over one snapshot, in a session that can't write. It may run beside any number of views and updates. The
// context is looked at between statements.
func (p space) View(ctx context.Context, f func(store.Tx) error) error {
	if !store.ValidNamespace(p.namespace) {
		return missing("namespace", p.namespace)
	}
	return p.s.view(ctx, p.namespace, func(t *tx) error { return f(t) })
}

// Update runs f as one of possibly many updates of one commit. f runs in the caller's goroutine, but all other updates of
// the namespace, on every server, wait for it: it must not wait for another Update, nor for anything slow.
func (p space) Update(ctx context.Context, f func(store.Tx) error) error {
	if !store.ValidNamespace(p.namespace) {
		return missing("namespace", p.namespace)
	}
	return p.s.update(ctx, p.namespace, func(t *tx) error { return f(t) })
}

// Tail yields the events after a sequence number and waits for more. It ends without error when ctx ends, and after the
// first error. No snapshot is held while an event is being handled.
//
// Numbers are given under the namespace's lock, which is held until the commit is visible: when an event can be read, so
// can all with lower numbers. Reading by number therefore misses none, whichever server wrote it.
func (p space) Tail(ctx context.Context, after int64) iter.Seq2[store.Event, error] {
	const page = 256
	return func(yield func(store.Event, error) bool) {
		for ctx.Err() == nil {
			woken := p.s.wakers.channel(p.namespace) // before reading: a commit in between closes it
			var events []store.Event
			err := p.View(ctx, func(t store.Tx) (err error) {
				if last, err := t.Events().Last(); err != nil || last <= after {
					return err
				}
				events, err = t.Events().After(after, page)
				return err
			})
			if err != nil {
				if ctx.Err() == nil {
					yield(store.Event{}, err)
				}
				return
			}
			for _, e := range events {
				if ctx.Err() != nil || !yield(e, nil) {
					return
				}
				after = e.Seq
			}
			if len(events) < page {
				p.s.await(ctx, woken)
			}
		}
	}
}

// await returns on a commit with events here or a notification from elsewhere, on the end of ctx or of the store, or
// when it is time to look whether a notification got lost.
func (s *db) await(ctx context.Context, woken <-chan struct{}) {
	timer := time.NewTimer(poll)
	defer timer.Stop()
	select {
	case <-woken:
	case <-timer.C:
	case <-ctx.Done():
	case <-s.quit:
	}
}

func (s *db) view(ctx context.Context, namespace string, f func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.usable(); err != nil {
		return err
	}
	_, lease, err := s.member.held()
	if err != nil {
		return err
	}
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	stop := context.AfterFunc(lease, cancel) // all sessions may hang, and waiting for one be in vain
	c, err := s.readers.Acquire(dial)
	stop()
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("opening database for reading: %w", unavailable(err))
	}
	t := &tx{s: newSession(lease, c.Conn()), ctx: ctx, namespace: namespace, now: s.member.now, member: s.member, counters: &counters{}}
	defer func() {
		t.ended = true
		if c.Conn().PgConn().TxStatus() != 'I' {
			if _, err := t.s.run("ROLLBACK", nil, nil); err != nil { // ends the snapshot
				done, cancel := deadline(time.Millisecond)
				defer cancel()
				_ = c.Conn().Close(done)
			}
		}
		c.Release()
	}()
	t.s.later("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	found := false
	_, err = t.s.run("SELECT epoch, purged, events, leaves, fence, leaf FROM namespaces WHERE namespace = $1", []any{namespace},
		func(r pgx.Rows) error {
			found = true
			n := t.counters
			return r.Scan(&n.epoch, &n.purged, &n.events, &n.leaves, &n.fence, &n.leaf)
		})
	if err != nil {
		return fmt.Errorf("beginning view: %w", err)
	}
	if !found && namespace != "" {
		return missing("namespace", namespace)
	}
	return f(t)
}

// wakers tells those who wait for events of a namespace that there are some: a channel that is closed by the next commit
// that has them.
type wakers struct {
	mu sync.Mutex
	m  map[string]chan struct{}
}

func (w *wakers) channel(namespace string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.m[namespace]
	if !ok {
		c = make(chan struct{})
		w.m[namespace] = c
	}
	return c
}

func (w *wakers) wake(namespace string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.m[namespace]; ok {
		close(c)
		delete(w.m, namespace)
	}
}

func (w *wakers) all() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.m {
		close(c)
	}
	clear(w.m)
}
