package sdk

import (
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Outside reads the machine through the six raw operations, if the application offers them. Descriptors are valid for this
// enclave alone; an empty code means that it went well. What it says is the untrusted system's word.
type Outside struct{}

// Stat describes a file: the fields of boundary.Stat.
type Stat = boundary.Stat

func codeOf(err error) rats.Code {
	if err == nil {
		return ""
	}
	if r, ok := rats.ReasonOf(err); ok {
		return r.Code
	}
	return CodeOutside.Code
}

// Open opens a file (flags 0) or a directory (1) for reading.
func (Outside) Open(path []byte, flags uint32) (int32, rats.Code) {
	fd, err := Call[boundary.Open, int32](boundary.CallOpen, boundary.Open{Path: path, Flags: flags})
	if err != nil {
		return -1, codeOf(err)
	}
	return fd, ""
}

// ReadAt reads up to len(p) bytes; 0 bytes without a code is the end.
func (Outside) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	return bulk(boundary.CallReadAt, boundary.ReadAt{FD: fd, Offset: off}, p)
}

// List fills p with entries of a directory from a cookie on.
func (Outside) List(fd int32, cookie uint64, p []byte) (int, rats.Code) {
	return bulk(boundary.CallList, boundary.List{FD: fd, Cookie: cookie}, p)
}

// bulk receives bytes where they shall be.
func bulk(name string, request any, p []byte) (int, rats.Code) {
	in, err := boundary.Encode(request)
	if err != nil {
		return 0, codeOf(err)
	}
	n, err := Exchange(name, in, p)
	return n, codeOf(err)
}

// Stat describes what a path names.
func (Outside) Stat(path []byte, follow bool) (Stat, rats.Code) {
	st, err := Call[boundary.StatOf, Stat](boundary.CallStat, boundary.StatOf{Path: path, Follow: follow})
	return st, codeOf(err)
}

// Exec runs a command and returns a descriptor of its output.
func (Outside) Exec(argv [][]byte, l plan.Limits) (int32, rats.Code) {
	fd, err := Call[boundary.Exec, int32](boundary.CallExec, boundary.Exec{Argv: argv, Limits: l})
	if err != nil {
		return -1, codeOf(err)
	}
	return fd, ""
}

// Close closes a descriptor.
func (Outside) Close(fd int32) {
	_, _ = Call[boundary.Close, None](boundary.CallClose, boundary.Close{FD: fd}) // it is gone either way
}
