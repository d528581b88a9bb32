package daemon

import (
	"context"
	"fmt"
	"testing"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/monitor"
)

// BenchmarkOverTheSocket measures calls and OCALLs through the daemon, and how fast OCALLs' answers cross: what reading files
// costs an enclave beyond the reading.
func BenchmarkOverTheSocket(b *testing.B) {
	source := make([]byte, 128<<10)
	host := map[string]monitor.HostCall{
		"ping": func(context.Context, []byte, []byte) (int, error) { return 0, nil },
		"read": func(_ context.Context, _, out []byte) (int, error) { return copy(out, source), nil },
	}
	c := dial(b, serve(b, nil))
	in, err := boundary.Encode(none{})
	if err != nil {
		b.Fatal(err)
	}
	for _, o := range []monitor.Options{{Host: host}, {Host: host, Mode: abi.ModeProcess}, {Host: host, Mode: abi.ModeProcess, Switchless: true}} {
		e := load(b, c, o)
		name := e.Platform().Mode.String()
		if o.Switchless {
			name = "switchless"
		}
		b.Run("ECALL/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := e.Enter(bg, "empty", in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("OCALL/"+name, func(b *testing.B) { // many in one ECALL
			for left := b.N; left > 0; left -= 1000 {
				if err := try(bg, e, "ocall", outcall{Name: "ping", Many: uint32(min(left, 1000))}); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, size := range []uint32{4 << 10, 64 << 10, 128 << 10} {
			b.Run(fmt.Sprintf("read/%d/%s", size, name), func(b *testing.B) {
				b.SetBytes(int64(size))
				for left := b.N; left > 0; left -= 1000 {
					if err := try(bg, e, "ocall", outcall{Name: "read", Room: size, Many: uint32(min(left, 1000))}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		_ = e.Destroy()
	}
}
