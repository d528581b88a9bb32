package monitor

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
)

// HostCall is an OCALL that the application offers: in holds what the enclave sent, and the answer is written to out and
// its length returned. Both lie in the marshalling buffer and are gone when it returns. An error with a code crosses with
// its words, any other as CodeOCall. It is called while an ECALL is inside; calling that enclave again is refused.
type HostCall func(ctx context.Context, in, out []byte) (int, error)

// Options are how an enclave is started.
type Options struct {
	Mode  abi.Mode      // 0: inline
	Start enclave.Start // attributes and configuration; AllowDebug is the launch policy's to say and is ignored
	Host  map[string]HostCall
	// Switchless lets both sides of a process spin for a while before they sleep: faster calls for a processor's time.
	Switchless bool
	// Close is called once when the enclave is gone: for what Host holds of it. May be nil.
	Close func()
}

type state int32

const (
	created state = iota
	ready
	poisoned
	destroyed
)

// Instance is an enclave. It is safe for concurrent use, and one call at a time is inside.
type Instance struct {
	m *Monitor
	o Options

	inside atomic.Bool // the TCS is taken, or the enclave is being changed
	state  atomic.Int32

	// while pages are added
	config  []byte         // the header of the image, without the defaults for signing
	module  []byte         // filled page by page
	layout  enclave.Layout // by config
	next    uint64         // offset of the next page
	options enclave.Options

	id       enclave.Identity
	platform abi.Platform
	buffer   []byte
	run      runner
	gone     sync.Once
}

// runner runs the code of one enclave, in this process or another.
type runner interface {
	enter(ctx context.Context, entry string, n int) (int, error) // parameters and reply are in the buffer
	stop()
}

// Create makes an empty enclave.
func (m *Monitor) Create(o Options) (*Instance, error) {
	if o.Mode == 0 {
		o.Mode = abi.ModeInline
	}
	if o.Mode != abi.ModeInline && (o.Mode != abi.ModeProcess || m.c.Program == "") {
		return nil, CodeMode.Bad("mode", "a mode this monitor has", o.Mode.String())
	}
	return &Instance{m: m, o: o}, nil
}

// take takes the TCS, if the enclave is in a state.
func (e *Instance) take(want state, step string) error {
	if !e.inside.CompareAndSwap(false, true) {
		return CodeBusy.Missing(step, "", "")
	}
	if s := state(e.state.Load()); s != want {
		e.inside.Store(false)
		if s == poisoned {
			return CodePoisoned.Bad(step, "", "")
		}
		return CodeState.Bad(step, want.String(), s.String())
	}
	return nil
}

func (s state) String() string {
	return [...]string{"created", "initialised", "poisoned", "destroyed"}[s]
}

// Add adds pages and measures them (EADD and EEXTEND): first the configuration page at offset 0, then the module's, the
// TCS and the heap, each where the image's layout has it and with its flags. The content is whole pages, and nil for TCS
// and heap, whose content the layout says; count is then their number.
func (e *Instance) Add(offset, flags uint64, content []byte, count uint64) error {
	if err := e.take(created, "add"); err != nil {
		return err
	}
	defer e.inside.Store(false)
	if content != nil {
		count = uint64(len(content)) / enclave.PageSize
	}
	seen := fmt.Sprintf("%d pages at 0x%x, flags 0x%x, content of %d bytes", count, offset, flags, len(content))
	if offset != e.next || len(content)%enclave.PageSize != 0 || count == 0 {
		return CodePage.Bad("page", fmt.Sprintf("whole pages at 0x%x", e.next), seen)
	}
	if offset == 0 {
		return e.configure(flags, content, seen)
	}
	l := e.layout
	for _, part := range []struct {
		enclave.Region
		content bool
	}{{l.Module, true}, {l.TCS, false}, {l.Heap, false}} {
		end := part.Offset + part.Pages*enclave.PageSize
		if offset < part.Offset || offset >= end {
			continue
		}
		if flags != part.Flags || part.content != (content != nil) || count > (end-offset)/enclave.PageSize {
			return CodePage.Bad("page", fmt.Sprintf("up to %d pages at 0x%x, flags 0x%x, with content: %t", (end-offset)/enclave.PageSize, offset, part.Flags, part.content), seen)
		}
		if part.content {
			at := copy(e.module[offset-part.Offset:], content)
			if !zero(content[at:]) {
				return CodePage.Bad("page", "zeroes after the module", seen)
			}
		}
		e.next += count * enclave.PageSize
		return nil
	}
	return CodePage.Bad("page", "no page after the heap", seen)
}

// Where the header of an image has what the layout depends on; enclave.Parse judges the whole of it in Init.
const (
	headerSize   = 128
	headerModule = 12
	headerHeap   = 16
	headerBuffer = 24
	headerTCS    = 28
)

