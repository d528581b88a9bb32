package monitor_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"testing"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/monitor"
)

// R190, R047: the round trips, to be set against the published cycles (HyperEnclave: ECALL 8,440-9,700, OCALL 4,120-5,260;
// SGX: 14,432 and 12,432). Cycles are ns times the processor's GHz.
func BenchmarkCalls(b *testing.B) {
	host := map[string]monitor.HostCall{"ping": func(context.Context, []byte, []byte) (int, error) { return 0, nil }}
	m := newMonitor(b, func(c *monitor.Config) { c.Budget.OCalls = 1 << 30 })
	in, err := boundary.Encode(none{})
	if err != nil {
		b.Fatal(err)
	}
	for _, o := range []struct {
		name string
		monitor.Options
	}{
		{"inline", monitor.Options{Host: host}},
		{"process", monitor.Options{Host: host, Mode: abi.ModeProcess}},
		{"switchless", monitor.Options{Host: host, Mode: abi.ModeProcess, Switchless: true}},
	} {
		e := load(b, m, o.Options)
		b.Run("ECALL/"+o.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Enter(bg, "empty", in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("OCALL/"+o.name, func(b *testing.B) { // many in one ECALL
			b.ReportAllocs()
			for left := b.N; left > 0; left -= 1000 {
				if err := try(e, "ocall", outcall{Name: "ping", Many: uint32(min(left, 1000))}); err != nil {
					b.Fatal(err)
				}
			}
		})
		_ = e.Destroy()
	}
}

//go:noinline
func emptyCall(b []byte) []byte { return b }

// BenchmarkEmptyGoCall is what the others are compared with.
func BenchmarkEmptyGoCall(b *testing.B) {
	for b.Loop() {
		emptyCall(nil)
	}
}

func BenchmarkSHA256(b *testing.B) {
	const size = 1 << 20
	e := load(b, newMonitor(b, nil), monitor.Options{})
	for name, entry := range map[string]string{"leaf": "leafhash", "inside": "hash"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if err := try(e, entry, hashJob{size, 1, name == "inside"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("native", func(b *testing.B) {
		b.SetBytes(size)
		in := bytes.Repeat([]byte{1}, size)
		for b.Loop() {
			sha256.Sum256(in)
		}
	})
}

type hashJob struct {
	Size, Times uint32
	Alone       bool
}

func BenchmarkStart(b *testing.B) {
	file, sig := image(b, small, nil)
	for _, mode := range []abi.Mode{abi.ModeInline, abi.ModeProcess} {
		b.Run("warm/"+mode.String(), func(b *testing.B) {
			m := newMonitor(b, nil)
			for b.Loop() {
				e, err := m.Load(bg, file, sig, monitor.Options{Mode: mode})
				if err != nil {
					b.Fatal(err)
				}
				_ = e.Destroy()
			}
		})
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			m := newMonitor(b, func(c *monitor.Config) { c.Compiler = nil })
			e, err := m.Load(bg, file, sig, monitor.Options{})
			if err != nil {
				b.Fatal(err)
			}
			_ = e.Destroy()
			_ = m.Close(bg)
		}
	})
}

func BenchmarkSealAndUnseal(b *testing.B) {
	e := load(b, newMonitor(b, nil), monitor.Options{})
	for b.Loop() {
		box, err := monitor.Call[sealing, []byte](bg, e, "seal", sealing{Policy: 1, Box: []byte("a secret of some length")})
		if err != nil {
			b.Fatal(err)
		}
		if err := try(e, "unseal", sealing{Box: box}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReport makes a report for the enclave itself and verifies it.
func BenchmarkReport(b *testing.B) {
	e := load(b, newMonitor(b, nil), monitor.Options{})
	for b.Loop() {
		if err := try(e, "report", none{}); err != nil {
			b.Fatal(err)
		}
	}
}
