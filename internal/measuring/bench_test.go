package measuring_test

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/internal/monitor/daemon"
	"github.com/assay-attest/assay/internal/testkit/measuringtest"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// TestMain lets the test's own program be what mode process starts.
func TestMain(m *testing.M) {
	if monitor.IsChild(os.Args) {
		fmt.Fprintln(os.Stderr, monitor.Child(rand.Reader, time.Now))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// processes is a monitor that has mode process.
func processes(t testing.TB) *monitor.Monitor {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return measuringtest.Monitor(t, func(c *monitor.Config) { c.Program = exe })
}

// served is a socket behind which a monitor's daemon listens.
func served(t testing.TB, m *monitor.Monitor) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m") // a short path: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "m.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go daemon.Serve(t.Context(), ln, m, daemon.Options{UIDs: []uint32{uint32(os.Geteuid())}}) //nolint:errcheck // ends with the test
	return socket
}

// BenchmarkRun runs a plan of 2,000 files, from the sealed order to the sealed report, in each place where one can be run.
// Large files are 800 KB, as the whole of a system has 1.6 GB in 2,000; small ones 20 KB.
func BenchmarkRun(b *testing.B) {
	for _, size := range []int{20 << 10, 800 << 10} {
		dir := b.TempDir()
		for i := range 2000 {
			write(b, fmt.Sprintf("%s/f%04d", dir, i), make([]byte, size))
		}
		sys := measure.Restrict(measure.Local(), []string{dir}, nil)
		s := newServer(b)
		runs := map[string]func(manifest, order []byte) ([]byte, error){}
		var keys []rats.BoundKey
		for _, c := range []struct {
			name    string
			workers int // native
			mode    abi.Mode
			remote  bool
		}{{"native", 0, 0, false}, {"native-1", 1, 0, false}, {"inline", 0, abi.ModeInline, false}, {"process", 0, abi.ModeProcess, false}, {"daemon", 0, abi.ModeProcess, true}} {
			if c.mode == 0 {
				e, err := measure.NewEnclave(measure.Config{System: sys, Rand: rand.Reader, Now: time.Now, PlanSigner: s.spki, Namespace: namespace, Node: nodeID, Workers: c.workers})
				if err != nil {
					b.Fatal(err)
				}
				keys = e.Keys()
				runs[c.name] = func(m, o []byte) ([]byte, error) { return e.Run(b.Context(), m, o) }
			} else {
				m := processes(b)
				load := measuring.InProcess(m)
				if c.remote {
					load = measuring.ByDaemon(served(b, m))
				}
				e, err := start(b, s, sys, func(mc *measuring.Config) { mc.Load, mc.Mode = load, c.mode })
				if err != nil {
					b.Fatal(err)
				}
				keys = keysOf(b, e)
				runs[c.name] = func(m, o []byte) ([]byte, error) { return e.Run(b.Context(), m, o) }
			}
			b.Run(fmt.Sprintf("%dKB/%s", size>>10, c.name), func(b *testing.B) {
				for b.Loop() {
					m, raw := manifest(b, keys)
					p, err := plan.NewTest(1, plan.KindDir, "sha256", dir, nil)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := runs[c.name](raw, s.order(b, m, p)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
