package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

const (
	testNode = "nd_test"
	testNS   = "lab"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func spkiOf(t *testing.T, pub crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fakeServer speaks the server's side of the wire. What it answers is the test's to say.
type fakeServer struct {
	t          *testing.T
	http       *httptest.Server
	caKey      *ecdsa.PrivateKey
	ca         *x509.Certificate
	verifier   rats.Digest
	planSigner *ecdsa.PrivateKey
	results    *sealed.Key // to which reports are sealed
	token      string

	mu        sync.Mutex
	requests  []string // every request but the stream
	streams   int
	instances []string
	peers     []string // common names of the streams' certificates
	send      chan any // to the open stream: api.Challenge, api.Told, api.Problem, or error: break it
	opened    chan struct{}
	submitted chan api.Submission
	answer    func(api.Submission) (api.Answer, *api.Problem)
	secret    func(name string) (api.Release, *api.Problem)
	joinStep  func(w http.ResponseWriter, r *http.Request)
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	s := &fakeServer{
		t: t, caKey: newKey(t), verifier: rats.SHA256([]byte("verifier")), planSigner: newKey(t),
		send: make(chan any, 8), opened: make(chan struct{}, 64), submitted: make(chan api.Submission, 64),
	}
	var err error
	if s.results, err = sealed.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	s.ca = s.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, &s.caKey.PublicKey)
	key := newKey(t)
	leaf := s.sign(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key.PublicKey)
	pool := x509.NewCertPool()
	pool.AddCert(s.ca)
	s.token = api.JoinTokenText{Namespace: testNS, ID: "jt_1", Secret: make([]byte, 32), CA: rats.SHA256(s.ca.Raw)}.String()
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.EnableHTTP2 = true
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.http.TLS = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, s.ca.Raw}, PrivateKey: key}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: pool,
	}
	s.http.StartTLS()
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

func (s *fakeServer) sign(tmpl *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	s.t.Helper()
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	parent := s.ca
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, s.caKey)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *fakeServer) nodeCert(pub crypto.PublicKey, from time.Time, life time.Duration) []byte {
	return s.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: testNode}, NotBefore: from, NotAfter: from.Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, pub).Raw
}

func (s *fakeServer) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/namespaces/"+testNS+"/")
	if r.Header.Get(api.HeaderProtocol) != api.Protocol {
		s.t.Errorf("%s without protocol version", path)
	}
	if path != "nodes/"+testNode+"/stream" {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+path)
		s.mu.Unlock()
	}
	if strings.HasPrefix(path, "join") {
		s.joinStep(w, r)
		return
	}
	if len(r.TLS.PeerCertificates) != 1 || r.TLS.PeerCertificates[0].Subject.CommonName != testNode {
		problem(w, api.Problem{Status: 401, Code: "x.peer.missing", Title: "no certificate"})
		return
	}
	switch {
	case strings.HasSuffix(path, "/stream"):
		s.stream(w, r)
	case strings.HasSuffix(path, "/evidence"):
		var sub api.Submission
		b, err := io.ReadAll(r.Body)
		if err == nil {
			err = sub.UnmarshalBinary(b)
		}
		if err != nil || r.Header.Get("Content-Type") != api.TypeSubmission {
			s.t.Errorf("submission: %v", err)
		}
		a, p := s.answer(sub)
		s.submitted <- sub
		reply(w, a, p)
	case strings.Contains(path, "/secrets/"):
		_, name, _ := strings.Cut(path, "/secrets/")
		rel, p := s.secret(name)
		reply(w, rel, p)
	case strings.HasSuffix(path, "/certificate"):
		var req api.CertificateRequest
		json.NewDecoder(r.Body).Decode(&req)
		pub, err := x509.ParsePKIXPublicKey(req.TLSKey)
		if err != nil {
			s.t.Error(err)
		}
		reply(w, api.Certificate{Certificate: s.nodeCert(pub, time.Now().Add(-time.Minute), time.Hour), CAs: [][]byte{s.ca.Raw}}, nil)
	default:
		problem(w, api.Problem{Status: 404, Code: "x.route.unknown"})
	}
}

