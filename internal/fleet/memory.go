package fleet

import (
	"encoding/binary"
	"path"
	"slices"
	"sync"

	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// memory is a measure.System over files in memory: the nodes' disks aren't what is measured.
type memory struct {
	files map[string][]byte
	dirs  map[string][]string // names in each, ascending

	mu   sync.Mutex
	open map[int32]string
	next int32
}

func newMemory() *memory {
	return &memory{files: map[string][]byte{}, dirs: map[string][]string{}, open: map[int32]string{}}
}

// add puts a file into a directory; all of them before the first use.
func (m *memory) add(p string, content []byte) {
	m.files[p] = content
	for p != "/" {
		dir := path.Dir(p)
		if i, there := slices.BinarySearch(m.dirs[dir], path.Base(p)); !there {
			m.dirs[dir] = slices.Insert(m.dirs[dir], i, path.Base(p))
		}
		p = dir
	}
}

func (m *memory) Open(p []byte, flags uint32) (int32, rats.Code) {
	st, code := m.Stat(p, false)
	switch {
	case code != "":
		return -1, code
	case flags == measure.OpenDir != (st.Mode&measure.ModeType == measure.ModeDir):
		return -1, measure.CodeIrregular.Code
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = (m.next + 1) & 0x7fffffff
	m.open[m.next] = string(p)
	return m.next, ""
}

func (m *memory) path(fd int32) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open[fd]
}

func (m *memory) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	b := m.files[m.path(fd)]
	if off < 0 || off >= int64(len(b)) {
		return 0, ""
	}
	return copy(p, b[off:]), ""
}

func (m *memory) Stat(p []byte, _ bool) (measure.Stat, rats.Code) {
	if b, ok := m.files[string(p)]; ok {
		return measure.Stat{Mode: measure.ModeRegular | 0o644, Size: int64(len(b))}, ""
	}
	if _, ok := m.dirs[string(p)]; ok {
		return measure.Stat{Mode: measure.ModeDir | 0o755}, ""
	}
	return measure.Stat{}, measure.CodeMissing.Code
}

func (m *memory) List(fd int32, cookie uint64, buf []byte) (int, rats.Code) {
	dir := m.path(fd)
	names := m.dirs[dir]
	n := 0
	for ; cookie < uint64(len(names)); cookie++ {
		name := names[cookie]
		if n+11+len(name) > len(buf) {
			break
		}
		kind := measure.EntryFile
		if _, ok := m.dirs[path.Join(dir, name)]; ok {
			kind = measure.EntryDir
		}
		binary.LittleEndian.PutUint64(buf[n:], cookie+1)
		buf[n+8] = kind
		binary.LittleEndian.PutUint16(buf[n+9:], uint16(len(name)))
		n += 11 + copy(buf[n+11:], name)
	}
	return n, ""
}

func (m *memory) Exec([][]byte, plan.Limits) (int32, rats.Code) { return -1, measure.CodeExec.Code }

func (m *memory) Close(fd int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, fd)
}
