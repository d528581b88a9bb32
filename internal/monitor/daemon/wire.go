package daemon

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// A frame is a length (4 bytes, big endian, of what follows), an operation, the number of an enclave on this connection,
// two small numbers, and a payload. Parameters, results and what OCALLs carry stand in memory that client and daemon share,
// one piece for each enclave; the frame is only the doorbell.
const (
	headSize   = 4 + 1 + 4 + 4 + 4
	maxPayload = 64 << 10 // of all frames but opLoad
	maxHost    = 64       // OCALLs an application may offer
	maxName    = 64       // bytes of an OCALL's name; entry points have up to maxEntry
	maxEntry   = 256
)

// The operations.
const (
	opLoad      byte = iota + 1 // client: payload is a loading; a: bytes of the image behind it, b: of the loading
	opLoaded                    // daemon: payload is a loaded; the descriptor of the shared memory comes with it
	opEnter                     // client: payload is the entry point; a: bytes of the parameters
	opDone                      // daemon: a: bytes of the result
	opOCall                     // daemon: payload is the name; a: bytes of the input, b: room for the answer behind it
	opAnswer                    // client: a: bytes of the answer behind the input
	opRefused                   // both: payload is a refusal, in place of opLoaded, opDone, opAnswer, opDestroyed, opInfo
	opCancel                    // client: ends the call that is inside, and with it the enclave
	opDestroy                   // client
	opDestroyed                 // daemon
	opInfo                      // client; daemon: payload is an Info
)

type frame struct {
	op      byte
	id      uint32
	a, b    uint32
	payload []byte
}

func (f frame) bytes() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, headSize+len(f.payload)), uint32(headSize-4+len(f.payload)))
	b = append(b, f.op)
	b = binary.BigEndian.AppendUint32(b, f.id)
	b = binary.BigEndian.AppendUint32(b, f.a)
	b = binary.BigEndian.AppendUint32(b, f.b)
	return append(b, f.payload...)
}

// readFrame reads a frame. Only opLoad may have more than maxPayload: up to most bytes.
func readFrame(r io.Reader, most int) (frame, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := int64(binary.BigEndian.Uint32(head[:])) - (headSize - 4)
	f := frame{op: head[4], id: binary.BigEndian.Uint32(head[5:]), a: binary.BigEndian.Uint32(head[9:]), b: binary.BigEndian.Uint32(head[13:])}
	limit := int64(maxPayload)
	if f.op == opLoad {
		limit = int64(most)
	}
	if n < 0 || n > limit || f.op < opLoad || f.op > opInfo {
		return frame{}, CodeFrame.Bad("frame", fmt.Sprintf("a known operation with up to %d bytes", limit), fmt.Sprintf("operation %d with %d", f.op, n))
	}
	if n == 0 {
		return f, nil
	}
	// What is not sent takes no memory, whatever the length says.
	var b bytes.Buffer
	if n <= maxPayload {
		b.Grow(int(n))
	}
	if _, err := io.CopyN(&b, r, n); err != nil {
		return frame{}, fmt.Errorf("reading a frame: %w", err)
	}
	f.payload = b.Bytes()
	return f, nil
}

// loading is how an enclave is to be started: monitor.Options without what stays on the client's side.
type loading struct {
	Mode       uint8
	Switchless bool
	Flags      uint64
	XFRM       uint64
	MiscSelect uint32
	ConfigID   [64]byte
	ConfigSVN  uint16
	Host       []string
}

// loaded is what a client learns of an enclave that was started.
type loaded struct {
	Identity identity
	Platform [16]byte // CPUSVN
	Buffer   uint32   // bytes of the shared memory
}

// identity is enclave.Identity as it crosses.
type identity struct {
	MRENCLAVE, MRSIGNER          [32]byte
	Flags, XFRM                  uint64
	MiscSelect                   uint32
	ISVProdID, ISVSVN, ConfigSVN uint16
	ConfigID                     [64]byte
	FamilyID, ExtProdID          [16]byte
}

