package measure

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// The runner's own limits: a plan may ask for less, never for more.
const (
	DefaultFiles = 250_000
	DefaultBytes = 1 << 40
	DefaultTime  = 10 * time.Minute
)

const (
	chunk = 128 << 10 // bytes read at once
	// A file that says it is empty may be one of /proc, whose sizes are all 0: it is read to its end, up to this.
	unsized = 1 << 20
)

// chunks are shared by all runs: a run's memory doesn't grow with its files.
var chunks = sync.Pool{New: func() any { b := make([]byte, chunk); return &b }}

// Runner runs tests over a System. Its fields may not change while it runs.
type Runner struct {
	System  System
	Workers int              // that hash at the same time; 0: one per processor
	Now     func() time.Time // durations and the limit of time; nil: durations are 0 and only the context ends a run
	Limits  plan.Limits      // most this machine grants; zero fields are the defaults
	Hash    NewHash          // nil: the standard library's
	Trees   *Trees           // of large files, remembered from run to run; nil: nothing is
}

// NewHash makes a hash by its name (plan.AlgSize knows it). One that is an io.Closer is closed when its file is read. Code
// that hashes slowly itself, as WebAssembly does, lets another do it.
type NewHash func(alg string) hash.Hash

// Capture runs tests on one worker per processor and returns their outcomes as Run does: what `ref capture` makes
// reference values of.
func Capture(ctx context.Context, s System, tests []plan.Test, limits plan.Limits) ([]plan.Outcome, error) {
	return Runner{System: s}.Run(ctx, tests, limits)
}

// Run measures what the tests name and returns the outcomes in the order of tests, within one test in ascending order of
// the names' bytes. Everything that should have been measured is there: what could not be has an error code (R034). An
// outcome without a name is about its test as a whole. It returns an error only if the context was cancelled: a run that
// was broken off is no run.
func (r Runner) Run(ctx context.Context, tests []plan.Test, limits plan.Limits) ([]plan.Outcome, error) {
	outcomes, _, err := r.RunTimed(ctx, tests, limits)
	return outcomes, err
}

// RunTimed is Run, and returns the conditions under which times were taken, if a test is timed.
func (r Runner) RunTimed(ctx context.Context, tests []plan.Test, limits plan.Limits) ([]plan.Outcome, []plan.Condition, error) {
	limits = tighter(limits, r.Limits)
	run := &run{system: r.System, describer: describerOf(r.System), now: r.Now, limits: limits, newHash: r.Hash, trees: r.Trees}
	if run.newHash == nil {
		run.newHash = newHash
	}
	run.left.Store(limits.Bytes)
	timed, stop := context.WithCancel(ctx)
	defer stop()
	if r.Now != nil {
		run.deadline = r.Now().Add(limits.Time)
	} else {
		var cancel context.CancelFunc
		timed, cancel = context.WithTimeout(timed, limits.Time)
		defer cancel()
	}
	run.ctx = &clocked{Context: timed, run: run}

	var before map[string]int64
	timedTests := anyTimed(tests)
	if timedTests {
		before = run.counters()
	}
	var jobs []job
	sections := make([]section, len(tests))
	files := limits.Files
	for i, t := range tests {
		sections[i] = run.section(t, files)
		files -= int64(len(sections[i].outcomes))
		jobs = append(jobs, sections[i].jobs()...)
	}
	run.expect(jobs)
	workers := r.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	run.work(jobs, workers)
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	var out []plan.Outcome
	for _, s := range sections {
		out = append(out, s.outcomes...)
	}
	var seen []plan.Condition
	if timedTests {
		seen = conditions(before, run.counters())
	}
	return out, seen, nil
}

// tighter returns the stricter of both limits in every field; zero takes the other's, then the default.
func tighter(a, b plan.Limits) plan.Limits {
	least := func(x, y, most int64) int64 {
		for _, v := range []int64{x, y} {
			if v > 0 && v < most {
				most = v
			}
		}
		return most
	}
	return plan.Limits{
		Files: least(a.Files, b.Files, DefaultFiles),
		Bytes: least(a.Bytes, b.Bytes, DefaultBytes),
		Time:  time.Duration(least(int64(a.Time), int64(b.Time), int64(DefaultTime))),
	}
}

type run struct {
	system    System
	describer describer // nil: the system can't describe what is open
	now       func() time.Time
	newHash   NewHash
	limits    plan.Limits
	deadline  time.Time
	ctx       context.Context
	left      atomic.Int64 // bytes that may still be read
	trees     *Trees
}

// clocked is a context that also ends at the run's deadline by the injected clock.
type clocked struct {
	context.Context
	run *run
}

