package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// template is a node's certificate before something is changed in it.
func template(change func(*x509.Certificate)) *x509.Certificate {
	u, err := url.Parse("assay://default/node/nd_7f")
	if err != nil {
		panic(err)
	}
	x := &x509.Certificate{
		SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: "nd_7f"}, URIs: []*url.URL{u},
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(x)
	}
	return x
}

func signed(t testing.TB, x, parent *x509.Certificate, pub any, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, x, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, der)
}

// R031: only a client certificate signed directly by a pinned CA is a node's; every other one has its code.
func TestClientCertificateRefusals(t *testing.T) {
	c := &clock{start}
	ca, caKey := newCA(t, c)
	root := parse(t, ca.DER())
	otherCA, otherKey := newCA(t, c)
	other := parse(t, otherCA.DER())
	pins := newPins(t, c, ca)
	key := newKey(t)
	leaf := func(change func(*x509.Certificate)) []*x509.Certificate {
		return []*x509.Certificate{signed(t, template(change), root, key.Public(), caKey)}
	}
	interKey := newKey(t)
	inter := signed(t, template(func(x *x509.Certificate) {
		x.Subject.CommonName, x.URIs, x.ExtKeyUsage = "Assay CA intermediate", nil, nil
		x.IsCA, x.BasicConstraintsValid, x.MaxPathLenZero, x.KeyUsage = true, true, true, x509.KeyUsageCertSign
	}), root, interKey.Public(), caKey)
	below := signed(t, template(nil), inter, key.Public(), interKey)
	// An intermediate that bears the root's own name and signs like it.
	twin := signed(t, template(func(x *x509.Certificate) {
		x.Subject, x.URIs, x.ExtKeyUsage = root.Subject, nil, nil
		x.IsCA, x.BasicConstraintsValid, x.MaxPathLenZero, x.KeyUsage = true, true, true, x509.KeyUsageCertSign
	}), root, interKey.Public(), caKey)
	belowTwin := signed(t, template(nil), twin, key.Public(), interKey)
	uri := func(s string) func(*x509.Certificate) {
		return func(x *x509.Certificate) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			x.URIs = []*url.URL{u}
		}
	}
	if _, err := pins.Verify(leaf(nil)); err != nil {
		t.Fatalf("the unchanged certificate is refused: %v", err)
	}
	if _, err := pins.Verify(append(leaf(nil), root)); err != nil {
		t.Fatalf("leaf and root are refused: %v", err)
	}
	for _, tc := range []struct {
		name  string
		chain []*x509.Certificate
		want  rats.CodeInfo
	}{
		{"none", nil, identity.CodePeerMissing},
		{"of another CA", []*x509.Certificate{signed(t, template(nil), other, key.Public(), otherKey)}, identity.CodePeerCA},
		{"self-signed", []*x509.Certificate{signed(t, template(nil), template(nil), key.Public(), key)}, identity.CodePeerCA},
		{"the CA itself", []*x509.Certificate{root}, identity.CodePeerCA},
		{"depth 2", []*x509.Certificate{below, inter}, identity.CodePeerCA},
		{"depth 2 with root", []*x509.Certificate{below, inter, root}, identity.CodePeerCA},
		{"depth 2 under the root's name", []*x509.Certificate{belowTwin, twin, root}, identity.CodePeerCA},
		{"good leaf with an intermediate", append(leaf(nil), inter), identity.CodePeerChain},
		{"good leaf with root twice", append(leaf(nil), root, root), identity.CodePeerChain},
		{"good leaf with another CA", append(leaf(nil), other), identity.CodePeerChain},
		{"expired", leaf(func(x *x509.Certificate) { x.NotAfter = start.Add(-time.Second) }), identity.CodePeerExpired},
		{"not yet valid", leaf(func(x *x509.Certificate) { x.NotBefore = start.Add(time.Second) }), identity.CodePeerExpired},
		{"for servers", leaf(func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), identity.CodePeerUsage},
		{"for anything", leaf(func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), identity.CodePeerUsage},
		{"without usages", leaf(func(x *x509.Certificate) { x.ExtKeyUsage = nil }), identity.CodePeerUsage},
		{"for servers too", leaf(func(x *x509.Certificate) { x.ExtKeyUsage = append(x.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }), identity.CodePeerUsage},
		{"of a CA below the CA", []*x509.Certificate{inter}, identity.CodePeerUsage},
		{"with an unknown critical extension", leaf(func(x *x509.Certificate) {
			x.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), identity.CodePeerUsage},
		{"without a URI", leaf(func(x *x509.Certificate) { x.URIs = nil }), identity.CodePeerName},
		{"with two URIs", leaf(func(x *x509.Certificate) { x.URIs = append(x.URIs, x.URIs[0]) }), identity.CodePeerName},
		{"with a DNS name", leaf(func(x *x509.Certificate) { x.DNSNames = []string{"a.example"} }), identity.CodePeerName},
		{"with an address", leaf(func(x *x509.Certificate) { x.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }), identity.CodePeerName},
		{"of another scheme", leaf(uri("spiffe://default/node/nd_7f")), identity.CodePeerName},
		{"with a query", leaf(uri("assay://default/node/nd_7f?x")), identity.CodePeerName},
		{"with a user", leaf(uri("assay://me@default/node/nd_7f")), identity.CodePeerName},
		{"with a longer path", leaf(uri("assay://default/node/nd_7f/node/nd_8")), identity.CodePeerName},
		{"of no node", leaf(uri("assay://default/user/nd_7f")), identity.CodePeerName},
		{"with another common name", leaf(func(x *x509.Certificate) { x.Subject.CommonName = "nd_8" }), identity.CodePeerName},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := pins.Verify(tc.chain)
			wantCode(t, err, tc.want)
		})
	}
}

