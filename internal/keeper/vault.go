package keeper

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// vault is memory for one key that is neither swapped nor dumped; where the kernel offers it (memfd_secret) not even root
// reads it through /proc or ptrace, though root can still make the process itself use it.
type vault struct {
	mem    []byte
	size   int
	secret bool // memfd_secret
	locked bool // never swapped
}

// newVault moves a key into a vault: the argument is wiped.
func newVault(key []byte) (*vault, error) {
	defer clear(key)
	v := &vault{size: len(key)}
	page := unix.Getpagesize()
	if len(key) > page {
		return nil, fmt.Errorf("keeping a key of %d bytes, at most %d", len(key), page)
	}
	if fd, err := unix.MemfdSecret(unix.FD_CLOEXEC); err == nil {
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Ftruncate(fd, int64(page)); err == nil {
			// Fails where memlock is used up: then the ordinary way below may still do.
			if v.mem, err = unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
				v.secret, v.locked = true, true
			}
		}
	}
	if v.mem == nil {
		var err error
		if v.mem, err = unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
			return nil, fmt.Errorf("making memory for a key: %w", err)
		}
		v.locked = unix.Mlock(v.mem) == nil
		_ = unix.Madvise(v.mem, unix.MADV_DONTDUMP)
		_ = unix.Madvise(v.mem, unix.MADV_WIPEONFORK)
	}
	copy(v.mem, key)
	return v, nil
}

// key is the key itself, in place.
func (v *vault) key() []byte { return v.mem[:v.size] }

func (v *vault) wipe() {
	if v == nil || v.mem == nil {
		return
	}
	clear(v.mem)
	_ = unix.Munmap(v.mem)
	v.mem = nil
}

// Hardened says what Harden reached.
type Hardened struct {
	Undumpable   bool `json:"undumpable"`    // no core, and no ptrace by other processes of the same user
	MemoryLocked bool `json:"memory_locked"` // nothing of the process is swapped
}

// Harden makes this process undumpable, forbids cores and new privileges, and keeps all of its memory out of the swap.
// Locking needs CAP_IPC_LOCK or an unlimited memlock; without, the key itself is still locked (vault).
func Harden() (Hardened, error) {
	var h Hardened
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return h, fmt.Errorf("making the process undumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return h, fmt.Errorf("forbidding cores: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return h, fmt.Errorf("forbidding new privileges: %w", err)
	}
	h.Undumpable = true
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return h, fmt.Errorf("reading the limit of locked memory: %w", err)
	}
	// Under a finite limit MCL_FUTURE would make a later allocation fail, and with it the process.
	if limit.Cur == unix.RLIM_INFINITY || unix.Geteuid() == 0 {
		h.MemoryLocked = unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT) == nil
	}
	return h, nil
}
