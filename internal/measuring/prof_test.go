package measuring_test

import (
	"crypto/rand"
	"fmt"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/internal/testkit/measuringtest"
	"os"
	"runtime/pprof"
	"testing"
	"time"
)

func TestProf(t *testing.T) {
	s := newServer(t)
	for _, n := range []int{1, 2000, 20000, 60000} {
		sys := &crowd{files: n}
		e := started(t, s, sys)
		m, raw := manifest(t, keysOf(t, e))
		o := s.order(t, m, dirTest(t, "sha256", "/d"))
		f, _ := os.Create("/tmp/prof.out")
		pprof.StartCPUProfile(f)
		begin := time.Now()
		if _, err := e.Run(t.Context(), raw, o); err != nil {
			t.Fatal(err)
		}
		pprof.StopCPUProfile()
		f.Close()
		t.Logf("%d files in %s", n, time.Since(begin))
	}
}

func TestMain(m *testing.M) {
	if monitor.IsChild(os.Args) {
		fmt.Fprintln(os.Stderr, monitor.Child(rand.Reader, time.Now))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestProfProcess(t *testing.T) {
	s := newServer(t)
	for _, sw := range []bool{false, true} {
		for _, n := range []int{1, 2000, 20000} {
			sys := &crowd{files: n}
			exe, _ := os.Executable()
			mon := measuringtest.Monitor(t, func(c *monitor.Config) { c.Program = exe })
			e, err := start(t, s, sys, func(c *measuring.Config) {
				c.Mode = abi.ModeProcess
				c.Load = measuring.InProcess(mon)
				c.Switchless = sw
			})
			if err != nil {
				t.Fatal(err)
			}
			m, raw := manifest(t, keysOf(t, e))
			o := s.order(t, m, dirTest(t, "sha256", "/d"))
			begin := time.Now()
			if _, err := e.Run(t.Context(), raw, o); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d files in %s, switchless %t", n, time.Since(begin), sw)
			e.Close()
		}
	}
}
