package notify

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/store/sqlite"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/result"
)

const testSpace = "one"

// receiver is a real HTTP server that keeps what it got and answers as it is told.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []api.Delivery
	bodies [][]byte
	heads  []http.Header
	answer func(n int, w http.ResponseWriter, r *http.Request)
}

func newReceiver(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		var d api.Delivery
		_ = json.Unmarshal(b, &d)
		r.mu.Lock()
		r.got, r.bodies, r.heads = append(r.got, d), append(r.bodies, b), append(r.heads, req.Header)
		n := len(r.got)
		r.mu.Unlock()
		if r.answer != nil {
			r.answer(n, w, req)
		}
	}))
	t.Cleanup(func() { r.CloseClientConnections(); r.Close() })
	return r
}

func (r *receiver) seqs() (out []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.got {
		out = append(out, d.Seq)
	}
	return out
}

type world struct {
	*testing.T
	db    store.Store
	space store.Space
	keys  *keyring.Keyring
	d     *Dispatcher
}

var quick = pace{
	lease: 600 * time.Millisecond, spaces: 20 * time.Millisecond, look: 50 * time.Millisecond, sweep: 20 * time.Millisecond,
	first: 5 * time.Millisecond, most: 40 * time.Millisecond,
}

// local permits the tests' own receivers.
var local = Settings{AllowHTTP: true, AllowNetworks: []string{"127.0.0.0/8", "::1/128"}}

func newWorld(t *testing.T, s Settings) *world {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlite.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys, err := keyring.Init(filepath.Join(t.TempDir(), "keys"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	if err := errors.Join(db.Migrate(t.Context()), db.Create(t.Context(), testSpace)); err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, db: db, space: db.In(testSpace), keys: keys}
	w.d = w.dispatcher(s, nil)
	return w
}

func (w *world) dispatcher(s Settings, c store.Cluster) *Dispatcher {
	w.Helper()
	d, err := New(Config{
		Store: w.db, Cluster: c, Keys: w.keys, Signer: w.keys.Verifier(), Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler),
		Policy: func(context.Context, string, store.Node) ([]policy.Action, rats.Ref, error) {
			return nil, rats.Ref{}, nil
		},
	}, s)
	if err != nil {
		w.Fatal(err)
	}
	d.pace = quick
	return d
}

func (w *world) run(d *Dispatcher) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { d.Run(ctx); close(done) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	w.Cleanup(stop)
	return stop
}

func (w *world) update(f func(store.Tx) error) {
	w.Helper()
	if err := w.space.Update(w.Context(), f); err != nil {
		w.Fatal(err)
	}
}

func (w *world) add(r api.WebhookRequest) api.Webhook {
	w.Helper()
	var h api.Webhook
	w.update(func(tx store.Tx) (err error) { h, err = w.d.Add(tx, testSpace, "admin:a", r); return err })
	return h
}

func (w *world) event(kind string, data string) {
	w.Helper()
	w.update(func(tx store.Tx) error {
		_, err := tx.Events().Append(store.Event{At: time.Now(), Kind: kind, Subject: "node/nd_1", Data: json.RawMessage(data)})
		return err
	})
}

func (w *world) hook() api.Webhook {
	w.Helper()
	var list []api.Webhook
	if err := w.space.View(w.Context(), func(tx store.Tx) (err error) { list, err = List(tx); return err }); err != nil || len(list) != 1 {
		w.Fatal(list, err)
	}
	return list[0]
}

func (w *world) until(what string, f func() bool) {
	w.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	w.Fatalf("never: %s", what)
}

