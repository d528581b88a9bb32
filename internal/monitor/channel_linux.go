package monitor

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// A channel is memory that the monitor and the process of one enclave share: a few words of control, room for a refusal,
// room for what leaf functions exchange, and the marshalling buffer. One side at a time has the turn; the other spins for a
// while and then sleeps on a futex, so that a call which is answered at once costs no switch (R047). Each side reads a field
// once, since the other could change it at any time.
type channel struct {
	mem  []byte
	turn []byte       // a page of ordinary shared memory: no process can sleep on a word of secret memory (EFAULT)
	side uint32       // whose end this is
	spin int          // looks at the turn before sleeping
	gone *atomic.Bool // the other side is no more
}

// The sides.
const (
	sideMonitor uint32 = 0
	sideEnclave uint32 = 1
)

// Where what is in the shared memory. Each side's sleep is a word of its own.
const (
	atTurn    = 0  // of the page of turns
	atAsleep  = 64 // and 128: of the sides; of the page of turns
	atOp      = 192
	atA       = 196
	atB       = 200
	atName    = 256 // length in 4 bytes, then the name
	maxName   = 256
	atRefusal = 4096
	atData    = 8192
	dataSize  = 64 << 10
	atBuffer  = atData + dataSize
	turnSize  = 4096
)

// What one side tells the other.
const (
	opLocked  uint32 = iota + 1 // enclave: its process is closed off; a: isolation facts
	opReady                     // enclave: it is initialised
	opEnter                     // monitor: name, a: length of the parameters
	opDone                      // enclave: a: length of the reply
	opFault                     // enclave: a refusal; a: 1 if the enclave is at its end
	opOCall                     // enclave: name, a: length of the input, b: room for the output behind it
	opReport                    // enclave: target and data in the data room
	opVerify                    // enclave: a report
	opKey                       // enclave: a request
	opQuote                     // enclave: report data, b: room
	opReply                     // monitor: a: length of what is in the data room or behind the input
	opRefused                   // monitor: a refusal
)

func (c *channel) word(at int) *uint32 { return (*uint32)(unsafe.Pointer(&c.mem[at])) }

func (c *channel) turnWord(at int) *uint32 { return (*uint32)(unsafe.Pointer(&c.turn[at])) }

func (c *channel) buffer() []byte { return c.mem[atBuffer:] }

func (c *channel) data() []byte { return c.mem[atData:atBuffer] }

// message is what was read of the control words, each once.
type message struct {
	op, a, b uint32
	name     string
}

// send writes a message and gives the turn away.
func (c *channel) send(m message) {
	name := m.name[:min(len(m.name), maxName)]
	*c.word(atName) = uint32(len(name))
	copy(c.mem[atName+4:], name)
	*c.word(atOp), *c.word(atA), *c.word(atB) = m.op, m.a, m.b
	other := 1 - c.side
	atomic.StoreUint32(c.turnWord(atTurn), other)
	if atomic.LoadUint32(c.turnWord(atAsleep+64*int(other))) != 0 {
		futex(c.turnWord(atTurn), futexWake, 1, nil)
	}
}

// receive waits for the turn and reads what was sent; false if the other side is no more.
func (c *channel) receive() (message, bool) {
	if !c.wait() {
		return message{}, false
	}
	m := message{op: *c.word(atOp), a: *c.word(atA), b: *c.word(atB)}
	n := min(*c.word(atName), maxName)
	m.name = string(c.mem[atName+4 : atName+4+n])
	return m, true
}

func (c *channel) wait() bool {
	turn, asleep := c.turnWord(atTurn), c.turnWord(atAsleep+64*int(c.side))
	for range c.spin {
		if atomic.LoadUint32(turn) == c.side {
			return true
		}
	}
	for {
		atomic.StoreUint32(asleep, 1)
		if atomic.LoadUint32(turn) != c.side {
			futex(turn, futexWait, 1-c.side, &unix.Timespec{Nsec: 50_000_000}) // a lost wake costs a moment, no more
		}
		atomic.StoreUint32(asleep, 0)
		if atomic.LoadUint32(turn) == c.side {
			return true
		}
		if c.gone.Load() {
			return false
		}
	}
}

// wake ends a sleep of the own side, for whoever has set gone.
func (c *channel) wake() { futex(c.turnWord(atTurn), futexWake, 1, nil) }

// The operations of futex(2) between processes.
const (
	futexWait = 0
	futexWake = 1
)

func futex(word *uint32, op int, value uint32, timeout *unix.Timespec) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), uintptr(op), uintptr(value), uintptr(unsafe.Pointer(timeout)), 0, 0)
}

// refusal writes an error for the other side.
func (c *channel) refusal(err error) {
	b, e := boundary.Encode(boundary.RefusalOf(err, CodeTrap))
	if e != nil || len(b) > atData-atRefusal-4 {
		b = nil
	}
	*c.word(atRefusal) = uint32(len(b))
	copy(c.mem[atRefusal+4:], b)
}

// refused reads the other side's error.
func (c *channel) refused() error {
	n := min(*c.word(atRefusal), atData-atRefusal-4)
	b := append([]byte(nil), c.mem[atRefusal+4:atRefusal+4+n]...)
	var r boundary.Refusal
	if err := boundary.Decode(b, &r); err != nil {
		return err
	}
	return r.Err()
}

// share makes the memory of a channel, as secret memory where that is to be had. The descriptor is for the other process.
func share(buffer int) (mem []byte, fd int, err error) {
	size := atBuffer + buffer
	r, _, errno := unix.Syscall(unix.SYS_MEMFD_SECRET, unix.O_CLOEXEC, 0, 0)
	if fd = int(r); errno == 0 {
		if mem, err = mapShared(fd, size, true); err == nil {
			return mem, fd, nil
		}
		unix.Close(fd)
	}
	return shareOrdinary(size)
}

// shareOrdinary makes memory that is not secret.
func shareOrdinary(size int) (mem []byte, fd int, err error) {
	if fd, err = unix.MemfdCreate("enclave", unix.MFD_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("sharing memory: %w", err)
	}
	if mem, err = mapShared(fd, size, true); err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	return mem, fd, nil
}

func mapShared(fd, size int, create bool) ([]byte, error) {
	if create {
		if err := unix.Ftruncate(fd, int64(size)); err != nil {
			return nil, fmt.Errorf("sizing shared memory: %w", err)
		}
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping shared memory: %w", err)
	}
	return mem, nil
}