// configure takes the configuration page, which says what else belongs to the enclave.
func (e *Instance) configure(flags uint64, page []byte, seen string) error {
	if flags != enclave.PageREG|enclave.PageR || len(page) != enclave.PageSize || !zero(page[headerSize:]) {
		return CodePage.Bad("page", fmt.Sprintf("one page at 0, flags 0x%x: a header and zeroes", enclave.PageREG|enclave.PageR), seen)
	}
	o := enclave.Options{
		Heap:   binary.LittleEndian.Uint64(page[headerHeap:]),
		Buffer: binary.LittleEndian.Uint32(page[headerBuffer:]),
		TCS:    binary.LittleEndian.Uint16(page[headerTCS:]),
	}
	n := binary.LittleEndian.Uint32(page[headerModule:])
	if n == 0 || n > enclave.MaxModule || o.Heap == 0 || o.Heap > e.m.c.Budget.Memory || o.Heap%enclave.WasmPage != 0 ||
		o.Buffer == 0 || o.Buffer > enclave.MaxBuffer || o.Buffer%enclave.PageSize != 0 || o.TCS != 1 {
		return CodeCreate.Bad("configuration", fmt.Sprintf("a module up to %d bytes, a heap up to %d, a buffer up to %d, one TCS", enclave.MaxModule, e.m.c.Budget.Memory, enclave.MaxBuffer),
			fmt.Sprintf("module %d, heap %d, buffer %d, %d TCS", n, o.Heap, o.Buffer, o.TCS))
	}
	e.config = append([]byte(nil), page[:headerSize]...)
	e.module = make([]byte, n)
	e.options = o
	e.layout = (&enclave.Image{Options: o, Module: e.module}).Layout()
	e.next = enclave.PageSize
	return nil
}

// addImage adds all pages of an image.
func (e *Instance) addImage(i *enclave.Image) error {
	l := i.Layout()
	var page [enclave.PageSize]byte
	copy(page[:], configuration(i))
	if err := e.Add(0, enclave.PageREG|enclave.PageR, page[:], 0); err != nil {
		return err
	}
	whole := len(i.Module) / enclave.PageSize * enclave.PageSize
	if whole > 0 {
		if err := e.Add(l.Module.Offset, l.Module.Flags, i.Module[:whole], 0); err != nil {
			return err
		}
	}
	if whole < len(i.Module) {
		clear(page[:])
		copy(page[:], i.Module[whole:])
		if err := e.Add(l.Module.Offset+uint64(whole), l.Module.Flags, page[:], 0); err != nil {
			return err
		}
	}
	if err := e.Add(l.TCS.Offset, l.TCS.Flags, nil, l.TCS.Pages); err != nil {
		return err
	}
	return e.Add(l.Heap.Offset, l.Heap.Flags, nil, l.Heap.Pages)
}

// configuration returns the measured header of an image: the file's, without the defaults for signing.
func configuration(i *enclave.Image) []byte {
	h := (&enclave.Image{Options: i.Options, Module: i.Module}).Encode()[:headerSize]
	clear(h[30:34]) // product id, version
	clear(h[36:56]) // MISCSELECT, attributes
	return h
}

// Init measures what was added, checks the SIGSTRUCT and the launch policy, and starts the enclave's code (EINIT). The
// enclave is ready afterwards, or as good as destroyed.
func (e *Instance) Init(ctx context.Context, s abi.Sigstruct) error {
	if err := e.take(created, "init"); err != nil {
		return err
	}
	defer e.inside.Store(false)
	err := e.init(ctx, s)
	e.config, e.module = nil, nil
	if err != nil {
		e.end(poisoned)
		return err
	}
	e.state.Store(int32(ready))
	e.m.c.Log.Info("an enclave started", "mrenclave", fmt.Sprintf("%x", e.id.MRENCLAVE), "mode", e.platform.Mode.String(), "debug", e.id.Attributes.Debug())
	return nil
}

func (e *Instance) init(ctx context.Context, s abi.Sigstruct) error {
	if end := e.layout.Heap.Offset + e.layout.Heap.Pages*enclave.PageSize; e.next == 0 || e.next != end {
		return CodePage.Bad("page", fmt.Sprintf("pages up to 0x%x", end), fmt.Sprintf("up to 0x%x", e.next))
	}
	i, err := enclave.Parse(append(e.config, e.module...))
	if err != nil {
		return err
	}
	start := e.o.Start
	start.AllowDebug = true // for exact measurements, by admit
	if e.id, err = enclave.Init(i.Measure(), s, start); err != nil {
		return err
	}
	if err := e.m.admit(e.id, e.o.Mode); err != nil {
		return err
	}
	e.platform = e.m.c.Platform
	e.platform.Mode = e.o.Mode
	return e.start(ctx, i.Module)
}

// end is the last thing that happens to an enclave's code and memory.
func (e *Instance) end(s state) {
	e.state.Store(int32(s))
	e.gone.Do(func() {
		clear(e.buffer)
		if e.run != nil {
			e.run.stop()
		}
		e.buffer = nil
		if e.o.Close != nil {
			e.o.Close()
		}
	})
}

// Destroy ends the enclave and gives its memory back (EREMOVE). While a call is inside it is refused; cancel the call's
// context first. An enclave may be destroyed again.
func (e *Instance) Destroy() error {
	if !e.inside.CompareAndSwap(false, true) {
		return CodeBusy.Missing("destroy", "", "")
	}
	defer e.inside.Store(false)
	e.end(destroyed)
	return nil
}

// Identity returns what the enclave is, once it is initialised.
func (e *Instance) Identity() enclave.Identity { return e.id }

// Platform returns how the enclave runs, once it is initialised: what its reports say of mode, launch, root and memory.
func (e *Instance) Platform() abi.Platform { return e.platform }

// String keeps what an instance holds out of logs.
func (e *Instance) String() string { return fmt.Sprintf("enclave %x", e.id.MRENCLAVE[:4]) }

// GoString keeps what an instance holds out of logs.
func (e *Instance) GoString() string { return e.String() }

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
