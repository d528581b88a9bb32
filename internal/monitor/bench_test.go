package monitor_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/monitor"
)

// job is one thing whose time is compared with others'.
type job struct {
	name  string
	calls int          // how many of them one run has
	run   func() error // once, in a moment
	took  []float64    // ns of each call
}

// rounds is how often the jobs of a comparison take turns.
const rounds = 101

// compare runs jobs in turn, a moment each, so that whatever else the machine does meets all of them, and reports of each
// the fastest run and the median. Ratios of the fastest runs are what to read on a busy machine.
func compare(b *testing.B, jobs ...*job) {
	b.Helper()
	for i := range rounds + 1 {
		for _, j := range jobs {
			began := time.Now()
			if err := j.run(); err != nil {
				b.Fatal(j.name, err)
			}
			if i > 0 { // the first run touches memory for the first time
				j.took = append(j.took, float64(time.Since(began))/float64(j.calls))
			}
		}
	}
	ghz := gigahertz(b)
	for _, j := range jobs {
		slices.Sort(j.took)
		b.Run(j.name, func(b *testing.B) {
			for b.Loop() { // it is measured: the framework wants its turn
			}
			b.ReportMetric(j.took[0], "ns/op")
			b.ReportMetric(j.took[0]*ghz, "cycles")
			b.ReportMetric(j.took[rounds/2], "median-ns")
			b.ReportMetric(jobs[0].took[0]/j.took[0], "of-"+jobs[0].name)
		})
	}
}

// gigahertz is the processor's frequency as the kernel says it: what ns are multiplied with for cycles.
func gigahertz(b *testing.B) (ghz float64) {
	b.Helper()
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		if _, err := fmt.Sscanf(line, "cpu MHz : %f", &ghz); err == nil {
			return ghz / 1000
		}
	}
	return 0
}

func benchmarked(b *testing.B) *monitor.Monitor {
	return newMonitor(b, func(c *monitor.Config) {
		p := c.Platform
		p.Mode = abi.ModeInline
		key, err := c.Key.AttestationKey(p, "")
		if err != nil {
			b.Fatal(err)
		}
		c.Budget.OCalls = 1 << 30
		c.Quote = func(_ context.Context, body abi.ReportBody) ([]byte, error) {
			q, err := enclave.Quote(rand.Reader, body, key)
			return q.Bytes(), err
		}
	})
}

// kinds are the ways to run an enclave.
func kinds(host map[string]monitor.HostCall) map[string]monitor.Options {
	return map[string]monitor.Options{
		"inline":     {Host: host},
		"process":    {Host: host, Mode: abi.ModeProcess},
		"switchless": {Host: host, Mode: abi.ModeProcess, Switchless: true},
	}
}

// R190, R047: the round trips, to be set against the published cycles (HyperEnclave: ECALL 8,440-9,700, OCALL 4,120-5,260;
// SGX: 14,432 and 12,432), and what it gains to serve OCALLs without leaving. Cycles are ns times the processor's GHz.
func BenchmarkRoundTrips(b *testing.B) {
	m := benchmarked(b)
	host := map[string]monitor.HostCall{"ping": func(context.Context, []byte, []byte) (int, error) { return 0, nil }}
	in, err := boundary.Encode(none{})
	if err != nil {
		b.Fatal(err)
	}
	const many = 200
	ocalls, err := boundary.Encode(outcall{Name: "ping", Many: many})
	if err != nil {
		b.Fatal(err)
	}
	var ecall, ocall []*job
	options := kinds(host)
	for _, name := range []string{"process", "switchless", "inline"} {
		e := load(b, m, options[name])
		ecall = append(ecall, &job{name: "ECALL/" + name, calls: many, run: func() error {
			for range many {
				if _, err := e.Enter(bg, "empty", in); err != nil {
					return err
				}
			}
			return nil
		}})
		ocall = append(ocall, &job{name: "OCALL/" + name, calls: many, run: func() error {
			_, err := e.Enter(bg, "ocall", ocalls)
			return err
		}})
	}
	compare(b, ecall...)
	compare(b, ocall...)
	compare(b, &job{name: "EmptyGoCall", calls: 1000, run: func() error {
		for range 1000 {
			emptyCall(nil)
		}
		return nil
	}})
}

//go:noinline
func emptyCall(b []byte) []byte { return b }

type hashJob struct {
	Size, Times uint32
	Alone       bool
}

// Goal: at least 0.9 of native. Two leaf calls of the cipher are one sealing and one opening.
func BenchmarkCryptography(b *testing.B) {
	m := benchmarked(b)
	plain, key, nonce := make([]byte, 1<<20+16), make([]byte, 32), make([]byte, 12)
	block, err := aes.NewCipher(key)
	if err != nil {
		b.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"inline", "process"} {
		e := load(b, m, kinds(nil)[name])
		for _, size := range []uint32{4 << 10, 64 << 10, 1 << 20} {
			times := max(1<<20/size, 1)
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				compare(b, &job{name: "sha256-native", calls: int(times), run: func() error {
					for range times {
						sha256.Sum256(plain[:size])
					}
					return nil
				}}, &job{name: "sha256-leaf", calls: int(times), run: func() error {
					return try(e, "leafhash", hashJob{size, times, false})
				}})
				compare(b, &job{name: "aes-gcm-native", calls: int(times), run: func() error {
					for range times {
						box := gcm.Seal(plain[:0], nonce, plain[:size], nil)
						if _, err := gcm.Open(box[:0], nonce, box, nil); err != nil {
							return err
						}
					}
					return nil
				}}, &job{name: "aes-gcm-leaf", calls: int(times), run: func() error {
					return try(e, "leafseal", hashJob{size, times, false})
				}})
			})
		}
	}
}

