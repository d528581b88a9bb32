package monitor

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/tetratelabs/wazero/api"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// function is one that a module may import.
type function struct {
	params, results []api.ValueType
	run             func(ctx context.Context, mod api.Module, stack []uint64)
}

// hostModules are all functions that exist for an enclave. Everything else is refused before its code is run.
var hostModules = map[string]map[string]function{boundary.Module: leaves, "wasi_snapshot_preview1": wasi}

// types reads a signature: i and I for integers of 32 and 64 bits.
func types(s string) []api.ValueType {
	t := make([]api.ValueType, len(s))
	for i, c := range s {
		t[i] = map[rune]api.ValueType{'i': api.ValueTypeI32, 'I': api.ValueTypeI64}[c]
	}
	return t
}

// leaf makes a function of one that takes its arguments zero-extended and returns one value, signed as a wasm i32 or i64.
func leaf(params, results string, run func(ctx context.Context, t *guest, a []uint64) uint64) function {
	n := len(params)
	return function{params: types(params), results: types(results), run: func(ctx context.Context, _ api.Module, stack []uint64) {
		t, ok := ctx.Value(guestKey{}).(*guest)
		if !ok { // code that runs before the monitor called it: a start function
			trap(CodeModule.Bad("module", "no code that runs by itself", "a start function"))
		}
		for i, c := range params {
			if c == 'i' {
				stack[i] = uint64(uint32(stack[i]))
			}
		}
		r := run(ctx, t, stack[:n])
		if len(results) > 0 {
			stack[0] = r
		}
	}}
}

// leaves are the leaf functions. Pointers and lengths are of enclave memory; one outside is the end of the enclave. What
// is refused returns boundary.Refused.
var leaves = map[string]function{
	"size":    leaf("", "i", func(_ context.Context, t *guest, _ []uint64) uint64 { return uint64(len(t.buffer)) }),
	"get":     leaf("iii", "", get),
	"put":     leaf("iii", "", put),
	"ocall":   leaf("iiiiii", "i", ocall),
	"refusal": leaf("ii", "i", refusal),
	"report":  leaf("iii", "i", report),
	"verify":  leaf("i", "i", verify),
	"key":     leaf("ii", "i", key),
	"quote":   leaf("iii", "i", quote),
	"random":  leaf("ii", "", random),
	"time":    leaf("", "I", func(_ context.Context, t *guest, _ []uint64) uint64 { return uint64(t.now().UnixNano()) }),
	"hash":    leaf("iiii", "i", oneHash),
	"start":   leaf("i", "i", startHash),
	"write":   leaf("iii", "i", writeHash),
	"sum":     leaf("ii", "i", sumHash),
	"end":     leaf("i", "i", endHash),
	"hkdf":    leaf("iiiiiiii", "i", hkdfLeaf),
	"seal":    leaf("iiiiiiii", "i", sealLeaf),
	"open":    leaf("iiiiiiii", "i", openLeaf),
}

// get copies from the marshalling buffer: offset, pointer, length. The enclave works on its copy only.
func get(_ context.Context, t *guest, a []uint64) uint64 {
	copy(t.view(a[1], a[2]), t.part(a[0], a[2]))
	return 0
}

// put copies to the marshalling buffer: offset, pointer, length.
func put(_ context.Context, t *guest, a []uint64) uint64 {
	copy(t.part(a[0], a[2]), t.view(a[1], a[2]))
	return 0
}

// ocall calls the application: name, input, room for the output; returns the output's length.
func ocall(ctx context.Context, t *guest, a []uint64) uint64 {
	name, in, out := t.view(a[0], a[1]), t.view(a[2], a[3]), t.view(a[4], a[5])
	if len(name) > 64 {
		return t.refuse(CodeHost.Bad("ocall", "a name of at most 64 bytes", fmt.Sprintf("%d bytes", len(name))))
	}
	n, err := t.services.ocall(ctx, string(name), in, out)
	if err != nil {
		return t.refuse(err)
	}
	return uint64(n)
}

// refusal writes the encoded reason of the last refusal and returns its length; 0 if it doesn't fit.
func refusal(_ context.Context, t *guest, a []uint64) uint64 {
	out := t.view(a[0], a[1])
	b, err := boundary.Encode(boundary.RefusalOf(t.refusal, CodeOCall))
	if err != nil || len(b) > len(out) {
		return 0
	}
	return uint64(copy(out, b))
}

// report is EREPORT: target info, 64 bytes of report data, room for the report.
func report(_ context.Context, t *guest, a []uint64) uint64 {
	target, data, out := t.view(a[0], abi.TargetInfoSize), t.view(a[1], abi.ReportDataSize), t.view(a[2], abi.ReportSize)
	b, err := t.services.report(slices.Clone(target), slices.Clone(data))
	if err != nil {
		return t.refuse(err)
	}
	copy(out, b)
	return 0
}

// verify checks a report that was made for this enclave, with its report key.
func verify(_ context.Context, t *guest, a []uint64) uint64 {
	if err := t.services.verify(slices.Clone(t.view(a[0], abi.ReportSize))); err != nil {
		return t.refuse(err)
	}
	return 0
}

// key is EGETKEY: request, room for 16 bytes.
func key(_ context.Context, t *guest, a []uint64) uint64 {
	request, out := t.view(a[0], abi.KeyRequestSize), t.view(a[1], 16)
	b, err := t.services.key(slices.Clone(request))
	if err != nil {
		return t.refuse(err)
	}
	copy(out, b)
	clear(b)
	return 0
}

// quote makes a quote: 64 bytes of report data, room; returns the quote's length.
func quote(ctx context.Context, t *guest, a []uint64) uint64 {
	data, out := t.view(a[0], abi.ReportDataSize), t.view(a[1], a[2])
	b, err := t.services.quote(ctx, slices.Clone(data))
	if err == nil && len(b) > len(out) {
		err = CodeArgument.Bad("quote", fmt.Sprintf("room for %d bytes", len(b)), fmt.Sprint(len(out)))
	}
	if err != nil {
		return t.refuse(err)
	}
	return uint64(copy(out, b))
}

// random fills memory with random bytes. Without randomness there is no enclave.
func random(_ context.Context, t *guest, a []uint64) uint64 {
	if _, err := io.ReadFull(t.rand, t.view(a[0], a[1])); err != nil {
		trap(fmt.Errorf("reading randomness: %w", err))
	}
	return 0
}
