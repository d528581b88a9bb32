package bench

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"testing"
)

// profileEnv names a file for the CPU profile of the server process while the benchmark counts.
const profileEnv = "ASSAY_BENCH_PROFILE"

// profile runs in the server process: SIGUSR1 begins a profile, SIGUSR2 ends it and writes one of the heap beside it.
func profile(path string) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGUSR2)
	for s := range c {
		if s == syscall.SIGUSR2 {
			pprof.StopCPUProfile()
			if out, err := os.Create(path + ".heap"); err == nil {
				_ = pprof.WriteHeapProfile(out)
				_ = out.Close()
			}
			continue
		}
		if out, err := os.Create(path); err == nil {
			_ = pprof.StartCPUProfile(out)
		}
	}
}

// profileServer tells the server process to begin or to end its profile, if there shall be one.
func profileServer(b *testing.B, pid int, begin bool) {
	if os.Getenv(profileEnv) == "" {
		return
	}
	s := syscall.SIGUSR2
	if begin {
		s = syscall.SIGUSR1
	}
	if err := syscall.Kill(pid, s); err != nil {
		b.Fatal(err)
	}
}
