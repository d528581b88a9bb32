package keeper

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/rats"
)

// Peer is the process at the other end of a connection. As long as Handle is open its PID means no other process.
type Peer struct {
	PID    int
	UID    uint32
	Handle int // pidfd
}

// soPeerPIDFD is SO_PEERPIDFD of Linux 6.5.
const soPeerPIDFD = 77

// peerOf asks the kernel who connected. The caller closes the handle.
func peerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var p Peer
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = err
			return
		}
		p.PID, p.UID = int(cred.Pid), cred.Uid
		if p.Handle, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, soPeerPIDFD); err != nil {
			// An older kernel: between connecting and here the PID could only have been given anew if the process ended.
			p.Handle, inner = unix.PidfdOpen(p.PID, 0)
		}
	})
	if err = errors.Join(err, inner); err != nil {
		return Peer{}, fmt.Errorf("asking who connected: %w", err)
	}
	return p, nil
}

func (p Peer) close() { _ = unix.Close(p.Handle) }

// alive says whether the process still runs, so that what was read of its PID was of it.
func (p Peer) alive() bool {
	fds := []unix.PollFd{{Fd: int32(p.Handle), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 0
}

// maxExecutable bounds what is hashed of a client.
const maxExecutable = 256 << 20

// executable returns the SHA-256 of the program a process runs, by its inode: a path could have been given another file.
// A process that is being traced is refused. It says nothing of what root does to the process afterwards.
func (k *Keeper) executable(p Peer) (rats.Digest, error) {
	status, err := k.procFile(fmt.Sprintf("%d/status", p.PID), 64<<10)
	if err != nil {
		return rats.Digest{}, err
	}
	if !bytes.Contains(status, []byte("\nTracerPid:\t0\n")) {
		return rats.Digest{}, CodeClient.Bad("tracer", "none", "one")
	}
	f, err := k.procOpen(fmt.Sprintf("%d/exe", p.PID))
	if err != nil {
		return rats.Digest{}, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxExecutable+1))
	if err != nil || n > maxExecutable {
		return rats.Digest{}, fmt.Errorf("measuring a client: %d bytes: %w", n, errors.Join(err, errTooLarge(n)))
	}
	if !p.alive() {
		return rats.Digest{}, CodeClient.Bad("process", "a running one", "one that ended")
	}
	return rats.Digest{Alg: "sha256", Sum: h.Sum(nil)}, nil
}

func errTooLarge(n int64) error {
	if n > maxExecutable {
		return fmt.Errorf("at most %d", maxExecutable)
	}
	return nil
}

func (k *Keeper) openProc() error {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening /proc: %w", err)
	}
	k.proc = fd
	return nil
}

func (k *Keeper) closeProc() error {
	if k.proc < 0 {
		return nil
	}
	err := unix.Close(k.proc)
	k.proc = -1
	return err
}

// procOpen opens by the descriptor of /proc: its path leads nowhere after the root file system was switched.
func (k *Keeper) procOpen(name string) (*os.File, error) {
	fd, err := unix.Openat(k.proc, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("measuring a client: opening %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (k *Keeper) procFile(name string, limit int64) ([]byte, error) {
	f, err := k.procOpen(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, limit))
}
