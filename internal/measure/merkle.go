package measure

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Codes of large files.
var (
	CodeChunks = outcome("measure.file.chunks", "file has more chunks than a tree may", "give the test a larger chunk")
	CodeVerity = outcome("measure.file.verity", "file has no fs-verity digest by the test's algorithm", "enable fs-verity on the file (fsverity enable), on a file system and kernel that have it; leave verity out otherwise")
)

// settle is how old a change time must be before it is trusted, in nanoseconds: clocks of file systems tick, and a write within
// the tick of the last one leaves no trace.
const settle = 2e9

// Memory that trees of a node take at most, in bytes.
const (
	DefaultTrees = 128 << 20
	smallTrees   = 8 << 20 // inside an enclave
)

// Trees are the Merkle trees that a runner remembers from run to run: in memory only, the least recently used are forgotten.
// What is remembered decides which chunks are read again. The zero Trees remembers nothing.
type Trees struct {
	mu     sync.Mutex
	budget int64
	used   int64
	order  *list.List // of *held, most recently used first
	byKey  map[string]*list.Element
}

// NewTrees returns an empty memory of so many bytes; 0: DefaultTrees, or less where memory is an enclave's.
func NewTrees(budget int64) *Trees {
	if budget == 0 {
		budget = DefaultTrees
		if runtime.GOARCH == "wasm" {
			budget = smallTrees
		}
	}
	return &Trees{budget: budget, order: list.New(), byKey: make(map[string]*list.Element)}
}

// held is a tree, of which file in which state, and how far it is.
type held struct {
	key    string
	stat   Stat
	verity []byte // the kernel's digest, where it is the signal
	tree   *plan.Tree
	done   []bool // chunks that were read
	left   int64  // of them, still to be read
	bytes  int64
}

// take removes and returns what is known of a file, if the file is still the same by its change signal.
func (t *Trees) take(key string, st Stat, verity []byte) *held {
	if t == nil || t.order == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[key]
	if e == nil {
		return nil
	}
	h := t.remove(e)
	if h.stat != st || !bytes.Equal(h.verity, verity) {
		return nil
	}
	return h
}

func (t *Trees) remove(e *list.Element) *held {
	h := t.order.Remove(e).(*held)
	delete(t.byKey, h.key)
	t.used -= h.bytes
	return h
}

// put remembers.
func (t *Trees) put(h *held) {
	if t == nil || t.order == nil || h.bytes > t.budget {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byKey[h.key]; e != nil {
		t.remove(e)
	}
	for t.used+h.bytes > t.budget {
		t.remove(t.order.Back())
	}
	t.byKey[h.key] = t.order.PushFront(h)
	t.used += h.bytes
}

// merkle measures a file by its tree. With spots the proof of those chunks becomes the outcome's value.
func (r *run) merkle(path []byte, s *section, w *worker, o *plan.Outcome) (root []byte, size int64, code rats.Code) {
	f, code := r.open(path, s.flags())
	if code != "" {
		return nil, 0, code
	}
	defer r.system.Close(f.fd)
	m, alg := s.scope.Merkle, s.test.Alg
	h, code := r.tree(f, s)
	if code != "" {
		return nil, 0, code
	}
	lasting := m.Trust != "" || m.Spots > 0
	todo := h.todo()
	if h.left == 0 && m.Spots > 0 {
		todo = plan.SpotsOf(m.Seed, path, h.tree.Len(), m.Spots)
	}
	built := h.left == 0
	node, done := r.hasher(alg)
	defer done()
	var mu sync.Mutex
	code = r.leaves(f, s, h.tree, todo, w, func(i int64, sum []byte) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case !built:
			h.tree.SetLeaf(i, sum)
			h.done[i] = true
			h.left--
		case !bytes.Equal(h.tree.Leaf(i), sum): // it changed, whatever the signal says
			h.tree.Update(node, i, sum)
		}
	})
	if code == "" {
		code = r.same(f)
	}
	if lasting && (code == "" || code == CodeTime.Code) && (m.Trust == "" || r.settled(f.stat)) {
		defer r.trees.put(h)
	}
	if code != "" {
		return nil, 0, code
	}
	if !built {
		h.tree.Build(node)
	}
	if m.Spots > 0 {
		o.Value = h.tree.Proof(plan.SpotsOf(m.Seed, path, h.tree.Len(), m.Spots))
	}
	return h.tree.Root(node), f.stat.Size, ""
}

