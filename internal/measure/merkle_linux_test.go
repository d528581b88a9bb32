package measure

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// counted counts what is read, and tells and changes what a test wants.
type counted struct {
	System
	read   atomic.Int64
	onRead func()
	verity func(path []byte) ([]byte, rats.Code)
	mu     sync.Mutex
	told   map[int32][]byte
}

func (c *counted) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	c.mu.Lock()
	b, ok := c.told[fd]
	c.mu.Unlock()
	if ok {
		return copy(p, b[min(off, int64(len(b))):]), ""
	}
	if c.onRead != nil {
		c.onRead()
	}
	n, code := c.System.ReadAt(fd, p, off)
	c.read.Add(int64(n))
	return n, code
}

func (c *counted) Open(path []byte, flags uint32) (int32, rats.Code) {
	if flags&OpenVerity != 0 && c.verity != nil {
		b, code := c.verity(path)
		if code != "" {
			return -1, code
		}
		fd, code := inMemory(nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.told == nil {
			c.told = make(map[int32][]byte)
		}
		c.told[fd] = b
		return fd, code
	}
	return c.System.Open(path, flags)
}

func (c *counted) Close(fd int32) {
	c.mu.Lock()
	delete(c.told, fd)
	c.mu.Unlock()
	c.System.Close(fd)
}

func (c *counted) reset() int64 { return c.read.Swap(0) }

// later is a clock far enough ahead that change times have settled.
func later() time.Time { return time.Now().Add(10 * time.Second) }

func merkleTest(t testing.TB, path string, o plan.FileOptions) plan.Test {
	t.Helper()
	x, err := plan.NewFilesTest(1, plan.KindFile, "sha256", path, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func one(t testing.TB, r Runner, test plan.Test) plan.Outcome {
	t.Helper()
	out, err := r.Run(context.Background(), []plan.Test{test}, plan.Limits{})
	if err != nil || len(out) != 1 {
		t.Fatalf("%d outcomes, %v", len(out), err)
	}
	return out[0]
}

func bigFile(t testing.TB, size int) string {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7 / 4096)
	}
	p := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

const testChunk = 64 << 10

// R043: the root doesn't depend on how many workers share the file, nor on the page cache being passed by.
func TestRootIsTheSameHoweverItIsComputed(t *testing.T) {
	for _, size := range []int{0, 1, testChunk, 5*testChunk + 17, 20 * testChunk} {
		p := bigFile(t, size)
		var first []byte
		for _, workers := range []int{1, 2, 7} {
			for _, o := range []plan.FileOptions{{Chunk: testChunk}, {Chunk: testChunk, Trust: plan.TrustCTime}, {Chunk: testChunk, Spots: 3}} {
				got := one(t, Runner{System: Local(), Workers: workers, Now: later, Trees: NewTrees(0)}, merkleTest(t, p, o))
				if got.Err != "" || got.Size != int64(size) || (o.Spots > 0) != (len(got.Value) > 0) {
					t.Fatalf("%d bytes, %d workers, %+v: %s, size %d", size, workers, o, got.Err, got.Size)
				}
				if first == nil {
					first = got.Digest
				}
				if !bytes.Equal(first, got.Digest) {
					t.Errorf("%d bytes, %d workers, %+v: another root", size, workers, o)
				}
			}
		}
		if direct := one(t, Runner{System: Local(), Workers: 2}, merkleTest(t, p, plan.FileOptions{Chunk: testChunk, Direct: true})); direct.Err != CodeDirect.Code && !bytes.Equal(direct.Digest, first) {
			t.Errorf("%d bytes past the page cache: %s", size, direct.Err)
		}
	}
}

// R043: where policy trusts the change signal, a file that didn't change is not read again, and one that did is.
func TestUnchangedFileIsNotReadAgainWhereItsSignalIsTrusted(t *testing.T) {
	p := bigFile(t, 10*testChunk)
	s := &counted{System: Local()}
	r := Runner{System: s, Workers: 2, Now: later, Trees: NewTrees(0)}
	trusting, distrusting := merkleTest(t, p, plan.FileOptions{Chunk: testChunk, Trust: plan.TrustCTime}), merkleTest(t, p, plan.FileOptions{Chunk: testChunk})
	first := one(t, r, trusting)
	if n := s.reset(); n != 10*testChunk {
		t.Errorf("first run: %d bytes read", n)
	}
	again := one(t, r, trusting)
	if n := s.reset(); n != 0 || !bytes.Equal(first.Digest, again.Digest) {
		t.Errorf("second run: %d bytes read", n)
	}
	one(t, r, distrusting)
	if n := s.reset(); n != 10*testChunk {
		t.Errorf("without trust: %d bytes read", n)
	}
	f, _ := os.OpenFile(p, os.O_WRONLY, 0)
	f.WriteAt([]byte("changed"), 3*testChunk)
	f.Close()
	changed := one(t, r, trusting)
	if n := s.reset(); n != 10*testChunk || bytes.Equal(first.Digest, changed.Digest) {
		t.Errorf("after a change: %d bytes read", n)
	}
	// A change time that is too young may hide a second write within the same tick.
	young := Runner{System: s, Workers: 2, Now: time.Now, Trees: NewTrees(0)}
	os.Chmod(p, 0o644)
	for range 2 {
		one(t, young, trusting)
		if n := s.reset(); n != 10*testChunk {
			t.Errorf("with a young change time: %d bytes read", n)
		}
	}
}

// R043: what was read before time was up isn't read again.
func TestInterruptedTreeIsContinued(t *testing.T) {
	p := bigFile(t, 16*testChunk)
	s := &counted{System: Local()}
	trees := NewTrees(0)
	var reads atomic.Int64
	clock := later()
	s.onRead = func() { reads.Add(1) }
	now := func() time.Time { return clock.Add(time.Duration(reads.Load()) * time.Minute) } // each read takes a minute
	test := merkleTest(t, p, plan.FileOptions{Chunk: testChunk, Trust: plan.TrustCTime})
	r := Runner{System: s, Workers: 1, Now: now, Trees: trees, Limits: plan.Limits{Time: 5 * time.Minute}}
	runs, total := 0, int64(0)
	for runs < 10 {
		o := one(t, r, test)
		total += s.reset()
		if runs++; o.Err == "" {
			want := one(t, Runner{System: Local()}, merkleTest(t, p, plan.FileOptions{Chunk: testChunk}))
			if !bytes.Equal(o.Digest, want.Digest) {
				t.Error("another root")
			}
			break
		}
		if o.Err != CodeTime.Code {
			t.Fatal(o.Err)
		}
	}
	if runs < 3 || runs > 5 || total != 16*testChunk {
		t.Errorf("%d runs read %d bytes", runs, total)
	}
	// Without trust in the change signal nothing is carried over.
	reads.Store(0)
	for range 3 {
		if o := one(t, r, merkleTest(t, p, plan.FileOptions{Chunk: testChunk})); o.Err != CodeTime.Code {
			t.Errorf("got %q", o.Err)
		}
	}
}

// R043: a spot check reads its chunks only, notices what it meets though the change signal was forged, and its proof is
// the verifier's to check.
func TestSpotCheckReadsItsChunksOnly(t *testing.T) {
	p := bigFile(t, 100*testChunk)
	s := &counted{System: Local()}
	r := Runner{System: s, Workers: 2, Now: later, Trees: NewTrees(0)}
	seeded := func(seed byte) (plan.Test, plan.Merkle) {
		test, err := merkleTest(t, p, plan.FileOptions{Chunk: testChunk, Spots: 8}).WithSeed(bytes.Repeat([]byte{seed}, 32))
		if err != nil {
			t.Fatal(err)
		}
		scope, _ := test.Scope()
		return test, *scope.Merkle
	}
	test, _ := seeded(1)
	first := one(t, r, test)
	s.reset()
	test, m := seeded(2)
	second := one(t, r, test)
	if n := s.reset(); n != 8*testChunk {
		t.Errorf("%d bytes read", n)
	}
	size, spots, root, err := m.OpenProof("sha256", []byte(p), second.Value)
	if err != nil || size != 100*testChunk || !bytes.Equal(root, first.Digest) || !bytes.Equal(root, second.Digest) {
		t.Errorf("size %d, %v", size, err)
	}
	// An attacker changes a chunk below the file system: nothing in its attributes shows it.
	st, _ := Local().Stat([]byte(p), false)
	forged := &stale{counted: s, path: p, stat: st}
	f, _ := os.OpenFile(p, os.O_WRONLY, 0)
	f.WriteAt([]byte("evil"), spots[3]*testChunk+5)
	f.Close()
	r.System = forged
	if o := one(t, r, test); o.Err != "" || bytes.Equal(o.Digest, first.Digest) {
		t.Errorf("the change was not noticed: %s", o.Err)
	}
	if n := s.reset(); n != 8*testChunk {
		t.Errorf("%d bytes read", n)
	}
	trusting := merkleTest(t, p, plan.FileOptions{Chunk: testChunk, Trust: plan.TrustCTime})
	r.Trees = NewTrees(0)
	honest := one(t, r, trusting)
	f, _ = os.OpenFile(p, os.O_WRONLY, 0)
	f.WriteAt([]byte("more"), 7*testChunk)
	f.Close()
	if o := one(t, r, trusting); !bytes.Equal(o.Digest, honest.Digest) {
		t.Error("trust in ctime is said to be deceived by whoever forges it; LIMITATIONS.md must be corrected")
	}
}

// stale is a machine whose administrator forged a file's change time.
type stale struct {
	*counted
	path string
	stat Stat
}

func (s *stale) Stat(path []byte, follow bool) (Stat, rats.Code) {
	if string(path) == s.path {
		return s.stat, ""
	}
	return s.counted.Stat(path, follow)
}

// R043: the cost of a spot check doesn't depend on the size of the file: a sparse file of 1 TB whose tree is at hand.
func TestSpotCheckOfATerabyte(t *testing.T) {
	const size, chunk = 1 << 40, 1 << 20
	p := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(p)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Skipf("the file system has no files of 1 TB: %v", err)
	}
	f.Close()
	s := &counted{System: Local()}
	r := Runner{System: s, Workers: 2, Now: later, Trees: NewTrees(256 << 20)}
	test, err := merkleTest(t, p, plan.FileOptions{Chunk: chunk, Spots: 32}).WithSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	// All chunks are zeros: the tree is known without reading it.
	run := &run{system: s, newHash: newHash}
	scope, _ := test.Scope()
	st, _ := s.Stat([]byte(p), false)
	h, code := run.tree(opened{path: []byte(p), stat: st}, &section{test: test, scope: scope})
	if code != "" {
		t.Fatal(code)
	}
	leaf := newHash("sha256")
	leaf.Write([]byte{plan.LeafTag})
	leaf.Write(make([]byte, chunk))
	sum := leaf.Sum(nil)
	for i := range h.tree.Len() {
		h.tree.SetLeaf(i, sum)
	}
	h.tree.Build(newHash("sha256"))
	h.left = 0
	r.Trees.put(h)
	start := time.Now()
	o := one(t, r, test)
	took := time.Since(start)
	if n := s.reset(); o.Err != "" || o.Size != size || n != 32*chunk {
		t.Errorf("%s: %d bytes read of %d", o.Err, n, o.Size)
	}
	if _, _, root, err := scope.Merkle.OpenProof("sha256", []byte(p), o.Value); err != nil || !bytes.Equal(root, o.Digest) {
		t.Errorf("the proof of %d bytes: %v", len(o.Value), err)
	}
	t.Logf("32 chunks of 1 MiB of 1 TiB: %s, a proof of %d bytes; 1%% changed chunks are met with probability %.3f", took.Round(time.Millisecond), len(o.Value), plan.Detection(1<<20, 10486, 32))
}

// A runner remembers no more than it may.
func TestTreesKeepTheirBudget(t *testing.T) {
	trees := NewTrees(100)
	for i, size := range []int64{40, 40, 40, 101} {
		trees.put(&held{key: string(rune('a' + i)), bytes: size})
	}
	if trees.used != 80 || trees.take("a", Stat{}, nil) != nil || trees.take("d", Stat{}, nil) != nil || trees.take("c", Stat{}, nil) == nil || trees.used != 40 {
		t.Errorf("%d bytes used", trees.used)
	}
	if trees.take("b", Stat{Size: 1}, nil) != nil || trees.used != 0 {
		t.Error("a tree of another version was kept")
	}
	var none *Trees
	none.put(&held{})
	if none.take("x", Stat{}, nil) != nil {
		t.Error("nothing remembers something")
	}
}

func TestBadMerkleTargetsHaveTheirCodes(t *testing.T) {
	p := bigFile(t, 6*testChunk)
	sparse := filepath.Join(t.TempDir(), "sparse")
	f, _ := os.Create(sparse)
	f.Truncate(plan.MinChunk*plan.MaxChunks + 1)
	f.Close()
	link := filepath.Join(t.TempDir(), "link")
	os.Symlink(p, link)
	all := plan.FileOptions{Chunk: plan.MinChunk}
	for name, c := range map[string]struct {
		path string
		o    plan.FileOptions
		want rats.CodeInfo
	}{
		"too many chunks": {sparse, all, CodeChunks},
		"link":            {link, all, CodeSymlink},
		"gone":            {p + "x", all, CodeMissing},
		"of proc":         {"/proc/self/stat", all, CodeIrregular},
		"device":          {"/dev/null", all, CodeIrregular},
		"no verity":       {p, plan.FileOptions{Verity: true}, CodeVerity},
		"trusted verity":  {p, plan.FileOptions{Chunk: testChunk, Trust: plan.TrustVerity}, CodeVerity},
	} {
		for _, workers := range []int{1, 3} {
			if o := one(t, Runner{System: Local(), Workers: workers}, merkleTest(t, c.path, c.o)); o.Err != c.want.Code {
				t.Errorf("%s: %q, want %s", name, o.Err, c.want.Code)
			}
		}
	}
	limited := Runner{System: Local(), Workers: 2, Limits: plan.Limits{Bytes: 5 * testChunk}}
	if o := one(t, limited, merkleTest(t, p, plan.FileOptions{Chunk: testChunk})); o.Err != CodeBytes.Code {
		t.Errorf("over the limit of bytes: %q", o.Err)
	}
	var once sync.Once
	writer := &counted{System: Local(), onRead: func() {
		once.Do(func() {
			f, _ := os.OpenFile(p, os.O_WRONLY, 0)
			f.WriteAt([]byte{1}, 0)
			f.Close()
		})
	}}
	if o := one(t, Runner{System: writer, Workers: 2}, merkleTest(t, p, plan.FileOptions{Chunk: testChunk})); o.Err != CodeChanged.Code {
		t.Errorf("written while read: %q", o.Err)
	}
}

// R043: the kernel's digest is measured where it has one. No kernel with CONFIG_FS_VERITY is at hand here, so what it would
// answer is made up; TestLocalAsksTheKernelForVerity asks the real one.
func TestVerityDigestIsMeasuredAndTrusted(t *testing.T) {
	p := bigFile(t, 8*testChunk)
	digest := bytes.Repeat([]byte{7}, 32)
	alg := uint16(1)
	s := &counted{System: Local(), verity: func([]byte) ([]byte, rats.Code) {
		return append(binary.LittleEndian.AppendUint16(nil, alg), digest...), ""
	}}
	r := Runner{System: s, Workers: 2, Now: later, Trees: NewTrees(0)}
	if o := one(t, r, merkleTest(t, p, plan.FileOptions{Verity: true})); o.Err != "" || !bytes.Equal(o.Digest, digest) || o.Size != 8*testChunk || s.reset() != 0 {
		t.Errorf("%+v", o)
	}
	alg = 2
	if o := one(t, r, merkleTest(t, p, plan.FileOptions{Verity: true})); o.Err != CodeVerity.Code {
		t.Errorf("another algorithm: %q", o.Err)
	}
	test := merkleTest(t, p, plan.FileOptions{Chunk: testChunk, Trust: plan.TrustVerity})
	for i, want := range []int64{8 * testChunk, 0, 8 * testChunk} {
		if i == 2 {
			digest[0]++
		}
		if o := one(t, r, test); o.Err != "" || s.reset() != want {
			t.Errorf("run %d: %q", i, o.Err)
		}
	}
}

func TestLocalAsksTheKernelForVerity(t *testing.T) {
	p := bigFile(t, 10)
	if _, code := Restrict(Local(), []string{filepath.Dir(p)}, nil).Open([]byte(p), OpenVerity); code != CodeVerity.Code {
		t.Errorf("got %q", code)
	}
	if _, code := Restrict(Local(), []string{"/usr"}, nil).Open([]byte(p), OpenVerity); code != CodePath.Code {
		t.Errorf("outside the roots: %q", code)
	}
}

// R028, R045: timed tests have the duration of the reference hash beside theirs, and the run its conditions.
func TestTimedTestsAreMeasuredInUnits(t *testing.T) {
	p := bigFile(t, testChunk)
	test := merkleTest(t, p, plan.FileOptions{})
	test.Timed, test.Repeat = true, 4
	s := &counted{System: Restrict(Local(), []string{filepath.Dir(p), "/proc"}, nil)}
	check, err := plan.NewCheck(2, "sha256", plan.CheckArgs{Check: "mounts"})
	if err != nil {
		t.Fatal(err)
	}
	check.Timed = true
	untimed := merkleTest(t, p, plan.FileOptions{})
	untimed.ID = 3
	out, seen, err := Runner{System: s, Workers: 1, Now: time.Now}.RunTimed(context.Background(), []plan.Test{test, check, untimed}, plan.Limits{})
	if err != nil || out[0].Err != "" || out[0].Units() <= 0 || out[1].Unit == 0 || out[len(out)-1].Unit != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if s.reset() < 5*testChunk {
		t.Error("it was not repeated")
	}
	names := make(map[string]bool)
	for _, c := range seen {
		names[c.Name] = true
	}
	if !names["steal-ticks"] || !names["cpu-ticks"] || !names["load-hundredths"] {
		t.Errorf("conditions %v", seen)
	}
	// What changes between two repetitions is no file.
	n := 0
	changing := &counted{System: Local(), onRead: func() {
		n++
		os.WriteFile(p, bytes.Repeat([]byte{byte(n)}, testChunk), 0o600)
	}}
	for range 3 {
		if o := one(t, Runner{System: changing, Workers: 1, Now: time.Now}, test); o.Err != CodeChanged.Code || o.Digest != nil {
			t.Errorf("changing: %+v", o)
		}
	}
	gone := test
	os.Remove(p)
	if o := one(t, Runner{System: Local(), Workers: 1, Now: time.Now}, gone); o.Err != CodeMissing.Code {
		t.Errorf("gone: %+v", o)
	}
	if o := one(t, Runner{System: Local(), Workers: 1, Now: steps(time.Minute), Limits: plan.Limits{Time: 2 * time.Minute}}, test); o.Err != CodeTime.Code {
		t.Errorf("out of time: %+v", o)
	}
}

// steps is a clock that goes on by a step whenever it is asked.
func steps(step time.Duration) func() time.Time {
	var n atomic.Int64
	return func() time.Time { return time.Unix(1e9, 0).Add(time.Duration(n.Add(1)) * step) }
}

func TestCountersThatGoBackAreNoCondition(t *testing.T) {
	got := conditions(map[string]int64{"steal-ticks": 9, "cpu-ticks": 5}, map[string]int64{"steal-ticks": 3, "cpu-ticks": 9, "throttled": 4, "load-hundredths": 7})
	if len(got) != 2 || got[0] != (plan.Condition{Name: "cpu-ticks", Value: 4}) || got[1].Name != "load-hundredths" {
		t.Errorf("%v", got)
	}
}
