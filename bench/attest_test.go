package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// serverEnv makes this binary a server over the data directory it names: its CPU time and memory are then its own.
const serverEnv = "ASSAY_BENCH_SERVER_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(serverEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	if path := os.Getenv(profileEnv); path != "" {
		go profile(path)
	}
	err := server.Run(context.Background(), server.RunOptions{
		Dir: dir, Version: "bench", Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Ready: func(addr string) { fmt.Println("https://" + addr) },
	})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// files is how many files each node is measured by.
const files = 50

// fleet is a server process with joined nodes.
type fleet struct {
	b        *testing.B
	dir      string
	files    string
	url      string
	pid      int
	admin    *client.Client
	machines []*wire.Machine
}

// nodes is the size of the fleet: ASSAY_BENCH_NODES, 1,000 if unset.
func nodes() int {
	if n, err := strconv.Atoi(os.Getenv("ASSAY_BENCH_NODES")); err == nil && n > 0 {
		return n
	}
	return 1000
}

func newFleet(b *testing.B, n int) *fleet {
	b.Helper()
	f := &fleet{b: b, dir: b.TempDir() + "/data", files: b.TempDir()}
	for i := range files {
		f.must(os.WriteFile(filepath.Join(f.files, fmt.Sprintf("f%02d", i)), bytes.Repeat([]byte{byte(i)}, 4096), 0o644))
	}
	init, err := server.Init(b.Context(), server.InitOptions{Dir: f.dir, Listen: "127.0.0.1:0", Rand: rand.Reader, Now: time.Now})
	f.must(err)
	f.start()
	ca, err := os.ReadFile(init.CAFile)
	f.must(err)
	block, _ := pem.Decode(ca)
	f.admin, err = client.New(client.Options{Server: f.url, CAs: [][]byte{block.Bytes}, Token: init.AdminToken, Now: time.Now})
	f.must(err)
	vendor := softtpm.NewCA(rand.Reader)
	f.references()
	f.policy(vendor)
	f.join(vendor, n)
	return f
}

func (f *fleet) must(err error) {
	f.b.Helper()
	if err != nil {
		f.b.Fatal(err)
	}
}

func (f *fleet) start() {
	exe, err := os.Executable()
	f.must(err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serverEnv+"="+f.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	f.must(err)
	f.must(cmd.Start())
	f.b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	f.must(err)
	f.url, f.pid = strings.TrimSpace(line), cmd.Process.Pid
}

func (f *fleet) system() measure.System {
	return measure.Restrict(measure.Local(), []string{f.files}, nil)
}

func (f *fleet) references() {
	outcomes, err := measure.Capture(f.b.Context(), f.system(), []plan.Test{{
		ID: 1, Kind: plan.KindDir, Alg: "sha256", Args: fmt.Appendf(nil, `{"path":%q}`, f.files),
	}}, plan.Limits{})
	f.must(err)
	var entries []refvalue.Entry
	for _, o := range outcomes {
		entries = append(entries, refvalue.Entry{Name: rats.EscapePath(o.Name), Digests: []rats.Digest{{Alg: "sha256", Sum: o.Digest}}, Size: o.Size})
	}
	set, err := refvalue.New(refvalue.Header{Name: "files", Source: "bench", Created: time.Now()}, entries)
	f.must(err)
	_, err = f.admin.PutRefSet(f.b.Context(), "files", set.Encode())
	f.must(err)
}

func (f *fleet) policy(vendor *softtpm.CA) {
	doc := `apiVersion: assay/v1
kind: Policy
metadata: {name: bench}
selector: 'node.kind == "host"'
every: 1s
valid_for: 5m
allow: [simulated, software-tpm]
formats:
  tpm:
    ek_cas:
      - |
        ` + strings.ReplaceAll(strings.TrimSpace(vendor.PEM()), "\n", "\n        ") + `
  plan:
    tests:
      - {name: files, dir: ` + f.files + `, reference: files}
`
	_, err := f.admin.PutPolicy(f.b.Context(), "bench", []byte(doc))
	f.must(err)
}

func (f *fleet) join(vendor *softtpm.CA, n int) {
	f.machines = make([]*wire.Machine, n)
	var wg sync.WaitGroup
	next := atomic.Int64{}
	for range 4 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f.machines[i] = f.joinOne(vendor, fmt.Sprintf("n%d", i))
			}
		})
	}
	wg.Wait()
	for _, m := range f.machines {
		if m == nil {
			f.b.Fatal("not every node joined")
		}
	}
}

