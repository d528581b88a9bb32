package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/assay-attest/assay/internal/store"
)

// update is one caller of Update, waiting for its turn and then for the commit. Its function runs in the caller's own
// goroutine while the writer stands still, so that a panic or Goexit in it strikes the caller and not the writer.
type update struct {
	ctx       context.Context
	namespace string            // empty: not in a namespace (Create)
	raw       func(*conn) error // instead of a turn: runs on the writer, in no transaction (Migrate)

	state atomic.Int32 // waiting → running or dropped
	turn  chan *tx     // the writer's leave to run
	ran   chan error   // what the function returned
	done  chan error   // the answer, after the commit
	err   error        // of this update alone
}

const (
	waiting = iota
	running
	dropped
)

var errPanicked = errors.New("update function didn't return")

// submit queues u and waits for its answer; a context that ends before the writer began u drops it.
func (s *db) submit(u *update) error {
	if err := s.enqueue(u); err != nil {
		return err
	}
	defer s.inflight.Add(-1)
	select {
	case err := <-u.done:
		return err
	case <-u.ctx.Done():
		if u.state.CompareAndSwap(waiting, dropped) {
			return u.ctx.Err()
		}
		return <-u.done
	}
}

// enqueue counts u as under way until its caller has its answer.
func (s *db) enqueue(u *update) (err error) {
	if err := u.ctx.Err(); err != nil {
		return err
	}
	u.turn, u.ran, u.done = make(chan *tx, 1), make(chan error, 1), make(chan error, 1)
	s.inflight.Add(1)
	select {
	case <-s.quit:
		err = ErrClosed
	default:
		select {
		case s.queue <- u:
			return nil
		case <-u.ctx.Done():
			err = u.ctx.Err()
		case <-s.quit:
			err = ErrClosed
		}
	}
	s.inflight.Add(-1)
	return err
}

// update runs f on the writer's connection in this goroutine, and returns once it is durable or undone.
func (s *db) update(ctx context.Context, namespace string, f func(*tx) error) error {
	if err := s.current(); err != nil {
		return err
	}
	u := &update{ctx: ctx, namespace: namespace}
	if err := s.enqueue(u); err != nil {
		return err
	}
	defer s.inflight.Add(-1)
	select {
	case t := <-u.turn:
		u.call(t, f)
	case err := <-u.done:
		return err // the batch failed before our turn
	case <-ctx.Done():
		if u.state.CompareAndSwap(waiting, dropped) {
			return ctx.Err()
		}
		select {
		case t := <-u.turn:
			u.call(t, f)
		case err := <-u.done:
			return err
		}
	}
	return <-u.done
}

// call runs f and tells the writer, whichever way f ends.
func (u *update) call(t *tx, f func(*tx) error) {
	err := errPanicked
	defer func() {
		t.ended = true
		u.ran <- err
	}()
	err = f(t)
}

// write is the writer: the only user of c.
func (s *db) write(c *conn) {
	defer close(s.stopped)
	w := &writer{db: s, c: c}
	for {
		select {
		case u := <-s.queue:
			w.serve(u)
		case <-s.quit:
			w.drain()
			s.closeErr = c.close()
			return
		}
	}
}

// writer gathers updates into commits.
type writer struct {
	*db
	c      *conn
	last   int  // size of the previous batch: about how many callers to expect again
	forget bool // deleted secrets still lie in the write-ahead log
}

// drain answers those who came too late.
func (w *writer) drain() {
	for {
		select {
		case u := <-w.queue:
			if u.state.CompareAndSwap(waiting, running) {
				u.done <- ErrClosed
			}
		default:
			// An update may slip into the queue after this: the queue's buffer accepts what nobody reads.
			// It is answered here while any caller is between its look at quit and its send.
			if w.inflight.Load() == 0 {
				return
			}
			time.Sleep(50 * time.Microsecond)
		}
	}
}

func (w *writer) serve(first *update) {
	if first.raw != nil {
		if first.state.CompareAndSwap(waiting, running) {
			first.done <- first.raw(w.c)
		}
		return
	}
	if _, err := w.c.exec("BEGIN IMMEDIATE"); err != nil {
		if first.state.CompareAndSwap(waiting, running) {
			first.done <- fmt.Errorf("beginning transaction: %w", err)
		}
		return
	}
	b := &batch{writer: w, events: map[string]bool{}}
	next := b.gather(first)
	w.last = len(b.members)
	b.commit()
	if next != nil {
		w.serve(next)
	}
}

