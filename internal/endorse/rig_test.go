package endorse_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/rats"
)

var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// wire is a transport without network: a handler, or whatever answer says, and a count of the requests.
type wire struct {
	handler http.Handler
	mu      sync.Mutex
	count   map[string]int
	answer  func(*http.Request) (*http.Response, error) // nil, nil: the handler's
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	if w.count == nil {
		w.count = make(map[string]int)
	}
	w.count[r.URL.String()]++
	answer := w.answer
	w.mu.Unlock()
	if answer != nil {
		if resp, err := answer(r); resp != nil || err != nil {
			return resp, err
		}
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return rec.Result(), nil
}

func (w *wire) answers(f func(*http.Request) (*http.Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

func (w *wire) total() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, c := range w.count {
		n += c
	}
	return n
}

// status is an answer without a body.
func status(code int, header ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		rec := httptest.NewRecorder()
		for i := 0; i+1 < len(header); i += 2 {
			rec.Header().Set(header[i], header[i+1])
		}
		rec.WriteHeader(code)
		return rec.Result(), nil
	}
}

var errDown = errors.New("connection refused")

func down(*http.Request) (*http.Response, error) { return nil, errDown }

const service = "https://pcs.example"

// rig is a cache before a fake Intel.
type rig struct {
	*endorse.Cache
	intel    *fakevendor.Intel
	platform *fakevendor.Platform
	wire     *wire
	clock    *clock
}

func newRig(t testing.TB, changes ...func(*endorse.Config)) *rig {
	t.Helper()
	r := &rig{clock: &clock{t: start}, wire: &wire{}}
	r.intel = fakevendor.NewIntel(rand.Reader, r.clock.now)
	r.platform = r.intel.Platform()
	r.wire.handler = r.intel.PCS()
	cfg := r.config()
	for _, change := range changes {
		change(&cfg)
	}
	r.Cache = open(t, cfg)
	return r
}

func (r *rig) config() endorse.Config {
	return endorse.Config{
		Now: r.clock.now, Rand: rand.Reader, Transport: r.wire, Services: map[string]string{endorse.Intel: service}, Hosts: []string{"pcs.example"},
		Attempts: 1,
	}
}

func open(t testing.TB, cfg endorse.Config) *endorse.Cache {
	t.Helper()
	c, err := endorse.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// keys of everything about the rig's platform.
func (r *rig) keys() []endorse.Key { return endorse.PlatformKeys(r.platform.FMSPC, r.platform.CA) }

func (r *rig) fetchAll(t testing.TB) {
	t.Helper()
	for _, k := range r.keys() {
		if _, err := r.Get(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
}

const identity endorse.Key = "intel:/sgx/certification/v4/qe/identity"

func wantCode(t testing.TB, name string, err error, code rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != code.Code {
		t.Errorf("%s: %v, expected %s", name, err, code.Code)
	}
}

func evidence(format rats.Format, media string, body []byte) rats.Evidence {
	return rats.Evidence{Format: format, MediaType: media, Body: body}
}

var background = context.Background()
