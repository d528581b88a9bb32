package endorse

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with a document that is at hand.
var (
	CodeExpired = rats.CodeInfo{Code: "endorse.document.expired", Title: "the collateral at hand has expired and no newer could be had",
		Hint: "see why fetching fails (assay collateral fetch), or import a newer bundle"}
	CodeOlder = rats.CodeInfo{Code: "endorse.document.older", Title: "the service hands out an older document than the one at hand",
		Hint: "an old revocation list hides revocations: if the service is a cache, have it refreshed; the newer document stays in use"}
	CodeConfig = rats.CodeInfo{Code: "endorse.config.incomplete", Title: "the collateral cache can't be set up as configured",
		Hint: "clock, randomness and a directory that can be written are needed"}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeKey, CodeMalformed, CodeOther, CodeChain, CodeService, CodeServiceURL, CodeUnavailable, CodeNotFound, CodeTooMany, CodeExpired,
	CodeOlder, CodeConfig, CodeBundle, CodeBundleSignature, CodeBundleSigner,
}

// Config is what a cache is made of. Now and Rand are needed; the zero value of everything else is the careful choice.
type Config struct {
	Now   func() time.Time
	Rand  io.Reader // for jitter
	Dir   string    // where documents are kept; "": in memory only
	Roots Roots     // what documents must lead to; a vendor without roots isn't held to one

	Transport http.RoundTripper // nil: nothing is fetched
	Services  map[string]string // base address by vendor (Official, or a caching service); none: not fetched
	Hosts     []string          // host[:port]s that may be talked to; empty: none
	Update    string            // channel of Intel's TCB infos and identities: Standard or Early; "": Standard

	MaxAge    time.Duration // after which a document is fetched again; 0: 24 hours
	KeepFor   time.Duration // after which a document isn't used any more however long it says it is valid; 0: no such limit
	Timeout   time.Duration // of one request; 0: 20 seconds
	Attempts  int           // per fetch; 0: 3
	PerMinute int           // requests, with bursts as large; 0: 60
	MaxCount  int           // documents kept; 0: 4096
	MaxBytes  int64         // of all documents together; 0: 128 MiB
}

// Source is what the appraiser asks before it verifies: whatever is at hand about the platforms that evidence names, to be
// passed into rats.Inputs.Endorsements as it is. What isn't to be had is missing from the answer; verifiers say so.
type Source interface {
	Endorsements(context.Context, []rats.Evidence) []rats.Endorsement
}

var (
	_ Source = (*Cache)(nil)
	_ Source = (*Bundle)(nil)
)

// Cache fetches and keeps collateral. It is safe for concurrent use.
type Cache struct {
	cfg      Config
	services map[string]*url.URL
	client   *http.Client
	limit    *rate.Limiter
	base     context.Context
	stop     context.CancelFunc
	flights  sync.WaitGroup

	mu      sync.Mutex
	docs    map[Key]Document
	bytes   int64
	flying  map[Key]*flight
	failed  map[Key]failure
	skipped []error // files that could not be used
}

// flight is a fetch under way.
type flight struct {
	done chan struct{}
	doc  Document
	err  error
}

// failure is why a document isn't to be had, and until when nobody asks again.
type failure struct {
	err   error
	until time.Time
	times int
}

// maxFailed bounds what is remembered of failures.
const maxFailed = 4096

// Open makes a cache and reads what is on the disk. Files that can't be used are passed over; Skipped tells them.
func Open(cfg Config) (*Cache, error) {
	if cfg.Now == nil || cfg.Rand == nil {
		return nil, CodeConfig.Bad("config", "a clock and randomness", "none")
	}
	if cfg.Update = cmp.Or(cfg.Update, Standard); cfg.Update != Standard && cfg.Update != Early {
		return nil, CodeConfig.Bad("update", Standard+" or "+Early, clip(cfg.Update))
	}
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 24*time.Hour)
	cfg.Timeout = cmp.Or(cfg.Timeout, 20*time.Second)
	cfg.Attempts = cmp.Or(cfg.Attempts, 3)
	cfg.PerMinute = cmp.Or(cfg.PerMinute, 60)
	cfg.MaxCount = cmp.Or(cfg.MaxCount, 4096)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, 128<<20)
	c := &Cache{
		cfg: cfg, services: make(map[string]*url.URL), docs: make(map[Key]Document), flying: make(map[Key]*flight), failed: make(map[Key]failure),
		limit: rate.NewLimiter(rate.Every(time.Minute/time.Duration(cfg.PerMinute)), cfg.PerMinute),
	}
	c.base, c.stop = context.WithCancel(context.Background())
	for vendor, address := range cfg.Services {
		if Official[vendor] == "" {
			return nil, CodeServiceURL.Bad("services", Intel+" or "+AMD, clip(vendor))
		}
		u, err := checkService(address, cfg.Hosts)
		if err != nil {
			return nil, err
		}
		c.services[vendor] = u
		if vendor == Intel && u.String() == Official[Intel] {
			if _, err := checkService("https://"+hostOf(officialRootCRL), cfg.Hosts); err != nil {
				return nil, err
			}
		}
	}
	if cfg.Transport != nil {
		c.client = &http.Client{Transport: cfg.Transport, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			return CodeMalformed.Bad("redirect", "a document", "a redirect to "+clip(r.URL.Host))
		}}
	}
	return c, c.load()
}

