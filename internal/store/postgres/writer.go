package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/assay-attest/assay/internal/store"
)

// update is one caller of Update, waiting for its turn and then for the commit. Its function runs in the caller's own
// goroutine while the writer stands still, so that a panic or Goexit in it strikes the caller and not the writer.
type update struct {
	ctx   context.Context
	alone bool // an earlier try failed with others: one must not spoil the batch of all

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

var (
	errPanicked = errors.New("update function didn't return")
	// errUndone marks a transaction that certainly didn't commit, for no fault of the function's.
	errUndone = errors.New("transaction was undone")
)

// tries is how often an update is run that the database undid.
const tries = 3

// queue gathers the updates of one namespace into commits. Its writer is a goroutine that lives while there are any.
type queue struct {
	*db
	namespace string

	mu       sync.Mutex
	waiting  []*update
	running  bool
	inflight int           // updates that were begun and not yet answered
	arrived  chan struct{} // an update joined
	last     int           // size of the previous batch: about how many callers to expect again
}

// update runs f in this goroutine, in a transaction under the namespace's lock, and returns once it is durable or undone.
func (s *db) update(ctx context.Context, namespace string, f func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	defer s.updates.Done()
	q := s.queue(namespace)
	for try := 1; ; try++ {
		err := q.update(ctx, f, try > 1)
		if !errors.Is(err, errUndone) || try == tries || ctx.Err() != nil || s.member.alive() != nil {
			return err
		}
	}
}

// queue returns a namespace's queue. Names that don't exist must not fill the memory: valid ones get one, and it is dropped
// again when it runs empty.
func (s *db) queue(namespace string) *queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[namespace]
	if q == nil {
		q = &queue{db: s, namespace: namespace, arrived: make(chan struct{}, 1)}
		s.queues[namespace] = q
	}
	q.mu.Lock()
	q.inflight++ // keeps it from being dropped before the update is in
	q.mu.Unlock()
	return q
}

func (q *queue) update(ctx context.Context, f func(*tx) error, again bool) error {
	u := &update{ctx: ctx, alone: again, turn: make(chan *tx, 1), ran: make(chan error, 1), done: make(chan error, 1)}
	q.mu.Lock()
	if again {
		q.inflight++
	}
	q.waiting = append(q.waiting, u)
	if !q.running {
		q.running = true
		go q.write()
	}
	q.mu.Unlock()
	defer q.answered()
	select {
	case q.arrived <- struct{}{}:
	default:
	}
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

func (q *queue) answered() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inflight--
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

// take returns the next update, nil if there is none.
func (q *queue) take() *update {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return nil
	}
	u := q.waiting[0]
	q.waiting = q.waiting[1:]
	return u
}

// write commits batches until nobody waits.
func (q *queue) write() {
	for {
		first := q.take()
		if first == nil && q.rest() {
			return
		}
		for first != nil {
			first = q.serve(first)
		}
	}
}

// rest ends the writer if really nobody waits.
func (q *queue) rest() bool {
	q.db.mu.Lock()
	defer q.db.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) > 0 {
		return false
	}
	q.running = false
	if q.inflight == 0 {
		delete(q.queues, q.namespace)
	}
	return true
}

// serve commits first and those who join it. It returns an update that wanted a batch of its own, if it met one.
func (q *queue) serve(first *update) (next *update) {
	if first.state.Load() == dropped {
		return nil
	}
	b := &batch{queue: q}
	ctx, err := q.lease()
	if err == nil {
		var c *pgxpool.Conn
		dial, cancel := context.WithTimeout(ctx, dialTimeout)
		c, err = q.writers.Acquire(dial)
		cancel()
		if err == nil {
			defer c.Release()
			b.s = newSession(ctx, c.Conn())
			err = b.begin()
		}
	}
	if err != nil {
		if first.state.CompareAndSwap(waiting, running) {
			first.done <- unavailable(err)
		}
		b.rollback()
		return nil
	}
	next = b.gather(first)
	q.last = len(b.members)
	b.commit()
	return next
}

func (q *queue) lease() (context.Context, error) {
	_, ctx, err := q.member.held()
	return ctx, err
}

// counters are the numbers of a namespace's row, which an update reads and moves under the row's lock.
type counters struct {
	epoch, purged, events, leaves, fence int64
	leaf                                 string
}

// batch is one SQL transaction.
type batch struct {
	*queue
	s       *session
	members []*update
	now     counters
	then    counters // as read
	broken  error    // the transaction can't be committed
}