func (f *fleet) joinOne(vendor *softtpm.CA, name string) *wire.Machine {
	for range 100 {
		tok, err := f.admin.CreateToken(f.b.Context(), api.TokenRequest{Name: name})
		if err == nil {
			var m *wire.Machine
			if m, err = wire.Join(f.b.Context(), wire.Options{
				Server: f.url, Token: tok.Token, Rand: rand.Reader, Now: time.Now, System: f.system(),
				TPM: softtpm.New(rand.Reader, softtpm.Options{CA: vendor}),
			}); err == nil {
				return m
			}
		}
		if client.CodeOf(err) != "api.rate.exceeded" {
			f.b.Error(err)
			return nil
		}
		time.Sleep(300 * time.Millisecond)
	}
	return nil
}

// process reads CPU seconds and resident bytes of the server process from /proc.
func (f *fleet) process() (cpu float64, rss int64) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.pid))
	f.must(err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	pages, _ := strconv.ParseInt(fields[21], 10, 64)
	return (user + system) / 100, pages * int64(os.Getpagesize())
}

// R180: full attestations per second on one server: SQLite with synchronous=FULL, distinct keys, fresh nonces, 50 files
// each, generator on the same processors. The server's CPU time is its own process's.
func BenchmarkAttestation(b *testing.B) {
	f := newFleet(b, nodes())
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var mu sync.Mutex
	var took []time.Duration
	var counting atomic.Bool
	var done atomic.Int64
	finished := make(chan struct{})
	var once sync.Once
	first := make(chan struct{}, len(f.machines))
	for _, m := range f.machines {
		go func() {
			warm := false
			for e, err := range m.Stream(ctx) {
				if err != nil {
					return
				}
				if e.Challenge == nil {
					continue
				}
				start := time.Now()
				if _, err := m.Attest(ctx, *e.Challenge); err != nil {
					continue
				}
				if !warm {
					warm = true
					first <- struct{}{}
				}
				if !counting.Load() {
					continue
				}
				mu.Lock()
				took = append(took, time.Since(start))
				mu.Unlock()
				if done.Add(1) >= int64(b.N) {
					once.Do(func() { close(finished) })
				}
			}
		}()
	}
	for range f.machines {
		select {
		case <-first:
		case <-time.After(2 * time.Minute):
			b.Fatal("not every node attested once")
		}
	}
	f.profile(syscall.SIGUSR1)
	cpu0, _ := f.process()
	b.ResetTimer()
	start := time.Now()
	counting.Store(true)
	<-finished
	elapsed := time.Since(start)
	b.StopTimer()
	cpu1, rss := f.process()
	f.profile(syscall.SIGUSR2)
	cancel()
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(took)
	n := float64(len(took))
	b.ReportMetric(n/elapsed.Seconds(), "attestations/s")
	b.ReportMetric(n/(cpu1-cpu0), "attestations/server-cpu-s")
	b.ReportMetric(n/(cpu1-cpu0)/floor(b), "of-public-key-limit")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(rss)/(1<<20), "server-RSS-MiB")
	b.ReportMetric(float64(len(f.machines)), "nodes")
}

// floor is how many attestations a second one processor could do if it did nothing but the public-key operations that a
// steady attestation needs of a server: verify the quote and the report, sign the order. (Boxes are sealed and opened under
// keys that were agreed on before.)
func floor(b *testing.B) float64 {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	n, start := 0, time.Now()
	for ; time.Since(start) < time.Second; n++ {
		for range 2 {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
				b.Fatal("the signature doesn't verify")
			}
		}
		if _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / time.Since(start).Seconds()
}