func reply(w http.ResponseWriter, v any, p *api.Problem) {
	if p != nil {
		problem(w, *p)
		return
	}
	json.NewEncoder(w).Encode(v)
}

func problem(w http.ResponseWriter, p api.Problem) {
	w.Header().Set("Content-Type", api.TypeProblem)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

func (s *fakeServer) stream(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.streams++
	s.instances = append(s.instances, r.Header.Get(api.HeaderInstance))
	s.peers = append(s.peers, r.TLS.PeerCertificates[0].SerialNumber.String())
	s.mu.Unlock()
	w.Header().Set("Content-Type", api.TypeEventStream)
	w.WriteHeader(200)
	flush := http.NewResponseController(w).Flush
	flush()
	s.opened <- struct{}{}
	for {
		select {
		case <-r.Context().Done():
			return
		case v := <-s.send:
			name := ""
			switch v.(type) {
			case api.Challenge:
				name = api.StreamChallenge
			case api.Told:
				name = api.StreamResult
			case api.Problem:
				name = api.StreamBye
			case error:
				panic(http.ErrAbortHandler)
			}
			b, _ := json.Marshal(v)
			fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, b)
			flush()
		}
	}
}

// challenge asks for formats, with the params of those that stand in asks.
func (s *fakeServer) challenge(formats []rats.Format, asks ...rats.Ask) api.Challenge {
	nonce := make([]byte, 32)
	rand.Read(nonce)
	return api.Challenge{
		Token: []byte("token-" + hex.EncodeToString(nonce[:4])), Nonce: nonce, Purpose: rats.PurposeAttest, Verifier: s.verifier,
		Expires: time.Now().Add(30 * time.Second), TTL: "30s", Formats: formats, Asks: asks, Why: "due",
	}
}

