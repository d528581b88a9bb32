// Package daemon is the monitor as a process of its own (S18), and its client: another process asks it over a unix socket to
// run enclaves, whose OCALLs the client answers.
//
// It guarantees that only users whom the configuration names are heard; that what clients send is bounded, and that none
// reaches another's enclaves; that parameters are copied out of the shared memory before they are looked at; and that an
// enclave ends with the connection of its client. The monitor reaches no network and no TPM: its key comes from the root
// keeper, and the TPM's part of a quote is the business of whoever wants one.
//
// It keeps nothing on disk but authenticated compiled modules: when it is killed, clients get CodeGone, connect again and
// load again, and what was sealed opens again. It does not protect enclaves from who administers the machine; see package
// monitor and docs/enclave.md.
package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/monitor"
)

// Defaults and bounds of Options.
const (
	DefaultEnclaves = 16
	DefaultImage    = enclave.MaxModule + 1<<20
	maxConnections  = 32
)

// Options are how a daemon serves.
type Options struct {
	UIDs        []uint32 // users who may connect; empty: nobody
	Info        func() Info
	MaxEnclaves int // of one connection; 0: DefaultEnclaves
	MaxImage    int // bytes of an image file; 0: DefaultImage
	Log         *slog.Logger
}

// Serve answers clients of a unix socket until ctx ends or the listener does. It closes the listener, and destroys what its
// clients loaded; it does not close the monitor.
func Serve(ctx context.Context, ln net.Listener, m *monitor.Monitor, o Options) error {
	if o.MaxEnclaves == 0 {
		o.MaxEnclaves = DefaultEnclaves
	}
	if o.MaxImage == 0 {
		o.MaxImage = DefaultImage
	}
	if o.Info == nil {
		o.Info = func() Info { return Info{} }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
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
			_ = uc.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s := &session{m: m, o: o, c: uc, enclaves: make(map[uint32]*served)}
			s.run(ctx)
		})
	}
}

// session is one connection.
type session struct {
	m   *monitor.Monitor
	o   Options
	c   *net.UnixConn
	wmu sync.Mutex
	wg  sync.WaitGroup // loads and calls

	mu       sync.Mutex
	enclaves map[uint32]*served
}

// served is an enclave of a connection. Its shared memory is touched by one call at a time, and by Destroy.
type served struct {
	s      *session
	id     uint32
	mem    []byte
	run    *monitor.Instance // nil: being loaded
	busy   atomic.Bool
	answer chan frame // of the OCALL that is outside

	mu      sync.Mutex
	cancel  context.CancelFunc // of the call that is inside; nil: none
	outside bool               // an OCALL waits for its answer
}

func (s *session) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.c.Close() })
	defer stop()
	uid, err := peerUID(s.c)
	if err == nil && !slices.Contains(s.o.UIDs, uid) {
		err = CodePeer.Bad("uid", fmt.Sprint(s.o.UIDs), fmt.Sprint(uid))
		_ = s.send(refusedFrame(0, err), nil)
	}
	in := bufio.NewReaderSize(s.c, 4096)
	for err == nil {
		var f frame
		if f, err = readFrame(in, s.o.MaxImage+maxPayload+abi.SigstructSize); err == nil {
			err = s.handle(ctx, f)
		}
	}
	if !errors.Is(err, io.EOF) && ctx.Err() == nil {
		s.o.Log.Warn("a client's connection ended", "uid", uid, "error", err)
	}
	cancel() // which ends the calls that are inside
	_ = s.c.Close()
	s.wg.Wait()
	for id, e := range s.enclaves {
		_ = e.run.Destroy()
		_ = unix.Munmap(e.mem)
		delete(s.enclaves, id)
	}
}

// send writes a frame, with a descriptor if it has one.
func (s *session) send(f frame, rights []byte) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	b := f.bytes()
	n, _, err := s.c.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = s.c.Write(b[n:])
	}
	return err
}

// find returns an enclave that was loaded.
func (s *session) find(id uint32) *served {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.enclaves[id]; e != nil && e.run != nil {
		return e
	}
	return nil
}

// handle does what a frame asks. What takes long is done beside; an error ends the connection.
func (s *session) handle(ctx context.Context, f frame) error {
	switch f.op {
	case opInfo:
		b, err := boundary.Encode(s.o.Info())
		if err != nil {
			return err
		}
		return s.send(frame{op: opInfo, id: f.id, payload: b}, nil)
	case opLoad:
		return s.load(ctx, f)
	}
	e := s.find(f.id)
	switch {
	case e == nil && (f.op == opCancel || f.op == opAnswer):
		return nil // for an enclave that has just gone
	case e == nil:
		return s.send(refusedFrame(f.id, monitor.CodeState.Bad("enclave", "initialised", "none of this connection")), nil)
	}
	switch f.op {
	case opEnter:
		return e.enter(ctx, f)
	case opAnswer, opRefused:
		return e.answered(f)
	case opCancel:
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.cancel != nil {
			e.cancel()
		}
		return nil
	case opDestroy:
		return e.destroy()
	}
	return CodeFrame.Bad("frame", "an operation of a client's", fmt.Sprint(f.op))
}

// load starts an enclave.
func (s *session) load(ctx context.Context, f frame) error {
	l, image, sigstruct, err := parseLoad(f)
	if err != nil {
		return err
	}
	e := &served{s: s, id: f.id, answer: make(chan frame, 1)}
	s.mu.Lock()
	_, twice := s.enclaves[f.id]
	many := len(s.enclaves) >= s.o.MaxEnclaves
	if f.id != 0 && !twice && !many {
		s.enclaves[f.id] = e
	}
	s.mu.Unlock()
	switch {
	case twice || f.id == 0:
		return CodeFrame.Bad("load", "a number that is free", fmt.Sprint(f.id))
	case many:
		return s.send(refusedFrame(f.id, CodeLimit.Bad("enclaves", fmt.Sprintf("at most %d", s.o.MaxEnclaves), "more")), nil)
	}
	s.wg.Go(func() {
		if err := e.load(ctx, l, image, sigstruct); err != nil {
			s.mu.Lock()
			delete(s.enclaves, f.id)
			s.mu.Unlock()
			s.o.Log.Info("an enclave was not started", "error", err)
			_ = s.send(refusedFrame(f.id, err), nil)
		}
	})
	return nil
}

