package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// How long a side looks for its turn before it sleeps, in looks: about 50 µs where OCALLs are to be switchless, so that one
// which the application answers at once costs no switch, and not at all elsewhere.
const (
	spinSwitchless = 50_000
	spinNot        = 0
)

// setup is what the process of an enclave reads first; the module follows.
type setup struct {
	Heap   uint64
	Buffer uint32
	Module uint32
	Spin   uint32
	Code   bool // descriptor 4 is a folder with the module's compiled code
	Debug  bool // what it prints may be seen
}

// process runs an enclave's code in a process of its own.
type process struct {
	e     *Instance
	cmd   *exec.Cmd
	stdin io.Closer // its end tells the process that the monitor is no more
	ch    *channel
	dead  chan struct{} // closed when the process has ended
	left  int           // OCALLs of the call that is inside
}

// startProcess starts the process, waits until it has closed itself off, and then until the enclave is initialised.
func (e *Instance) startProcess(ctx context.Context, module []byte) error {
	code, err := e.m.c.Compiler.forProcess(ctx, module)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(context.WithValue(ctx, within{e}, true), e.m.c.Budget.Time)
	defer cancel()
	mem, fd, err := share(int(e.options.Buffer))
	if err != nil {
		return err
	}
	shared := os.NewFile(uintptr(fd), "shared")
	defer shared.Close()
	turn, fd, err := shareOrdinary(turnSize)
	if err != nil {
		_ = unix.Munmap(mem)
		return err
	}
	turns := os.NewFile(uintptr(fd), "turns")
	defer turns.Close()
	s := &process{e: e, dead: make(chan struct{}), left: e.m.c.Budget.OCalls}
	s.ch = &channel{mem: mem, turn: turn, side: sideMonitor, spin: spinNot, gone: new(atomic.Bool)}
	set := setup{Heap: e.options.Heap, Buffer: e.options.Buffer, Module: uint32(len(module)), Debug: e.id.Attributes.Debug()}
	if e.o.Switchless {
		set.Spin, s.ch.spin = spinSwitchless, spinSwitchless
	}
	*s.ch.turnWord(atTurn) = sideEnclave
	s.cmd = exec.Command(e.m.c.Program)
	s.cmd.Args, s.cmd.Env, s.cmd.Dir = []string{childName}, []string{}, "/"
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.cmd.ExtraFiles = []*os.File{shared, turns}
	if code != nil {
		s.cmd.ExtraFiles, set.Code = append(s.cmd.ExtraFiles, code), true
	}
	if set.Debug {
		s.cmd.Stderr = e.m.c.Debug
	}
	if err := s.launch(set, module); err != nil {
		_ = unix.Munmap(mem)
		_ = unix.Munmap(turn)
		return err
	}
	e.run, e.buffer = s, s.ch.buffer()
	if _, err = s.until(limit, opReady); err != nil {
		return e.fault(limit, "init", err)
	}
	return nil
}

// launch starts the process and hands it what it runs.
func (s *process) launch(set setup, module []byte) error {
	head, err := boundary.Encode(set)
	if err != nil {
		return err
	}
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting a process: %w", err)
	}
	s.stdin = in
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("starting a process: %w", err)
	}
	go func() {
		err := s.cmd.Wait()
		s.e.m.c.Log.Debug("an enclave's process ended", "error", err) // "bad system call" is seccomp's word
		s.ch.gone.Store(true)
		s.ch.wake()
		close(s.dead)
	}()
	var size [4]byte
	binary.LittleEndian.PutUint32(size[:], uint32(len(head)))
	for _, b := range [][]byte{size[:], head, module} {
		if _, err := in.Write(b); err != nil {
			break // it has ended, which is seen by waiting for it
		}
	}
	return nil
}

func (s *process) enter(ctx context.Context, entry string, n int) (int, error) {
	if len(entry) > maxName {
		return 0, CodeEntry.Bad("entry", fmt.Sprintf("a name of at most %d bytes", maxName), fmt.Sprintf("%d bytes", len(entry)))
	}
	s.left = s.e.m.c.Budget.OCalls
	s.ch.send(message{op: opEnter, a: uint32(n), name: entry})
	return s.until(ctx, opDone)
}