// R015: other systems subscribe to what happens to nodes.
func TestEventsReachAWebhookInOrderSignedAndOnce(t *testing.T) {
	w := newWorld(t, local)
	r := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 2 {
			w.WriteHeader(http.StatusInternalServerError) // tried again, and nothing overtakes it
		}
	})
	w.event("node.state", `{"state":"trusted"}`) // before it was registered
	h := w.add(api.WebhookRequest{URL: r.URL + "/x", Kinds: []string{"node.*"}, Severity: "warning"})
	if len(h.Secret) != madeSecret {
		t.Fatalf("no secret was told: %+v", h)
	}
	w.run(w.d)
	w.event("node.state", `{"state":"contraindicated","findings":[{"path":"/bin/x"}]}`)
	w.event("node.state", `{"state":"trusted"}`) // not grave enough
	w.event("secret.put", `{}`)                  // another kind
	w.event("node.stream", `{}`)
	w.event("node.state", `{"state":"stale"}`)
	w.until("three events", func() bool { return len(r.seqs()) >= 4 })
	if got, want := fmt.Sprint(r.seqs()), "[3 6 6 7]"; got != want {
		t.Fatalf("delivered %s, want %s", got, want)
	}
	w.until("progress", func() bool { return w.hook().Behind == 0 && w.hook().Problem == "" })
	first := r.got[0]
	if first.ID != "one/3" || first.Severity != "critical" || first.Webhook != h.ID || first.Namespace != testSpace || first.Data == nil {
		t.Errorf("%+v", first)
	}
	for i := range r.got {
		sig := r.heads[i].Get(api.HeaderSignature)
		if err := api.VerifyDelivery(h.Secret, sig, r.bodies[i], time.Now(), 0); err != nil {
			t.Error(err)
		}
		if err := api.VerifyDelivery(h.Secret, sig, append(r.bodies[i], ' '), time.Now(), 0); err == nil {
			t.Error("a changed body verifies")
		}
		if err := api.VerifyDelivery(h.Secret, sig, r.bodies[i], time.Now().Add(time.Hour), 0); err == nil {
			t.Error("an old delivery verifies")
		}
	}
	if r.heads[1].Get(api.HeaderDelivery) != r.heads[2].Get(api.HeaderDelivery) {
		t.Error("attempts of one event have different ids")
	}
}

