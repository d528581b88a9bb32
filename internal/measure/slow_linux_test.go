package measure

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// proxied is a machine whose administrator serves contents from another place: reads go over a socket to whoever has the
// original files, so digests are right though the machine's own files aren't looked at (R155).
type proxied struct {
	System
	mu    sync.Mutex
	conns map[int32]net.Conn
	dial  func() net.Conn
}

func (p *proxied) ReadAt(fd int32, b []byte, off int64) (int, rats.Code) {
	p.mu.Lock()
	c := p.conns[fd]
	if c == nil {
		c = p.dial()
		p.conns[fd] = c
	}
	p.mu.Unlock()
	fmt.Fprintf(c, "%d %d %d\n", fd, len(b), off)
	var n int
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, CodeSystem.Code
	}
	n, _ = strconv.Atoi(strings.TrimSpace(string(head[:])))
	if _, err := io.ReadFull(c, b[:n]); err != nil {
		return 0, CodeSystem.Code
	}
	return n, ""
}

func (p *proxied) OpenDescribed(path []byte, flags uint32) (int32, Stat, rats.Code) {
	return p.System.(describer).OpenDescribed(path, flags)
}

func (p *proxied) Describe(fd int32) (Stat, rats.Code) { return p.System.(describer).Describe(fd) }

func (p *proxied) Close(fd int32) {
	p.mu.Lock()
	if c := p.conns[fd]; c != nil {
		c.Close()
		delete(p.conns, fd)
	}
	p.mu.Unlock()
	p.System.Close(fd)
}

// elsewhere serves reads over a Unix socket.
func elsewhere(t *testing.T) *proxied {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	origin := Local()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for {
					var fd int32
					var n, off int64
					if _, err := fmt.Fscanf(c, "%d %d %d\n", &fd, &n, &off); err != nil {
						return
					}
					b := make([]byte, n)
					m, _ := origin.ReadAt(fd, b, off)
					fmt.Fprintf(c, "%8d", m)
					c.Write(b[:m])
				}
			}()
		}
	}()
	return &proxied{System: Local(), conns: make(map[int32]net.Conn), dial: func() net.Conn {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			panic(err)
		}
		return c
	}}
}

// slower is a machine on which every file takes longer, by a factor.
type slower struct {
	System
	factor float64
	opened *sync.Map // descriptor → when it was opened
}

func (s slower) OpenDescribed(p []byte, flags uint32) (int32, Stat, rats.Code) {
	start := time.Now()
	fd, st, code := s.System.(describer).OpenDescribed(p, flags)
	s.opened.Store(fd, start)
	return fd, st, code
}

func (s slower) Describe(fd int32) (Stat, rats.Code) { return s.System.(describer).Describe(fd) }

func (s slower) Close(fd int32) {
	if start, ok := s.opened.LoadAndDelete(fd); ok {
		spin(time.Duration(float64(time.Since(start.(time.Time))) * (s.factor - 1)))
	}
	s.System.Close(fd)
}

func spin(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

// R155, R030: values served from another place take longer, and are caught by the pace of the run. The table says which
// slow-down is caught at which rate of false alarms; what is asserted is far from what could vary on a busy machine.
func TestValuesServedFromElsewhereAreCaughtByTheirTime(t *testing.T) {
	if raceEnabled {
		t.Skip("times mean nothing under the race detector; the same test runs without it")
	}
	const runs = 50
	dir := t.TempDir()
	for i := range 50 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%02d", dir, i), make([]byte, 4096+i*2000), 0o600))
	}
	timed, err := plan.NewTest(1, plan.KindDir, "sha256", dir, nil)
	must(t, err)
	timed.Timed, timed.Repeat = true, 3
	measure := func(s System) []plan.Timed {
		out, err := Runner{System: s, Workers: 1, Now: time.Now}.Run(context.Background(), []plan.Test{timed}, plan.Limits{})
		must(t, err)
		times, err := plan.Times([]plan.Test{timed}, out)
		must(t, err)
		if len(times) != 50 {
			t.Fatalf("%d times", len(times))
		}
		return plan.InUnits(times)
	}
	many := func(s System, n int) [][]plan.Timed {
		out := make([][]plan.Timed, n)
		for i := range out {
			out[i] = measure(s)
		}
		return out
	}
	many(Local(), 5) // the first runs fill caches
	w, err := plan.Learn(many(Local(), runs), plan.Learning{Backend: plan.BackendNative, Repeat: 3, Margin: 500})
	must(t, err)
	paces := func(rs [][]plan.Timed) []int64 {
		out := make([]int64, len(rs))
		for i, r := range rs {
			out[i] = w.Judge(r).Pace
		}
		slices.Sort(out)
		return out
	}
	above := func(ps []int64, limit int64) float64 {
		n := 0
		for _, p := range ps {
			if p > limit {
				n++
			}
		}
		return 100 * float64(n) / float64(len(ps))
	}
	honest := paces(many(Local(), runs))
	limits := []int64{honest[runs-6], honest[runs-2], w.Pace.High}
	t.Logf("learned pace %d to %d ‰, honest runs %d to %d ‰", w.Pace.Low, w.Pace.High, honest[0], honest[runs-1])
	t.Logf("%-22s %10s %10s %10s", "limit of the pace", fmt.Sprintf("%d ‰", limits[0]), fmt.Sprintf("%d ‰", limits[1]), fmt.Sprintf("%d ‰", limits[2]))
	row := func(name string, ps []int64) float64 {
		t.Logf("%-22s %8.0f %% %8.0f %% %8.0f %%   median pace %d ‰", name, above(ps, limits[0]), above(ps, limits[1]), above(ps, limits[2]), ps[len(ps)/2])
		return above(ps, limits[2])
	}
	alarms := row("honest (false alarms)", honest)
	var ten float64
	for _, factor := range []float64{1.25, 1.5, 2, 3, 5, 10} {
		ten = row(fmt.Sprintf("%.4g times slower", factor), paces(many(slower{Local(), factor, new(sync.Map)}, 10)))
	}
	remote := row("over a local socket", paces(many(elsewhere(t), 10)))
	// On a busy machine single runs stray; a slow-down of ten doesn't get lost in that.
	if alarms > 10 || ten < 100 || remote < 50 {
		t.Errorf("false alarms %.0f %%, ten times slower caught %.0f %%, over a socket %.0f %%", alarms, ten, remote)
	}
}
