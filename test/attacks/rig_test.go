// Package attacks performs the attacks of the requirements over the wire: against a real server with its real database,
// through its real API. Nothing here is exported.
package attacks

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
	"github.com/assay-attest/assay/result"
)

// rig is a server with an owner.
type rig struct {
	t      testing.TB
	dir    string // the server's data
	files  string // what machines are measured by
	url    string
	cas    [][]byte
	admin  *client.Client
	skew   atomic.Int64 // nanoseconds the server's and the machines' clocks are ahead
	init   server.InitResult
	stop   func()
	vendor *softtpm.CA // of the machines' TPMs
}

func (r *rig) now() time.Time { return time.Now().Add(time.Duration(r.skew.Load())) }

func (r *rig) advance(d time.Duration) { r.skew.Add(int64(d)) }

// newRig starts a server with a policy that trusts softtpm's vendor and three files.
func newRig(t testing.TB) *rig {
	t.Helper()
	if p, ok := t.(*testing.T); ok {
		p.Parallel() // an orderly stop of a server takes a second
	}
	r := &rig{t: t, dir: t.TempDir(), files: t.TempDir(), vendor: softtpm.NewCA(rand.Reader)}
	for _, f := range []string{"a", "b", "c"} {
		r.write(f, "content of "+f)
	}
	var err error
	r.init, err = server.Init(t.Context(), server.InitOptions{Dir: r.dir + "/data", Listen: "127.0.0.1:0", Rand: rand.Reader, Now: r.now})
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	ca, err := os.ReadFile(r.init.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	r.cas = [][]byte{block.Bytes}
	r.admin = r.owner(r.init.AdminToken)
	r.capture("files")
	r.apply(r.defaultPolicy())
	return r
}

// start runs the server; stop, and start again, is a restart.
func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- server.Run(ctx, server.RunOptions{
			Dir: r.dir + "/data", Version: "test", Rand: rand.Reader, Now: r.now,
			Log: slog.New(slog.NewTextHandler(testLog{r.t}, nil)), Ready: func(a string) { ready <- a },
		})
	}()
	select {
	case addr := <-ready:
		r.url = "https://" + addr
	case err := <-done:
		r.t.Fatalf("starting the server: %v", err)
	}
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("stopping the server: %v", err)
		}
		r.stop = func() {}
	}
}

// testLog passes the server's log to the test.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	if testing.Verbose() {
		fmt.Fprint(os.Stderr, string(p))
	}
	return len(p), nil
}

func (r *rig) owner(token string) *client.Client {
	r.t.Helper()
	c, err := client.New(client.Options{Server: r.url, CAs: r.cas, Token: token, Now: r.now})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) write(name, content string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.files, name), []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) system() measure.System {
	return measure.Restrict(measure.Local(), []string{r.files}, nil)
}

