package daemon

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

// Info says what a monitor is.
type Info struct {
	Key      [64]byte // of its attestation key, x ‖ y
	Platform [16]byte // abi.Platform as reports have it, without a mode; see Info.Decode
	Event    string   // the text by which the key is measured into abi.KeyPCR
	Events   []string // all that the root keeper measured into it in this boot, in this order
	// Condition is what is wrong with the root now: ConditionLocked, or nothing.
	Condition string
}

// Decode returns the platform: launch, root, version, isolation. Its mode is an enclave's own and stands as inline here.
func (i Info) Decode() (abi.Platform, error) { return abi.ParsePlatform(i.Platform) }

// Measured says whether the keeper measured the key in this boot, by its own account.
func (i Info) Measured() bool { return slices.Contains(i.Events, i.Event) }

// Client is a connection to a monitor. Its methods may be called from several goroutines. Enclaves live as long as their
// connection: if either side ends, they are gone, and what they sealed opens again in new ones.
type Client struct {
	c      *net.UnixConn
	socket string
	wmu    sync.Mutex

	mu    sync.Mutex
	to    map[uint32]chan frame
	fds   []int
	next  uint32
	why   error
	gone  chan struct{} // closed when the connection has ended
	infos sync.Mutex    // one opInfo at a time, as enclave 0
}

// Dial connects to a monitor's socket.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, CodeGone.Missing(socket, "a running monitor", err.Error())
	}
	c := &Client{c: conn.(*net.UnixConn), socket: socket, to: make(map[uint32]chan frame), next: 1, gone: make(chan struct{})}
	go c.read()
	return c, nil
}

// Close ends the connection, and with it the enclaves that were loaded over it.
func (c *Client) Close() error {
	err := c.c.Close()
	<-c.gone
	return err
}

// Read is how the reader of frames gets bytes; descriptors that come with them are put aside in their order.
func (c *Client) Read(b []byte) (int, error) {
	var oob [64]byte
	n, m, _, _, err := c.c.ReadMsgUnix(b, oob[:])
	if m > 0 {
		messages, e := unix.ParseSocketControlMessage(oob[:m])
		for i := range messages {
			if fds, e := unix.ParseUnixRights(&messages[i]); e == nil {
				c.mu.Lock()
				c.fds = append(c.fds, fds...)
				c.mu.Unlock()
			}
		}
		if err == nil && e != nil {
			err = e
		}
	}
	return max(n, 0), err
}

// read hands frames to whoever waits for them, until the connection ends.
func (c *Client) read() {
	r := bufio.NewReaderSize(c, 4096)
	var err error
	for {
		var f frame
		if f, err = readFrame(r, 0); err != nil {
			break
		}
		c.mu.Lock()
		to := c.to[f.id]
		c.mu.Unlock()
		if to == nil {
			continue // of an enclave that nobody waits for any more
		}
		select {
		case to <- f:
			continue
		default:
		}
		err = CodeFrame.Bad("frame", "one answer", "two")
		break
	}
	_ = c.c.Close()
	c.mu.Lock()
	c.why = err
	for _, fd := range c.fds {
		_ = unix.Close(fd)
	}
	c.fds = nil
	c.mu.Unlock()
	close(c.gone)
}

// ended is the error for a connection that is no more.
func (c *Client) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, coded := rats.ReasonOf(c.why); coded {
		return c.why
	}
	return CodeGone.Missing(c.socket, "a running monitor", fmt.Sprint(c.why))
}

func (c *Client) send(f frame) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if _, err := c.c.Write(f.bytes()); err != nil {
		return CodeGone.Missing(c.socket, "a running monitor", err.Error())
	}
	return nil
}

// wait returns the next frame for a number.
func (c *Client) wait(from chan frame) (frame, error) {
	select {
	case f := <-from:
		return f, nil
	case <-c.gone:
		select {
		case f := <-from: // it came before the end
			return f, nil
		default:
			return frame{}, c.ended()
		}
	}
}

// ask sends a frame and returns its answer.
func (c *Client) ask(ctx context.Context, f frame, from chan frame, want byte) (frame, error) {
	// The monitor ends what was cancelled; if it doesn't, the connection is of no use.
	stop := context.AfterFunc(ctx, func() { _ = c.c.Close() })
	defer stop()
	if err := c.send(f); err != nil {
		return frame{}, err
	}
	got, err := c.wait(from)
	switch {
	case err != nil:
		return frame{}, err
	case got.op == opRefused:
		return frame{}, refusalIn(got)
	case got.op != want:
		_ = c.c.Close()
		return frame{}, CodeFrame.Bad("answer", fmt.Sprint(want), fmt.Sprint(got.op))
	}
	return got, nil
}

