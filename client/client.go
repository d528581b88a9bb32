// Package client is the Go client of the HTTP API: what the command line, the agent and other systems call a server with.
//
// It guarantees that a server is believed only if its certificate is signed directly by one of the pinned CAs (no
// system roots, no intermediate, TLS 1.3 only), that nothing secret is sent before that was checked, that answers are
// bounded, and that a connection that can't be made is diagnosed: an [Unreachable] with a stable code and what to do.
// Refusals of the server are an [Error], which carries its problem document.
//
// It doesn't retry calls and doesn't verify attestation results: see package result for that. It is the one public
// package that uses the network; clock and dialer can be given.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/assay-attest/assay/rats"
)

// DefaultPort is the port of a server whose address names none.
const DefaultPort = "8443"

// The time a call may take if its context has no deadline, and the time for making a connection.
const (
	callTimeout    = 30 * time.Second
	connectTimeout = 10 * time.Second
)

// Options say how to reach a server and who is calling.
type Options struct {
	Server string // "https://host:port"; scheme and port may be left out

	// CAs is the set of pinned CA certificates, DER. The server's certificate must be signed directly by one of them.
	CAs [][]byte
	// CAHash pins the CA by the SHA-256 of its certificate (DER) where the certificate is not at hand, as when joining;
	// it is fetched from the server and compared before anything else is sent. Ignored if CAs are given.
	CAHash rats.Digest

	Certificate *tls.Certificate // client certificate; nil: none
	Token       string           // bearer token of an administrator or Relying Party; empty: none
	Namespace   string           // empty: "default"

	Dialer    func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net.Dialer
	Now       func() time.Time                                                  // nil: time.Now
	UserAgent string
}

// DefaultNamespace is the namespace of a client whose options name none.
const DefaultNamespace = "default"

// Client calls one server in one namespace. It is safe for concurrent use.
type Client struct {
	opt  Options
	base *url.URL

	mu   sync.Mutex
	http *http.Client // once the CA is known
	cas  [][]byte
}

// New returns a client; it makes no connection. It refuses a server that isn't https, and options that pin no CA.
func New(o Options) (*Client, error) {
	base, err := serverURL(o.Server)
	if err != nil {
		return nil, err
	}
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dialer == nil {
		o.Dialer = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	if o.UserAgent == "" {
		o.UserAgent = "assay"
	}
	c := &Client{opt: o, base: base}
	switch {
	case len(o.CAs) > 0:
		if c.http, err = c.pinned(o.CAs); err != nil {
			return nil, err
		}
		c.cas = o.CAs
	case o.CAHash.Alg == "sha256" && o.CAHash.Check() == nil:
	default:
		return nil, CodeNoCA.Missing("server "+base.Host, "the CA's certificate or its sha256", "neither")
	}
	return c, nil
}

// Server returns the address in its full form, "https://host:port".
func (c *Client) Server() string { return c.base.String() }

// Namespace returns the namespace the client works in.
func (c *Client) Namespace() string { return c.opt.Namespace }

// CAs returns the pinned CA certificates (DER); empty as long as only a hash is known.
func (c *Client) CAs() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cas
}

// Close drops idle connections. Calls that are under way end by their contexts.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

func serverURL(s string) (*url.URL, error) {
	full := s
	if !strings.Contains(full, "://") {
		full = "https://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, CodeAddress.Bad("server", "https://host:port", s)
	}
	if u.Scheme != "https" {
		return nil, CodeAddress.Bad("server", "https://host:port", s)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), DefaultPort)
	}
	return &url.URL{Scheme: "https", Host: u.Host}, nil
}

// pinned returns an HTTP client that believes the given CAs only.
func (c *Client) pinned(cas [][]byte) (*http.Client, error) {
	pool := x509.NewCertPool()
	for i, der := range cas {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parsing pinned CA certificate %d: %w", i, err)
		}
		pool.AddCert(ca)
	}
	cfg := &tls.Config{
		MinVersion:       tls.VersionTLS13,
		RootCAs:          pool,
		Time:             c.opt.Now,
		VerifyConnection: depthOne,
	}
	if cert := c.opt.Certificate; cert != nil {
		// Given always, whatever CAs the server lists: it says itself why it refuses.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return &http.Client{
		Transport: c.transport(cfg),
		// A redirect would carry token and body elsewhere; the API has none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (c *Client) transport(cfg *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // TLS is end to end (S08)
		DialContext:            c.opt.Dialer,
		TLSClientConfig:        cfg,
		TLSHandshakeTimeout:    connectTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           4,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // what is bounded is what was sent
		// A stream may be silent for long: pings tell a silent server from a dead one.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// depthOne refuses every certificate that isn't signed directly by a pinned CA. It runs on resumption too.
func depthOne(s tls.ConnectionState) error {
	for _, chain := range s.VerifiedChains {
		if len(chain) == 2 {
			return nil
		}
	}
	return &tls.CertificateVerificationError{
		UnverifiedCertificates: s.PeerCertificates,
		Err:                    x509.UnknownAuthorityError{},
	}
}
