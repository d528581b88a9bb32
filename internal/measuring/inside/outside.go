//go:build wasip1

package main

import (
	"bytes"

	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// codeUnknown is the monitor's code for an OCALL that the host doesn't offer.
const codeUnknown rats.Code = "monitor.ocall.unknown"

// outside is the machine as the monitor's OCALLs show it.
type outside struct {
	sdk.Outside
	ahead *ahead
}

// aheadRoom is how much arrives in one call: a call costs as much as reading some hundred kilobytes.
const aheadRoom = 1 << 20

// ahead is what was read before it was asked for, in one call instead of five for each file. What is asked next, in the
// order in which files are measured, is answered from here; whatever comes in another order goes outside.
type ahead struct {
	never    bool     // the host doesn't offer it
	expected [][]byte // what will be measured from here on
	room     []byte
	paths    [][]byte
	files    []sdk.File // of paths; the first is the one that is measured now
	told     bool       // what the first was before it was read: once, or a change would go unseen
	opened   bool

	// Of a file that is too large for that: what was read of it last.
	fd    int32 // its descriptor, if open
	large bool  // it is open
	at    int64
	part  []byte
	parts []byte // where it arrives
}

// aheadFD is the descriptor of a file that was read ahead; the monitor's are never negative.
const aheadFD = -2

// Expect implements measure.Expecter.
func (o outside) Expect(paths [][]byte) { o.ahead.expected = paths }

// first says whether path is the file that is measured now, and was read.
func (a *ahead) first(path []byte) bool {
	return len(a.files) > 0 && a.files[0].State == boundary.FileWhole && bytes.Equal(a.paths[0], path)
}

// next says whether path was read ahead, and forgets what comes before it.
func (a *ahead) next(path []byte) bool {
	if a.told {
		a.drop()
	}
	for len(a.files) > 0 {
		if bytes.Equal(a.paths[0], path) {
			return true
		}
		a.drop()
	}
	return false
}

func (a *ahead) drop() { a.paths, a.files, a.told, a.opened = a.paths[1:], a.files[1:], false, false }

// want returns the paths to ask for: path, and what is expected after it.
func (a *ahead) want(path []byte) [][]byte {
	const near = 64 // files that were skipped, for their directory is gone or the limit of bytes reached
	for i := 0; i < len(a.expected) && i < near; i++ {
		if bytes.Equal(a.expected[i], path) {
			a.expected = a.expected[i:]
			return a.expected[:min(len(a.expected), boundary.MaxFiles)]
		}
	}
	return nil
}

func (o outside) Stat(path []byte, follow bool) (measure.Stat, rats.Code) {
	a := o.ahead
	if !follow && a.opened && a.first(path) {
		return measure.Stat(a.files[0].After), ""
	}
	again := a.told && len(a.files) > 0 && bytes.Equal(a.paths[0], path)
	if !follow && !a.next(path) && !again && !a.never {
		if a.paths = a.want(path); a.paths != nil {
			spend()
			if a.room == nil {
				a.room = make([]byte, aheadRoom)
			}
			var code rats.Code
			a.files, code = o.Files(a.paths, a.room)
			a.never = code == codeUnknown
		}
	}
	if !follow && !again && len(a.files) > 0 && a.files[0].State != boundary.FileFailed {
		a.told = true
		return measure.Stat(a.files[0].Before), ""
	}
	spend()
	st, code := o.Outside.Stat(path, follow)
	return measure.Stat(st), code
}

func (o outside) Open(path []byte, flags uint32) (int32, rats.Code) {
	if a := o.ahead; flags == measure.OpenFile && a.told && !a.opened && a.first(path) {
		a.opened = true
		return aheadFD, ""
	}
	spend()
	fd, code := o.Outside.Open(path, flags)
	if a := o.ahead; code == "" && flags == measure.OpenFile && a.told && bytes.Equal(a.paths[0], path) {
		a.fd, a.large, a.part = fd, true, nil
	}
	return fd, code
}

func (o outside) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	a := o.ahead
	if fd == aheadFD {
		if !a.opened || off < 0 || off >= int64(len(a.files[0].Content)) {
			return 0, ""
		}
		return copy(p, a.files[0].Content[off:]), ""
	}
	if !a.large || fd != a.fd {
		spend()
		return o.Outside.ReadAt(fd, p, off)
	}
	if off < a.at || off >= a.at+int64(len(a.part)) {
		spend()
		if a.parts == nil {
			a.parts = make([]byte, aheadRoom)
		}
		a.part = nil
		n, code := o.Outside.ReadAt(fd, a.parts, off)
		if code != "" || n == 0 {
			return 0, code
		}
		a.at, a.part = off, a.parts[:n]
	}
	return copy(p, a.part[off-a.at:]), ""
}

func (o outside) List(fd int32, cookie uint64, buf []byte) (int, rats.Code) {
	spend()
	return o.Outside.List(fd, cookie, buf)
}

func (o outside) Exec(argv [][]byte, l plan.Limits) (int32, rats.Code) {
	spend()
	return o.Outside.Exec(argv, l)
}

func (o outside) Close(fd int32) {
	a := o.ahead
	if fd == aheadFD {
		if a.opened {
			a.drop()
		}
		return
	}
	if fd == a.fd {
		a.large, a.part = false, nil
	}
	o.Outside.Close(fd)
}
