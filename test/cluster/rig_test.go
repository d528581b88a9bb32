package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/internal/testkit/pg"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// These make this binary a server.
const (
	dirEnv      = "ASSAY_CLUSTER_DIR"
	databaseEnv = "ASSAY_CLUSTER_DATABASE"
	listenEnv   = "ASSAY_CLUSTER_LISTEN"
)

// lease is half of what servers have by default, so that a test sees many of them.
const lease = 3 * time.Second

func TestMain(m *testing.M) {
	dir := os.Getenv(dirEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	err := server.Run(context.Background(), server.RunOptions{
		Dir: dir, Database: os.Getenv(databaseEnv), Listen: os.Getenv(listenEnv), Version: "test", Rand: rand.Reader, Now: time.Now,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Lease: lease,
		Ready: func(addr string) { fmt.Println(addr) },
	})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// proc is a server process.
type proc struct {
	t        *testing.T
	dir      string
	database string // as it sees it
	addr     string
	admin    *client.Client
	cmd      *exec.Cmd
	log      bytes.Buffer
	waited   chan struct{}
}

// rig is two servers over one database, the second one's behind a proxy, and what nodes need.
type rig struct {
	t       *testing.T
	files   string
	vendor  *softtpm.CA
	between *pg.Proxy
	servers [2]*proc
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newRig(t *testing.T, every time.Duration) *rig {
	t.Helper()
	r := &rig{t: t, files: t.TempDir(), vendor: softtpm.NewCA(rand.Reader)}
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(r.files, fmt.Sprint("f", i)), []byte{byte(i)}, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	address := pg.URL(t)
	r.between = pg.NewProxy(t, address)
	tmp := t.TempDir()
	first := server.InitOptions{Dir: tmp + "/a", Listen: "127.0.0.1:0", Database: address, Rand: rand.Reader, Now: time.Now}
	made := must[server.InitResult](t)(server.Init(t.Context(), first))
	if err := server.Export(first.Dir, tmp+"/bundle", tmp+"/bundle.key", rand.Reader, time.Now()); err != nil {
		t.Fatal(err)
	}
	second := server.InitOptions{Dir: tmp + "/b", Listen: "127.0.0.1:0", Join: tmp + "/bundle", JoinKey: tmp + "/bundle.key", Rand: rand.Reader, Now: time.Now}
	joined := must[server.InitResult](t)(server.Init(t.Context(), second))
	if !joined.CAHash.Equal(made.CAHash) || !joined.Verifier.Equal(made.Verifier) {
		t.Fatal("the second server isn't the same verifier as the first")
	}
	ca, _ := pem.Decode(must[[]byte](t)(os.ReadFile(joined.CAFile)))
	for i, p := range []*proc{{dir: first.Dir, database: address}, {dir: second.Dir, database: r.between.Address}} {
		p.t = t
		r.servers[i] = p
		p.start("")
		p.admin = must[*client.Client](t)(client.New(client.Options{Server: p.url(), CAs: [][]byte{ca.Bytes}, Token: made.AdminToken, Now: time.Now}))
	}
	r.reference()
	r.policy(every)
	return r
}

func (p *proc) url() string { return "https://" + p.addr }

func (p *proc) start(listen string) {
	p.t.Helper()
	exe := must[string](p.t)(os.Executable())
	p.cmd = exec.Command(exe)
	p.cmd.Env = append(os.Environ(), dirEnv+"="+p.dir, databaseEnv+"="+p.database, listenEnv+"="+listen)
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	cmd, waited := p.cmd, make(chan struct{})
	p.waited = waited
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() {
		_ = cmd.Wait()
		close(waited)
	}()
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-waited
		if p.t.Failed() {
			p.t.Logf("log of %s:\n%s", p.dir, tail(p.log.String(), 40000))
			p.log.Reset()
		}
	})
	if err != nil {
		p.t.Fatalf("the server didn't start: %v: %s", err, p.log.String())
	}
	p.addr = strings.TrimSpace(line)
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// kill ends the process without any warning (SIGKILL).
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.waited
}

func (r *rig) system() measure.System {
	return measure.Restrict(measure.Local(), []string{r.files}, nil)
}

// reference captures the files as they are now.
func (r *rig) reference() {
	r.t.Helper()
	outcomes := must[[]plan.Outcome](r.t)(measure.Capture(r.t.Context(), r.system(), []plan.Test{{
		ID: 1, Kind: plan.KindDir, Alg: "sha256", Args: fmt.Appendf(nil, `{"path":%q}`, r.files),
	}}, plan.Limits{}))
	var entries []refvalue.Entry
	for _, o := range outcomes {
		entries = append(entries, refvalue.Entry{Name: rats.EscapePath(o.Name), Digests: []rats.Digest{{Alg: "sha256", Sum: o.Digest}}, Size: o.Size})
	}
	set := must[*refvalue.Set](r.t)(refvalue.New(refvalue.Header{Name: "files", Source: "test", Created: time.Now()}, entries))
	must[api.RefSet](r.t)(r.servers[0].admin.PutRefSet(r.t.Context(), "files", set.Encode()))
}

func (r *rig) policy(every time.Duration) {
	r.t.Helper()
	doc := `apiVersion: assay/v1
kind: Policy
metadata: {name: cluster}
selector: 'node.kind == "host"'
every: ` + every.String() + `
valid_for: 2h
allow: [simulated, software-tpm]
formats:
  tpm:
    ek_cas:
      - |
        ` + strings.ReplaceAll(strings.TrimSpace(r.vendor.PEM()), "\n", "\n        ") + `
  plan:
    tests:
      - {name: files, dir: ` + r.files + `, reference: files}
`
	must[api.Policy](r.t)(r.servers[0].admin.PutPolicy(r.t.Context(), "cluster", []byte(doc)))
}

// agent is a simulated node with a list of servers, of which it uses one at a time.
type agent struct {
	*wire.Machine
	servers []*client.Client
	at      int

	mu    sync.Mutex
	told  []string // ids of results
	first chan struct{}
}

// join makes n nodes, over both servers in turns.
func (r *rig) join(n int) []*agent {
	r.t.Helper()
	agents := make([]*agent, n)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 6 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !r.t.Failed(); i = int(next.Add(1)) - 1 {
				agents[i] = r.joinOne(fmt.Sprintf("n%04d", i), i%2)
			}
		})
	}
	wg.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
	return agents
}