func TestPeerIsReadFromItsCertificate(t *testing.T) {
	c := &clock{start}
	ca, _ := newCA(t, c)
	spki := spkiOf(t, newKey(t).Public())
	der, serial, err := ca.NodeCertificate("default", "nd_7f", spki)
	if err != nil {
		t.Fatal(err)
	}
	state := &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, PeerCertificates: []*x509.Certificate{parse(t, der)}}
	pins := newPins(t, c, ca)
	p, err := pins.Peer(state)
	if err != nil {
		t.Fatal(err)
	}
	if p.Namespace != "default" || p.Node != "nd_7f" || p.Serial != serial || !p.TLSKey.Equal(rats.SHA256(spki)) || string(p.SPKI) != string(spki) {
		t.Errorf("got %+v", p)
	}
	// A connection may outlive its certificate; its requests may not.
	c.t = start.Add(31 * 24 * time.Hour)
	_, err = pins.Peer(state)
	wantCode(t, err, identity.CodePeerExpired)
}

// R077: without TLS 1.3 nobody is a peer.
func TestConnectionWithoutTLS13HasNoPeer(t *testing.T) {
	c := &clock{start}
	ca, _ := newCA(t, c)
	for name, state := range map[string]*tls.ConnectionState{
		"plaintext": nil, "TLS 1.2": {Version: tls.VersionTLS12, HandshakeComplete: true}, "unfinished": {Version: tls.VersionTLS13},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newPins(t, c, ca).Peer(state)
			wantCode(t, err, identity.CodePeerPlain)
		})
	}
}

// S08: while a CA is replaced, certificates of the old and of the new one count, each at depth 1.
func TestBothCAsCountDuringRotation(t *testing.T) {
	c := &clock{start}
	older, _ := newCA(t, c)
	newer, _ := newCA(t, c)
	spki := spkiOf(t, newKey(t).Public())
	for _, ca := range []*identity.CA{older, newer} {
		der, _, err := ca.NodeCertificate("default", "nd_a", spki)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newPins(t, c, older, newer).Verify([]*x509.Certificate{parse(t, der)}); err != nil {
			t.Error(err)
		}
	}
}

func TestPeerActsOnlyForItself(t *testing.T) {
	n := store.Node{ID: "nd_a", TLSKey: rats.SHA256([]byte("key")), Enrolment: store.EnrolmentApproved}
	p := identity.Peer{Namespace: "default", Node: "nd_a", TLSKey: rats.SHA256([]byte("key"))}
	if err := identity.Admit("default", n, p); err != nil {
		t.Fatal(err)
	}
	pending := n
	pending.Enrolment = store.EnrolmentPending
	if err := identity.Admit("default", pending, p); err != nil {
		t.Errorf("a pending node is not admitted: %v", err)
	}
	for _, tc := range []struct {
		name string
		f    func(*store.Node, *identity.Peer)
		want rats.CodeInfo
	}{
		{"other namespace", func(_ *store.Node, p *identity.Peer) { p.Namespace = "x" }, identity.CodePeerNamespace},
		{"other node", func(_ *store.Node, p *identity.Peer) { p.Node = "nd_b" }, identity.CodePeerNode},
		{"other key", func(_ *store.Node, p *identity.Peer) { p.TLSKey = rats.SHA256(nil) }, identity.CodePeerKey},
		{"no key at all", func(n *store.Node, p *identity.Peer) { n.TLSKey, p.TLSKey = rats.Digest{}, rats.Digest{} }, identity.CodePeerKey},
		{"revoked", func(n *store.Node, _ *identity.Peer) { n.Enrolment = store.EnrolmentRevoked }, identity.CodePeerRevoked},
		{"zero enrolment", func(n *store.Node, _ *identity.Peer) { n.Enrolment = "" }, identity.CodePeerRevoked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, p := n, p
			tc.f(&n, &p)
			wantCode(t, identity.Admit("default", n, p), tc.want)
		})
	}
}

