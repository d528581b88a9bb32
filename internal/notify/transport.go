package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Bounds of one delivery.
const (
	deliveryTime  = 15 * time.Second
	dialTime      = 5 * time.Second
	maxAnswer     = 16 << 10 // of an answer's body; the connection of a longer one is closed
	maxAnswerHead = 32 << 10
)

// special are addresses that are neither public nor recognised by package netip as private: carrier-grade NAT, protocol
// assignments, benchmarking, documentation, what was reserved, and IPv6 that carries IPv4 or is tunnelled.
var special = prefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10")

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// permits says whether the server may speak to an address: public ones, and those its settings list.
func permits(a netip.Addr, networks []netip.Prefix) bool {
	a = a.Unmap().WithZone("")
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	for _, n := range special {
		if n.Contains(a) {
			return false
		}
	}
	return true
}

// newClient returns the client of all deliveries. The address is judged when the connection is made, after the name was
// looked up, so that a name can't lead elsewhere the second time it is asked for. There is no proxy and no redirect.
func newClient(l limits) *http.Client {
	dialer := &net.Dialer{
		Timeout: dialTime,
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil || !permits(ap.Addr(), l.networks) {
				return CodeAddress.Bad("url", "an address the server may speak to", address)
			}
			return nil
		},
	}
	return &http.Client{
		Timeout:       deliveryTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: l.roots},
			TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: deliveryTime, IdleConnTimeout: time.Minute,
			MaxIdleConns: 100, MaxIdleConnsPerHost: 1, MaxResponseHeaderBytes: maxAnswerHead,
		},
	}
}

// post makes one delivery. Its error is a coded reason; refused says that the receiver answered and didn't want it, which
// waiting rarely mends.
func post(ctx context.Context, c *http.Client, req *http.Request) (status int, refused bool, err error) {
	res, err := c.Do(req.WithContext(ctx))
	if err != nil {
		return 0, false, explain(err)
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // what is longer is cut off with its connection
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return res.StatusCode, false, nil
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return res.StatusCode, true, CodeRedirect.Bad("answer", "a status of 200 to 299", res.Status)
	}
	again := res.StatusCode >= 500 || res.StatusCode == http.StatusRequestTimeout ||
		res.StatusCode == http.StatusTooEarly || res.StatusCode == http.StatusTooManyRequests
	return res.StatusCode, !again, CodeStatus.Bad("answer", "a status of 200 to 299", clip(res.Status))
}

// explain gives a failed connection its code. The text of the error stays out of what the network could have put there.
func explain(err error) error {
	if r, ok := rats.ReasonOf(err); ok {
		return &rats.BadEvidence{Reason: r}
	}
	var timeout net.Error
	var unknown *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return CodeTimeout.Missing("answer", "one within "+deliveryTime.String(), "none")
	case errors.As(err, &unknown):
		return CodeUnreachable.Missing("url", "a host", "a name that doesn't resolve")
	case errors.As(err, &certificate):
		return CodeUnreachable.Missing("url", "a certificate for the host's name", "another, or none that is trusted")
	default:
		return CodeUnreachable.Missing("url", "a connection", clip(err.Error()))
	}
}