// errEnded is how the end of the process is seen.
var errEnded = fatal{errors.New("the enclave's process ended")}

// until serves the enclave until it says that it is at a point, and returns what it says with it. If ctx ends, so does the
// process.
func (s *process) until(ctx context.Context, point uint32) (int, error) {
	stop := context.AfterFunc(ctx, s.kill)
	defer stop()
	for {
		m, ok := s.ch.receive()
		if !ok {
			return 0, errEnded
		}
		if m.op == point {
			return int(int32(m.a)), nil
		}
		if m.op == opFault {
			err := s.ch.refused()
			if m.a != 0 {
				err = fatal{err}
			}
			return 0, err
		}
		n, err := s.serve(ctx, m, point)
		var f fatal
		if errors.As(err, &f) {
			return 0, err
		}
		if err != nil {
			s.ch.refusal(err)
			s.ch.send(message{op: opRefused})
			continue
		}
		s.ch.send(message{op: opReply, a: uint32(n)})
	}
}

// serve answers what the enclave's process asks. It is not trusted: everything is copied before it is looked at.
func (s *process) serve(ctx context.Context, m message, point uint32) (int, error) {
	data := s.ch.data()
	switch m.op {
	case opLocked:
		if point != opReady {
			break
		}
		s.e.platform.Isolation |= abi.Isolation(m.a) & (abi.IsolationSecretMemory | abi.IsolationLockedMemory | abi.IsolationSeccomp | abi.IsolationLandlock | abi.IsolationNoNewPrivs)
		return 0, nil
	case opOCall:
		return s.ocall(ctx, m)
	case opReport:
		in := slices.Clone(data[:abi.TargetInfoSize+abi.ReportDataSize])
		b, err := s.e.report(in[:abi.TargetInfoSize], in[abi.TargetInfoSize:])
		return copy(data, b), err
	case opVerify:
		return 0, s.e.verify(slices.Clone(data[:abi.ReportSize]))
	case opKey:
		b, err := s.e.key(slices.Clone(data[:abi.KeyRequestSize]))
		defer clear(b)
		return copy(data, b), err
	case opQuote:
		b, err := s.e.quote(ctx, slices.Clone(data[:abi.ReportDataSize]))
		if err == nil && len(b) > min(int(m.b), len(data)) {
			err = CodeArgument.Bad("quote", fmt.Sprintf("room for %d bytes", len(b)), fmt.Sprint(m.b))
		}
		return copy(data, b), err
	}
	return 0, fatal{CodeTrap.Bad("process", "a message of its protocol", fmt.Sprint(m.op))}
}

// ocall calls the application with a copy of the input: the enclave's process could change the buffer meanwhile.
func (s *process) ocall(ctx context.Context, m message) (int, error) {
	if s.left--; s.left < 0 {
		return 0, fatal{CodeCalls.Bad(m.name, fmt.Sprint(s.e.m.c.Budget.OCalls), "more")}
	}
	b := s.e.buffer
	n, room := uint64(m.a), uint64(m.b)
	if n > uint64(len(b)) || room > uint64(len(b))-n {
		return 0, fatal{CodeBuffer.Bad(m.name, fmt.Sprintf("%d bytes", len(b)), fmt.Sprintf("%d and %d", n, room))}
	}
	in := slices.Clip(slices.Clone(b[:n]))
	defer clear(in)
	return s.e.host(ctx, m.name, in, b[n:n+room:n+room])
}

func (s *process) kill() { _ = s.cmd.Process.Kill() } // it may have ended

// stop ends the process and gives its memory back: the kernel clears it.
func (s *process) stop() {
	s.kill()
	_ = s.stdin.Close()
	<-s.dead
	clear(s.ch.mem)
	_ = unix.Munmap(s.ch.mem)
	_ = unix.Munmap(s.ch.turn)
}