// capture puts the files' present digests in force as a reference set.
func (r *rig) capture(set string) {
	r.t.Helper()
	outcomes, err := measure.Capture(r.t.Context(), r.system(), []plan.Test{{
		ID: 1, Kind: plan.KindDir, Alg: "sha256", Args: []byte(fmt.Sprintf(`{"path":%q}`, r.files)),
	}}, plan.Limits{})
	if err != nil {
		r.t.Fatal(err)
	}
	var entries []refvalue.Entry
	for _, o := range outcomes {
		if len(o.Digest) > 0 {
			entries = append(entries, refvalue.Entry{Name: rats.EscapePath(o.Name), Digests: []rats.Digest{{Alg: "sha256", Sum: o.Digest}}, Size: o.Size})
		}
	}
	s, err := refvalue.New(refvalue.Header{Name: set, Source: "test", Created: r.now()}, entries)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.admin.PutRefSet(r.t.Context(), set, s.Encode()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) defaultPolicy() string {
	return `apiVersion: assay/v1
kind: Policy
metadata: {name: test}
selector: 'node.kind == "host"'
priority: 10
every: 1h
valid_for: 2h
allow: [simulated, software-tpm]
formats:
  tpm:
    quote: [0, 7]
    ek_cas:
      - |
` + indent(r.vendor.PEM(), "        ") + `  plan:
    tests:
      - {name: files, dir: ` + r.files + `, reference: files}
`
}

func indent(s, by string) string {
	var b strings.Builder
	for _, l := range strings.SplitAfter(s, "\n") {
		if l != "" {
			b.WriteString(by + l)
		}
	}
	return b.String()
}

func (r *rig) apply(doc string) {
	r.t.Helper()
	if _, err := r.admin.PutPolicy(r.t.Context(), "test", []byte(doc)); err != nil {
		r.t.Fatalf("applying the policy: %v", err)
	}
}

func (r *rig) token(q api.TokenRequest) string {
	r.t.Helper()
	tok, err := r.admin.CreateToken(r.t.Context(), q)
	if err != nil {
		r.t.Fatal(err)
	}
	return tok.Token
}

func (r *rig) options(name string) wire.Options {
	return wire.Options{
		Server: r.url, Token: r.token(api.TokenRequest{Name: name}), Rand: rand.Reader, Now: r.now, System: r.system(),
		TPM: softtpm.New(rand.Reader, softtpm.Options{CA: r.vendor}),
	}
}

// machine joins a node.
func (r *rig) machine(name string) *wire.Machine {
	r.t.Helper()
	m, err := wire.Join(r.t.Context(), r.options(name))
	for codeOf(err) == httpapi.CodeRate.Code {
		time.Sleep(400 * time.Millisecond)
		m, err = wire.Join(r.t.Context(), r.options(name))
	}
	if err != nil {
		r.t.Fatalf("joining %s: %v", name, err)
	}
	if m.Joined.Enrolment != "approved" {
		r.t.Fatalf("%s is %s: %v", name, m.Joined.Enrolment, m.Joined.Reasons)
	}
	return m
}

// challenge returns the next challenge of a machine; its stream stays open until the test ends.
func (r *rig) challenge(m *wire.Machine) api.Challenge {
	r.t.Helper()
	c, err := m.Challenge(r.t.Context())
	if err != nil {
		r.t.Fatalf("waiting for a challenge: %v", err)
	}
	return c
}

// trusted attests a machine and returns what it was told.
func (r *rig) trusted(m *wire.Machine) api.Told {
	r.t.Helper()
	told, err := m.Attest(r.t.Context(), r.challenge(m))
	if err != nil {
		r.t.Fatalf("attesting: %v", err)
	}
	if told.State != rats.StateTrusted {
		view, _ := r.admin.Result(r.t.Context(), told.ID)
		r.t.Fatalf("verdict %s, want trusted: %v", told.Verdict, view.Reasons)
	}
	return told
}

// state is the node's state as the owner sees it.
func (r *rig) state(m *wire.Machine) rats.State {
	r.t.Helper()
	s, err := r.admin.Status(r.t.Context(), m.Joined.Node)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.State
}

// results is how many results the node has.
func (r *rig) results(m *wire.Machine) int {
	r.t.Helper()
	l, err := r.admin.Results(r.t.Context(), m.Joined.Node, 100)
	if err != nil {
		r.t.Fatal(err)
	}
	return len(l)
}

// codeOf is the stable code of an error, from whichever side it comes.
func codeOf(err error) rats.Code {
	if c := client.CodeOf(err); c != "" {
		return c
	}
	reason, _ := rats.ReasonOf(err)
	return reason.Code
}

// refused fails the test unless err carries the code.
func refused(t testing.TB, err error, want rats.Code) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %s", want)
	}
	if got := codeOf(err); got != want {
		t.Fatalf("refused with %q (%v), want %s", got, err, want)
	}
}

// resultsKey is the public key outcomes are sealed to.
func (r *rig) resultsKey() []byte {
	r.t.Helper()
	k, err := keyring.Open(r.dir + "/data/keys")
	if err != nil {
		r.t.Fatal(err)
	}
	defer k.Close()
	return k.ResultsPublic()
}

func randReader() io.Reader { return rand.Reader }

// verifyEAR verifies a result by the keys the server publishes, as a Relying Party does.
func (r *rig) verifyEAR(token, audience string) {
	r.t.Helper()
	res, err := r.raw().Get(r.url + result.JWKSPath)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	keys, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	ear, err := result.Verify(token, keys, result.VerifyOptions{Audience: audience, Issuer: r.init.URL, Now: r.now()})
	if err != nil {
		r.t.Fatal(err)
	}
	if v := ear.Verdict(r.now()); v.State != rats.StateTrusted {
		r.t.Errorf("the EAR says %s", v.State)
	}
	if _, err := result.Verify(token, keys, result.VerifyOptions{Audience: "https://other.example", Issuer: r.init.URL, Now: r.now()}); err == nil {
		r.t.Error("the EAR is accepted by another audience")
	}
}
