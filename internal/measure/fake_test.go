package measure

import (
	"path"
	"sort"
	"strings"
	"sync"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// fake is a System in memory. Hooks stand for what happens in between.
type fake struct {
	mu     sync.Mutex
	files  map[string]*node
	open   map[int32]*node
	next   int32
	onOpen func(p string)
	onRead func(p string)
	fail   map[string]rats.Code // of Open
	failAt map[string]rats.Code // of ReadAt
	list   func(buf []byte, cookie uint64) (int, rats.Code)
	plain  bool // List doesn't know types
}

type node struct {
	name string
	mode uint32
	data []byte
	size int64 // if not len(data)
	time int64
	kids []string
}

func newFake(files map[string]string) *fake {
	f := &fake{files: map[string]*node{"/": {name: "/", mode: ModeDir}}, open: map[int32]*node{}, fail: map[string]rats.Code{}, failAt: map[string]rats.Code{}}
	for p, data := range files {
		f.add(p, &node{mode: ModeRegular, data: []byte(data)})
	}
	return f
}

func (f *fake) add(p string, n *node) {
	n.name = p
	f.files[p] = n
	for p != "/" {
		dir := path.Dir(p)
		d := f.files[dir]
		if d == nil {
			d = &node{name: dir, mode: ModeDir}
			f.files[dir] = d
		}
		i := sort.SearchStrings(d.kids, path.Base(p))
		if i == len(d.kids) || d.kids[i] != path.Base(p) {
			d.kids = append(d.kids[:i], append([]string{path.Base(p)}, d.kids[i:]...)...)
		}
		p = dir
	}
}

func (f *fake) Open(p []byte, flags uint32) (int32, rats.Code) {
	if f.onOpen != nil {
		f.onOpen(string(p))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.fail[string(p)]; c != "" {
		return -1, c
	}
	n := f.files[string(p)]
	switch {
	case n == nil:
		return -1, CodeMissing.Code
	case n.mode&ModeType == ModeSymlink:
		return -1, CodeSymlink.Code
	case flags == OpenDir && n.mode&ModeType != ModeDir, flags == OpenFile && n.mode&ModeType != ModeRegular:
		return -1, CodeIrregular.Code
	}
	f.next++
	f.open[f.next] = n
	return f.next, ""
}

func (f *fake) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	f.mu.Lock()
	n := f.open[fd]
	f.mu.Unlock()
	if f.onRead != nil {
		f.onRead(n.name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.failAt[n.name]; c != "" {
		if c == "lie" {
			return len(p) + 1, ""
		}
		return 0, c
	}
	if off >= int64(len(n.data)) {
		return 0, ""
	}
	return copy(p, n.data[off:]), ""
}

func (f *fake) Stat(p []byte, _ bool) (Stat, rats.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.files[string(p)]
	if n == nil {
		return Stat{}, CodeMissing.Code
	}
	size := n.size
	if size == 0 {
		size = int64(len(n.data))
	}
	if strings.HasPrefix(n.name, "/proc/") {
		size = 0
	}
	return Stat{Mode: n.mode, Size: size, CTime: n.time}, ""
}

func (f *fake) List(fd int32, cookie uint64, buf []byte) (int, rats.Code) {
	if f.list != nil {
		return f.list(buf, cookie)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.open[fd]
	out := buf[:0]
	// Two entries a page, so that pages are turned.
	for i := int(cookie); i < len(n.kids) && i < int(cookie)+2; i++ {
		e := Entry{Next: uint64(i + 1), Name: []byte(n.kids[i])}
		if !f.plain {
			e.Type = entryType(f.files[path.Join(n.name, n.kids[i])].mode)
		}
		out = e.append(out)
	}
	return len(out), ""
}

func (f *fake) Exec([][]byte, plan.Limits) (int32, rats.Code) { return 7, "" }

func (f *fake) Close(fd int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, fd)
}
