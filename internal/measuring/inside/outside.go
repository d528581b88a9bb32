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

// aheadRoom is up to which size a file is read with its first Stat, and how much of a larger one is read at a time: a call
// costs as much as reading some hundred kilobytes.
const aheadRoom = 1 << 20

// ahead is a file that was read when it was described, in one call instead of five: what is asked of it next, in the order
// in which a file is measured, is answered from here. Whatever comes in another order goes outside.
type ahead struct {
	never   bool // the host doesn't offer it
	buf     []byte
	path    []byte
	head    boundary.FileHead
	content []byte
	opened  bool

	// of a larger file: what was read of it last
	fd   int32
	at   int64
	part []byte
}

// aheadFD is the descriptor of the file that was read ahead; the monitor's are never negative.
const aheadFD = -2

func (a *ahead) forget() { a.path, a.content, a.opened, a.part = a.path[:0], nil, false, nil }

// room is where what comes from outside arrives.
func (a *ahead) room() []byte {
	if a.buf == nil {
		a.buf = make([]byte, sdk.FileHeadSize+aheadRoom)
	}
	return a.buf
}

func (a *ahead) has(path []byte) bool { return a.content != nil && bytes.Equal(a.path, path) }

func (o outside) Stat(path []byte, follow bool) (measure.Stat, rats.Code) {
	a := o.ahead
	if !follow && a.opened && a.has(path) {
		st := a.head.After
		return measure.Stat(st), ""
	}
	spend()
	if follow || a.never {
		st, code := o.Outside.Stat(path, follow)
		return measure.Stat(st), code
	}
	a.forget()
	head, content, code := o.File(path, a.room())
	if code == codeUnknown {
		a.never = true
		return o.Stat(path, follow)
	}
	if code == "" && head.Whole {
		a.path, a.head, a.content = append(a.path, path...), head, content
	}
	return measure.Stat(head.Before), code
}

func (o outside) Open(path []byte, flags uint32) (int32, rats.Code) {
	if a := o.ahead; flags == measure.OpenFile && !a.opened && a.has(path) {
		a.opened = true
		return aheadFD, ""
	}
	spend()
	return o.Outside.Open(path, flags)
}

func (o outside) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	if fd == aheadFD {
		if off < 0 || off >= int64(len(o.ahead.content)) {
			return 0, ""
		}
		return copy(p, o.ahead.content[off:]), ""
	}
	a := o.ahead
	if a.part == nil || a.fd != fd || off < a.at || off >= a.at+int64(len(a.part)) {
		spend()
		a.forget()
		n, code := o.Outside.ReadAt(fd, a.room(), off)
		if code != "" || n == 0 {
			return 0, code
		}
		a.fd, a.at, a.part = fd, off, a.buf[:n]
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
	o.ahead.forget()
	if fd != aheadFD {
		o.Outside.Close(fd)
	}
}