// What it costs that code in mode inline looks whether its time is up: in mode process it doesn't, since the process can be
// killed. The work is the enclave's own code, Go's P-256.
func BenchmarkChecksOfTime(b *testing.B) {
	m := benchmarked(b)
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	jobs := []*job{{name: "native", calls: 10, run: func() error {
		for range 10 {
			if _, err := key.ECDH(key.PublicKey()); err != nil {
				return err
			}
		}
		return nil
	}}}
	for _, name := range []string{"process", "inline"} {
		e := load(b, m, kinds(nil)[name])
		jobs = append(jobs, &job{name: name, calls: 1, run: func() error { return try(e, "agree", none{}) }})
	}
	compare(b, jobs...)
}

// R190: reports, keys, quotes (their part that the monitor makes), and a whole sealing and unsealing.
func BenchmarkLeaves(b *testing.B) {
	m := benchmarked(b)
	const many = 20
	for _, name := range []string{"inline", "process", "switchless"} {
		e := load(b, m, kinds(nil)[name])
		var box []byte
		var jobs []*job
		for _, entry := range []string{"reports", "keys", "quotes"} {
			jobs = append(jobs, &job{name: entry + "/" + name, calls: many, run: func() error { return try(e, entry, uint32(many)) }})
		}
		jobs = append(jobs, &job{name: "seal/" + name, calls: 1, run: func() (err error) {
			box, err = monitor.Call[sealing, []byte](bg, e, "seal", sealing{Policy: 1, Box: []byte("a secret of some length")})
			return err
		}}, &job{name: "unseal/" + name, calls: 1, run: func() error { return try(e, "unseal", sealing{Box: box}) }})
		compare(b, jobs...)
	}
}

// Cold: the module is compiled. Kept: its compiled code is authenticated and read from disk. Warm: it is in memory.
func BenchmarkStart(b *testing.B) {
	file, sig := image(b, small, nil)
	start := func(b *testing.B, m *monitor.Monitor, mode abi.Mode) {
		b.Helper()
		e, err := m.Load(bg, file, sig, monitor.Options{Mode: mode})
		if err != nil {
			b.Fatal(err)
		}
		_ = e.Destroy()
	}
	for _, mode := range []abi.Mode{abi.ModeInline, abi.ModeProcess} {
		b.Run("warm/"+mode.String(), func(b *testing.B) {
			m := newMonitor(b, nil)
			start(b, m, mode)
			for b.Loop() {
				start(b, m, mode)
			}
		})
		dir, key := b.TempDir(), [32]byte{}
		for i := range key {
			key[i] = byte(i)
		}
		again := func(b *testing.B, dir string) {
			b.Helper()
			c, err := monitor.NewCompiler(bg, monitor.CompilerOptions{Dir: dir, Key: key, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			m := newMonitor(b, func(mc *monitor.Config) { mc.Compiler, mc.Platform.Root = c, abi.RootOSProtected })
			start(b, m, mode)
			_ = c.Close(bg)
		}
		again(b, dir)
		b.Run("kept/"+mode.String(), func(b *testing.B) {
			for b.Loop() {
				again(b, dir)
			}
		})
		b.Run("cold/"+mode.String(), func(b *testing.B) {
			for b.Loop() {
				again(b, b.TempDir())
			}
		})
	}
}

// What an enclave that was started and called occupies: the memory of its process, or what the monitor's grows by.
func BenchmarkMemory(b *testing.B) {
	in, err := boundary.Encode(none{})
	if err != nil {
		b.Fatal(err)
	}
	const many = 8
	for _, name := range []string{"inline", "process"} {
		b.Run(name, func(b *testing.B) {
			m := newMonitor(b, nil)
			warm := load(b, m, kinds(nil)[name])
			before := resident(b, os.Getpid())
			inside := 0.0
			for range many {
				e := load(b, m, kinds(nil)[name])
				if _, err := e.Enter(bg, "empty", in); err != nil {
					b.Fatal(err)
				}
				if name == "process" {
					inside += resident(b, child(b)) / many
				}
			}
			for b.Loop() {
			}
			b.ReportMetric((resident(b, os.Getpid())-before)/many, "KiB-in-monitor")
			b.ReportMetric(inside, "KiB-of-process")
			runtime.KeepAlive(warm)
		})
	}
}

// resident is a process's share of the memory that is in use, in KiB (PSS; what is shared counts once).
func resident(b *testing.B, pid int) (kib float64) {
	b.Helper()
	if pid == os.Getpid() {
		debug.FreeOSMemory()
	}
	file, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	if _, pss, ok := bytes.Cut(file, []byte("\nPss:")); ok {
		_, _ = fmt.Sscan(string(pss), &kib)
	}
	return kib
}