func (e *served) load(ctx context.Context, l loading, image, sigstruct []byte) error {
	parsed, err := enclave.Parse(image)
	if err != nil {
		return err
	}
	size := int(parsed.Options.Buffer)
	mem, fd, err := newShared(size)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	e.mem = mem
	o := monitor.Options{
		Mode: abi.Mode(l.Mode), Switchless: l.Switchless, Host: make(map[string]monitor.HostCall, len(l.Host)),
		Start: enclave.Start{
			Attributes: abi.Attributes{Flags: l.Flags, XFRM: l.XFRM}, MiscSelect: l.MiscSelect, ConfigID: l.ConfigID, ConfigSVN: l.ConfigSVN,
		},
	}
	for _, name := range l.Host {
		o.Host[name] = func(ctx context.Context, in, out []byte) (int, error) { return e.ocall(ctx, name, in, out) }
	}
	run, err := e.s.m.Load(ctx, image, sigstruct, o)
	if err != nil {
		_ = unix.Munmap(mem)
		return err
	}
	b, err := boundary.Encode(loaded{Identity: identityOf(run.Identity()), Platform: run.Platform().CPUSVN(), Buffer: uint32(size)})
	if err != nil {
		return errors.Join(err, run.Destroy(), unix.Munmap(mem))
	}
	e.s.mu.Lock()
	e.run = run
	e.s.mu.Unlock()
	_ = e.s.send(frame{op: opLoaded, id: e.id, payload: b}, unix.UnixRights(fd)) // whoever doesn't get it is gone, and the enclave with it
	return nil
}

// enter begins a call.
func (e *served) enter(ctx context.Context, f frame) error {
	if uint64(f.a) > uint64(len(e.mem)) || len(f.payload) > maxEntry {
		return CodeFrame.Bad("enter", fmt.Sprintf("up to %d bytes of parameters, %d of name", len(e.mem), maxEntry), fmt.Sprintf("%d, %d", f.a, len(f.payload)))
	}
	if !e.busy.CompareAndSwap(false, true) {
		return e.s.send(refusedFrame(e.id, monitor.CodeBusy.Missing(string(f.payload), "", "")), nil)
	}
	ctx, cancel := context.WithCancel(ctx)
	e.mu.Lock()
	e.cancel = cancel
	e.mu.Unlock()
	e.s.wg.Go(func() {
		defer cancel()
		in := slices.Clone(e.mem[:f.a])
		out, err := e.run.Enter(ctx, string(f.payload), in)
		clear(in)
		answer := frame{op: opDone, id: e.id, a: uint32(len(out))}
		if err == nil && len(out) > len(e.mem) {
			err = monitor.CodeReply.Bad(string(f.payload), fmt.Sprintf("0 to %d", len(e.mem)), fmt.Sprint(len(out)))
		}
		if err != nil {
			answer = refusedFrame(e.id, err)
		} else {
			copy(e.mem, out)
		}
		clear(out)
		e.mu.Lock()
		e.cancel = nil
		e.mu.Unlock()
		e.busy.Store(false)
		_ = e.s.send(answer, nil)
	})
	return nil
}

// ocall lets the client answer: what the enclave sends goes into the shared memory, and what comes back is copied out of it
// once, and not looked at.
func (e *served) ocall(ctx context.Context, name string, in, out []byte) (int, error) {
	if len(in) > len(e.mem) {
		return 0, monitor.CodeInput.Bad(name, fmt.Sprintf("at most %d bytes", len(e.mem)), fmt.Sprint(len(in)))
	}
	room := min(len(out), len(e.mem)-len(in))
	copy(e.mem, in)
	e.mu.Lock()
	select {
	case <-e.answer: // to an OCALL that was given up
	default:
	}
	e.outside = true
	e.mu.Unlock()
	if err := e.s.send(frame{op: opOCall, id: e.id, a: uint32(len(in)), b: uint32(room), payload: []byte(name)}, nil); err != nil {
		return 0, err
	}
	select {
	case f := <-e.answer:
		if f.op == opRefused {
			return 0, refusalIn(f)
		}
		if uint64(f.a) > uint64(room) {
			return 0, monitor.CodeResult.Bad(name, fmt.Sprintf("0 to %d", room), fmt.Sprint(f.a))
		}
		return copy(out, e.mem[len(in):len(in)+int(f.a)]), nil
	case <-ctx.Done():
		e.mu.Lock()
		e.outside = false
		e.mu.Unlock()
		return 0, ctx.Err()
	}
}

// answered takes the answer to the OCALL that is outside. One that nobody waits for any more is dropped.
func (e *served) answered(f frame) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.outside {
		return nil
	}
	e.outside = false
	e.answer <- f
	return nil
}

func (e *served) destroy() error {
	if !e.busy.CompareAndSwap(false, true) {
		return e.s.send(refusedFrame(e.id, monitor.CodeBusy.Missing("destroy", "", "")), nil)
	}
	_ = e.run.Destroy()
	e.s.mu.Lock()
	delete(e.s.enclaves, e.id)
	e.s.mu.Unlock()
	_ = unix.Munmap(e.mem)
	return e.s.send(frame{op: opDestroyed, id: e.id}, nil)
}
