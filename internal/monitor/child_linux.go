package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// childName is what the process of an enclave is started as.
const childName = "assay-enclave"

// Where a monitor puts what the process needs.
const (
	fdShared = 3
	fdBell   = 4
	fdCode   = 5
)

// IsChild says whether this process was started to run one enclave. A program that a monitor may start (Config.Program)
// asks first thing in main, and if so calls Child.
func IsChild(args []string) bool { return len(args) == 1 && args[0] == childName }

// Child runs the enclave that the monitor hands over, in a process that has closed itself off before it looks at the
// enclave's code, and ends with it. It returns only if it can't begin.
func Child(rand io.Reader, now func() time.Time) error {
	set, module, err := handed(os.Stdin)
	if err != nil {
		return err
	}
	mem, err := mapShared(fdShared, atBuffer+int(set.Buffer), false)
	if err != nil {
		return err
	}
	bell, err := mapShared(fdBell, bellSize, false)
	if err != nil {
		return err
	}
	_ = os.NewFile(fdShared, "shared").Close()
	_ = os.NewFile(fdBell, "bell").Close()
	c := &child{ch: &channel{mem: mem, bell: bell, side: sideEnclave, spin: spinner{looks: int(set.Spin)}, gone: new(atomic.Bool)}}
	go func() { // the monitor writes nothing more: what comes is its end
		_, _ = io.ReadFull(os.Stdin, make([]byte, 1))
		os.Exit(0)
	}()
	t := &guest{buffer: c.ch.buffer(), services: c, rand: rand, now: now}
	if set.Debug {
		t.debug = os.Stderr
	}
	if t.memory, err = newMemory(set.Heap); err != nil {
		return c.ends(err)
	}
	readable, path := -1, ""
	if set.Code {
		readable, path = fdCode, fmt.Sprintf("/proc/self/fd/%d", fdCode)
	}
	ctx := context.Background()
	g := &Compiler{compiled: make(map[[32]byte]wazero.CompiledModule), cache: wazero.NewCompilationCache()}
	if set.Code {
		if g.cache, err = wazero.NewCompilationCacheWithDir(path); err != nil {
			return c.ends(err)
		}
	}
	facts, err := closeOff(readable)
	if err != nil {
		return c.ends(CodeCreate.Missing("process", "a process that can close itself off", err.Error()))
	}
	if _, err := c.ask(message{op: opLocked, a: uint32(facts | t.memory.isolation)}); err != nil {
		return c.ends(err)
	}
	if err := g.open(ctx, false); err != nil {
		return c.ends(err)
	}
	if _, err := g.compile(ctx, module); err != nil {
		return c.ends(err)
	}
	if err := closeFiles(); err != nil {
		return c.ends(err)
	}
	if err := g.start(ctx, module, t); err != nil {
		return c.ends(err)
	}
	c.ch.send(message{op: opReady})
	for {
		m, ok := c.ch.receive()
		if !ok || m.op != opEnter {
			return errors.New("the monitor ended")
		}
		n, err := t.enter(ctx, m.name, int(m.a))
		if err != nil {
			c.fault(err)
			continue
		}
		c.ch.send(message{op: opDone, a: uint32(int32(n))})
	}
}

// handed reads what the monitor hands over.
func handed(r io.Reader) (setup, []byte, error) {
	var set setup
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return set, nil, fmt.Errorf("reading what to run: %w", err)
	}
	head := make([]byte, min(binary.LittleEndian.Uint32(size[:]), 1024))
	if _, err := io.ReadFull(r, head); err != nil {
		return set, nil, fmt.Errorf("reading what to run: %w", err)
	}
	if err := boundary.Decode(head, &set); err != nil {
		return set, nil, err
	}
	module := make([]byte, set.Module)
	if _, err := io.ReadFull(r, module); err != nil {
		return set, nil, fmt.Errorf("reading what to run: %w", err)
	}
	return set, module, nil
}

// child serves the guest in its own process: what it can't do is asked of the monitor.
type child struct{ ch *channel }

// fault tells the monitor why a call failed, and whether that is the end.
func (c *child) fault(err error) {
	var f fatal
	m := message{op: opFault}
	if errors.As(err, &f) {
		m.a = 1
	}
	c.ch.refusal(err)
	c.ch.send(m)
}

// ends tells the monitor why the enclave didn't begin.
func (c *child) ends(err error) error {
	c.fault(fatal{err})
	return err
}

// ask sends a message and returns the length that the monitor answers with.
func (c *child) ask(m message) (int, error) {
	c.ch.send(m)
	r, ok := c.ch.receive()
	switch {
	case !ok:
		return 0, fatal{errors.New("the monitor ended")}
	case r.op == opReply:
		return int(r.a), nil
	case r.op == opRefused:
		return 0, c.ch.refused()
	}
	return 0, fatal{fmt.Errorf("the monitor said %d", r.op)}
}

func (c *child) report(target, data []byte) ([]byte, error) {
	room := c.ch.data()
	copy(room[copy(room, target):], data)
	_, err := c.ask(message{op: opReport})
	return append([]byte(nil), room[:abi.ReportSize]...), err
}

func (c *child) verify(report []byte) error {
	copy(c.ch.data(), report)
	_, err := c.ask(message{op: opVerify})
	return err
}

func (c *child) key(request []byte) ([]byte, error) {
	room := c.ch.data()
	copy(room, request)
	_, err := c.ask(message{op: opKey})
	k := append([]byte(nil), room[:16]...)
	clear(room[:16])
	return k, err
}

func (c *child) quote(_ context.Context, data []byte) ([]byte, error) {
	room := c.ch.data()
	copy(room, data)
	n, err := c.ask(message{op: opQuote, b: uint32(len(room))})
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), room[:min(n, len(room))]...), nil
}

func (c *child) ocall(_ context.Context, name string, in, out []byte) (int, error) {
	b := c.ch.buffer()
	if len(in) > len(b) {
		return 0, CodeInput.Bad(name, fmt.Sprintf("at most %d bytes", len(b)), fmt.Sprint(len(in)))
	}
	room := min(len(out), len(b)-len(in))
	copy(b, in)
	n, err := c.ask(message{op: opOCall, a: uint32(len(in)), b: uint32(room), name: name})
	if err != nil {
		clear(b[:len(in)])
		return 0, err
	}
	if n < 0 || n > room {
		return 0, CodeResult.Bad(name, fmt.Sprintf("0 to %d", room), fmt.Sprint(n))
	}
	answer := b[len(in) : len(in)+n]
	copy(out, answer)
	clear(b[:len(in)+n])
	return n, nil
}
