package monitor

import (
	"context"
	"fmt"
	"sync"
	"unsafe"

	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/rats"
)

// maxDescriptors is how many files an enclave may have open.
const maxDescriptors = 256

// Outside offers the six raw operations on a System as OCALLs. Restrict the System first: the enclave names any path.
// Descriptors are numbered for this enclave alone, so that it reaches no file of the monitor's. Close must be called when
// the enclave is gone: put both into Options.
func Outside(s measure.System) (calls map[string]HostCall, closed func()) {
	o := &outside{system: s, files: make(map[int32]int32), direct: make(map[int32]bool)}
	return map[string]HostCall{
		boundary.CallOpen: o.open, boundary.CallReadAt: o.readAt, boundary.CallStat: o.stat, boundary.CallList: o.list,
		boundary.CallExec: o.exec, boundary.CallClose: o.close, boundary.CallFiles: o.several,
	}, o.closeAll
}

type outside struct {
	system measure.System
	mu     sync.Mutex
	files  map[int32]int32 // the enclave's number → the system's
	direct map[int32]bool  // files past the page cache, whose reads want aligned memory
	next   int32
}

// answer encodes the answer to a call.
func answer(out []byte, v any) (int, error) {
	b, err := boundary.Encode(v)
	if err != nil {
		return 0, err
	}
	if len(b) > len(out) {
		return 0, boundary.CodeSize.Bad("answer", fmt.Sprintf("at most %d bytes", len(out)), fmt.Sprint(len(b)))
	}
	return copy(out, b), nil
}

// failed is the error for a code of the system's.
func failed(name string, c rats.Code) error {
	return &rats.MissingInput{Reason: rats.Reason{Code: c, Slot: rats.FileSystem, Tier: rats.None, Path: name}}
}

// opened numbers a descriptor.
func (o *outside) opened(name string, fd int32, code rats.Code, out []byte) (int, error) {
	if code != "" {
		return 0, failed(name, code)
	}
	o.mu.Lock()
	if len(o.files) >= maxDescriptors {
		o.mu.Unlock()
		o.system.Close(fd)
		return 0, failed(name, measure.CodeSystem.Code)
	}
	for used := true; used; _, used = o.files[o.next] {
		o.next = (o.next + 1) & 0x7fffffff
	}
	o.files[o.next] = fd
	n := o.next
	o.mu.Unlock()
	return answer(out, n)
}

func (o *outside) file(n int32) (int32, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fd, ok := o.files[n]
	return fd, ok
}

func (o *outside) open(_ context.Context, in, out []byte) (int, error) {
	var r boundary.Open
	if err := boundary.Decode(in, &r); err != nil {
		return 0, err
	}
	if len(r.Path) > boundary.MaxPath {
		return 0, failed(boundary.CallOpen, measure.CodeName.Code)
	}
	fd, code := o.system.Open(append([]byte(nil), r.Path...), r.Flags)
	n, err := o.opened(boundary.CallOpen, fd, code, out)
	if err == nil && r.Flags&measure.OpenDirect != 0 {
		o.mu.Lock()
		o.direct[fd] = true
		o.mu.Unlock()
	}
	return n, err
}

func (o *outside) readAt(_ context.Context, in, out []byte) (int, error) {
	var r boundary.ReadAt
	if err := boundary.Decode(in, &r); err != nil {
		return 0, err
	}
	n, code := 0, measure.CodeSystem.Code
	if fd, ok := o.file(r.FD); ok && o.isDirect(fd) {
		p := aligned(len(out))
		n, code = o.system.ReadAt(fd, p, r.Offset)
		copy(out, p[:max(n, 0)])
	} else if ok {
		n, code = o.system.ReadAt(fd, out, r.Offset)
	}
	if code != "" {
		return 0, failed(boundary.CallReadAt, code)
	}
	return n, nil
}

func (o *outside) isDirect(fd int32) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.direct[fd]
}

// aligned returns memory for reads past the page cache: at most n bytes, a multiple of the alignment.
func aligned(n int) []byte {
	const align = measure.DirectAlign
	b := make([]byte, n+align)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (align - 1)
	return b[skip : skip+n/align*align]
}

