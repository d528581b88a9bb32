package monitor

import (
	"fmt"
	"unsafe"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/enclave/abi"
)

// memory is an enclave's linear memory: mapped once at its maximum, so that it never moves, and filled by the kernel with
// zeroes as it is touched. Where kernel and limits allow it is secret memory (memfd_secret), which leaves the kernel's own
// map: neither /proc nor a debugger nor a dump reads it. It is given back as zeroes: the kernel clears secret pages when
// they are freed and others before anybody gets them.
type memory struct {
	all       []byte
	isolation abi.Isolation // what became true of it
}

func newMemory(size uint64) (*memory, error) {
	if m, err := secretMemory(size); err == nil {
		return m, nil
	}
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, CodeCreate.Missing("heap", "memory for the enclave", err.Error())
	}
	m := &memory{all: b}
	_ = unix.Madvise(b, unix.MADV_DONTDUMP) // the process isn't dumpable anyway
	if lockOnFault(b) == nil {
		m.isolation = abi.IsolationLockedMemory
	}
	return m, nil
}

// secretMemory fails without the kernel's support (secretmem.enable) and beyond the limit of locked memory.
func secretMemory(size uint64) (*memory, error) {
	fd, _, errno := unix.Syscall(unix.SYS_MEMFD_SECRET, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("making secret memory: %w", errno)
	}
	defer unix.Close(int(fd))
	if err := unix.Ftruncate(int(fd), int64(size)); err != nil {
		return nil, fmt.Errorf("sizing secret memory: %w", err)
	}
	b, err := unix.Mmap(int(fd), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping secret memory: %w", err)
	}
	return &memory{all: b, isolation: abi.IsolationSecretMemory | abi.IsolationLockedMemory}, nil
}

// lockOnFault keeps pages out of swap as they are touched.
func lockOnFault(b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MLOCK_ONFAULT)
	if errno != 0 {
		return fmt.Errorf("locking memory: %w", errno)
	}
	return nil
}

// Allocate implements experimental.MemoryAllocator. There is one memory, and what it may grow to was said before.
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
	if m.all != nil {
		_ = unix.Munmap(m.all)
		m.all = nil
	}
}
