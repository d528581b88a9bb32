// Package tpm drives a TPM 2.0: it finds and certifies the endorsement key, makes attestation and TLS keys, quotes,
// certifies and activates credentials.
//
// It guarantees that every object it loads is flushed or accounted for, so that a TPM with three transient slots and
// no resource manager suffices; that keys are exempt from dictionary-attack lockout (S14); that secrets cross the bus
// encrypted; and that commands are bounded in size, time and number of repeats. It does not judge what the TPM says:
// that is the verifier's part. It knows empty authorisation values only: a TPM whose owner or endorsement hierarchy
// has a password is refused with TPM_RC_BAD_AUTH.
package tpm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Device is an open TPM. Its methods may be called from several goroutines; they take turns.
type Device struct {
	path      string
	exclusive bool          // nobody else talks to this TPM: its slots and its shutdown are ours
	turn      chan struct{} // holds one token; whoever takes it talks to the TPM
	link      *link
	loaded    []*loadedKey // oldest use first, at most maxLoaded
	closed    bool
}

// maxLoaded keys stay in the TPM between commands. Of the three transient slots that every TPM has, the third is for
// the endorsement key during activation.
const maxLoaded = 2

// commandLimit bounds one method call, repeats and waiting for a turn included.
const commandLimit = 2 * time.Minute

// ErrClosed is returned by every method of a closed device.
var ErrClosed = errors.New("TPM device is closed")

// Open opens a TPM: a device file ("/dev/tpmrm0", "/dev/tpm0"), the socket of a software TPM ("unix:/path/tpm.sock"),
// or, with an empty path, the first device file there is. A socket is taken to be exclusively ours: transient objects
// left by a predecessor are flushed at once, and Close shuts the TPM down in an orderly way.
func Open(ctx context.Context, path string) (*Device, error) {
	l, path, err := openLink(path)
	if err != nil {
		return nil, err
	}
	d := &Device{path: path, exclusive: l.dial != nil, link: l, turn: make(chan struct{}, 1)}
	l.fresh = d.takeOver
	d.turn <- struct{}{}
	// A first command tells a TPM from something else that has a socket.
	if _, err := d.Clock(ctx); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("opening TPM %s: %w", path, err)
	}
	return d, nil
}

// Path returns the path that was opened.
func (d *Device) Path() string { return d.path }

// Close flushes our keys and, on a TPM that is ours alone, sends TPM2_Shutdown(CLEAR): without it the next start counts
// as a power failure. A second Close does nothing.
func (d *Device) Close() error {
	<-d.turn
	defer func() { d.turn <- struct{}{} }()
	if d.closed {
		return nil
	}
	d.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d.link.ctx = ctx
	if d.link.open() {
		for _, k := range d.loaded {
			flush(d.link, k.handle)
		}
		if d.exclusive {
			_, _ = tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(d.link)
		}
	}
	d.loaded = nil
	return d.link.close()
}

// do runs f when it is its turn. If the TPM was reset or the connection lost meanwhile, what we knew of its slots is
// void: f runs once more with nothing loaded. What must not be sent twice goes by once.
func (d *Device) do(ctx context.Context, what string, f func(transport.TPM) error) error {
	return d.run(ctx, what, true, f)
}

// once is do for commands that must not be repeated: extending a PCR, incrementing a counter. If the connection breaks
// meanwhile it is unknown whether the TPM did it.
func (d *Device) once(ctx context.Context, what string, f func(transport.TPM) error) error {
	// A connection lost in the past is found and renewed by a command that does no harm.
	if _, err := d.Clock(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return d.run(ctx, what, false, f)
}

func (d *Device) run(ctx context.Context, what string, repeat bool, f func(transport.TPM) error) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	select {
	case <-d.turn:
		defer func() { d.turn <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("%s: waiting for the TPM: %w", what, ctx.Err())
	}
	if d.closed {
		return fmt.Errorf("%s: %w", what, ErrClosed)
	}
	d.link.ctx = ctx
	err := f(d.link)
	if err != nil && repeat && ctx.Err() == nil && isStale(err) {
		d.forget()
		err = f(d.link)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// isStale says whether err means that a handle or the connection is gone.
func isStale(err error) bool {
	return errors.Is(err, errLost) || errors.Is(err, errOtherKey) || errors.Is(err, tpm2.TPMRCHandle) ||
		errors.Is(err, tpm2.TPMRCReferenceH0) || errors.Is(err, tpm2.TPMRCReferenceH1) ||
		errors.Is(err, tpm2.TPMRCReferenceH2) || errors.Is(err, tpm2.TPMRCObjectMemory)
}

// forget drops what we believe to be loaded, flushing what still is.
func (d *Device) forget() {
	for _, k := range d.loaded {
		if d.link.open() {
			flush(d.link, k.handle)
		}
	}
	d.loaded = nil
	if d.exclusive && d.link.open() {
		d.takeOver()
	}
}

// takeOver empties the slots of a TPM that is ours alone: after an unclean end of the predecessor they are full.
func (d *Device) takeOver() {
	d.loaded = nil
	for _, first := range []tpm2.TPMHandle{0x80000000, 0x02000000, 0x03000000} { // transient, loaded sessions, saved ones
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 64}.Execute(d.link)
		if err != nil {
			return
		}
		handles, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return
		}
		for _, h := range handles.Handle {
			flush(d.link, h)
		}
	}
}

func flush(t transport.TPM, h tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t)
}
