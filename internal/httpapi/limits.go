package httpapi

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// bound is how many requests a second a caller may make, and how many at once.
type bound struct {
	rate  rate.Limit
	burst int
}

// bounds per kind of caller (R046). An anonymous caller is its address, any other its credential.
var bounds = map[Kind]bound{
	Anonymous: {100, 300},
	NodeAgent: {20, 60},
	Reader:    {200, 400},
	Admin:     {200, 400},
}

// maxInFlight bounds the bytes of large bodies that are read at the same time, all callers together: each is held in
// memory a few times over while it is decoded and judged.
const maxInFlight = 256 << 20

// largeBody is the size from which a body counts.
const largeBody = 1 << 20

// maxCallers bounds the memory of the limiter; the callers longest silent are forgotten.
const maxCallers = 20_000

type limits struct {
	now func() time.Time

	mu       sync.Mutex
	callers  map[string]*caller
	inFlight int64
}

type caller struct {
	limit *rate.Limiter
	seen  time.Time
}

func newLimits(now func() time.Time) *limits { return &limits{now: now, callers: map[string]*caller{}} }

// allow takes one request of the caller's budget.
func (l *limits) allow(p Principal, r *http.Request) bool {
	key := string(p.Kind) + ":" + p.Name
	switch p.Kind {
	case Anonymous, "":
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		key = "addr:" + host
	case NodeAgent:
		key += "@" + p.Peer.Namespace
	}
	b, ok := bounds[p.Kind]
	if !ok {
		b = bounds[Anonymous]
	}
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.callers[key]
	if c == nil {
		if len(l.callers) >= maxCallers {
			l.forget(now)
		}
		c = &caller{limit: rate.NewLimiter(b.rate, b.burst)}
		l.callers[key] = c
	}
	c.seen = now
	return c.limit.AllowN(now, 1)
}

// admit reserves room for a request's body and returns how to give it back; false if there is none. A body of unknown
// length counts as the largest the route takes.
func (l *limits) admit(length, most int64) (release func(), ok bool) {
	if length < 0 || length > most {
		length = most
	}
	if length < largeBody {
		return func() {}, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inFlight > 0 && l.inFlight+length > maxInFlight {
		return nil, false
	}
	l.inFlight += length
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.inFlight -= length
	}, true
}

// Bounds of judging: how many submissions are judged at the same time (enough to fill the database's commits), how many may
// wait for that, unread, and for how long. Whoever comes beyond is told to come again: judging late, while all agents ask
// again, would judge nobody.
const (
	maxJudged  = 128
	maxWaiting = 4096
	maxWait    = 5 * time.Second
)

// queue admits callers to what only some may do at once, in the order in which they came.
type queue struct {
	places  chan struct{}
	waiting atomic.Int64
	most    int64
	patient time.Duration
	refused atomic.Uint64
}

func newQueue(places, waiting int, patient time.Duration) *queue {
	return &queue{places: make(chan struct{}, places), most: int64(waiting), patient: patient}
}

// enter waits for a place and returns how to give it back.
func (q *queue) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { <-q.places }
	select {
	case q.places <- struct{}{}:
		return leave, nil
	default:
	}
	defer q.waiting.Add(-1)
	if q.waiting.Add(1) > q.most {
		q.refused.Add(1)
		return nil, CodeOverloaded.Missing("queue", "a place", "none")
	}
	timer := time.NewTimer(q.patient)
	defer timer.Stop()
	select {
	case q.places <- struct{}{}:
		return leave, nil
	case <-timer.C:
		q.refused.Add(1)
		return nil, CodeOverloaded.Missing("queue", "a place within "+q.patient.String(), "none")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forget drops callers whose budget is full again, and if all are busy a tenth of them.
func (l *limits) forget(now time.Time) {
	for k, c := range l.callers {
		if now.Sub(c.seen) > 10*time.Second {
			delete(l.callers, k)
		}
	}
	for k := range l.callers {
		if len(l.callers) < maxCallers*9/10 {
			return
		}
		delete(l.callers, k)
	}
}
