package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/assay-attest/assay/rats"
)

// Conn is a client's connection to the keeper. Its methods may be called from several goroutines.
type Conn struct {
	socket string
	mu     sync.Mutex
	c      net.Conn
}

// Dial connects to a keeper's socket. Without a keeper it fails with CodeLocked: after a launch in the initrd nothing but
// a reboot brings the root back.
func Dial(ctx context.Context, socket string) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, CodeLocked.Missing(socket, "a running keeper", err.Error())
	}
	return &Conn{socket: socket, c: c}, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.c.Close() }

func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

func (c *Conn) call(ctx context.Context, m message) (reply, []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = c.c.Close() })
	defer stop()
	b, err := json.Marshal(m)
	if err != nil {
		return reply{}, nil, err
	}
	if err := writePart(c.c, b); err != nil {
		return reply{}, nil, c.gone(ctx, err)
	}
	head, err := readPart(c.c)
	if err != nil {
		return reply{}, nil, c.gone(ctx, err)
	}
	key, err := readPart(c.c)
	if err != nil {
		return reply{}, nil, c.gone(ctx, err)
	}
	var r reply
	if err := json.Unmarshal(head, &r); err != nil {
		return reply{}, nil, fmt.Errorf("reading the keeper's answer: %w", err)
	}
	switch {
	case r.Reason != nil:
		return reply{}, nil, &rats.BadEvidence{Reason: *r.Reason}
	case r.Error != "":
		return reply{}, nil, fmt.Errorf("the keeper: %s", r.Error)
	}
	return r, key, nil
}

// gone is a connection that broke: the keeper ended.
func (c *Conn) gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return CodeLocked.Missing(c.socket, "a running keeper", err.Error())
}

// Status asks what the keeper holds.
func (c *Conn) Status(ctx context.Context) (Status, error) {
	r, _, err := c.call(ctx, message{Op: opStatus})
	if err != nil || r.Status == nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// Brief asks what the keeper holds, without what it would have to ask the TPM for: Keeper.Brief.
func (c *Conn) Brief(ctx context.Context) (Status, error) {
	r, _, err := c.call(ctx, message{Op: opBrief})
	if err != nil || r.Status == nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// Derive asks for a key of this program, which the caller wipes.
func (c *Conn) Derive(ctx context.Context, req Request) ([]byte, error) {
	_, key, err := c.call(ctx, message{Op: opDerive, Derive: &req})
	if err == nil && len(key) != req.Size {
		return nil, fmt.Errorf("the keeper gave %d bytes of %d", len(key), req.Size)
	}
	return key, err
}

// Install hands in a set that the owner signed.
func (c *Conn) Install(ctx context.Context, set []byte) error {
	_, _, err := c.call(ctx, message{Op: opInstall, Set: set})
	return err
}

// Commit declares this boot good: Keeper.Commit.
func (c *Conn) Commit(ctx context.Context) (uint64, error) {
	r, _, err := c.call(ctx, message{Op: opCommit})
	return r.Value, err
}

// RequestRecovery begins a recovery: Keeper.RequestRecovery.
func (c *Conn) RequestRecovery(ctx context.Context) (RecoveryRequest, error) {
	r, _, err := c.call(ctx, message{Op: opRequest})
	if err != nil || r.Request == nil {
		return RecoveryRequest{}, err
	}
	return *r.Request, nil
}

// FinishRecovery hands in the owner's answer: Keeper.FinishRecovery.
func (c *Conn) FinishRecovery(ctx context.Context, answer []byte) error {
	_, _, err := c.call(ctx, message{Op: opFinish, Answer: answer})
	return err
}