// tlsServer serves over ServerTLS and says who called.
func tlsServer(t *testing.T, c *clock, ca *identity.CA, pins *identity.Pins) (addr string) {
	t.Helper()
	certs, err := ca.ServerCertificates([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := identity.ServerTLS(pins, certs)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{
		TLSConfig:         cfg,
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, err := pins.Peer(r.TLS)
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			io.WriteString(w, r.Proto+" "+p.Node)
		}),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.ServeTLS(l, "", "")
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

func ask(t *testing.T, addr string, cfg *tls.Config) (int, string, error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// R031, R077: over a real connection: TLS 1.3 and a directly signed certificate, or nothing.
func TestServerTLSAdmitsOnlyPinnedPeersOverTLS13(t *testing.T) {
	c := &clock{start}
	ca, caKey := newCA(t, c)
	pins := newPins(t, c, ca)
	addr := tlsServer(t, c, ca, pins)
	roots := x509.NewCertPool()
	roots.AddCert(parse(t, ca.DER()))
	key := newKey(t)
	der, _, err := ca.NodeCertificate("default", "nd_a", spkiOf(t, key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	good := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	config := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: roots, Time: c.now, Certificates: certs}
	}

	status, body, err := ask(t, addr, config(good))
	if err != nil || status != http.StatusOK || body != "HTTP/2.0 nd_a" {
		t.Errorf("a node: %d %q %v", status, body, err)
	}
	status, body, err = ask(t, addr, config())
	if err != nil || status != http.StatusForbidden || !strings.Contains(body, string(identity.CodePeerMissing.Code)) {
		t.Errorf("nobody: %d %q %v", status, body, err)
	}

	inter, interKey := parse(t, ca.DER()), newKey(t)
	inter = signed(t, template(func(x *x509.Certificate) {
		x.Subject, x.URIs, x.ExtKeyUsage = inter.Subject, nil, nil
		x.IsCA, x.BasicConstraintsValid, x.MaxPathLenZero, x.KeyUsage = true, true, true, x509.KeyUsageCertSign
	}), inter, interKey.Public(), caKey)
	below := signed(t, template(nil), inter, key.Public(), interKey)
	deep := tls.Certificate{Certificate: [][]byte{below.Raw, inter.Raw}, PrivateKey: key}
	stolen := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: newKey(t)}
	for name, bad := range map[string]tls.Certificate{"depth 2": deep, "stolen certificate": stolen} {
		bad := bad
		cfg := config()
		// The client would not offer these by itself.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &bad, nil }
		if status, _, err := ask(t, addr, cfg); err == nil {
			t.Errorf("%s: answered with %d", name, status)
		}
	}

	old := config(good)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if status, _, err := ask(t, addr, old); err == nil {
		t.Errorf("TLS 1.2: answered with %d", status)
	}
	if resp, err := http.Get("http://" + addr); err == nil {
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("plaintext: answered with %s", resp.Status)
		}
	}
	if _, err := identity.ServerTLS(nil, nil); err == nil {
		t.Error("a configuration without CAs was made")
	}
}

func FuzzPinsVerify(f *testing.F) {
	c := &clock{start}
	ca, caKey := newCA(f, c)
	pins := newPins(f, c, ca)
	f.Add(signed(f, template(nil), parse(f, ca.DER()), newKey(f).Public(), caKey).Raw)
	f.Add(ca.DER())
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		p, err := pins.Verify([]*x509.Certificate{cert})
		if err == nil && (p.Node == "" || p.Namespace == "") {
			t.Errorf("accepted %+v", p)
		}
	})
}
