package client

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

// PathCA is where a server tells its CA certificates: PEM (one or more CERTIFICATE blocks) or one certificate in DER. The
// answer is worth nothing by itself: it is compared with a pinned hash.
const PathCA = "/v1/ca"

const maxCA = 64 << 10

// ready returns the HTTP client, after fetching the CA certificate if only its hash is known.
func (c *Client) ready(ctx context.Context) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		return c.http, nil
	}
	der, err := c.fetchCA(ctx)
	if err != nil {
		return nil, err
	}
	h, err := c.pinned([][]byte{der})
	if err != nil {
		return nil, err
	}
	c.http, c.cas = h, [][]byte{der}
	return h, nil
}

// fetchCA gets the certificate with the pinned hash: from the chain the server presents or, failing that, from PathCA.
// The connection is not verified, so it carries neither token nor client certificate, and it isn't used again: the
// handshake is repeated under the CA that was found.
func (c *Client) fetchCA(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	tr := c.transport(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // only to learn a certificate whose hash is known
		Time:               c.opt.Now,
	})
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath(PathCA).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(api.HeaderProtocol, api.Protocol)
	req.Header.Set("User-Agent", c.opt.UserAgent)
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, c.diagnose(err)
	}
	defer res.Body.Close()

	var presented []*x509.Certificate
	if res.TLS != nil {
		presented = res.TLS.PeerCertificates
	}
	for _, cert := range presented {
		if c.isPinned(cert.Raw) {
			return cert.Raw, nil
		}
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxCA))
	if err != nil {
		return nil, c.diagnose(err)
	}
	var seen rats.Digest
	if res.StatusCode == http.StatusOK {
		for _, der := range certificates(body) {
			if c.isPinned(der) {
				return der, nil
			}
			seen = rats.SHA256(der)
		}
	}
	return nil, c.unreachable(CodeOtherCA, "expected CA "+c.opt.CAHash.String()+", seen "+seenCA(seen, presented), nil)
}

func (c *Client) isPinned(der []byte) bool {
	return subtle.ConstantTimeCompare(rats.SHA256(der).Sum, c.opt.CAHash.Sum) == 1
}

// certificates splits PEM into DER; anything else is taken for DER itself.
func certificates(b []byte) [][]byte {
	var ders [][]byte
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			ders = append(ders, block.Bytes)
		}
	}
	if ders == nil && len(b) > 0 {
		ders = [][]byte{b}
	}
	return ders
}

// seenCA names what a server presented instead of the pinned CA, as closely as can be told.
func seenCA(ca rats.Digest, presented []*x509.Certificate) string {
	for _, cert := range presented {
		if cert.IsCA {
			ca = rats.SHA256(cert.Raw)
		}
	}
	switch {
	case !ca.IsZero():
		return ca.String()
	case len(presented) > 0:
		return "a certificate issued by \"" + clip(presented[0].Issuer.String()) + "\" (" + rats.SHA256(presented[0].Raw).String() + ")"
	default:
		return "none"
	}
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
