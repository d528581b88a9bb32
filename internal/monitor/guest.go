package monitor

import (
	"context"
	"fmt"
	"hash"
	"io"
	"math"
	"strings"
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/rats"
)

// guest is the running code of one enclave. One goroutine at a time is in it.
type guest struct {
	mod      api.Module
	mem      api.Memory
	memory   *memory
	buffer   []byte // the marshalling buffer
	services services
	rand     io.Reader
	now      func() time.Time
	debug    io.Writer // nil without DEBUG

	hashes  [maxHashes]hash.Hash
	refusal error                   // why the last leaf function refused
	entries map[string]api.Function // looked up before: a function has a stack of its own
	stack   [1]uint64
}

// guestKey is under what a call's context holds the guest, for the leaf functions.
type guestKey struct{}

// enter calls an entry point whose parameters are the first n bytes of the buffer.
func (t *guest) enter(ctx context.Context, entry string, n int) (int, error) {
	f := t.entries[entry]
	if f == nil {
		f = t.mod.ExportedFunction(entry)
		if f == nil || strings.HasPrefix(entry, "_") || !isEntry(f.Definition()) {
			return 0, CodeEntry.Bad(entry, "an exported function of a length that returns a length", "none of this name")
		}
		if t.entries == nil {
			t.entries = make(map[string]api.Function)
		}
		t.entries[entry] = f
	}
	t.stack[0] = api.EncodeI32(int32(n))
	if err := f.CallWithStack(context.WithValue(ctx, guestKey{}, t), t.stack[:]); err != nil {
		return 0, t.fatal(err)
	}
	t.refusal = nil
	return int(api.DecodeI32(t.stack[0])), nil
}

func isEntry(d api.FunctionDefinition) bool {
	return string(d.ParamTypes()) == string([]api.ValueType{api.ValueTypeI32}) && string(d.ResultTypes()) == string([]api.ValueType{api.ValueTypeI32})
}

// fatal marks an error of the engine. If it was a coded one of a leaf function, that is all of it: the rest is a trace
// through the enclave's code.
func (t *guest) fatal(err error) error {
	if r, ok := rats.ReasonOf(err); ok {
		return fatal{&rats.BadEvidence{Reason: r}}
	}
	return fatal{err}
}

// stop ends the code and gives its memory back.
func (t *guest) stop() {
	_ = t.mod.Close(context.Background()) // the exit code of a module that is closed
	t.memory.Free()
	t.hashes = [maxHashes]hash.Hash{}
}

// trap ends the call that is inside, and the enclave with it.
func trap(err error) { panic(err) }

// view returns bytes of the enclave's memory. They are good until the leaf function returns: the guest is one thread, and
// its memory never moves. Whatever is outside is a fault of the enclave.
func (t *guest) view(ptr, n uint64) []byte {
	b, ok := t.mem.Read(uint32(ptr), uint32(n))
	if !ok || ptr > math.MaxUint32 || n > math.MaxUint32 {
		trap(CodePointer.Bad("memory", fmt.Sprintf("a range within %d bytes", t.mem.Size()), fmt.Sprintf("%d bytes at 0x%x", int32(n), ptr)))
	}
	return b
}

// part returns bytes of the marshalling buffer.
func (t *guest) part(offset, n uint64) []byte {
	if offset > uint64(len(t.buffer)) || n > uint64(len(t.buffer))-offset {
		trap(CodeBuffer.Bad("buffer", fmt.Sprintf("a range within %d bytes", len(t.buffer)), fmt.Sprintf("%d bytes at %d", int32(n), int32(offset))))
	}
	return t.buffer[offset : offset+n]
}

// refuse keeps the reason for the enclave to read, and ends it where the reason is fatal.
func (t *guest) refuse(err error) uint64 {
	if _, ok := err.(fatal); ok {
		trap(err)
	}
	t.refusal = err
	return api.EncodeI32(boundary.Refused)
}