func TestDeliveryCanBeSignedWithTheServersKey(t *testing.T) {
	w := newWorld(t, local)
	r := newReceiver(t, nil)
	w.add(api.WebhookRequest{URL: r.URL, SignJWS: true})
	w.run(w.d)
	w.event("node.state", `{"state":"trusted"}`)
	w.until("an event", func() bool { return len(r.seqs()) == 1 })
	text := strings.TrimPrefix(r.heads[0].Get(api.HeaderSignature), "jws=")
	signed, err := jose.ParseDetached(text, r.bodies[0], []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	kid, _ := result.KeyID(w.keys.Verifier().Public())
	head := signed.Signatures[0].Protected
	if _, err := signed.Verify(w.keys.Verifier().Public()); err != nil || head.KeyID != kid || head.ExtraHeaders["typ"] != TypeDelivery {
		t.Errorf("%v, %+v", err, head)
	}
}

func TestWhatCannotBeDeliveredBecomesADeadLetterAndCanBeSentAgain(t *testing.T) {
	w := newWorld(t, local)
	var ok sync.Map
	r := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if _, good := ok.Load("ok"); !good {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	h := w.add(api.WebhookRequest{URL: r.URL, Kinds: []string{"node.state"}})
	w.run(w.d)
	w.event("node.state", `{"n":1}`)
	w.event("node.state", `{"n":2}`)
	w.until("two dead letters", func() bool { return w.hook().Dead == 2 })
	if n := len(r.seqs()); n != 2*refusals {
		t.Errorf("%d attempts, want %d each", n, refusals)
	}
	if now := w.hook(); now.Problem != CodeStatus.Code || now.Failing.IsZero() || now.Behind > 1 {
		t.Errorf("%+v", now)
	}
	ok.Store("ok", true)
	var dead api.DeadLetterList
	w.update(func(tx store.Tx) (err error) { dead, err = Dead(tx, h.ID, 0, 1); return err })
	if len(dead.Letters) != 1 || dead.Next != dead.Letters[0].Seq || dead.Letters[0].Problem != CodeStatus.Code || dead.Letters[0].Attempts != refusals {
		t.Fatalf("%+v", dead)
	}
	w.update(func(tx store.Tx) error {
		_, err := w.d.Redeliver(tx, "admin:a", h.ID, []int64{dead.Letters[0].Seq})
		return err
	})
	w.until("one letter sent", func() bool { return w.hook().Dead == 1 })
	w.update(func(tx store.Tx) error { _, err := w.d.Redeliver(tx, "admin:a", h.ID, nil); return err })
	w.until("all letters sent", func() bool { return w.hook().Dead == 0 })
	err := w.space.Update(t.Context(), func(tx store.Tx) error { _, err := w.d.Redeliver(tx, "admin:a", h.ID, []int64{1}); return err })
	if r, _ := rats.ReasonOf(err); r.Code != CodeUnknown.Code {
		t.Error(err)
	}
	w.update(func(tx store.Tx) error {
		events, err := tx.Events().After(0, 0)
		n := 0
		for _, e := range events {
			if e.Kind == EventDead {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d events tell of dead letters, want that of the first", n)
		}
		chain, err2 := tx.Audit().After(0, 0)
		return errors.Join(err, err2, store.VerifyAudit(chain))
	})
}

func TestAReceiverThatIsDownLongerThanIsWaitedForGetsDeadLetters(t *testing.T) {
	s := local
	s.GiveUp = "0s"
	w := newWorld(t, s)
	r := newReceiver(t, nil)
	w.add(api.WebhookRequest{URL: r.URL, Kinds: []string{"node.state"}})
	r.Close()
	w.run(w.d)
	w.event("node.state", `{}`)
	w.until("a dead letter", func() bool { return w.hook().Dead == 1 })
	if h := w.hook(); h.Problem != CodeUnreachable.Code {
		t.Errorf("%+v", h)
	}
}

// What receivers may do to the server: hang, redirect, flood, refuse.
func TestHostileReceiversAreContained(t *testing.T) {
	secretSpot := newReceiver(t, nil)
	for name, tt := range map[string]struct {
		answer func(int, http.ResponseWriter, *http.Request)
		want   rats.CodeInfo
	}{
		"redirect": {func(_ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, secretSpot.URL, http.StatusTemporaryRedirect)
		}, CodeRedirect},
		"refusal": {func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, CodeStatus},
		"error":   {func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, CodeStatus},
		"hang":    {func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, CodeTimeout},
		"cut":     {func(_ int, _ http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, CodeUnreachable},
		"headers": {func(_ int, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 2*maxAnswerHead))
		}, CodeUnreachable},
		"flood": {func(_ int, w http.ResponseWriter, _ *http.Request) {
			for range 10_000 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, rats.CodeInfo{}}, // taken, and the rest isn't read
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, local)
			w.d.client.Timeout = 300 * time.Millisecond
			r := newReceiver(t, tt.answer)
			h := w.add(api.WebhookRequest{URL: r.URL})
			got, err := w.d.Test(t.Context(), w.space, testSpace, h.ID)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want.Code == "" {
				if !got.OK {
					t.Errorf("%+v", got)
				}
			} else if got.OK || got.Reason == nil || got.Reason.Code != tt.want.Code {
				t.Errorf("%+v", got)
			}
			if len(secretSpot.seqs()) > 0 {
				t.Error("a redirect was followed")
			}
		})
	}
}

func TestWebhooksLeadNowhereTheServersOwnerDidNotAllow(t *testing.T) {
	w := newWorld(t, Settings{})
	add := func(url string) error {
		return w.space.Update(t.Context(), func(tx store.Tx) error {
			_, err := w.d.Add(tx, testSpace, "admin:a", api.WebhookRequest{URL: url})
			return err
		})
	}
	for _, url := range []string{
		"http://example.org/", "ftp://example.org/", "https://u:p@example.org/", "https:///x", "example.org", "https://example.org/#f",
		"file:///etc/passwd", "https:opaque", "https://e/" + strings.Repeat("x", maxURL),
	} {
		if r, _ := rats.ReasonOf(add(url)); r.Code != CodeURL.Code {
			t.Errorf("%.40s: %v", url, r)
		}
	}
	if err := add("https://localhost:1/"); err != nil { // a name; where it leads is seen when it is called
		t.Fatal(err)
	}
	got, err := w.d.Test(t.Context(), w.space, testSpace, w.hook().ID)
	if err != nil || got.Reason == nil || got.Reason.Code != CodeAddress.Code {
		t.Errorf("%+v, %v", got, err)
	}
	for a, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "127.0.0.1": false, "10.1.2.3": false, "192.168.1.1": false, "172.16.0.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "0.0.0.0": false, "::1": false, "::": false, "fe80::1": false, "fd00::1": false,
		"::ffff:127.0.0.1": false, "::ffff:8.8.8.8": true, "64:ff9b::7f00:1": false, "224.0.0.1": false, "255.255.255.255": false, "2002:7f00:1::": false,
	} {
		if permits(netip.MustParseAddr(a), nil) != want {
			t.Errorf("%s: want %v", a, want)
		}
	}
	if !permits(netip.MustParseAddr("10.1.2.3"), []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}) {
		t.Error("an allowed network is refused")
	}
}

