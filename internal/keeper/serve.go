package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/assay-attest/assay/rats"
)

// SocketName is the name of the socket in the runtime directory.
const SocketName = "keeper.sock"

// maxConnections at once; requestLimit bounds the work on one request.
const (
	maxConnections = 32
	requestLimit   = 30 * time.Second
)

// Listen makes the socket, mode 0600, for the clients' user if the configuration names one, or this process's.
func (k *Keeper) Listen(ctx context.Context) (net.Listener, error) {
	path := filepath.Join(k.cfg.Runtime, SocketName)
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("making the keeper's socket: %s is there and is no socket", path)
		}
		var d net.Dialer
		if c, err := d.DialContext(ctx, "unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("making the keeper's socket: a keeper listens at %s", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing the old socket: %w", err)
		}
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the keeper's socket: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(true)
	err = os.Chmod(path, 0o600)
	if k.cfg.UID != nil {
		// Both may pass the directory, nobody may list it.
		err = errors.Join(err, os.Chown(path, int(*k.cfg.UID), -1), os.Chmod(k.cfg.Runtime, 0o711))
	}
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("closing the socket to others: %w", err)
	}
	return ln, nil
}

// Serve answers clients until ctx ends or the listener does. It closes the listener, not the keeper.
func (k *Keeper) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxConnections)
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accepting a client: %w", err)
		}
		uc, ok := c.(*net.UnixConn)
		if !ok {
			_ = c.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default: // one too many: whoever floods gets nothing, and the others keep what they have
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			stop := context.AfterFunc(ctx, func() { _ = uc.Close() })
			defer stop()
			defer func() { _ = uc.Close() }()
			k.converse(ctx, uc)
		})
	}
}

// session is one connection. Its client is measured once: what a connection is handed on to is the client's own doing.
type session struct {
	peer   Peer
	client *Client
	noted  bool // that a monitor started
}

func (k *Keeper) converse(ctx context.Context, c *net.UnixConn) {
	peer, err := peerOf(c)
	if err != nil {
		return
	}
	defer peer.close()
	if !k.mayConnect(peer.UID) {
		return
	}
	s := session{peer: peer}
	for {
		b, err := readPart(c)
		var out reply
		var key []byte
		if err == nil {
			late := time.AfterFunc(requestLimit, func() { _ = c.Close() })
			out, key, err = k.answer(ctx, &s, b)
			late.Stop()
		}
		if err != nil {
			if out = refusal(err); out.Reason == nil && out.Error == "" {
				return
			}
		}
		head, err := json.Marshal(out)
		if err == nil {
			err = errors.Join(writePart(c, head), writePart(c, key))
		}
		clear(key)
		if err != nil || out.Reason != nil && out.Reason.Code == CodeRequest.Code {
			return
		}
	}
}

// refusal is the answer to an error; empty if the connection ended.
func refusal(err error) reply {
	if r, ok := rats.ReasonOf(err); ok {
		return reply{Reason: &r}
	}
	var op *net.OpError
	if errors.As(err, &op) || isEnd(err) {
		return reply{}
	}
	return reply{Error: err.Error()}
}

func (k *Keeper) mayConnect(uid uint32) bool {
	return k.mayManage(uid) || k.cfg.UID != nil && uid == *k.cfg.UID
}

// mayManage: root, and in development who runs the keeper.
func (k *Keeper) mayManage(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

func (k *Keeper) answer(ctx context.Context, s *session, b []byte) (reply, []byte, error) {
	m, err := parseMessage(b)
	if err != nil {
		return reply{}, nil, err
	}
	switch m.Op {
	case opStatus:
		st, err := k.Status(ctx)
		return reply{Status: &st}, nil, err
	case opBrief:
		st := k.Brief()
		return reply{Status: &st}, nil, nil
	case opDerive:
		if s.client == nil {
			if s.client, err = k.identify(s.peer); err != nil {
				return reply{}, nil, err
			}
		}
		if m.Derive.Label == labelMonitor && !s.noted {
			s.noted = true
			k.noteMonitor(*s.client)
		}
		key, err := k.Derive(*s.client, *m.Derive)
		return reply{}, key, err
	}
	if !k.mayManage(s.peer.UID) {
		return reply{}, nil, CodeClient.Bad("user", "root", fmt.Sprint(s.peer.UID))
	}
	switch m.Op {
	case opInstall:
		set, err := ParseSet(m.Set)
		if err == nil {
			err = k.Install(set)
		}
		return reply{}, nil, err
	case opCommit:
		v, err := k.Commit(ctx)
		return reply{Value: v}, nil, err
	case opRequest:
		r, err := k.RequestRecovery()
		return reply{Request: &r}, nil, err
	case opFinish:
		return reply{}, nil, k.FinishRecovery(ctx, m.Answer)
	}
	return reply{}, nil, CodeRequest.Bad("op", "a known operation", clip(m.Op))
}

// identify measures who asks.
func (k *Keeper) identify(p Peer) (*Client, error) {
	measure := k.measure
	if measure == nil {
		measure = k.executable
	}
	image, err := measure(p)
	if err != nil {
		return nil, err
	}
	c, err := k.client(image)
	if err != nil {
		return nil, err
	}
	return &c, nil
}