func (c *Client) open(id uint32) chan frame {
	to := make(chan frame, 4)
	c.mu.Lock()
	c.to[id] = to
	c.mu.Unlock()
	return to
}

func (c *Client) forget(id uint32) {
	c.mu.Lock()
	delete(c.to, id)
	c.mu.Unlock()
}

// Info asks what the monitor is. If ctx ends first the connection is closed.
func (c *Client) Info(ctx context.Context) (Info, error) {
	c.infos.Lock()
	defer c.infos.Unlock()
	from := c.open(0)
	defer c.forget(0)
	f, err := c.ask(ctx, frame{op: opInfo}, from, opInfo)
	if err != nil {
		return Info{}, err
	}
	var i Info
	if err := boundary.Decode(f.payload, &i); err != nil {
		return Info{}, CodeFrame.Bad("info", "what the monitor is", "another encoding")
	}
	return i, nil
}

// Enclave is an enclave that runs in the daemon. It has the methods of monitor.Instance, with the same rules: one call at a
// time, coded refusals, gone after a fault.
type Enclave struct {
	c        *Client
	id       uint32
	from     chan frame
	o        monitor.Options
	mem      []byte
	inside   atomic.Bool
	identity enclave.Identity
	platform abi.Platform
	finish   sync.Once
}

var _ monitor.Running = (*Enclave)(nil)

// Load starts an enclave. OCALLs of o.Host are run here, in the goroutine that calls Enter; o.Close is called once, when the
// enclave is destroyed. If ctx ends first the connection is closed.
func (c *Client) Load(ctx context.Context, image, sigstruct []byte, o monitor.Options) (*Enclave, error) {
	l := loading{
		Mode: uint8(o.Mode), Switchless: o.Switchless, Flags: o.Start.Attributes.Flags, XFRM: o.Start.Attributes.XFRM,
		MiscSelect: o.Start.MiscSelect, ConfigID: o.Start.ConfigID, ConfigSVN: o.Start.ConfigSVN,
	}
	for name := range o.Host {
		l.Host = append(l.Host, name)
	}
	slices.Sort(l.Host)
	head, err := boundary.Encode(l)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	id := c.next
	c.next++
	c.mu.Unlock()
	e := &Enclave{c: c, id: id, from: c.open(id), o: o}
	f := frame{op: opLoad, id: id, a: uint32(len(image)), b: uint32(len(head)), payload: slices.Concat(head, image, sigstruct)}
	got, err := c.ask(ctx, f, e.from, opLoaded)
	if err == nil {
		err = e.loaded(got)
	}
	if err != nil {
		c.forget(id)
		return nil, err
	}
	return e, nil
}

func (e *Enclave) loaded(f frame) error {
	c := e.c
	c.mu.Lock()
	fd := -1
	if len(c.fds) > 0 {
		fd, c.fds = c.fds[0], c.fds[1:]
	}
	c.mu.Unlock()
	if fd < 0 {
		return CodeFrame.Bad("loaded", "memory to share", "none")
	}
	var l loaded
	if err := boundary.Decode(f.payload, &l); err != nil {
		_ = unix.Close(fd)
		return CodeFrame.Bad("loaded", "an enclave", "another encoding")
	}
	var err error
	if e.mem, err = mapGiven(fd, int(l.Buffer)); err != nil {
		return err
	}
	e.identity = l.Identity.identity()
	e.platform, err = abi.ParsePlatform(l.Platform)
	return err
}

// Identity returns what the enclave is.
func (e *Enclave) Identity() enclave.Identity { return e.identity }

// Platform returns how the enclave runs.
func (e *Enclave) Platform() abi.Platform { return e.platform }

// String keeps what an enclave holds out of logs.
func (e *Enclave) String() string { return fmt.Sprintf("enclave %x", e.identity.MRENCLAVE[:4]) }

// GoString keeps what an enclave holds out of logs.
func (e *Enclave) GoString() string { return e.String() }

// within marks the context of an OCALL with the enclave whose call is inside.
type within struct{ e *Enclave }

