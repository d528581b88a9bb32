package tpm

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// maxMessage is the largest command or response (TPM2_PT_MAX_COMMAND_SIZE of every TPM known is at most this).
const maxMessage = 4096

// errLost says that the connection to the TPM broke; the next command opens another.
var errLost = errors.New("connection to the TPM lost")

// link carries commands to a TPM: a device file, or one connection to a socket that is kept and, when it breaks,
// renewed. It is used by one goroutine at a time and implements transport.TPM.
type link struct {
	ctx    context.Context // of the running call
	device transport.TPMCloser
	dial   func(context.Context) (net.Conn, error) // nil: a device file
	conn   net.Conn
	fresh  func() // called on each new connection
}

// devices are tried in this order: the kernel's resource manager lets us share the TPM.
var devices = []string{"/dev/tpmrm0", "/dev/tpm0"}

func openLink(path string) (*link, string, error) {
	if socket, ok := strings.CutPrefix(path, "unix:"); ok {
		if fi, err := os.Stat(socket); err != nil {
			return nil, path, fmt.Errorf("opening TPM: %w", err)
		} else if fi.Mode()&os.ModeSocket == 0 {
			return nil, path, fmt.Errorf("opening TPM: %s is not a socket", socket)
		}
		return &link{dial: func(ctx context.Context) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		}}, path, nil
	}
	paths := []string{path}
	if path == "" {
		paths = devices
	}
	var err error
	for _, p := range paths {
		var t transport.TPMCloser
		if t, err = linuxtpm.Open(p); err == nil {
			return &link{device: t}, p, nil
		}
		if path == "" && !errors.Is(err, os.ErrNotExist) {
			return nil, p, fmt.Errorf("opening TPM: %w", err)
		}
	}
	return nil, path, fmt.Errorf("opening TPM: %w", err)
}

func (l *link) open() bool { return l.device != nil || l.conn != nil }

func (l *link) close() error {
	if l.device != nil {
		err := l.device.Close()
		l.device = nil
		return err
	}
	if l.conn == nil {
		return nil
	}
	err := l.conn.Close()
	l.conn = nil
	return err
}

// Repeats of a command that the TPM asked to send again: 2 ms doubling to 128 ms, about 10 s in all.
const (
	maxResends = 80
	minPause   = 2 * time.Millisecond
	maxPause   = 128 * time.Millisecond
)

// Send implements transport.TPM. It repeats a command while the TPM answers TPM_RC_RETRY (swtpm does at the first use
// of an object under dictionary-attack protection), TPM_RC_YIELDED or TPM_RC_TESTING, a bounded number of times.
func (l *link) Send(cmd []byte) ([]byte, error) {
	if len(cmd) > maxMessage {
		return nil, fmt.Errorf("command has %d bytes, at most %d", len(cmd), maxMessage)
	}
	pause := minPause
	for n := 0; ; n++ {
		rsp, err := l.once(cmd)
		if err != nil {
			return nil, err
		}
		if len(rsp) < 10 || len(rsp) > maxMessage {
			return nil, fmt.Errorf("response of %d bytes, expected 10 to %d", len(rsp), maxMessage)
		}
		switch tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
		default:
			return rsp, nil
		}
		if n == maxResends {
			return rsp, nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.ctx.Done():
			timer.Stop()
			return nil, l.ctx.Err()
		}
		pause = min(2*pause, maxPause)
	}
}

func (l *link) once(cmd []byte) ([]byte, error) {
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	if l.dial == nil {
		if l.device == nil {
			return nil, ErrClosed
		}
		// The kernel bounds the time of every command; a read can't be called off.
		return l.device.Send(cmd)
	}
	if l.conn == nil {
		conn, err := l.dial(l.ctx)
		if err != nil {
			return nil, fmt.Errorf("connecting to the TPM: %w", err)
		}
		l.conn = conn
		l.fresh()
		if l.conn == nil { // lost again while taking over
			return nil, cmp.Or(l.ctx.Err(), errLost)
		}
	}
	// The connection's deadline is set, to a moment long past, only when ctx ends: that needs no clock.
	conn := l.conn
	stop := context.AfterFunc(l.ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	rsp, err := roundTrip(conn, cmd)
	if !stop() || err != nil {
		// After an abandoned exchange the answer could be taken for that of the next command.
		_ = conn.Close()
		l.conn = nil
	}
	if err != nil {
		if ctxErr := l.ctx.Err(); ctxErr != nil {
			return nil, ctxErr
		}
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	return rsp, nil
}

func roundTrip(conn net.Conn, cmd []byte) ([]byte, error) {
	if _, err := conn.Write(cmd); err != nil {
		return nil, err
	}
	head := make([]byte, 10, maxMessage)
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < 10 || size > maxMessage {
		return nil, fmt.Errorf("response of %d bytes, expected 10 to %d", size, maxMessage)
	}
	rsp := head[:size]
	if _, err := io.ReadFull(conn, rsp[10:]); err != nil {
		return nil, err
	}
	return rsp, nil
}
