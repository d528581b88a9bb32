package notify

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// Config is what a Dispatcher needs. All but Cluster are required.
type Config struct {
	Store   store.Store
	Cluster store.Cluster // the servers that share Store; nil: this is the only one
	Keys    Keys
	Signer  crypto.Signer // of results: signs deliveries of webhooks without a secret
	// Policy returns what is in force for a node; no actions if nothing is.
	Policy func(ctx context.Context, namespace string, n store.Node) ([]policy.Action, rats.Ref, error)
	Now    func() time.Time
	Rand   io.Reader
	Log    *slog.Logger
}

// pace is how often things are done.
type pace struct {
	lease  time.Duration // how long a server's duty lasts without being renewed
	spaces time.Duration // how soon a new namespace is served
	look   time.Duration // how soon what nobody woke us for is noticed
	sweep  time.Duration // how soon silence is noticed
	first  time.Duration // pause after a delivery failed; doubled each time
	most   time.Duration // the longest pause
}

var usual = pace{
	lease: 15 * time.Second, spaces: 5 * time.Second, look: 30 * time.Second, sweep: 10 * time.Second,
	first: time.Second, most: 5 * time.Minute,
}

// Dispatcher delivers and acts for every namespace of a store. It is safe for concurrent use.
type Dispatcher struct {
	cfg      Config
	settings Settings
	limits   limits
	client   *http.Client
	pace     pace
}

// New returns a dispatcher, or says what is wrong with its settings.
func New(cfg Config, s Settings) (*Dispatcher, error) {
	l, err := s.check()
	if err != nil {
		return nil, err
	}
	return &Dispatcher{cfg: cfg, settings: s, limits: l, client: newClient(l), pace: usual}, nil
}

// HasCommand says whether the settings have a command of a name.
func (d *Dispatcher) HasCommand(name string) bool {
	_, ok := d.settings.Commands[name]
	return ok
}

func (d *Dispatcher) random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(d.cfg.Rand, b); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	return b, nil
}

func (d *Dispatcher) newID(prefix string) (string, error) {
	b, err := d.random(16)
	return prefix + hex.EncodeToString(b), err
}

// Run serves all namespaces until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) {
	var served sync.WaitGroup
	defer d.client.CloseIdleConnections()
	defer served.Wait()
	known := map[string]bool{}
	for ctx.Err() == nil {
		names, err := d.cfg.Store.Namespaces(ctx)
		if err != nil && ctx.Err() == nil {
			d.cfg.Log.Debug("looking for namespaces", "error", err)
		}
		for _, ns := range names {
			if !known[ns] {
				known[ns] = true
				served.Go(func() { d.serve(ctx, ns) })
			}
		}
		pause(ctx, d.pace.spaces, nil)
	}
}

// pause waits for a duration, the end of ctx, or a poke.
func pause(ctx context.Context, t time.Duration, poke <-chan struct{}) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-poke:
	}
}

// duty is one server's time of serving a namespace.
type duty struct {
	*Dispatcher
	namespace string
	space     store.Space
	fence     int64
}

// serve does the namespace's work while this server holds its lease, and waits for the lease otherwise.
func (d *Dispatcher) serve(ctx context.Context, namespace string) {
	space := d.cfg.Store.In(namespace)
	if d.cfg.Cluster == nil {
		(&duty{Dispatcher: d, namespace: namespace, space: space}).work(ctx)
		return
	}
	for ctx.Err() == nil {
		l, ok, err := d.acquire(ctx, space)
		if err != nil && ctx.Err() == nil {
			d.cfg.Log.Debug("acquiring the lease of notifications", "namespace", namespace, "error", err)
		}
		if ok {
			d.cfg.Log.Info("notifying", "namespace", namespace, "fence", l.Fence)
			d.hold(ctx, space, namespace, l)
		}
		pause(ctx, d.pace.lease/3, nil)
	}
}

// lease says which server notifies for a namespace. Times are the database's.
type lease struct {
	Server string    `json:"server"`
	Fence  int64     `json:"fence"` // grows with every holder
	Until  time.Time `json:"until"`
}

const leaseID = "notify"