// tree returns what is remembered of a file, or a new tree.
func (r *run) tree(f opened, s *section) (*held, rats.Code) {
	m, alg, size := s.scope.Merkle, s.test.Alg, f.stat.Size
	var verity []byte
	if m.Trust == plan.TrustVerity {
		var code rats.Code
		if verity, code = r.told(f.path, OpenVerity, maxVerity); code != "" {
			return nil, code
		}
	}
	key := fmt.Sprintf("%s\x00%d\x00%s\x00%s", alg, m.Chunk, m.Trust, f.path)
	if m.Trust != "" || m.Spots > 0 {
		if h := r.trees.take(key, f.stat, verity); h != nil {
			return h, ""
		}
	}
	if plan.Chunks(size, m.Chunk) > plan.MaxChunks {
		return nil, CodeChunks.Code
	}
	if size == 0 { // a file of /proc has no size, and no chunks
		if n, code := r.system.ReadAt(f.fd, make([]byte, DirectAlign), 0); code != "" || n != 0 {
			return nil, CodeIrregular.Code
		}
	}
	tree, err := plan.NewTree(alg, m.Chunk, size)
	if err != nil {
		return nil, CodeChunks.Code
	}
	return &held{
		key: key, stat: f.stat, verity: verity, tree: tree, done: make([]bool, tree.Len()), left: tree.Len(),
		bytes: plan.TreeBytes(alg, m.Chunk, size) + tree.Len() + int64(len(key)) + 512,
	}, ""
}

func (h *held) todo() []int64 {
	out := make([]int64, 0, h.left)
	for i, done := range h.done {
		if !done {
			out = append(out, int64(i))
		}
	}
	return out
}

// settled says whether a change time is old enough that a later write shows in it.
func (r *run) settled(st Stat) bool {
	return r.now == nil || r.now().UnixNano()-st.CTime >= settle
}

// leaves hashes chunks of a file, on as many workers as may help, and hands over every sum.
func (r *run) leaves(f opened, s *section, tree *plan.Tree, todo []int64, w *worker, set func(i int64, sum []byte)) rats.Code {
	total := int64(0)
	for _, i := range todo {
		_, n := tree.Chunk(i)
		total += n
	}
	if !r.take(total) {
		return CodeBytes.Code
	}
	var next, failed atomic.Int64
	var first rats.Code
	fail := func(code rats.Code) {
		if failed.Add(1) == 1 {
			first = code
		}
	}
	work := func(fd int32, buf []byte) {
		h, done := r.hasher(s.test.Alg)
		defer done()
		for failed.Load() == 0 {
			at := int(next.Add(1)) - 1
			if at >= len(todo) {
				return
			}
			off, n := tree.Chunk(todo[at])
			h.Reset()
			h.Write([]byte{plan.LeafTag})
			got, code := r.read(fd, off, n, h, buf, s.scope.Direct)
			if code == "" && got != n {
				code = CodeChanged.Code
			}
			if code != "" {
				fail(code)
				return
			}
			set(todo[at], h.Sum(nil))
		}
	}
	helpers := min(w.helpers, len(todo)) - 1
	if helpers < 1 {
		work(f.fd, w.buf)
		return first
	}
	var wg sync.WaitGroup
	for range helpers {
		wg.Go(func() {
			g, code := r.open(f.path, s.flags())
			if code == "" {
				defer r.system.Close(g.fd)
				if g.stat != f.stat {
					code = CodeChanged.Code
				}
			}
			if code != "" {
				fail(code)
				return
			}
			buf := chunks.Get().(*[]byte)
			defer chunks.Put(buf)
			work(g.fd, *buf)
		})
	}
	work(f.fd, w.buf)
	wg.Wait()
	return first
}

// maxVerity is the longest answer to OpenVerity.
const maxVerity = 2 + 64

// Algorithms of fs-verity (linux/fsverity.h).
var verityAlgs = map[string]uint16{"sha256": 1, "sha512": 2}

// verity returns a file's fs-verity digest.
func (r *run) verity(path []byte, alg string) ([]byte, int64, rats.Code) {
	st, code := r.system.Stat(path, false)
	if code != "" {
		return nil, 0, code
	}
	b, code := r.told(path, OpenVerity, maxVerity)
	if code != "" {
		return nil, 0, code
	}
	if len(b) < 2 || binary.LittleEndian.Uint16(b) != verityAlgs[alg] || len(b)-2 != plan.AlgSize(alg) {
		return nil, 0, CodeVerity.Code
	}
	return slices.Clone(b[2:]), st.Size, ""
}
