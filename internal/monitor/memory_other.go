//go:build !linux

package monitor

import (
	"github.com/tetratelabs/wazero/experimental"

	"github.com/assay-attest/assay/enclave/abi"
)

// memory is an enclave's linear memory in the process's heap: nothing is claimed of it.
type memory struct {
	all       []byte
	isolation abi.Isolation
}

func newMemory(size uint64) (*memory, error) { return &memory{all: make([]byte, size)}, nil }

// Allocate implements experimental.MemoryAllocator.
func (m *memory) Allocate(_, _ uint64) experimental.LinearMemory { return m }

// Reallocate implements experimental.LinearMemory: nil beyond the maximum, which fails memory.grow inside.
func (m *memory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.all)) {
		return nil
	}
	return m.all[:size:size]
}

// Free implements experimental.LinearMemory. It may be called again.
func (m *memory) Free() {
	clear(m.all)
	m.all = nil
}
