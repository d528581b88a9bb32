package bench

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

// profileEnv names a file for the CPU profile of the server process while the benchmark counts.
const profileEnv = "ASSAY_BENCH_PROFILE"

// profile runs in the server process: SIGUSR1 begins a profile, SIGUSR2 ends it.
func profile(path string) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGUSR2)
	for s := range c {
		if s == syscall.SIGUSR2 {
			pprof.StopCPUProfile()
			continue
		}
		if out, err := os.Create(path); err == nil {
			_ = pprof.StartCPUProfile(out)
		}
	}
}

// profile tells the server process, if there shall be a profile.
func (f *fleet) profile(s syscall.Signal) {
	if os.Getenv(profileEnv) != "" {
		f.must(syscall.Kill(f.pid, s))
	}
}
