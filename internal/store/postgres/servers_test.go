package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/testkit/pg"
	"github.com/assay-attest/assay/rats"
)

// pair opens two servers over one database, the second through a proxy.
func pair(t *testing.T, lease time.Duration) (a, b *db, between *pg.Proxy) {
	t.Helper()
	address := pg.URL(t)
	between = pg.NewProxy(t, address)
	o := options()
	o.Lease = lease
	a, b = openTest(t, address, o), openTest(t, between.Address, o)
	if err := a.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(between.Restore)
	return a, b, between
}

func put(id string) func(store.Tx) error {
	return func(tx store.Tx) error { return tx.Nodes().Put(store.Node{ID: "nd_" + id, Name: id}) }
}

func within(t *testing.T, d time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

// R038: S40 across servers: once a Bump has returned on one, no update judged under the older epoch commits on another.
func TestNothingCommitsUnderAnOlderEpochOnAnotherServer(t *testing.T) {
	a, b, _ := pair(t, 0)
	var current atomic.Int64
	current.Store(1)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var accepted atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				judged := current.Load()
				err := b.In("one").Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
					if err := tx.Epochs().Hold(judged); err != nil {
						return err
					}
					return tx.Records().Put(store.Record{Epoch: judged, Result: rats.Result{ID: fmt.Sprintf("at_%d_%d", w, i), Subject: "node/a"}})
				})
				if err == nil {
					accepted.Add(1)
				} else if !errors.Is(err, store.ErrEpoch) {
					t.Error(err)
				}
			}
		})
	}
	older := func(e int64) (n int) {
		if err := a.In("one").View(t.Context(), func(tx store.Tx) error {
			rs, err := tx.Records().Since("node/a", time.Time{}, 0)
			for _, r := range rs {
				if r.Epoch < e {
					n++
				}
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		return n
	}
	for range 10 {
		var e int64
		if err := a.In("one").Update(t.Context(), func(tx store.Tx) (err error) { e, err = tx.Epochs().Bump(); return err }); err != nil {
			t.Fatal(err)
		}
		n := older(e)
		current.Store(e)
		time.Sleep(3 * time.Millisecond)
		if m := older(e); m != n {
			t.Errorf("%d judgements of before epoch %d were committed after it", m-n, e)
		}
	}
	stop()
	wg.Wait()
	if accepted.Load() == 0 {
		t.Error("nothing was accepted: the test shows nothing")
	}
}

func TestEventsOfManyServersComeOnceAndInOrder(t *testing.T) {
	a, b, _ := pair(t, 0)
	const each = 150
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range []*db{a, b} {
		wg.Go(func() {
			next := int64(1)
			for e, err := range s.In("one").Tail(ctx, 0) {
				if err != nil || e.Seq != next {
					t.Errorf("event %d, want %d: %v", e.Seq, next, err)
					return
				}
				if next++; next > 4*each {
					return
				}
			}
			t.Errorf("ended before event %d", next)
		})
		for range 2 {
			wg.Go(func() {
				for i := range each {
					err := s.In("one").Update(ctx, func(tx store.Tx) error {
						_, err := tx.Events().Append(store.Event{Kind: "k"})
						_, err2 := tx.Audit().Append(store.AuditEntry{Verb: fmt.Sprint(i)})
						return errors.Join(err, err2)
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	if err := a.In("one").View(t.Context(), func(tx store.Tx) error {
		all, err := tx.Audit().After(0, 0)
		if len(all) != 4*each {
			t.Errorf("%d audit entries", len(all))
		}
		return errors.Join(err, store.VerifyAudit(all))
	}); err != nil {
		t.Error(err)
	}
}

// S41: a server that stood still while the others took over can't commit what it had begun.
func TestAServerThatStoodStillCannotCommitLate(t *testing.T) {
	a, b, between := pair(t, 600*time.Millisecond)
	held, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		ended <- b.In("one").Update(context.Background(), func(tx store.Tx) error {
			if err := put("late")(tx); err != nil {
				return err
			}
			once.Do(func() { close(held) })
			between.Cut() // in the middle of the transaction, with the namespace locked
			return nil
		})
	}()
	<-held
	began := time.Now()
	var err error
	within(t, 10*time.Second, "the other server goes on", func() bool {
		err = a.In("one").Update(t.Context(), put("early"))
		return err == nil
	})
	t.Logf("the other server went on after %s", time.Since(began).Round(time.Millisecond))
	between.Restore()
	if err := <-ended; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the late update: %v", err)
	}
	if err := a.In("one").View(t.Context(), func(tx store.Tx) error { _, err := tx.Nodes().Get("nd_late"); return err }); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the late update committed: %v", err)
	}
	within(t, 10*time.Second, "the server comes back", func() bool { return b.In("one").Update(t.Context(), put("again")) == nil })
}

// S40: a server without its database says that it knows nothing, at once and for reads too.
func TestAServerCutOffFromTheDatabaseKnowsNothing(t *testing.T) {
	a, b, between := pair(t, 600*time.Millisecond)
	instance := rats.SHA256([]byte("instance"))
	if err := b.In("one").Update(t.Context(), func(tx store.Tx) error { _, _, err := tx.Streams().Open("nd_1", instance); return err }); err != nil {
		t.Fatal(err)
	}
	live := func() int {
		n := -1
		if err := a.In("one").View(t.Context(), func(tx store.Tx) error {
			list, err := tx.Streams().Of("nd_1")
			n = len(list)
			return err
		}); err != nil {
			t.Error(err)
		}
		return n
	}
	if n := live(); n != 1 {
		t.Fatalf("%d streams, want 1", n)
	}
	between.Cut()
	within(t, time.Second, "the server notices", func() bool { return b.Alive() != nil })
	began := time.Now()
	for _, err := range []error{
		b.In("one").View(t.Context(), func(store.Tx) error { return nil }), b.In("one").Update(t.Context(), put("x")), b.Create(t.Context(), "two"),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("a server that is cut off answers %v", err)
		}
	}
	if d := time.Since(began); d > 200*time.Millisecond {
		t.Errorf("it took %s to say so", d)
	}
	within(t, 2*time.Second, "its streams are no longer live", func() bool { return live() == 0 })
	between.Restore()
	within(t, 10*time.Second, "it comes back", func() bool { return b.In("one").Update(t.Context(), put("x")) == nil })
	if n := live(); n != 0 {
		t.Errorf("%d streams of before it was cut off are live again", n)
	}
}

func TestAnUpdateThatTheDatabaseUndidRunsAgain(t *testing.T) {
	a, b, _ := pair(t, 0)
	runs := 0
	err := b.In("one").Update(t.Context(), func(x store.Tx) error {
		if err := put("first")(x); err != nil {
			return err
		}
		if runs++; runs == 1 { // as when the database restarts
			if _, err := a.writers.Exec(t.Context(), "SELECT pg_terminate_backend($1)", int32(x.(*txn).s.c.PgConn().PID())); err != nil {
				t.Error(err)
			}
		}
		return put("second")(x)
	})
	if err != nil || runs != 2 {
		t.Errorf("%d runs: %v", runs, err)
	}
	if err := a.In("one").View(t.Context(), func(x store.Tx) error {
		list, err := x.Nodes().List("", 0)
		if len(list) != 2 {
			t.Errorf("%d nodes, want 2", len(list))
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestALeaseThatWasTakenAwayEndsUpdates(t *testing.T) {
	a, b, _ := pair(t, time.Hour) // b will not notice by itself
	if _, err := a.writers.Exec(t.Context(), "UPDATE servers SET until = clock_timestamp() WHERE id = $1", b.Server()); err != nil {
		t.Fatal(err)
	}
	if err := b.In("one").Update(t.Context(), put("x")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a server without lease commits: %v", err)
	}
	if err := a.In("one").Update(t.Context(), put("x")); err != nil {
		t.Error(err)
	}
}

func TestTheDatabasesClockCounts(t *testing.T) {
	o := options()
	o.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	s := openTest(t, pg.URL(t), o)
	if d := time.Since(s.Now()); d.Abs() > time.Second {
		t.Errorf("a server whose clock is an hour late is %s off", d)
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	address := pg.URL(t)
	s := openTest(t, address, options())
	if _, err := s.writers.Exec(t.Context(), "UPDATE assay_schema SET version = version + 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), address, options()); !errors.Is(err, store.ErrSchema) {
		t.Errorf("opening a newer schema: %v", err)
	}
	if err := s.Migrate(t.Context()); !errors.Is(err, store.ErrSchema) {
		t.Errorf("migrating a newer schema: %v", err)
	}
}

func TestAnEmptyDatabaseHoldsNothingUntilItIsMigrated(t *testing.T) {
	s, err := open(t.Context(), pg.URL(t), options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.In("one").View(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrSchema) {
		t.Errorf("viewing: %v", err)
	}
}

func TestADatabaseThatMayLoseCommitsIsRefused(t *testing.T) {
	address := pg.URL(t) + "&default_transaction_read_only=on"
	if _, err := Open(t.Context(), address, options()); err == nil || !strings.Contains(err.Error(), "transaction_read_only") {
		t.Errorf("a read-only database: %v", err)
	}
}

func TestPasswordsAndUnverifiedConnectionsAreRefused(t *testing.T) {
	for _, e := range []string{"PGSSLMODE", "PGHOST"} {
		t.Setenv(e, "")
	}
	for address, want := range map[string]string{
		"postgres://a:b@localhost/assay":                         "password",
		"postgres://a@localhost/assay?password=b":                "password",
		"mysql://a@localhost/assay":                              "postgres://",
		"host=localhost":                                         "postgres://",
		"postgres://a@db.example/assay?sslmode=disable":          "verified",
		"postgres://a@db.example/assay?sslmode=prefer":           "verified",
		"postgres://a@db.example/assay?sslmode=require":          "verified",
		"postgres://a@localhost,db.example/assay?sslmode=allow":  "verified",
		"postgres://a@db.example/assay":                          "",
		"postgres://a@db.example/assay?sslmode=verify-full":      "",
		"postgres://a@localhost/assay":                           "",
		"postgres://a@/assay?host=/run/postgresql":               "",
		"postgres:///assay?host=/run/postgresql&sslmode=disable": "",
		"postgres://a@[::1]:5433/assay?sslmode=disable":          "",
	} {
		_, err := parse(address)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", address, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", address, err, want)
		case err != nil && strings.Contains(err.Error(), "a:b"):
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

// S06: what is stored again counts as new.
func TestABlobThatIsStoredAgainIsNotPurged(t *testing.T) {
	var ahead atomic.Int64
	o := options()
	o.Lease = time.Hour
	s := openTest(t, pg.URL(t), o)
	if err := s.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	blob := func() {
		if err := s.In("one").Update(t.Context(), func(tx store.Tx) error {
			tx.(*txn).now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			_, err := tx.Blobs().Put([]byte("x"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	old := func(before time.Time) (n int) {
		_ = s.In("one").View(t.Context(), func(tx store.Tx) error {
			list, err := tx.Purges().OldBlobs(before, rats.Digest{}, 0)
			n = len(list)
			return err
		})
		return n
	}
	blob()
	later := time.Now().Add(2 * store.BlobTouch)
	if n := old(later); n != 1 {
		t.Fatalf("%d old blobs, want 1", n)
	}
	ahead.Store(int64(2*store.BlobTouch + time.Minute))
	blob()
	if n := old(later); n != 0 {
		t.Errorf("%d old blobs after storing again, want none", n)
	}
}

type txn = tx