func (r *rig) joinOne(name string, at int) *agent {
	ctx := r.t.Context()
	for {
		tok, err := r.servers[at].admin.CreateToken(ctx, api.TokenRequest{Name: name})
		var m *wire.Machine
		if err == nil {
			m, err = wire.Join(ctx, wire.Options{
				Server: r.servers[at].url(), Token: tok.Token, Rand: rand.Reader, Now: time.Now, System: r.system(),
				TPM: softtpm.New(rand.Reader, softtpm.Options{CA: r.vendor}),
			})
		}
		if client.CodeOf(err) == "api.rate.exceeded" {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if err != nil {
			r.t.Errorf("joining %s: %v", name, err)
			return nil
		}
		m.Client.Close()
		a := &agent{Machine: m, at: at, first: make(chan struct{})}
		for _, p := range r.servers {
			c, err := client.New(client.Options{Server: p.url(), CAs: m.Joined.CAs, Certificate: &m.TLS, Namespace: m.Joined.Namespace, Now: time.Now})
			if err != nil {
				r.t.Error(err)
				return nil
			}
			r.t.Cleanup(c.Close)
			a.servers = append(a.servers, c)
		}
		a.Client = a.servers[at]
		return a
	}
}

// run answers challenges until ctx ends, and goes to the other server when a stream ends, as the real agent does.
func (a *agent) run(ctx context.Context) {
	var jitter [1]byte
	for ctx.Err() == nil {
		a.Client = a.servers[a.at]
		for e, err := range a.Stream(ctx) {
			if err != nil {
				break
			}
			if e.Challenge == nil {
				continue
			}
			if told, err := a.Attest(ctx, *e.Challenge); err == nil {
				a.mu.Lock()
				a.told = append(a.told, told.ID)
				if len(a.told) == 1 {
					close(a.first)
				}
				a.mu.Unlock()
			}
		}
		a.at = (a.at + 1) % len(a.servers)
		_, _ = rand.Read(jitter[:])
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(jitter[0]) * 4 * time.Millisecond):
		}
	}
}

func within(t *testing.T, d time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}