// acquire takes the lease if nobody else has it.
func (d *Dispatcher) acquire(ctx context.Context, space store.Space) (lease, bool, error) {
	var mine lease
	ok := false
	err := space.Update(ctx, func(tx store.Tx) error {
		ok = false
		l, err := getItem[lease](tx, itemLease, leaseID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		now := d.cfg.Cluster.Now()
		if l.Server != "" && l.Server != d.cfg.Cluster.Server() && now.Before(l.Until) {
			return nil
		}
		mine = lease{Server: d.cfg.Cluster.Server(), Fence: l.Fence + 1, Until: now.Add(d.pace.lease)}
		ok = true
		return putItem(tx, itemLease, leaseID, mine)
	})
	return mine, ok && err == nil, err
}

// hold works under a lease and renews it. It returns when the lease is lost, or can't be renewed in time, and everything
// under it has ended.
func (d *Dispatcher) hold(ctx context.Context, space store.Space, namespace string, l lease) {
	under, end := context.WithCancel(ctx)
	var working sync.WaitGroup
	defer working.Wait()
	defer end()
	duty := &duty{Dispatcher: d, namespace: namespace, space: space, fence: l.Fence}
	working.Go(func() { duty.work(under) })
	for {
		pause(ctx, d.pace.lease/3, nil)
		if ctx.Err() != nil {
			end()
			working.Wait()
			d.release(ctx, duty)
			return
		}
		renewed := l
		within, cancel := context.WithTimeout(ctx, d.pace.lease/3)
		err := space.Update(within, func(tx store.Tx) error {
			if err := duty.holds(tx); err != nil {
				return err
			}
			renewed.Until = d.cfg.Cluster.Now().Add(d.pace.lease)
			return putItem(tx, itemLease, leaseID, renewed)
		})
		cancel()
		switch {
		case err == nil:
			l = renewed
		case errors.Is(err, errLost), !d.cfg.Cluster.Now().Add(d.pace.lease / 3).Before(l.Until):
			d.cfg.Log.Warn("no longer notifying", "namespace", namespace, "error", err)
			return
		}
	}
}

// release gives the lease up at an orderly stop, so that another server needn't wait for its end.
func (d *Dispatcher) release(ctx context.Context, u *duty) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := u.space.Update(ctx, func(tx store.Tx) error {
		if err := u.holds(tx); err != nil {
			return err
		}
		return putItem(tx, itemLease, leaseID, lease{Server: d.cfg.Cluster.Server(), Fence: u.fence, Until: d.cfg.Cluster.Now()})
	})
	if err != nil {
		d.cfg.Log.Debug("giving up the lease of notifications", "namespace", u.namespace, "error", err)
	}
}

// holds fails with errLost unless this server still has the lease, in the transaction that relies on it.
func (u *duty) holds(tx store.Tx) error {
	if u.cfg.Cluster == nil {
		return nil
	}
	l, err := getItem[lease](tx, itemLease, leaseID)
	if err != nil {
		return err
	}
	if l.Server != u.cfg.Cluster.Server() || l.Fence != u.fence {
		return errLost
	}
	return nil
}

// update runs f under the lease.
func (u *duty) update(ctx context.Context, f func(store.Tx) error) error {
	return u.space.Update(ctx, func(tx store.Tx) error {
		if err := u.holds(tx); err != nil {
			return err
		}
		return f(tx)
	})
}

// work delivers, runs commands and watches for silence until ctx ends.
func (u *duty) work(ctx context.Context) {
	b := newBell()
	var all sync.WaitGroup
	all.Go(func() { u.listen(ctx, b) })
	all.Go(func() { u.hooks(ctx, b) })
	all.Go(func() { u.commands(ctx, b) })
	all.Go(func() { u.sweeps(ctx) })
	all.Wait()
}

// bell wakes whoever waits for events.
type bell struct {
	mu    sync.Mutex
	pokes map[chan struct{}]string
}

func newBell() *bell { return &bell{pokes: map[chan struct{}]string{}} }

// add returns a channel that is poked when there is news, or news of a subject if one is named.
func (b *bell) add(subject string) chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan struct{}, 1)
	b.pokes[ch] = subject
	return ch
}

func (b *bell) remove(ch chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.pokes, ch)
}

func (b *bell) ring(subject string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch, wanted := range b.pokes {
		if wanted == "" || wanted == subject {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

// listen rings for every event from now on.
func (u *duty) listen(ctx context.Context, b *bell) {
	for ctx.Err() == nil {
		after := int64(0)
		err := u.space.View(ctx, func(tx store.Tx) (err error) { after, err = tx.Events().Last(); return err })
		if err == nil {
			b.ring("") // whatever came before
			for e, terr := range u.space.Tail(ctx, after) {
				if err = terr; err != nil {
					break
				}
				b.ring(e.Subject)
			}
		}
		if err != nil && ctx.Err() == nil {
			u.cfg.Log.Debug("following events for notifications", "namespace", u.namespace, "error", err)
		}
		pause(ctx, time.Second, nil)
	}
}