func identityOf(i enclave.Identity) identity {
	return identity{
		MRENCLAVE: i.MRENCLAVE, MRSIGNER: i.MRSIGNER, Flags: i.Attributes.Flags, XFRM: i.Attributes.XFRM, MiscSelect: i.MiscSelect,
		ISVProdID: i.ISVProdID, ISVSVN: i.ISVSVN, ConfigSVN: i.ConfigSVN, ConfigID: i.ConfigID, FamilyID: i.FamilyID, ExtProdID: i.ExtProdID,
	}
}

func (i identity) identity() enclave.Identity {
	return enclave.Identity{
		MRENCLAVE: i.MRENCLAVE, MRSIGNER: i.MRSIGNER, Attributes: abi.Attributes{Flags: i.Flags, XFRM: i.XFRM}, MiscSelect: i.MiscSelect,
		ISVProdID: i.ISVProdID, ISVSVN: i.ISVSVN, ConfigSVN: i.ConfigSVN, ConfigID: i.ConfigID, FamilyID: i.FamilyID, ExtProdID: i.ExtProdID,
	}
}

// parseLoad takes the payload of opLoad apart: the loading, the image, the SIGSTRUCT.
func parseLoad(f frame) (l loading, image, sigstruct []byte, err error) {
	n, m := uint64(f.b), uint64(f.a)
	if n > maxPayload || n+m > uint64(len(f.payload)) || uint64(len(f.payload))-n-m > abi.SigstructSize {
		return l, nil, nil, CodeFrame.Bad("load", "a description, an image and a SIGSTRUCT", fmt.Sprintf("%d, %d and %d bytes", n, m, len(f.payload)))
	}
	if err := boundary.Decode(f.payload[:n], &l); err != nil {
		return l, nil, nil, CodeFrame.Bad("load", "a description of what to start", "another encoding")
	}
	if len(l.Host) > maxHost {
		return l, nil, nil, CodeFrame.Bad("load", fmt.Sprintf("at most %d OCALLs", maxHost), fmt.Sprint(len(l.Host)))
	}
	for _, name := range l.Host {
		if len(name) > maxName {
			return l, nil, nil, CodeFrame.Bad("load", fmt.Sprintf("names of OCALLs of at most %d bytes", maxName), fmt.Sprint(len(name)))
		}
	}
	return l, f.payload[n : n+m], f.payload[n+m:], nil
}

// refusedFrame carries an error; one without a code crosses as other.
func refusedFrame(id uint32, err error) frame {
	b, e := boundary.Encode(boundary.RefusalOf(err, CodeInternal))
	if e != nil {
		b = nil
	}
	return frame{op: opRefused, id: id, payload: b}
}

// refusalIn is the error that a frame carries.
func refusalIn(f frame) error {
	var r boundary.Refusal
	if err := boundary.Decode(f.payload, &r); err != nil {
		return CodeFrame.Bad("refusal", "a refusal", "another encoding")
	}
	return r.Err()
}

// newShared makes memory to share, of a size that nobody can change any more: whoever maps it is never cut off from it.
func newShared(size int) (mem []byte, fd int, err error) {
	if fd, err = unix.MemfdCreate("assay-call", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
		return nil, -1, fmt.Errorf("sharing memory: %w", err)
	}
	if err = unix.Ftruncate(fd, int64(size)); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, -1, fmt.Errorf("sharing memory: %w", err)
	}
	return mem, fd, nil
}

// mapGiven maps memory that the daemon shares, and closes its descriptor.
func mapGiven(fd, size int) ([]byte, error) {
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("mapping shared memory: %w", err)
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 || size <= 0 || size > enclave.MaxBuffer || st.Size < int64(size) {
		return nil, CodeFrame.Bad("shared memory", fmt.Sprintf("1 to %d bytes that can't shrink", enclave.MaxBuffer), fmt.Sprintf("%d of %d, seals %#x", size, st.Size, seals))
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping shared memory: %w", err)
	}
	return mem, nil
}
