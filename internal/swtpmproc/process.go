// Package swtpmproc runs a software TPM (Debian's swtpm) as a child process, for tests and for trying Assay out on a
// machine without a TPM.
//
// It guarantees that everything, the local certificate authority that certifies the endorsement keys included, stays
// in the directory it is given. It guarantees no security at all: a software TPM's state is a file, and whoever reads
// the file is the TPM.
package swtpmproc

import (
	"context"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Options of a software TPM. The zero value makes a TPM with endorsement certificates of a CA of its own.
type Options struct {
	// CADir is where the files of the local CA live; several TPMs may share one. Empty: "ca" below the TPM's directory.
	CADir string
	// WithoutEKCert leaves the endorsement keys uncertified.
	WithoutEKCert bool
}

// Process is a running software TPM. Its methods may be called from several goroutines.
type Process struct {
	dir   string
	ctx   context.Context
	certs [][]byte

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd was waited for
}

// How long a software TPM may take to come up and to go down.
const (
	startLimit = 30 * time.Second
	stopLimit  = 5 * time.Second
)

// maxSocketPath is what sun_path holds, less its terminating zero.
const maxSocketPath = 107

// StartProcess starts a software TPM whose state is kept in dir; state that is already there is used as it is. The
// process ends with Stop, or with ctx. The sockets lie in dir too, so its path must be shorter than 100 bytes.
func StartProcess(ctx context.Context, dir string, opt Options) (*Process, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolving the directory of the software TPM: %w", err)
	}
	p := &Process{dir: dir, ctx: ctx}
	if n := len(p.socket("ctrl")); n > maxSocketPath {
		return nil, fmt.Errorf("starting a software TPM: the path of its socket has %d bytes, at most %d; use a shorter directory", n, maxSocketPath)
	}
	if opt.CADir == "" {
		opt.CADir = filepath.Join(dir, "ca")
	}
	if err := p.manufacture(ctx, opt); err != nil {
		return nil, err
	}
	if !opt.WithoutEKCert {
		if p.certs, err = readCA(opt.CADir); err != nil {
			return nil, err
		}
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	return p, nil
}

// Path returns the address of the TPM in the form that opens it: "unix:" and the path of its socket. The socket
// serves one connection at a time and survives its end.
func (p *Process) Path() string { return "unix:" + p.socket("tpm") }

// CACerts returns the certificates (DER) of the local CA: the issuer of the endorsement certificates and its root.
func (p *Process) CACerts() [][]byte { return p.certs }

// Reset cycles the power of the TPM: an orderly shutdown if nobody holds its connection, a new process, and
// TPM2_Startup(CLEAR). resetCount grows, PCRs and transient objects are gone, open connections break.
func (p *Process) Reset() error {
	if err := p.Stop(); err != nil {
		return err
	}
	return p.start()
}

// Stop ends the process. A stopped TPM may be started again by Reset or by StartProcess on its directory.
func (p *Process) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	// Without TPM2_Shutdown the stop counts as a power failure: it makes the clock unsafe and, four times in a row,
	// locks everything under dictionary-attack protection. Impossible while someone else holds the connection.
	_ = exchange(p.socket("tpm"), []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0})
	if err := exchange(p.socket("ctrl"), binary.BigEndian.AppendUint32(nil, ctrlShutdown)); err != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	p.cmd = nil
	return nil
}

// ctrlShutdown is CMD_SHUTDOWN of swtpm's control channel.
const ctrlShutdown = 3

// exchange sends one message to a socket and waits briefly for any answer.
func exchange(socket string, msg []byte) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	late := time.AfterFunc(time.Second, func() { _ = conn.Close() })
	defer late.Stop()
	if _, err := conn.Write(msg); err != nil {
		return err
	}
	_, err = io.ReadAtLeast(conn, make([]byte, 64), 4)
	return err
}

func (p *Process) socket(name string) string { return filepath.Join(p.dir, name+".sock") }

func (p *Process) state() string { return filepath.Join(p.dir, "state") }

func (p *Process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return fmt.Errorf("starting a software TPM: %w", p.ctx.Err())
	}
	for _, s := range []string{"tpm", "ctrl"} {
		if err := os.Remove(p.socket(s)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the old socket of the software TPM: %w", err)
		}
	}
	cmd := exec.CommandContext(p.ctx, "swtpm", "socket", "--tpm2",
		"--server", "type=unixio,path="+p.socket("tpm")+",mode=0600",
		"--ctrl", "type=unixio,path="+p.socket("ctrl")+",mode=0600",
		"--tpmstate", "dir="+p.state()+",mode=0600",
		"--flags", "startup-clear,not-need-init")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopLimit
	// A group of its own: an interrupt typed at the parent must reach the TPM through Stop, after its last user.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting swtpm (package swtpm): %w", err)
	}
	done := make(chan struct{})
	var ended error
	go func() { ended = cmd.Wait(); close(done) }()
	if err := p.listening(done); err != nil {
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("waiting for swtpm: %w (%v)", err, ended)
	}
	p.cmd, p.done = cmd, done
	return nil
}

// listening waits until the TPM answers.
func (p *Process) listening(done <-chan struct{}) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	getRandom := []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 4}
	for {
		select {
		case <-done:
			return errors.New("it ended at once")
		case <-limit.C:
			return fmt.Errorf("no answer within %s", startLimit)
		case <-tick.C:
			if exchange(p.socket("tpm"), getRandom) == nil {
				return nil
			}
		}
	}
}

func readCA(dir string) ([][]byte, error) {
	var certs [][]byte
	for _, name := range []string{"issuercert.pem", "swtpm-localca-rootca-cert.pem"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("reading the software TPM's CA: %w", err)
		}
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("reading the software TPM's CA: %s holds no PEM block", name)
		}
		certs = append(certs, block.Bytes)
	}
	return certs, nil
}