// patience is how long the monitor may take to end a call that was cancelled.
const patience = 5 * time.Second

// Enter calls an entry point, as monitor.Instance.Enter does. If ctx ends the monitor stops the enclave.
func (e *Enclave) Enter(ctx context.Context, entry string, in []byte) ([]byte, error) {
	if ctx.Value(within{e}) != nil {
		return nil, monitor.CodeReentry.Bad(entry, "", "")
	}
	if !e.inside.CompareAndSwap(false, true) {
		return nil, monitor.CodeBusy.Missing(entry, "", "")
	}
	defer e.inside.Store(false)
	switch {
	case e.mem == nil:
		return nil, monitor.CodeState.Bad(entry, "initialised", "destroyed")
	case len(in) > len(e.mem):
		return nil, monitor.CodeInput.Bad(entry, fmt.Sprintf("at most %d bytes", len(e.mem)), fmt.Sprint(len(in)))
	case len(entry) > maxEntry:
		return nil, monitor.CodeEntry.Bad("entry", fmt.Sprintf("a name of at most %d bytes", maxEntry), fmt.Sprintf("%d bytes", len(entry)))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	used := copy(e.mem, in)
	defer func() { clear(e.mem[:used]) }()
	if err := e.c.send(frame{op: opEnter, id: e.id, a: uint32(len(in)), payload: []byte(entry)}); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	defer close(done)
	stop := context.AfterFunc(ctx, func() {
		_ = e.c.send(frame{op: opCancel, id: e.id})
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			_ = e.c.c.Close()
		}
	})
	defer stop()
	for {
		f, err := e.c.wait(e.from)
		if err != nil {
			return nil, err
		}
		switch f.op {
		case opDone:
			if uint64(f.a) > uint64(len(e.mem)) {
				return nil, e.broken("result", f)
			}
			used = max(used, int(f.a))
			return slices.Clone(e.mem[:f.a]), nil
		case opRefused:
			return nil, refusalIn(f)
		case opOCall:
			n, room := uint64(f.a), uint64(f.b)
			if n > uint64(len(e.mem)) || room > uint64(len(e.mem))-n || len(f.payload) > maxName {
				return nil, e.broken("ocall", f)
			}
			used = max(used, int(n+room))
			if err := e.c.send(e.answer(ctx, string(f.payload), int(n), int(room))); err != nil {
				return nil, err
			}
		default:
			return nil, e.broken("answer", f)
		}
	}
}

// broken ends a connection whose other side is not a monitor.
func (e *Enclave) broken(what string, f frame) error {
	_ = e.c.c.Close()
	return CodeFrame.Bad(what, fmt.Sprintf("within %d bytes", len(e.mem)), fmt.Sprintf("operation %d: %d and %d", f.op, f.a, f.b))
}

// answer runs an OCALL on the shared memory.
func (e *Enclave) answer(ctx context.Context, name string, n, room int) frame {
	call := e.o.Host[name]
	if call == nil {
		return refusedFrame(e.id, monitor.CodeHost.Bad("ocall", "an OCALL of the application", name))
	}
	in := slices.Clip(slices.Clone(e.mem[:n]))
	defer clear(in)
	got, err := call(context.WithValue(ctx, within{e}, true), in, e.mem[n:n+room:n+room])
	switch {
	case err != nil:
		if _, coded := rats.ReasonOf(err); !coded {
			err = monitor.CodeOCall.Missing(name, "", "")
		}
		return refusedFrame(e.id, err)
	case got < 0 || got > room:
		return refusedFrame(e.id, monitor.CodeResult.Bad(name, fmt.Sprintf("0 to %d", room), fmt.Sprint(got)))
	}
	return frame{op: opAnswer, id: e.id, a: uint32(got)}
}

// Destroy ends the enclave. While a call is inside it is refused. An enclave may be destroyed again, and one whose monitor
// is gone is gone.
func (e *Enclave) Destroy() error {
	if !e.inside.CompareAndSwap(false, true) {
		return monitor.CodeBusy.Missing("destroy", "", "")
	}
	defer e.inside.Store(false)
	e.finish.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, _ = e.c.ask(ctx, frame{op: opDestroy, id: e.id}, e.from, opDestroyed) // a monitor that is gone has destroyed it
		e.c.forget(e.id)
		_ = unix.Munmap(e.mem)
		e.mem = nil
		if e.o.Close != nil {
			e.o.Close()
		}
	})
	return nil
}
