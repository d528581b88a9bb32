package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

// authority is a CA of a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	return issue(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
}

// issue makes a certificate signed by a, self-signed if a is nil.
func issue(t *testing.T, a *authority, tmpl *x509.Certificate) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := tmpl, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key: key, cert: cert}
}

func localLeaf() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func tlsOf(a *authority, chain ...*authority) tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{a.cert.Raw}, PrivateKey: a.key}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.cert.Raw)
	}
	return c
}

// serve starts a TLS server with a configuration.
func serve(t *testing.T, cfg *tls.Config, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.TLS = cfg
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func versionHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(api.Version{Version: "test", Protocol: api.Protocol})
	})
}

func must(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func wantUnreachable(t *testing.T, err error, info rats.CodeInfo) *Unreachable {
	t.Helper()
	var u *Unreachable
	if !errors.As(err, &u) || u.Code != info.Code {
		t.Fatalf("error %v (code %q), expected %s", err, CodeOf(err), info.Code)
	}
	if u.Hint == "" || u.Server == "" {
		t.Errorf("no hint or server in %+v", u)
	}
	return u
}

func TestServerSignedDirectlyByPinnedCAIsBelieved(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, localLeaf()))}}, versionHandler())
	other := newAuthority(t)
	c := must(t, Options{Server: s.URL, CAs: [][]byte{other.cert.Raw, ca.cert.Raw}})
	v, err := c.Version(t.Context())
	if err != nil || v.Version != "test" {
		t.Fatalf("version %+v, %v", v, err)
	}
}

// S08: each pinned CA at depth 1.
func TestServerBehindAnIntermediateCAIsRefused(t *testing.T) {
	ca := newAuthority(t)
	mid := issue(t, ca, &x509.Certificate{Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	leaf := issue(t, mid, localLeaf())
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(leaf, mid)}}, versionHandler())
	_, err := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}}).Version(t.Context())
	wantUnreachable(t, err, CodeOtherCA)
}

func TestServerOfAnotherCAIsNamed(t *testing.T) {
	ca, evil := newAuthority(t), newAuthority(t)
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, evil, localLeaf()), evil)}}, versionHandler())
	_, err := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}}).Version(t.Context())
	u := wantUnreachable(t, err, CodeOtherCA)
	for _, d := range []rats.Digest{rats.SHA256(ca.cert.Raw), rats.SHA256(evil.cert.Raw)} {
		if !strings.Contains(u.Detail, d.String()) {
			t.Errorf("detail %q doesn't name %s", u.Detail, d)
		}
	}
}

func TestCAIsPinnedByItsHash(t *testing.T) {
	ca := newAuthority(t)
	leaf := issue(t, ca, localLeaf())
	pemOf := func(a *authority) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	}
	for _, tc := range []struct {
		name string
		cert tls.Certificate
		body []byte
		ok   bool
	}{
		{"in the chain", tlsOf(leaf, ca), nil, true},
		{"PEM", tlsOf(leaf), append(pemOf(newAuthority(t)), pemOf(ca)...), true},
		{"DER", tlsOf(leaf), ca.cert.Raw, true},
		{"another CA", tlsOf(leaf), newAuthority(t).cert.Raw, false},
		{"nothing", tlsOf(leaf), nil, false},
		// The right CA is public: presenting it beside a leaf of one's own must not be enough.
		{"right CA, foreign leaf", tlsOf(issue(t, newAuthority(t), localLeaf()), ca), ca.cert.Raw, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, &tls.Config{Certificates: []tls.Certificate{tc.cert}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == PathCA {
					if r.Header.Get("Authorization") != "" {
						t.Error("the token went over a connection that wasn't verified")
					}
					w.Write(tc.body)
					return
				}
				versionHandler().ServeHTTP(w, r)
			}))
			c := must(t, Options{Server: s.URL, CAHash: rats.SHA256(ca.cert.Raw), Token: "secret"})
			_, err := c.Version(t.Context())
			if !tc.ok {
				wantUnreachable(t, err, CodeOtherCA)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(c.CAs()) != 1 || !bytes.Equal(c.CAs()[0], ca.cert.Raw) {
				t.Error("the pinned CA isn't told")
			}
		})
	}
}

