package all_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/rats"
)

// hostile are inputs of 1 MiB that ask a parser for as much work as it will do.
func hostile() map[string][]byte {
	const size = 1 << 20
	repeat := func(b []byte) []byte { return bytes.Repeat(b, size/len(b)+1)[:size] }
	random := make([]byte, size)
	src := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(src.Uint32())
	}
	// An IMA list of the smallest entries there can be.
	entry := binary.LittleEndian.AppendUint32(nil, 10)
	entry = append(entry, make([]byte, 20)...)
	entry = append(entry, 6, 0, 0, 0)
	entry = append(entry, "ima-ng"...)
	data := append([]byte{40, 0, 0, 0}, append([]byte("sha256:\x00"), make([]byte, 32)...)...)
	data = append(data, 2, 0, 0, 0, 'a', 0)
	entry = binary.LittleEndian.AppendUint32(entry, uint32(len(data)))
	entry = append(entry, data...)
	// A boot event log of the smallest events there can be, after a header that names one bank.
	header := append(binary.LittleEndian.AppendUint32(nil, 0), 3, 0, 0, 0)
	header = append(header, make([]byte, 20)...)
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0)
	header = binary.LittleEndian.AppendUint32(header, uint32(len(spec)))
	header = append(header, spec...)
	event := append([]byte{0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0x0b, 0}, make([]byte, 32+4)...)
	return map[string][]byte{
		"zeros":          make([]byte, size),
		"ones":           repeat([]byte{0xff}),
		"random":         random,
		"hex":            []byte(hex.EncodeToString(random[:size/2])),
		"base64":         []byte(base64.StdEncoding.EncodeToString(random[:size*3/4])),
		"nested JSON":    repeat([]byte(`{"a":`)),
		"JSON list":      append([]byte(`[`), repeat([]byte(`{},`))...),
		"JSON strings":   []byte(`{"quote":"` + strings.Repeat("A", size-20) + `"}`),
		"PEM":            repeat([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")),
		"tiny entries":   repeat(entry),
		"tiny events":    append(header, repeat(event)...)[:size],
		"SNP-like":       append([]byte{3, 0, 0, 0}, random[4:]...),
		"quote v3":       append([]byte{3, 0, 2, 0}, random[4:]...),
		"quote v4":       append([]byte{4, 0, 2, 0, 0x81}, random[5:]...),
		"TPM attest":     append([]byte{0xff, 'T', 'C', 'G', 0x80, 0x18}, random[6:]...),
		"ASCII IMA list": repeat([]byte("10 0000000000000000000000000000000000000000 ima-ng sha256:0000000000000000000000000000000000000000000000000000000000000000 /a\n")),
	}
}

// Any input of 1 MiB costs at most 64 MiB of memory, whichever format it is given to.
func TestMemoryIsBoundedForHostileInput(t *testing.T) {
	const limit = 64 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	for name, input := range hostile() {
		for _, o := range append([]appraise.Offline{nil}, all.Offline()...) {
			format := ""
			if o != nil {
				format = string(o.Descriptor().ID)
			}
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			peak := watchHeap(func() {
				_, err := appraise.Judge(t.Context(), all.Offline(), appraise.Question{
					Given:  appraise.Given{File: input, Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Binding: rats.Binding{Profile: rats.ProfileNone}},
					Format: format,
				})
				if err != nil {
					t.Errorf("%s as %q: %v", name, format, err)
				}
			})
			runtime.ReadMemStats(&after)
			used := min(after.TotalAlloc-before.TotalAlloc, peak-min(peak, before.HeapAlloc))
			if used > limit {
				t.Errorf("%s as %q took %d MiB (%s)", name, format, used>>20, time.Since(start))
			}
		}
	}
}

// watchHeap runs f and returns the largest heap that was seen meanwhile.
func watchHeap(f func()) uint64 {
	stop, out := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		var m runtime.MemStats
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-stop:
				out <- most
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	return <-out
}