// batch is one SQL transaction.
type batch struct {
	*writer
	members []*update
	events  map[string]bool // namespaces that got events
	forgets bool
	broken  error // the transaction can't be committed
}

// gather runs first and all that join within MaxWait. It returns an update that can't be part of a batch, if it met one.
func (b *batch) gather(first *update) (next *update) {
	timer := time.NewTimer(b.opts.MaxWait)
	defer timer.Stop()
	for u := first; ; {
		if u.raw != nil {
			return u
		}
		b.run(u)
		if b.broken != nil || len(b.members) >= b.opts.MaxBatch {
			return nil
		}
		select {
		case u = <-b.queue:
			continue
		default:
		}
		// Nobody is on the way, and no more came last time: waiting would only delay this commit.
		if len(b.members) >= b.last && b.inflight.Load() <= int64(len(b.members)) {
			return nil
		}
		select {
		case u = <-b.queue:
		case <-timer.C:
			return nil
		case <-b.quit:
			return nil
		}
	}
}

// run gives u its turn inside a savepoint. Its error undoes the savepoint and nothing else.
func (b *batch) run(u *update) {
	if !u.state.CompareAndSwap(waiting, running) {
		return
	}
	b.members = append(b.members, u)
	if _, err := b.c.exec("SAVEPOINT one"); err != nil {
		b.broken = err
		return
	}
	t := &tx{c: b.c, ctx: u.ctx, namespace: u.namespace, now: b.opts.Now, server: b.server, writes: true}
	u.err = t.exists()
	if u.err == nil {
		u.turn <- t
		u.err = <-u.ran
	}
	if u.err == nil {
		u.err = t.err // the function swallowed a failure of the database
	}
	if u.err == nil {
		_, b.broken = b.c.exec("RELEASE one")
		if t.appended {
			b.events[u.namespace] = true
		}
		b.forgets = b.forgets || t.forgot
		return
	}
	// SQLite may already have undone everything (disk full, I/O error); then the savepoint is gone and this fails.
	_, err := b.c.exec("ROLLBACK TO one")
	if err == nil {
		_, err = b.c.exec("RELEASE one")
	}
	if err != nil {
		b.broken = errors.Join(t.err, err)
	}
}

// commit makes the batch durable and answers its members. All of them wait for it, also those whose own error is known:
// it may rest on what another member wrote.
func (b *batch) commit() {
	err := b.broken
	if err == nil {
		_, err = b.c.exec("COMMIT")
	}
	if err != nil {
		err = fmt.Errorf("committing: %w", err)
		_, _ = b.c.exec("ROLLBACK") // fails if SQLite has done it already
		b.log.Error("commit failed; its updates were undone", "updates", len(b.members), "error", err)
	}
	for _, u := range b.members {
		switch {
		case err == nil:
			u.done <- u.err
		case u.err == nil:
			u.done <- err
		default: // not wrapped: "spent" and "conflict" may have been seen in what was undone
			u.done <- fmt.Errorf("%w; before that: %s", err, u.err)
		}
	}
	if err != nil {
		return
	}
	for ns := range b.events {
		b.wakers.wake(ns)
	}
	b.forget = b.forget || b.forgets
	if b.forget {
		b.forget = !b.c.truncateLog()
	}
}

// truncateLog empties the write-ahead log, where old pages with deleted secrets still stand. A reader of an older
// snapshot prevents it; the writer doesn't wait for that, but tries again after the next commit.
func (c *conn) truncateLog() bool {
	if c.set(pragma{"busy_timeout", "0", "0"}) != nil {
		return false
	}
	busy := int64(1)
	err := c.query("PRAGMA wal_checkpoint(TRUNCATE)", nil, func(r row) error { busy = r.int(0); return nil })
	return c.set(pragma{"busy_timeout", "5000", "5000"}) == nil && err == nil && busy == 0
}

var _ store.Store = (*db)(nil)
