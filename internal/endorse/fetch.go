package endorse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can keep a document from being fetched.
var (
	CodeService = rats.CodeInfo{Code: "endorse.service.none", Title: "the collateral is not at hand, and no service is configured to fetch it from",
		Hint: "import a bundle (assay collateral import), or name a service: --pcs or --kds with the address of the vendor's service or of a cache of yours; \"official\" is the vendor's"}
	CodeServiceURL = rats.CodeInfo{Code: "endorse.service.url", Title: "the address of the service can't be used",
		Hint: "give https://host[:port]; plain http is for this machine only; the host must be among the allowed ones"}
	CodeUnavailable = rats.CodeInfo{Code: "endorse.service.unavailable", Title: "the service doesn't answer usefully",
		Hint: "check the network and the service's address; it is asked again after a pause; a bundle can be imported instead"}
	CodeNotFound = rats.CodeInfo{Code: "endorse.document.not-found", Title: "the service doesn't have the document",
		Hint: "the platform is unknown to the vendor, or to the caching service: register it there"}
	CodeTooMany = rats.CodeInfo{Code: "endorse.fetch.too-many", Title: "too many documents were asked for in a short time",
		Hint: "evidence of many unknown platforms may be an attack; raise the limit if it is not, or import a bundle"}
)

// temporary marks an error after which trying again can help. After is what the service asked to wait.
type temporary struct {
	err   error
	after time.Duration
}

func (t *temporary) Error() string { return t.err.Error() }
func (t *temporary) Unwrap() error { return t.err }

// chainHeaders are where the services put issuer chains.
var chainHeaders = []string{
	"TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain", "Enclave-Identity-Issuer-Chain",
	"SGX-PCK-CRL-Issuer-Chain", "SGX-PCK-Certificate-Issuer-Chain", "TCB-Evaluation-Data-Numbers-Issuer-Chain",
}

// checkService says whether a base address may be used.
func checkService(base string, hosts []string) (*url.URL, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, CodeServiceURL.Bad("service", "https://host", clip(base))
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return nil, CodeServiceURL.Bad("service", "https", clip(base))
	}
	if !slices.Contains(hosts, u.Host) {
		return nil, CodeServiceURL.Bad("service", "a host among "+strings.Join(hosts, ", "), clip(u.Host))
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// address returns where a document is fetched from.
func (c *Cache) address(k Key) (string, error) {
	base := c.services[k.Vendor()]
	if base == nil || c.client == nil {
		return "", CodeService.Missing(string(k), "a service of "+k.Vendor()+", such as "+Official[k.Vendor()], "none")
	}
	if k == keyRootCRL && base.String() == Official[Intel] {
		return officialRootCRL, nil
	}
	path := k.path()
	if kind, _, _ := k.parse(); kind == kindPCK && base.String() == Official[Intel] {
		if !strings.Contains(path, "encrypted_ppid=") {
			return "", CodeService.Missing(string(k), "a caching service that knows the platform by the id of its quoting enclave", base.Host+", which knows platforms by their PPID encrypted with RSA-3072 only")
		}
		path, _, _ = strings.Cut(path, "&qeid=") // only caches know it
	}
	return base.String() + path, nil
}

// request asks a service once.
func (c *Cache) request(ctx context.Context, k Key) (Document, error) {
	address, err := c.address(k)
	if err != nil {
		return Document{}, err
	}
	if !c.limit.AllowN(c.cfg.Now(), 1) {
		return Document{}, CodeTooMany.Missing(string(k), fmt.Sprintf("at most %d a minute", c.cfg.PerMinute), "more")
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return Document{}, fmt.Errorf("asking for %s: %w", k, err)
	}
	r.Header.Set("User-Agent", "assay")
	resp, err := c.client.Do(r)
	if err != nil {
		var refused *rats.BadEvidence
		if errors.As(err, &refused) { // a redirect
			return Document{}, refused
		}
		return Document{}, &temporary{err: CodeUnavailable.Missing(string(k), "an answer from "+clip(r.URL.Host), cause(err))}
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
	case slices.Contains(absentStatuses, resp.StatusCode):
		return Document{}, CodeNotFound.Missing(string(k), "a document at "+clip(r.URL.Host), resp.Status)
	default:
		return Document{}, &temporary{CodeUnavailable.Missing(string(k), "an answer from "+clip(r.URL.Host), clip(resp.Status)), c.retryAfter(resp)}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return Document{}, &temporary{err: CodeUnavailable.Missing(string(k), "a whole answer from "+clip(r.URL.Host), cause(err))}
	}
	var chain []byte
	for _, name := range chainHeaders {
		if v := resp.Header.Get(name); v != "" {
			plain, err := url.PathUnescape(v)
			if err != nil {
				return Document{}, CodeChain.Bad(string(k), "URL-encoded PEM in "+name, clip(v))
			}
			chain = []byte(plain)
			break
		}
	}
	return newDocument(k, body, chain, c.cfg.Now(), c.cfg.Roots)
}

// absentStatuses say that there is no such document. The last two are a PCCS's: platform not in the cache, no certificate
// for its TCB.
var absentStatuses = []int{http.StatusNotFound, http.StatusGone, http.StatusBadRequest, 461, 462}

// cause is an error of the network without the address, which is said beside it.
func cause(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		return clip(u.Err.Error())
	}
	return clip(err.Error())
}

// retryAfter returns how long the service asks to wait: seconds or a date, bounded.
func (c *Cache) retryAfter(r *http.Response) time.Duration {
	v := r.Header.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return min(time.Duration(min(n, 1<<20))*time.Second, maxPause)
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, min(t.Sub(c.cfg.Now()), maxPause))
	}
	return 0
}

// The pauses between attempts.
const (
	firstPause = 500 * time.Millisecond
	maxPause   = 15 * time.Minute
	absent     = time.Hour // how long a document that doesn't exist isn't asked for again
)

// pause is exponential with jitter: between half and the whole of firstPause doubled n times.
func (c *Cache) pause(n int) time.Duration {
	d := min(firstPause<<min(n, 20), maxPause)
	var b [2]byte
	if _, err := io.ReadFull(c.cfg.Rand, b[:]); err != nil {
		return d // without jitter rather than without pause
	}
	return d/2 + d/2*time.Duration(uint16(b[0])<<8|uint16(b[1]))/0xffff
}

// attempts asks a service up to cfg.Attempts times.
func (c *Cache) attempts(ctx context.Context, k Key) (Document, error) {
	for n := 0; ; n++ {
		d, err := c.request(ctx, k)
		var again *temporary
		if err == nil || !errors.As(err, &again) || n+1 >= c.cfg.Attempts {
			return d, err
		}
		wait := max(c.pause(n), again.after)
		if wait > c.cfg.Timeout {
			return d, err // the next caller may wait
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return d, err
		}
	}
}