func TestWebhooksThatCannotBeRegisteredAreRefused(t *testing.T) {
	w := newWorld(t, local)
	for name, tt := range map[string]struct {
		r    api.WebhookRequest
		want rats.CodeInfo
	}{
		"kind":     {api.WebhookRequest{Kinds: []string{"Node State"}}, CodeFilter},
		"severity": {api.WebhookRequest{Severity: "loud"}, CodeFilter},
		"node":     {api.WebhookRequest{Nodes: []string{"nobody"}}, CodeFilter},
		"short":    {api.WebhookRequest{Secret: []byte("short")}, CodeSecret},
		"both":     {api.WebhookRequest{Secret: make([]byte, 20), SignJWS: true}, CodeSecret},
	} {
		tt.r.URL = "https://example.org/"
		err := w.space.Update(t.Context(), func(tx store.Tx) error { _, err := w.d.Add(tx, testSpace, "a", tt.r); return err })
		if r, _ := rats.ReasonOf(err); r.Code != tt.want.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range maxHooks {
		w.add(api.WebhookRequest{URL: "https://example.org/"})
	}
	err := w.space.Update(t.Context(), func(tx store.Tx) error {
		_, err := w.d.Add(tx, testSpace, "a", api.WebhookRequest{URL: "https://example.org/"})
		return err
	})
	if r, _ := rats.ReasonOf(err); r.Code != CodeTooMany.Code {
		t.Error(err)
	}
}

func TestADeletedWebhookGetsNothing(t *testing.T) {
	w := newWorld(t, local)
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	h := w.add(api.WebhookRequest{URL: r.URL, Kinds: []string{"node.state"}})
	w.run(w.d)
	w.event("node.state", `{}`)
	w.until("attempts", func() bool { return len(r.seqs()) > 2 })
	w.update(func(tx store.Tx) error { return w.d.Remove(tx, "admin:a", h.ID) })
	time.Sleep(300 * time.Millisecond)
	n := len(r.seqs())
	time.Sleep(200 * time.Millisecond)
	if got := len(r.seqs()); got != n {
		t.Errorf("%d more attempts", got-n)
	}
}

// member is one server of several over one database.
type member struct{ id string }

func (m member) Server() string { return m.id }
func (m member) Alive() error   { return nil }
func (m member) Now() time.Time { return time.Now() }

func TestOfSeveralServersOneDeliversAndAnotherTakesOver(t *testing.T) {
	w := newWorld(t, local)
	r := newReceiver(t, nil)
	w.add(api.WebhookRequest{URL: r.URL, Kinds: []string{"node.state"}})
	stopA := w.run(w.dispatcher(local, member{"a"}))
	w.event("node.state", `{"n":1}`)
	w.until("the first event", func() bool { return len(r.seqs()) == 1 })
	w.run(w.dispatcher(local, member{"b"}))
	for range 20 {
		w.event("node.state", `{}`)
	}
	w.until("all events", func() bool { return len(r.seqs()) >= 21 })
	if got := len(r.seqs()); got != 21 {
		t.Errorf("%d deliveries of 21 events: both deliver", got)
	}
	stopA()
	w.event("node.state", `{"n":2}`)
	w.until("an event by the other server", func() bool { return len(r.seqs()) >= 22 })
	var l lease
	w.update(func(tx store.Tx) (err error) { l, err = getItem[lease](tx, itemLease, leaseID); return err })
	if l.Server != "b" || l.Fence < 2 {
		t.Errorf("%+v", l)
	}
	stale := &duty{Dispatcher: w.dispatcher(local, member{"a"}), namespace: testSpace, space: w.space, fence: 1}
	if err := stale.update(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, errLost) {
		t.Errorf("a server without the lease writes: %v", err)
	}
}
