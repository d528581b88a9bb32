package enclave

import (
	"bytes"
	"fmt"
	"slices"
)

// ImportModules are the modules whose functions an enclave may import: the system interface, which the monitor answers
// by OCALLs, and the monitor's leaf functions.
var ImportModules = []string{"wasi_snapshot_preview1", "assay"}

// The sections of a WebAssembly module that are looked at (core specification 2.0, section 5.5).
const (
	sectionImport = 2
	sectionMemory = 5
	sectionExport = 7
	lastSection   = 13
	kindFunction  = 0
	kindMemory    = 2
)

// Bounds of a module's tables, far above what a Go program has.
const (
	maxImports  = 4096
	maxExports  = 4096
	maxWasmName = 1024
)

// checkModule reads as much of a module as decides whether it may be an enclave: sections in order, functions imported
// from ImportModules only, one memory, exported, that fits into the heap. Whether its code is valid the engine says.
func checkModule(b []byte, heap uint64) error {
	if !bytes.HasPrefix(b, []byte("\x00asm\x01\x00\x00\x00")) {
		return CodeModule.Bad("module at byte 0", "WebAssembly, version 1", "other bytes")
	}
	r := &wasmReader{b: b, at: 8}
	exported, memories := false, 0
	seen := make(map[byte]bool)
	for r.at < len(b) && r.err == nil {
		id, size := r.byte(), r.uint32()
		if r.err == nil && uint64(size) > uint64(len(b)-r.at) {
			r.fail("a section inside the module", fmt.Sprintf("%d bytes", size))
		}
		if id > lastSection || id != 0 && seen[id] {
			r.fail("each known section once", fmt.Sprintf("section %d", id))
		}
		if r.err != nil {
			break
		}
		seen[id] = true
		s := &wasmReader{b: b[:r.at+int(size)], at: r.at}
		r.at += int(size)
		switch id {
		case sectionImport:
			r.err = s.imports()
		case sectionMemory:
			memories, r.err = s.memory(heap)
		case sectionExport:
			exported, r.err = s.exports()
		}
	}
	switch {
	case r.err != nil:
		return r.err
	case memories != 1 || !exported:
		return CodeModuleMemory.Bad("module", "one memory, exported as memory", fmt.Sprintf("%d memories, exported: %t", memories, exported))
	}
	return nil
}

// wasmReader reads a module; after the first error it yields zeroes.
type wasmReader struct {
	b   []byte
	at  int
	err error
}

func (r *wasmReader) fail(expected, seen string) {
	if r.err == nil {
		r.err = CodeModule.Bad(fmt.Sprintf("module at byte %d", r.at), expected, seen)
	}
}

func (r *wasmReader) byte() byte {
	if r.err == nil && r.at >= len(r.b) {
		r.fail("another byte", "the end")
	}
	if r.err != nil {
		return 0
	}
	r.at++
	return r.b[r.at-1]
}

// uint32 reads an unsigned LEB128 number.
func (r *wasmReader) uint32() uint32 {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		c := r.byte()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if v > 1<<32-1 {
				r.fail("a number of 32 bits", "a larger one")
				return 0
			}
			return uint32(v)
		}
	}
	r.fail("a number of 32 bits", "a longer one")
	return 0
}

func (r *wasmReader) name() string {
	n := r.uint32()
	if r.err == nil && (n > maxWasmName || int(n) > len(r.b)-r.at) {
		r.fail(fmt.Sprintf("a name of at most %d bytes", maxWasmName), fmt.Sprintf("%d bytes", n))
	}
	if r.err != nil {
		return ""
	}
	r.at += int(n)
	return string(r.b[r.at-int(n) : r.at])
}

func (r *wasmReader) count(limit uint32) int {
	n := r.uint32()
	if n > limit {
		r.fail(fmt.Sprintf("at most %d entries", limit), fmt.Sprint(n))
		return 0
	}
	return int(n)
}

func (r *wasmReader) end() error {
	if r.err == nil && r.at != len(r.b) {
		r.fail("the end of the section", "more bytes")
	}
	return r.err
}

func (r *wasmReader) imports() error {
	for range r.count(maxImports) {
		at := r.at
		module, name, kind := r.name(), r.name(), r.byte()
		if r.err != nil {
			return r.err
		}
		if kind != kindFunction || !slices.Contains(ImportModules, module) {
			return CodeModuleImport.Bad(fmt.Sprintf("module at byte %d", at), fmt.Sprintf("functions of %q", ImportModules), fmt.Sprintf("%.64q of %.64q, kind %d", name, module, kind))
		}
		r.uint32() // type
	}
	return r.end()
}

func (r *wasmReader) memory(heap uint64) (int, error) {
	n := r.count(1)
	for range n {
		at := r.at
		flags, least := r.byte(), r.uint32()
		if flags&1 != 0 {
			r.uint32() // most; the monitor caps it by the heap anyway
		}
		if flags > 1 { // shared or 64-bit memory
			return 0, CodeModuleMemory.Bad(fmt.Sprintf("module at byte %d", at), "an unshared 32-bit memory", fmt.Sprintf("flags 0x%02x", flags))
		}
		if uint64(least)*WasmPage > heap {
			return 0, CodeModuleMemory.Bad(fmt.Sprintf("module at byte %d", at), fmt.Sprintf("at most %d bytes", heap), fmt.Sprint(uint64(least)*WasmPage))
		}
	}
	return n, r.end()
}

func (r *wasmReader) exports() (memory bool, err error) {
	for range r.count(maxExports) {
		name, kind := r.name(), r.byte()
		r.uint32() // index
		memory = memory || name == "memory" && kind == kindMemory
	}
	return memory, r.end()
}