// HostsOf returns the hosts that must be allowed to fetch from these services.
func HostsOf(services map[string]string) []string {
	var out []string
	for vendor, base := range services {
		out = append(out, hostOf(base))
		if vendor == Intel && base == Official[Intel] {
			out = append(out, hostOf(officialRootCRL))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// Close ends fetches that are under way and waits for them.
func (c *Cache) Close() {
	c.mu.Lock() // no fetch starts after this
	c.stop()
	c.mu.Unlock()
	c.flights.Wait()
}

// Skipped returns what was wrong with files in the directory that were passed over.
func (c *Cache) Skipped() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.skipped)
}

// Find returns a document that is at hand, however old.
func (c *Cache) Find(k Key) (Document, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := c.docs[k]
	return d, ok
}

// Documents returns everything at hand, by key.
func (c *Cache) Documents() []Document {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Document, 0, len(c.docs))
	for _, d := range c.docs {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Document) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// usable says whether a document may be used now, and whether it is due to be fetched again.
func (c *Cache) usable(d Document) (usable, due bool) {
	now := c.cfg.Now()
	age := now.Sub(d.Fetched)
	usable = d.ValidAt(now) && (c.cfg.KeepFor == 0 || age <= c.cfg.KeepFor)
	return usable, !usable || age > c.cfg.MaxAge || age < -c.cfg.MaxAge
}

// Get returns a document: the one at hand if it is young enough, else a new one; if that can't be had, the one at hand
// while it is valid. An expired one is returned with an error of CodeExpired.
func (c *Cache) Get(ctx context.Context, k Key) (Document, error) {
	if _, err := ParseKey(string(k)); err != nil {
		return Document{}, err
	}
	have, ok := c.Find(k)
	usable, due := c.usable(have)
	if ok && !due {
		return have, nil
	}
	d, err := c.fetch(ctx, k, false)
	switch {
	case err == nil:
		return d, nil
	case ok && usable:
		return have, nil
	case ok:
		return have, CodeExpired.Missing(string(k), "valid at "+stamp(c.cfg.Now()), "valid until "+stamp(have.Until)+"; "+clip(err.Error()))
	}
	return Document{}, err
}

// Refresh fetches a document, however young the one at hand is and whatever failed before.
func (c *Cache) Refresh(ctx context.Context, k Key) (Document, error) {
	if _, err := ParseKey(string(k)); err != nil {
		return Document{}, err
	}
	return c.fetch(ctx, k, true)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// fetch asks the service, once for all who ask at the same time. Unless forced it doesn't ask where it failed lately.
func (c *Cache) fetch(ctx context.Context, k Key, force bool) (Document, error) {
	f, err := c.start(k, force)
	if err != nil {
		return Document{}, err
	}
	select {
	case <-f.done:
		return f.doc, f.err
	case <-ctx.Done():
		return Document{}, CodeUnavailable.Missing(string(k), "an answer in time", ctx.Err().Error())
	}
}

// start joins or starts a fetch. It goes on when those who asked went away: its answer serves the next.
func (c *Cache) start(k Key, force bool) (*flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flying[k]; f != nil {
		return f, nil
	}
	if fail, ok := c.failed[k]; ok && !force && c.cfg.Now().Before(fail.until) {
		return nil, fail.err
	}
	if err := c.base.Err(); err != nil {
		return nil, CodeUnavailable.Missing(string(k), "an open cache", "a closed one")
	}
	f := &flight{done: make(chan struct{})}
	c.flying[k] = f
	c.flights.Go(func() {
		f.doc, f.err = c.attempts(c.base, k)
		if f.err == nil {
			f.doc, f.err = c.accept(f.doc)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.remember(k, f.err)
		delete(c.flying, k)
		close(f.done)
	})
	return f, nil
}

// remember keeps how a fetch ended: after a failure nobody asks for a while, longer each time.
func (c *Cache) remember(k Key, err error) {
	if err == nil {
		delete(c.failed, k)
		return
	}
	r, _ := rats.ReasonOf(err)
	switch r.Code {
	case CodeService.Code, CodeTooMany.Code: // these depend on us, not on the service
		return
	}
	times := c.failed[k].times + 1
	wait := c.pause(times + 3)
	var again *temporary
	switch {
	case r.Code == CodeNotFound.Code:
		wait = absent
	case errors.As(err, &again):
		wait = max(wait, again.after)
	}
	if len(c.failed) >= maxFailed {
		clear(c.failed)
	}
	c.failed[k] = failure{err, c.cfg.Now().Add(wait), times}
}

// accept puts a document into the cache, unless the one at hand was issued later.
func (c *Cache) accept(d Document) (Document, error) {
	if have, ok := c.Find(d.Key); ok && have.From.After(d.From) && have.ValidAt(c.cfg.Now()) {
		return have, CodeOlder.Bad(string(d.Key), "issued "+stamp(have.From)+" or later", "issued "+stamp(d.From))
	}
	if err := c.save(d); err != nil {
		return d, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(d)
	return d, nil
}

// put keeps a document in memory; those fetched longest ago make room.
func (c *Cache) put(d Document) {
	size := func(d Document) int64 { return int64(len(d.Body) + len(d.Chain) + len(d.Key)) }
	if old, ok := c.docs[d.Key]; ok {
		c.bytes -= size(old)
	}
	c.docs[d.Key] = d
	c.bytes += size(d)
	for len(c.docs) > c.cfg.MaxCount || c.bytes > c.cfg.MaxBytes && len(c.docs) > 1 {
		var oldest Document
		for _, o := range c.docs {
			if o.Key != d.Key && (oldest.Key == "" || o.Fetched.Before(oldest.Fetched)) {
				oldest = o
			}
		}
		delete(c.docs, oldest.Key)
		c.bytes -= size(oldest)
		c.discard(oldest.Key)
	}
}

// Endorsements implements Source. Documents that are at hand and valid are returned at once and, if due, fetched again
// behind the caller's back; others are waited for, all together no longer than ctx. Expired ones are returned too:
// verifiers tell expired collateral from missing collateral.
func (c *Cache) Endorsements(ctx context.Context, evidence []rats.Evidence) []rats.Endorsement {
	keys := Channel(c.cfg.Update, Wanted(evidence...))
	found := c.gather(ctx, keys)
	if more := c.Further(keys, found...); len(more) > 0 {
		found = append(found, c.gather(ctx, more)...)
	}
	var out []rats.Endorsement
	for _, d := range found {
		if d.Key != "" {
			out = append(out, d.Endorsements()...)
		}
	}
	return out
}

// gather returns the documents of keys, in their order; those that aren't to be had are empty.
func (c *Cache) gather(ctx context.Context, keys []Key) []Document {
	found := make([]Document, len(keys))
	var wg sync.WaitGroup
	for i, k := range keys {
		have, ok := c.Find(k)
		usable, due := c.usable(have)
		if ok && usable {
			found[i] = have
			if due {
				_, _ = c.start(k, false) // its failure is remembered, and told by Get
			}
			continue
		}
		wg.Go(func() { found[i], _ = c.Get(ctx, k) }) // what isn't to be had is missing from the answer
	}
	wg.Wait()
	return found
}

// The states of a document.
const (
	StateFresh   = "fresh"
	StateDue     = "due"     // valid, to be fetched again
	StateExpired = "expired" // or not valid yet, or kept too long
)

// Age is what is known of a document's age.
type Age struct {
	Key     Key         `json:"key"`
	State   string      `json:"state"`
	Fetched time.Time   `json:"fetched"`
	Issued  time.Time   `json:"issued"`
	Expires time.Time   `json:"expires"`
	Size    int         `json:"size"`
	Digest  rats.Digest `json:"digest"`
}

// Age lists all documents, those that expire first in front.
func (c *Cache) Age() []Age {
	var out []Age
	for _, d := range c.Documents() {
		state := StateFresh
		switch usable, due := c.usable(d); {
		case !usable:
			state = StateExpired
		case due:
			state = StateDue
		}
		expires := d.Until
		if limit := d.Fetched.Add(c.cfg.KeepFor); c.cfg.KeepFor > 0 && limit.Before(expires) {
			expires = limit
		}
		out = append(out, Age{d.Key, state, d.Fetched, d.From, expires, len(d.Body) + len(d.Chain), d.Digest()})
	}
	slices.SortStableFunc(out, func(a, b Age) int { return a.Expires.Compare(b.Expires) })
	return out
}