func (o *outside) list(_ context.Context, in, out []byte) (int, error) {
	var r boundary.List
	if err := boundary.Decode(in, &r); err != nil {
		return 0, err
	}
	n, code := 0, measure.CodeSystem.Code
	if fd, ok := o.file(r.FD); ok && len(out) >= measure.ListBuffer {
		n, code = o.system.List(fd, r.Cookie, out)
	}
	if code != "" {
		return 0, failed(boundary.CallList, code)
	}
	return n, nil
}

func (o *outside) stat(_ context.Context, in, out []byte) (int, error) {
	var r boundary.StatOf
	if err := boundary.Decode(in, &r); err != nil {
		return 0, err
	}
	st, code := measure.Stat{}, measure.CodeName.Code
	if len(r.Path) <= boundary.MaxPath {
		st, code = o.system.Stat(append([]byte(nil), r.Path...), r.Follow)
	}
	if code != "" {
		return 0, failed(boundary.CallStat, code)
	}
	return answer(out, boundary.Stat(st))
}

// headSize is the length of an encoded FileHead.
const headSize = 1 + 2*(3*4+4*8)

// several is stat, open, read, stat and close of several files in one call, as far as they fit into the answer.
func (o *outside) several(_ context.Context, in, out []byte) (int, error) {
	var r boundary.Files
	if err := boundary.Decode(in, &r); err != nil {
		return 0, err
	}
	if len(r.Paths) == 0 || len(r.Paths) > boundary.MaxFiles || len(out) < headSize {
		return 0, boundary.CodeMalformed.Bad(boundary.CallFiles, fmt.Sprintf("1 to %d paths, room for %d bytes", boundary.MaxFiles, headSize), fmt.Sprintf("%d paths, %d bytes", len(r.Paths), len(out)))
	}
	n := 0
	for _, path := range r.Paths {
		if len(out)-n < headSize {
			break
		}
		h, size := o.whole(append([]byte(nil), path...), out[n+headSize:])
		if h.State == boundary.FileUnread && n > 0 && h.Before.Size > int64(len(out)-n-headSize) {
			break // it may fit into the next answer
		}
		if _, err := answer(out[n:], h); err != nil {
			return 0, err
		}
		n += headSize + size
	}
	return n, nil
}

// whole describes a file and reads it into room if it fits.
func (o *outside) whole(path, room []byte) (h boundary.FileHead, size int) {
	h.State = boundary.FileFailed
	if len(path) > boundary.MaxPath {
		return h, 0
	}
	st, code := o.system.Stat(path, false)
	if code != "" {
		return h, 0
	}
	h.State, h.Before = boundary.FileUnread, boundary.Stat(st)
	if st.Mode&measure.ModeType != measure.ModeRegular || st.Size <= 0 || st.Size > int64(len(room)) || !o.read(path, room[:st.Size]) {
		return h, 0
	}
	// If it can't be described now, it counts as changed: After is zero.
	after, _ := o.system.Stat(path, false)
	h.State, h.After = boundary.FileWhole, boundary.Stat(after)
	return h, int(st.Size)
}

// read fills p with the beginning of a file; false if that can't be.
func (o *outside) read(path, p []byte) bool {
	fd, code := o.system.Open(path, measure.OpenFile)
	if code != "" {
		return false
	}
	defer o.system.Close(fd)
	for n := 0; n < len(p); {
		m, code := o.system.ReadAt(fd, p[n:], int64(n))
		if code != "" || m <= 0 || m > len(p)-n {
			return false
		}
		n += m
	}
	return true
}

func (o *outside) exec(_ context.Context, in, out []byte) (int, error) {
	var r boundary.Exec
	if err := boundary.Decode(in, &r); err != nil {
		return 0, err
	}
	argv := make([][]byte, len(r.Argv))
	for i, a := range r.Argv {
		argv[i] = append([]byte(nil), a...)
	}
	fd, code := o.system.Exec(argv, r.Limits)
	return o.opened(boundary.CallExec, fd, code, out)
}

func (o *outside) close(_ context.Context, in, _ []byte) (int, error) {
	var r boundary.Close
	if err := boundary.Decode(in, &r); err != nil {
		return 0, err
	}
	o.mu.Lock()
	fd, ok := o.files[r.FD]
	delete(o.files, r.FD)
	delete(o.direct, fd)
	o.mu.Unlock()
	if ok {
		o.system.Close(fd)
	}
	return 0, nil
}

func (o *outside) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n, fd := range o.files {
		o.system.Close(fd)
		delete(o.files, n)
	}
}
