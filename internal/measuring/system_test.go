package measuring_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

func write(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// crowd is a machine with a directory /d of many files, each of which holds its own number.
type crowd struct {
	files  int
	size   int64 // of each; 0: of what it holds
	panics bool
	after  int64 // reads, then call then
	then   func()
	reads  atomic.Int64
	open   atomic.Int64
}

const name = "a-name-of-the-usual-length-for-programs-of-a-distribution-"

func (c *crowd) Open(path []byte, flags uint32) (int32, rats.Code) {
	if c.panics {
		panic("a fault of the host")
	}
	c.open.Add(1)
	if flags == measure.OpenDir {
		return 1 << 30, ""
	}
	var n int32
	if _, err := fmt.Sscanf(string(path[len("/d/"+name):]), "%d", &n); err != nil {
		return -1, measure.CodeMissing.Code
	}
	return n, ""
}

func (c *crowd) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	if n := c.reads.Add(1); n == c.after && c.then != nil {
		c.then()
	}
	content := fmt.Sprintf("%07d", fd)
	if off >= int64(len(content)) {
		return 0, ""
	}
	return copy(p, content[off:]), ""
}

func (c *crowd) Stat(path []byte, _ bool) (measure.Stat, rats.Code) {
	size := c.size
	if size == 0 {
		size = 7
	}
	return measure.Stat{Mode: measure.ModeRegular | 0o644, Size: size}, ""
}

func (c *crowd) List(_ int32, cookie uint64, buf []byte) (int, rats.Code) {
	n := 0
	for i := int(cookie); i < c.files; i++ {
		e := fmt.Sprintf("%s%07d", name, i)
		if n+11+len(e) > len(buf) {
			break
		}
		binary.LittleEndian.PutUint64(buf[n:], uint64(i+1))
		buf[n+8] = measure.EntryFile
		binary.LittleEndian.PutUint16(buf[n+9:], uint16(len(e)))
		n += 11 + copy(buf[n+11:], e)
	}
	return n, ""
}

func (c *crowd) Exec([][]byte, plan.Limits) (int32, rats.Code) { return -1, measure.CodeExec.Code }

func (c *crowd) Close(int32) { c.open.Add(-1) }
