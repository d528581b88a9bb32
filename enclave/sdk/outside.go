package sdk

import (
	"encoding/binary"

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

// What crosses is encoded by hand here, byte by byte as package boundary has it: measuring a file takes five of these
// calls, and reflection is most of the time of one.

// appendBytes appends bytes with their length.
func appendBytes(b, p []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(p))), p...)
}

// descriptor makes an OCALL that answers with a descriptor.
func descriptor(name string, in []byte) (int32, rats.Code) {
	out := make([]byte, 4)
	n, err := Exchange(name, in, out)
	if err != nil {
		return -1, codeOf(err)
	}
	if n != len(out) {
		return -1, boundary.CodeMalformed.Code
	}
	return int32(binary.LittleEndian.Uint32(out)), ""
}

// Open opens a file (flags 0) or a directory (1) for reading.
func (Outside) Open(path []byte, flags uint32) (int32, rats.Code) {
	return descriptor(boundary.CallOpen, binary.LittleEndian.AppendUint32(appendBytes(nil, path), flags))
}

// ReadAt reads up to len(p) bytes; 0 bytes without a code is the end.
func (Outside) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	return bulk(boundary.CallReadAt, fd, uint64(off), p)
}

// List fills p with entries of a directory from a cookie on.
func (Outside) List(fd int32, cookie uint64, p []byte) (int, rats.Code) {
	return bulk(boundary.CallList, fd, cookie, p)
}

// bulk receives bytes where they shall be.
func bulk(name string, fd int32, at uint64, p []byte) (int, rats.Code) {
	in := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(make([]byte, 0, 12), uint32(fd)), at)
	n, err := Exchange(name, in, p)
	return n, codeOf(err)
}

// statSize is the length of an encoded Stat.
const statSize = 3*4 + 4*8

// Stat describes what a path names.
func (Outside) Stat(path []byte, follow bool) (Stat, rats.Code) {
	in := append(appendBytes(make([]byte, 0, 4+len(path)+1), path), 0)
	if follow {
		in[len(in)-1] = 1
	}
	out := make([]byte, statSize)
	n, err := Exchange(boundary.CallStat, in, out)
	if err != nil {
		return Stat{}, codeOf(err)
	}
	if n != len(out) {
		return Stat{}, boundary.CodeMalformed.Code
	}
	return parseStat(out), ""
}

func parseStat(b []byte) Stat {
	le := binary.LittleEndian
	return Stat{
		Mode: le.Uint32(b), UID: le.Uint32(b[4:]), GID: le.Uint32(b[8:]), Size: int64(le.Uint64(b[12:])), CTime: int64(le.Uint64(b[20:])),
		Dev: le.Uint64(b[28:]), Ino: le.Uint64(b[36:]),
	}
}

// FileHeadSize is how many bytes of the answer of Files precede each content.
const FileHeadSize = 1 + 2*statSize

// File is a file that was described and perhaps read.
type File struct {
	boundary.FileHead
	Content []byte // with FileWhole: all of it, in the caller's buffer
}

// Files describes what paths name, not following symbolic links, and reads those that are small regular files, in one call:
// Stat, Open, ReadAt, Stat and Close of each. The answer may end before the last path; there is at least one file in it.
// An application may not offer this.
func (Outside) Files(paths [][]byte, p []byte) ([]File, rats.Code) {
	in := binary.LittleEndian.AppendUint32(nil, uint32(len(paths)))
	for _, path := range paths {
		in = appendBytes(in, path)
	}
	n, err := Exchange(boundary.CallFiles, in, p)
	if err != nil {
		return nil, codeOf(err)
	}
	var out []File
	for rest := p[:n]; len(rest) > 0; {
		if len(rest) < FileHeadSize || rest[0] > boundary.FileFailed || len(out) == len(paths) {
			return nil, boundary.CodeMalformed.Code
		}
		f := File{FileHead: boundary.FileHead{State: rest[0], Before: parseStat(rest[1:]), After: parseStat(rest[1+statSize:])}}
		rest = rest[FileHeadSize:]
		if f.State == boundary.FileWhole {
			if f.Before.Size < 0 || f.Before.Size > int64(len(rest)) {
				return nil, boundary.CodeMalformed.Code
			}
			f.Content, rest = rest[:f.Before.Size:f.Before.Size], rest[f.Before.Size:]
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, boundary.CodeMalformed.Code
	}
	return out, ""
}

// Exec runs a command and returns a descriptor of its output.
func (Outside) Exec(argv [][]byte, l plan.Limits) (int32, rats.Code) {
	in, err := boundary.Encode(boundary.Exec{Argv: argv, Limits: l})
	if err != nil {
		return -1, codeOf(err)
	}
	return descriptor(boundary.CallExec, in)
}

// Close closes a descriptor.
func (Outside) Close(fd int32) {
	_, _ = Exchange(boundary.CallClose, binary.LittleEndian.AppendUint32(nil, uint32(fd)), nil) // it is gone either way
}
