package sqlite

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/assay-attest/assay/internal/store"
)

// space implements store.Space.
type space struct {
	s         *db
	namespace string
}

// View runs f over one snapshot, on a connection that can't write. It may run beside any number of views and updates.
// The context is looked at between statements.
func (p space) View(ctx context.Context, f func(store.Tx) error) error {
	if p.namespace == "" {
		return missing("namespace", "")
	}
	return p.s.view(ctx, p.namespace, func(t *tx) error { return f(t) })
}

// Update runs f as one of possibly many updates of one commit. f runs in the caller's goroutine, but all other updates
// wait for it: it must not wait for another Update, nor for anything slow.
func (p space) Update(ctx context.Context, f func(store.Tx) error) error {
	if p.namespace == "" {
		return missing("namespace", "")
	}
	return p.s.update(ctx, p.namespace, func(t *tx) error { return f(t) })
}

// Tail yields the events after a sequence number and waits for more. It ends without error when ctx ends, and after the
// first error. No snapshot is held while an event is being handled.
func (p space) Tail(ctx context.Context, after int64) iter.Seq2[store.Event, error] {
	const page = 256
	return func(yield func(store.Event, error) bool) {
		for ctx.Err() == nil {
			woken := p.s.wakers.channel(p.namespace) // before reading: a commit in between closes it
			var events []store.Event
			err := p.View(ctx, func(t store.Tx) (err error) {
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

// await returns on a commit with events, on the end of ctx or of the store, or when it is time to look for what another
// process wrote.
func (s *db) await(ctx context.Context, woken <-chan struct{}) {
	timer := time.NewTimer(s.tuning.poll)
	defer timer.Stop()
	select {
	case <-woken:
	case <-timer.C:
	case <-ctx.Done():
	case <-s.quit:
	}
}

func (s *db) view(ctx context.Context, namespace string, f func(*tx) error) error {
	if err := s.current(); err != nil {
		return err
	}
	c, err := s.readers.take(ctx, s.quit)
	if err != nil {
		return err
	}
	t := &tx{c: c, ctx: ctx, namespace: namespace, now: s.opts.Now, server: s.server}
	defer func() {
		t.ended = true
		_, err := c.exec("ROLLBACK") // ends the snapshot
		s.readers.give(c, err)
	}()
	if _, err := c.exec("BEGIN"); err != nil {
		return fmt.Errorf("beginning view: %w", err)
	}
	if err := t.exists(); err != nil {
		return err
	}
	return f(t)
}

// readers is the pool of read-only connections: as many places as connections may be open.
type readers struct {
	dial   func() (*conn, error)
	places chan struct{}
	mu     *sync.Mutex
	idle   []*conn
	closed bool
}

func newReaders(n int, dial func() (*conn, error)) readers {
	return readers{dial: dial, places: make(chan struct{}, n), mu: &sync.Mutex{}}
}

func (r *readers) take(ctx context.Context, quit <-chan struct{}) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case r.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-quit:
		return nil, ErrClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		<-r.places
		return nil, ErrClosed
	}
	if n := len(r.idle); n > 0 {
		c := r.idle[n-1]
		r.idle = r.idle[:n-1]
		return c, nil
	}
	c, err := r.dial()
	if err != nil {
		<-r.places
		return nil, fmt.Errorf("opening database for reading: %w", err)
	}
	return c, nil
}

// give returns a connection; one that failed, or that outlived the pool, is closed.
func (r *readers) give(c *conn, failed error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if failed != nil || r.closed {
		_ = c.close()
	} else {
		r.idle = append(r.idle, c)
	}
	<-r.places
}

func (r *readers) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	var errs []error
	for _, c := range r.idle {
		errs = append(errs, c.close())
	}
	r.idle = nil
	return errors.Join(errs...)
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