func TestConnectionFailuresAreDiagnosed(t *testing.T) {
	ca := newAuthority(t)
	leaf := tlsOf(issue(t, ca, localLeaf()))
	pinned := [][]byte{ca.cert.Raw}
	url := func(cfg *tls.Config) string { return serve(t, cfg, versionHandler()).URL }
	plain := httptest.NewServer(versionHandler())
	t.Cleanup(plain.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	otherName := localLeaf()
	otherName.IPAddresses, otherName.DNSNames = nil, []string{"elsewhere.example"}
	hangUp := func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			b.Read(make([]byte, 10))
			b.Close()
		}()
		return a, nil
	}
	failing := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) { return nil, err }
	}

	for _, tc := range []struct {
		name string
		opt  Options
		want rats.CodeInfo
		seen string
	}{
		{"nothing listens", Options{Server: closed.Addr().String()}, CodeRefused, ""},
		{"no answer", Options{Server: "192.0.2.1", Dialer: failing(context.DeadlineExceeded)}, CodeTimeout, ""},
		{"no route", Options{Server: "192.0.2.1", Dialer: failing(&net.OpError{Op: "dial", Err: noRoute})}, CodeNoRoute, ""},
		{"no such name", Options{Server: "nowhere.invalid", Dialer: failing(&net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true})}, CodeName, ""},
		{"other failure", Options{Server: "192.0.2.1", Dialer: failing(errors.New("odd"))}, CodeConnect, ""},
		{"plain HTTP", Options{Server: "https://" + plain.Listener.Addr().String()}, CodePlain, ""},
		{"TLS 1.2", Options{Server: url(&tls.Config{Certificates: []tls.Certificate{leaf}, MaxVersion: tls.VersionTLS12})}, CodeTLSVersion, ""},
		{"hangs up", Options{Server: "192.0.2.1", Dialer: hangUp}, CodeLost, ""},
		{"other name", Options{Server: url(&tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, otherName))}})}, CodeServerName, "elsewhere.example"},
		{
			"clock slow",
			Options{Server: url(&tls.Config{Certificates: []tls.Certificate{leaf}}), Now: func() time.Time { return time.Unix(1e9, 0) }},
			CodeClock, "clock is probably slow",
		},
		{
			"clock fast or certificate expired",
			Options{Server: url(&tls.Config{Certificates: []tls.Certificate{leaf}}), Now: func() time.Time { return time.Now().AddDate(9, 0, 0) }},
			CodeClock, "this machine's clock says",
		},
		{
			"client certificate demanded",
			Options{Server: url(&tls.Config{Certificates: []tls.Certificate{leaf}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()})},
			CodeCertificate, "",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.opt.CAs = pinned
			_, err := must(t, tc.opt).Version(t.Context())
			u := wantUnreachable(t, err, tc.want)
			if !strings.Contains(u.Detail, tc.seen) {
				t.Errorf("detail %q doesn't say %q", u.Detail, tc.seen)
			}
		})
	}
}

func TestOptionsWithoutPinOrWithOddAddressAreRefused(t *testing.T) {
	pin := rats.SHA256([]byte("ca"))
	for server, want := range map[string]rats.CodeInfo{
		"http://host:1": CodeAddress, "https://user@host": CodeAddress, "https://host/path": CodeAddress, "": CodeAddress,
		"https://host?x": CodeAddress, "ftp://host": CodeAddress,
	} {
		if _, err := New(Options{Server: server, CAHash: pin}); CodeOf(err) != want.Code {
			t.Errorf("%q: %v, expected %s", server, err, want.Code)
		}
	}
	if _, err := New(Options{Server: "host"}); CodeOf(err) != CodeNoCA.Code {
		t.Errorf("no pin: %v, expected %s", err, CodeNoCA.Code)
	}
	for in, want := range map[string]string{
		"host": "https://host:8443", "host:1": "https://host:1", "https://[::1]": "https://[::1]:8443", "https://host:1/": "https://host:1",
	} {
		c, err := New(Options{Server: in, CAHash: pin})
		if err != nil || c.Server() != want {
			t.Errorf("%q: %v, %v, expected %s", in, c, err, want)
		}
	}
}

func TestProblemsAndForeignErrorPagesAreToldApart(t *testing.T) {
	ca := newAuthority(t)
	var media, body string
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, localLeaf()))}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", media)
		w.WriteHeader(409)
		io.WriteString(w, body)
	}))
	c := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}})

	media, body = api.TypeProblem, `{"code":"broker.result.stale","title":"too old","detail":"attest first","status":200}`
	_, err := c.GetNode(t.Context(), "n")
	var e *Error
	if !errors.As(err, &e) || e.Problem.Code != "broker.result.stale" || e.Problem.Status != 409 {
		t.Fatalf("%#v", err)
	}
	if want := "too old: attest first (broker.result.stale)"; err.Error() != want {
		t.Errorf("%q, expected %q", err, want)
	}
	media, body = "text/html", "<html>"
	if _, err = c.GetNode(t.Context(), "n"); CodeOf(err) != CodeAnswer.Code {
		t.Errorf("a page of something else: %v", err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, localLeaf()))}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/policies") {
			io.WriteString(w, "{")
			return
		}
		io.WriteString(w, strings.Repeat(" ", maxAnswer+1))
	}))
	c := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}})
	if _, err := c.GetNode(t.Context(), "n"); CodeOf(err) != CodeAnswerSize.Code {
		t.Errorf("%v, expected %s", err, CodeAnswerSize.Code)
	}
	if _, err := c.ListPolicies(t.Context()); CodeOf(err) != CodeAnswer.Code {
		t.Errorf("%v, expected %s", err, CodeAnswer.Code)
	}
}