// order makes a sealed order of file tests for an enclave.
func (s *fakeServer) order(keys []rats.BoundKey, nonce []byte, paths ...string) []byte {
	s.t.Helper()
	p := plan.Plan{Version: plan.Version1}
	for i, path := range paths {
		test, err := plan.NewTest(uint32(i+1), plan.KindFile, "sha256", path, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		p.Tests = append(p.Tests, test)
	}
	var hpke []byte
	var of []rats.BoundKey
	for _, k := range keys {
		switch k.Use {
		case rats.KeyHPKE:
			hpke = k.Public
			of = append(of, k)
		case rats.KeySign, rats.KeyPlanSigner:
			of = append(of, k)
		}
	}
	o := plan.Order{
		Namespace: testNS, Node: testNode, Nonce: nonce, To: plan.KeysDigest(of), Results: s.results.Public(),
		Expires: time.Now().Add(time.Minute).UTC(), Plan: p,
	}
	box, err := o.Seal(nil, s.planSigner, hpke)
	if err != nil {
		s.t.Fatal(err)
	}
	return box
}

// outcomes opens a sealed report.
func (s *fakeServer) outcomes(box []byte) []plan.Outcome {
	s.t.Helper()
	e, err := plan.OpenEvidence(s.results, box)
	if err != nil {
		s.t.Fatal(err)
	}
	_, bulk, timings, err := plan.OpenReport(e)
	if err != nil {
		s.t.Fatal(err)
	}
	_, out, err := plan.DecodeOutcomes(bulk, timings)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// fakeQuote is an Attester of a platform format.
type fakeQuote struct {
	err error
	n   chan struct{} // if set, every collection waits for one
}

const fakeFormat rats.Format = "quote"

func (f *fakeQuote) Descriptor() *rats.Descriptor         { return &rats.Descriptor{ID: fakeFormat} }
func (f *fakeQuote) Probe(context.Context) rats.Readiness { return rats.Readiness{OK: true} }
func (f *fakeQuote) Collect(ctx context.Context, a rats.Ask) (rats.Evidence, error) {
	if f.n != nil {
		select {
		case <-f.n:
		case <-ctx.Done():
			return rats.Evidence{}, ctx.Err()
		}
	}
	if f.err != nil {
		return rats.Evidence{}, f.err
	}
	return rats.Evidence{Format: fakeFormat, MediaType: "application/x-quote", Body: a.Binding.UserData}, nil
}

// planAttester is the node side's own Attester of plans, over the enclave's three lines.
type planAttester struct{ e *measure.Enclave }

func (p planAttester) Descriptor() *rats.Descriptor         { return &rats.Descriptor{ID: plan.Format} }
func (p planAttester) Probe(context.Context) rats.Readiness { return rats.Readiness{OK: true} }
func (p planAttester) Collect(ctx context.Context, a rats.Ask) (rats.Evidence, error) {
	box, err := p.e.Run(ctx, a.Binding.Manifest, a.Params)
	return rats.Evidence{Format: plan.Format, MediaType: api.TypeSealed, Body: box}, err
}

// rig is an agent that has joined a fake server, over a platform with keys in memory.
type rig struct {
	*fakeServer
	dir     string
	key     *ecdsa.PrivateKey
	quote   *fakeQuote
	enclave *measure.Enclave // of the last run
	log     *syncBuffer
	config  Config

	realPlatform bool // the TPM and enclave of openPlatform
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newRig(t *testing.T) *rig {
	t.Helper()
	s := newFakeServer(t)
	cfg, err := ParseConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{fakeServer: s, dir: shortDir(t), key: newKey(t), quote: &fakeQuote{}, log: &syncBuffer{}, config: cfg}
	r.save(s.nodeCert(&r.key.PublicKey, time.Now().Add(-time.Minute), time.Hour))
	s.answer = func(sub api.Submission) (api.Answer, *api.Problem) {
		return api.Answer{Result: &api.Told{ID: "at_1", Verdict: "trusted", State: rats.StateTrusted, At: time.Now()}}, nil
	}
	return r
}

func (r *rig) state(cert []byte) State {
	return State{
		Version: stateVersion, Server: r.http.URL, Namespace: testNS, Node: testNode, Name: "n1", Verifier: r.verifier,
		CAs: [][]byte{r.ca.Raw}, PlanSigner: spkiOf(r.t, r.planSigner.Public()), AKUnique: make([]byte, 32),
		TLSUnique: make([]byte, 32), Certificate: cert,
	}
}

func (r *rig) save(cert []byte) {
	r.t.Helper()
	if err := r.state(cert).save(r.dir); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) options() RunOptions {
	return RunOptions{
		Dir: r.dir, Config: r.config, Rand: rand.Reader, Now: time.Now,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		platform: func(_ context.Context, s State, c Config) (*platform, error) {
			if err := keyFits(s.Certificate, r.key.Public()); err != nil {
				return nil, err
			}
			e, err := measure.NewEnclave(measure.Config{
				System: measure.Restrict(measure.Local(), c.Allow.Roots, c.Allow.Commands), Rand: rand.Reader, Now: time.Now,
				PlanSigner: s.PlanSigner, Namespace: s.Namespace, Node: s.Node,
			})
			if err != nil {
				return nil, err
			}
			r.enclave = e
			return &platform{
				key: r.key, enclave: native{e}, attesters: []rats.Attester{r.quote, planAttester{e}},
				boot:  func(context.Context) (rats.Digest, error) { return rats.SHA256([]byte("boot")), nil },
				close: func() error { return nil },
			}, nil
		},
	}
}

// start runs the agent and waits for its stream; stop ends it.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	o := r.options()
	if r.realPlatform {
		o.platform = nil
	}
	go func() { done <- Run(ctx, o) }()
	select {
	case <-r.opened:
	case err := <-done:
		r.t.Fatalf("the agent ended: %v", err)
	case <-time.After(20 * time.Second):
		r.t.Fatalf("no stream; log:\n%s", r.log)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Errorf("the agent ended: %v", err)
			}
		})
	}
	r.t.Cleanup(stop)
	return stop
}

// next waits for a submission.
func (r *rig) next() api.Submission {
	r.t.Helper()
	select {
	case s := <-r.submitted:
		return s
	case <-time.After(20 * time.Second):
		r.t.Fatalf("no submission; log:\n%s", r.log)
		return api.Submission{}
	}
}

// eventually waits until the log holds a text.
func (r *rig) eventually(text string) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(r.log.String(), text); {
		if time.Now().After(deadline) {
			r.t.Fatalf("the log doesn't say %q:\n%s", text, r.log)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

var errBreak = errors.New("break the stream")
