package bench

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
)

// measured is the number of files of each size.
const measured = 50

// sizes are those of the table; a gigabyte only if ASSAY_BENCH_GIGABYTE is set, for it reads 50 GB a run.
func sizes() []int64 {
	out := []int64{1e3, 1e4, 1e5, 1e6, 1e7, 1e8}
	if os.Getenv("ASSAY_BENCH_GIGABYTE") != "" {
		out = append(out, 1e9)
	}
	return out
}

// files makes files of a size below a directory and returns their paths. What would not fit the page cache is one file with
// many names: it is read as often.
func files(b *testing.B, size int64) (dir string, paths []string) {
	b.Helper()
	dir = b.TempDir()
	data := make([]byte, min(size, 1<<20))
	for i := range measured {
		p := filepath.Join(dir, fmt.Sprintf("%02d", i))
		paths = append(paths, p)
		if i > 0 && size > 2e7 {
			if err := os.Link(paths[0], p); err != nil {
				b.Fatal(err)
			}
			continue
		}
		f, err := os.Create(p)
		for left := size; err == nil && left > 0; {
			data[0]++
			var n int
			n, err = f.Write(data[:min(left, int64(len(data)))])
			left -= int64(n)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return dir, paths
}

// way measures all files once.
type way struct {
	name  string
	least int64 // size from which on it makes sense
	make  func(b *testing.B, dir string, paths []string, size int64) func()
}

// hashing hashes as many bytes as the files have, from memory: what the processor can do, on so many goroutines.
func hashing(workers int) func(*testing.B, string, []string, int64) func() {
	return func(_ *testing.B, _ string, _ []string, size int64) func() {
		return func() {
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					buf := make([]byte, min(size, 128<<10))
					for i := w; i < measured; i += workers {
						h := sha256.New()
						for left := size; left > 0; left -= int64(len(buf)) {
							h.Write(buf[:min(left, int64(len(buf)))])
						}
						h.Sum(nil)
					}
				})
			}
			wg.Wait()
		}
	}
}

// running measures with the agent's runner, confined as an agent is.
func running(workers int, o plan.FileOptions, trees *measure.Trees) func(*testing.B, string, []string, int64) func() {
	return func(b *testing.B, dir string, _ []string, _ int64) func() {
		test, err := plan.NewFilesTest(1, plan.KindDir, "sha256", dir, nil, o)
		if err != nil {
			b.Fatal(err)
		}
		r := measure.Runner{System: measure.Restrict(measure.Local(), []string{dir}, nil), Workers: workers, Now: time.Now, Trees: trees}
		return func() {
			out, err := r.Run(context.Background(), []plan.Test{test}, plan.Limits{})
			if err != nil || len(out) != measured || out[0].Err != "" {
				b.Fatal(len(out), err)
			}
		}
	}
}

func ways() []way {
	all := runtime.GOMAXPROCS(0)
	return []way{
		{"hash-in-memory-1", 0, hashing(1)},
		{"hash-in-memory-all", 0, hashing(all)},
		{"sha256sum", 0, func(b *testing.B, _ string, paths []string, _ int64) func() {
			return func() {
				if out, err := exec.Command("sha256sum", paths...).Output(); err != nil || len(out) < measured*64 {
					b.Fatal(err)
				}
			}
		}},
		{"agent-1", 0, running(1, plan.FileOptions{}, nil)},
		{"agent-all", 0, running(0, plan.FileOptions{}, nil)},
		{"agent-merkle", 1e7, running(0, plan.FileOptions{Chunk: 1 << 20}, nil)},
		{"agent-merkle-trusted", 1e7, running(0, plan.FileOptions{Chunk: 1 << 20, Trust: plan.TrustCTime}, measure.NewTrees(0))},
		{"agent-spots-16", 1e8, running(0, plan.FileOptions{Chunk: 1 << 20, Spots: 16}, measure.NewTrees(0))},
	}
}

// R182: the time to measure 50 files by their size. -benchtime 100x makes 100 runs, of which mean and deviation are reported.
func BenchmarkMeasure(b *testing.B) {
	for _, size := range sizes() {
		b.Run(fmt.Sprintf("%.0e", float64(size)), func(b *testing.B) {
			dir, paths := files(b, size)
			for _, w := range ways() {
				if size < w.least {
					continue
				}
				b.Run(w.name, func(b *testing.B) {
					run := w.make(b, dir, paths, size)
					run() // the first fills caches
					var took []float64
					for b.Loop() {
						start := time.Now()
						run()
						took = append(took, time.Since(start).Seconds())
					}
					mean, sd := meanOf(took)
					best := slices.Min(took)
					b.ReportMetric(mean*1e3, "ms/run")
					b.ReportMetric(sd*1e3, "±ms")
					b.ReportMetric(best*1e3, "best-ms") // what others' load disturbed least
					b.ReportMetric(best*1e6/measured, "best-µs/file")
					b.ReportMetric(float64(size)*measured/best/1e6, "best-MB/s")
					b.ReportMetric(0, "ns/op")
				})
			}
		})
	}
}

func meanOf(v []float64) (mean, sd float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		sd += (x - mean) * (x - mean)
	}
	return mean, math.Sqrt(sd / math.Max(float64(len(v)-1), 1))
}
