package bench

import (
	"bufio"
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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/fleet"
	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/internal/testkit/pg"
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

// nodes is the size of the fleet: ASSAY_BENCH_NODES, 1,000 if unset.
func nodes() int {
	if n, err := strconv.Atoi(os.Getenv("ASSAY_BENCH_NODES")); err == nil && n > 0 {
		return n
	}
	return 1000
}

// number is an environment variable's, or def.
func number(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return def
}

// servers starts ASSAY_BENCH_SERVERS server processes, one if unset: over SQLite, or over one PostgreSQL if ASSAY_BENCH_DB is
// postgres (a server of Debian's packages is started) or an address.
func servers(b *testing.B) (admins []*client.Client, pid int) {
	b.Helper()
	address := os.Getenv("ASSAY_BENCH_DB")
	if address == "postgres" {
		address = pg.URL(b)
	}
	o := server.InitOptions{Dir: b.TempDir() + "/data", Listen: "127.0.0.1:0", Database: address, Rand: rand.Reader, Now: time.Now}
	first := o.Dir
	made, err := server.Init(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	c, pid := start(b, made, made.AdminToken)
	admins = append(admins, c)
	for range number("ASSAY_BENCH_SERVERS", 1) - 1 {
		o.Dir = b.TempDir() + "/data"
		o.Join, o.JoinKey = b.TempDir()+"/bundle", b.TempDir()+"/key"
		if err := server.Export(first, o.Join, o.JoinKey, rand.Reader, time.Now()); err != nil {
			b.Fatal(err)
		}
		more, err := server.Init(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		c, _ := start(b, more, made.AdminToken)
		admins = append(admins, c)
	}
	return admins, pid
}

// start starts a server process and returns its administrator's client and its id.
func start(b *testing.B, made server.InitResult, token string) (*client.Client, int) {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	exe, err := os.Executable()
	must(err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serverEnv+"="+made.Dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(err)
	must(cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	must(err)
	ca, err := os.ReadFile(made.CAFile)
	must(err)
	block, _ := pem.Decode(ca)
	c, err := client.New(client.Options{Server: strings.TrimSpace(url), CAs: [][]byte{block.Bytes}, Token: token, Now: time.Now})
	must(err)
	b.Cleanup(c.Close)
	return c, cmd.Process.Pid
}

// R180: full attestations per second on one server: SQLite with synchronous=FULL, distinct keys, fresh nonces, 50 files
// each, generator on the same processors. The server's CPU time is its own process's.
func BenchmarkAttestation(b *testing.B) {
	admins, pid := servers(b)
	admin := admins[0]
	files := number("ASSAY_BENCH_FILES", 50)
	for b.Loop() {
		counting := false
		before := floor(b)
		r, err := fleet.Run(b.Context(), fleet.Options{
			Server: admin.Server(), Admin: admin, Others: admins[1:], Nodes: nodes(), Duration: 10 * time.Second,
			Every: time.Duration(number("ASSAY_BENCH_EVERY", 1000)) * time.Millisecond, Files: files,
			References: number("ASSAY_BENCH_REFERENCES", files), Unique: os.Getenv("ASSAY_BENCH_UNIQUE") != "",
			Rand: rand.Reader, Now: time.Now,
			Progress: func(stage string, _, _ int) {
				if now := stage == "counting"; now != counting && stage != "joining" {
					counting = now
					profileServer(b, pid, now)
				}
			},
		})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(r.AttestationsPerSecond, "attestations/s")
		b.ReportMetric(r.AttestationsPerCPU, "attestations/server-cpu-s")
		b.ReportMetric(r.AttestationsPerCPU/((before+floor(b))/2), "of-public-key-limit")
		b.ReportMetric(r.P50, "p50-ms")
		b.ReportMetric(r.P99, "p99-ms")
		b.ReportMetric(float64(r.ServerRSS)/(1<<20), "server-RSS-MiB")
		b.ReportMetric(float64(r.ServerRSSBefore)/(1<<20), "before-RSS-MiB")
		b.ReportMetric(float64(r.Failed), "failed")
	}
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
	n, start := 0, cpu()
	for ; cpu()-start < time.Second; n++ {
		for range 2 {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
				b.Fatal("the signature doesn't verify")
			}
		}
		if _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / (cpu() - start).Seconds()
}

// cpu is the processor time of this process: what others do on the machine doesn't count.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