func (c *clocked) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if c.run.now != nil && !c.run.now().Before(c.run.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

func (r *run) clock() time.Time {
	if r.now == nil {
		return time.Time{}
	}
	return r.now()
}

// Expecter is a System that is told which files will be read as a whole, in this order, so that it can fetch several at once.
// It is not told of those whose durations count, or whose content is to come from the disk.
type Expecter interface{ Expect(paths [][]byte) }

func (r *run) expect(jobs []job) {
	e, ok := r.system.(Expecter)
	if !ok {
		return
	}
	var paths [][]byte
	for _, j := range jobs {
		if _, what := plan.CutName(j.outcome.Name); what == "" && !j.section.test.Timed && !j.section.scope.Direct {
			paths = append(paths, j.outcome.Name)
		}
	}
	e.Expect(paths)
}

// work hashes all jobs. Each writes its own outcome, so that the order doesn't depend on who is first. Large files come
// last, one after another, each with all workers.
func (r *run) work(jobs []job, workers int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var large []job
	for range min(workers, max(len(jobs), 1)) {
		wg.Go(func() {
			buf := chunks.Get().(*[]byte)
			defer chunks.Put(buf)
			w := &worker{buf: *buf}
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return
				}
				if workers > 1 && r.large(jobs[i]) {
					mu.Lock()
					large = append(large, jobs[i])
					mu.Unlock()
					continue
				}
				r.measure(jobs[i], w)
			}
		})
	}
	wg.Wait()
	if len(large) == 0 {
		return
	}
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	w := &worker{buf: *buf, helpers: workers}
	for _, j := range large {
		r.measure(j, w)
	}
}

// large says whether several workers should share a job.
func (r *run) large(j job) bool {
	m := j.section.scope.Merkle
	path, what := plan.CutName(j.outcome.Name)
	if m == nil || plan.IsAttributes(what) {
		return false
	}
	st, code := r.system.Stat(path, false)
	return code == "" && plan.Chunks(st.Size, m.Chunk) > 4
}

func newHash(alg string) hash.Hash {
	switch alg {
	case "sha384":
		return sha512.New384()
	case "sha512":
		return sha512.New()
	default:
		return sha256.New()
	}
}

func (r *run) measure(j job, w *worker) {
	o := j.outcome
	if r.ctx.Err() != nil {
		o.Err = CodeTime.Code
		return
	}
	if j.section.test.Timed {
		r.timed(j, w)
		return
	}
	start := r.clock()
	sum, size, code := j.measure(r, o, w)
	o.Nanos = max(int64(r.clock().Sub(start)), 0)
	if code != "" {
		o.Err = code
		return
	}
	o.Digest, o.Size = sum, size
}

// take takes n bytes from what may still be read. A file that is too large takes nothing from those that are not.
func (r *run) take(n int64) bool {
	for {
		left := r.left.Load()
		if left < n {
			return false
		}
		if r.left.CompareAndSwap(left, left-n) {
			return true
		}
	}
}

// hasher returns a hash, and what is to be called when it is done with.
func (r *run) hasher(alg string) (hash.Hash, func()) {
	h := r.newHash(alg)
	if c, ok := h.(io.Closer); ok {
		return h, func() { _ = c.Close() }
	}
	return h, func() {}
}

// sum hashes something short.
func (r *run) sum(alg string, b []byte) []byte {
	h, done := r.hasher(alg)
	defer done()
	h.Write(b)
	return h.Sum(nil)
}

// hash reads a file to the size it had when it was opened, and refuses it if it was another file, or another version of
// it, afterwards.
func (r *run) hash(path []byte, h hash.Hash, buf []byte, flags uint32) ([]byte, int64, rats.Code) {
	f, code := r.open(path, flags)
	if code != "" {
		return nil, 0, code
	}
	defer r.system.Close(f.fd)
	size := f.stat.Size
	if !r.take(size) {
		return nil, 0, CodeBytes.Code
	}
	want := size
	if size == 0 {
		want = unsized
	}
	n, code := r.read(f.fd, 0, want, h, buf, flags&OpenDirect != 0)
	if code != "" {
		return nil, 0, code
	}
	if code := r.same(f); code != "" {
		return nil, 0, code
	}
	if size > 0 && n != size || size == 0 && n == unsized {
		return nil, 0, CodeChanged.Code
	}
	if size == 0 && r.left.Add(-n) < 0 {
		return nil, 0, CodeBytes.Code
	}
	return h.Sum(nil), n, ""
}

// read hashes up to want bytes from an offset on and returns how many there were.
func (r *run) read(fd int32, from, want int64, h hash.Hash, buf []byte, aligned bool) (int64, rats.Code) {
	var n int64
	for n < want {
		if r.ctx.Err() != nil {
			return 0, CodeTime.Code
		}
		p := buf
		if aligned && want-n < int64(len(buf)) { // what follows the end makes no difference: it is cut off
			p = buf[:(want-n+DirectAlign-1)/DirectAlign*DirectAlign]
		} else if want-n < int64(len(buf)) {
			p = buf[:want-n]
		}
		m, code := r.system.ReadAt(fd, p, from+n)
		if code != "" {
			return 0, code
		}
		if m < 0 || m > len(p) {
			return 0, CodeSystem.Code
		}
		if m == 0 {
			break
		}
		m = int(min(int64(m), want-n))
		h.Write(p[:m])
		n += int64(m)
		if aligned && m%DirectAlign != 0 { // a short read past the page cache is the end
			break
		}
	}
	return n, ""
}