// begin takes the namespace's lock, which every server's updates take first, and has the database confirm the lease.
func (b *batch) begin() error {
	fence, _, err := b.member.held()
	if err != nil {
		return err
	}
	found, mine := false, false
	b.s.later("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	_, err = b.s.run(`SELECT epoch, purged, events, leaves, fence, leaf FROM namespaces WHERE namespace = $1 FOR NO KEY UPDATE`,
		[]any{b.namespace}, func(r pgx.Rows) error {
			found = true
			return r.Scan(&b.now.epoch, &b.now.purged, &b.now.events, &b.now.leaves, &b.now.fence, &b.now.leaf)
		})
	if err != nil {
		return err
	}
	if !found {
		return missing("namespace", b.namespace)
	}
	// After the lock: waiting for it may have taken longer than the lease.
	_, err = b.s.run("SELECT EXISTS (SELECT FROM servers WHERE id = $1 AND fence = $2 AND until > clock_timestamp())",
		[]any{b.member.id, fence}, func(r pgx.Rows) error { return r.Scan(&mine) })
	if err != nil {
		return err
	}
	if !mine {
		return fmt.Errorf("%w: the lease of this server has ended", store.ErrUnavailable)
	}
	b.then = b.now
	return nil
}

// gather runs first and all that join within MaxWait.
func (b *batch) gather(first *update) (next *update) {
	timer := time.NewTimer(b.opts.MaxWait)
	defer timer.Stop()
	for u := first; ; {
		if u != nil {
			if u.alone && len(b.members) > 0 {
				return u
			}
			b.run(u)
			if b.broken != nil || u.alone || len(b.members) >= b.opts.MaxBatch {
				return nil
			}
		}
		if u = b.take(); u != nil {
			continue
		}
		// Nobody is on the way, and no more came last time: waiting would only delay this commit.
		b.mu.Lock()
		due := len(b.members) >= b.last && b.inflight <= len(b.members)
		b.mu.Unlock()
		if due {
			return nil
		}
		select {
		case <-b.arrived:
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
	before := b.now
	b.s.later("SAVEPOINT one")
	t := &tx{s: b.s, ctx: u.ctx, namespace: b.namespace, now: b.member.now, member: b.member, counters: &b.now, writes: true, names: map[string]string{}}
	u.turn <- t
	u.err = <-u.ran
	switch {
	case b.s.broken != nil:
		b.broken = b.s.broken
		return
	case u.err == nil:
		u.err = t.err // the function swallowed a failure of the database
	}
	if u.err == nil {
		b.s.later("RELEASE SAVEPOINT one")
		return
	}
	b.now = before
	if t.err != nil && t.text {
		t.err = nil
	}
	if _, err := b.s.run("ROLLBACK TO SAVEPOINT one", nil, nil); err != nil {
		b.broken = err
		return
	}
	b.s.later("RELEASE SAVEPOINT one")
}

// commit makes the batch durable and answers its members. All of them wait for it, also those whose own error is known:
// it may rest on what another member wrote.
func (b *batch) commit() {
	err := b.broken
	if err == nil {
		err = b.finish()
	} else {
		err = fmt.Errorf("%w: %w", errUndone, err)
	}
	if err != nil {
		b.log.Error("commit failed; its updates were undone unless the answer alone was lost", "updates", len(b.members), "error", err)
		b.rollback()
	}
	for _, u := range b.members {
		switch {
		case err != nil:
			u.done <- err
		default:
			u.done <- u.err
		}
	}
	if err == nil && b.now.events != b.then.events {
		b.wakers.wake(b.namespace)
		select {
		case b.hints <- b.namespace:
		default: // they poll
		}
	}
}

// finish writes the namespace's row and commits. An error that is errUndone says that nothing was committed.
func (b *batch) finish() error {
	if b.now != b.then {
		_, err := b.s.run(`UPDATE namespaces SET epoch = $2, purged = $3, events = $4, leaves = $5, fence = $6, leaf = $7 WHERE namespace = $1`,
			[]any{b.namespace, b.now.epoch, b.now.purged, b.now.events, b.now.leaves, b.now.fence, b.now.leaf}, nil)
		if err != nil {
			return fmt.Errorf("committing: %w: %w", errUndone, err)
		}
	}
	tag, err := b.s.run("COMMIT", nil, nil)
	if err == nil && tag.String() != "COMMIT" {
		err = errUndone // PostgreSQL answers ROLLBACK to the COMMIT of a failed transaction
	}
	if err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}

// rollback ends the transaction, so that the connection can be used again; the pool closes one on which that fails.
func (b *batch) rollback() {
	if b.s == nil || b.s.c.IsClosed() || b.s.c.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := deadline(time.Second)
	defer cancel()
	if _, err := b.s.c.Exec(ctx, "ROLLBACK"); err != nil {
		_ = b.s.c.Close(ctx)
	}
}
