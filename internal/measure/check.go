package measure

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// checks are the named checks, each code over raw reads of /proc, /sys and files; plan.Checks describes them.
var checks = map[string]func(*checker){
	"authorized-keys":   (*checker).authorizedKeys,
	"bpf":               (*checker).bpf,
	"code":              (*checker).code,
	"command-line":      (*checker).commandLine,
	"executables":       (*checker).executables,
	"listening-sockets": (*checker).listeningSockets,
	"modules":           (*checker).modules,
	"mounts":            (*checker).mounts,
	"preload":           (*checker).preload,
	"setuid-files":      (*checker).setuidFiles,
	"sysctls":           (*checker).sysctls,
	"systemd-units":     (*checker).systemdUnits,
	"uid-0-users":       (*checker).uid0Users,
}

// checker runs one check. Its items are what becomes outcomes: a key, and values that are sorted, or kept in order where order
// means something.
type checker struct {
	run   *run
	test  plan.Test
	scope plan.Scope
	args  *plan.CheckArgs
	items map[string]*item
	limit int64 // of items
	whole rats.Code
	buf   []byte
}

type item struct {
	values [][]byte
	err    rats.Code
	sum    []byte // of a file's content, instead of values
	size   int64
}

func (r *run) check(t plan.Test, s plan.Scope, files int64) section {
	do := checks[s.Check.Check]
	if do == nil {
		return whole(t, CodeKind.Code)
	}
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	c := &checker{run: r, test: t, scope: s, args: s.Check, items: make(map[string]*item), limit: files, buf: *buf}
	start := r.clock()
	do(c)
	took := max(int64(r.clock().Sub(start)), 0)
	if c.whole == "" && r.ctx.Err() != nil {
		c.whole = CodeTime.Code
	}
	if c.whole != "" {
		return whole(t, c.whole)
	}
	out := section{outcomes: make([]plan.Outcome, 0, len(c.items))}
	for key, i := range c.items {
		o := plan.Outcome{Name: c.name(key), Err: i.err, Nanos: took}
		switch {
		case i.err != "":
		case i.sum != nil:
			o.Digest, o.Size = i.sum, i.size
		default:
			value := bytes.Join(i.values, []byte{'\n'})
			o.Digest, o.Size = r.sum(t.Alg, value), int64(len(value))
			if c.args.Disclose && len(value) <= plan.MaxValue {
				o.Value = value
			}
		}
		out.outcomes = append(out.outcomes, o)
	}
	return out
}

// name makes an outcome's name of a key. One that is too long ends in a hash, so that it is still one name.
func (c *checker) name(key string) []byte {
	name := append(bytes.Clone(c.scope.Path), key...)
	if len(name) <= plan.MaxName {
		return name
	}
	h := fnv.New64a()
	h.Write(name)
	return fmt.Appendf(name[:plan.MaxName-20], "…%016x", h.Sum64())
}

// over says that looking further makes no sense: time is up, or there are too many items.
func (c *checker) over() bool {
	if c.whole == "" && c.run.ctx.Err() != nil {
		c.whole = CodeTime.Code
	}
	return c.whole != ""
}

func (c *checker) item(key string) *item {
	i := c.items[key]
	if i == nil {
		if int64(len(c.items)) >= c.limit {
			c.whole = CodeFiles.Code
			return new(item)
		}
		i = new(item)
		c.items[key] = i
	}
	return i
}

// add gives an item one more value; values are kept sorted, each once.
func (c *checker) add(key, value string) {
	i := c.item(key)
	if at, found := slices.BinarySearchFunc(i.values, []byte(value), bytes.Compare); !found {
		i.values = slices.Insert(i.values, at, []byte(value))
	}
}

// follow gives an item one more value, after those it has.
func (c *checker) follow(key, value string) {
	i := c.item(key)
	i.values = append(i.values, []byte(value))
}

// fail says that an item could not be looked at. It wins over values.
func (c *checker) fail(key string, code rats.Code) {
	i := c.item(key)
	if i.err == "" {
		i.err = code
	}
}

// content makes an item of a file's digest.
func (c *checker) content(key string, path []byte) {
	h, done := c.run.hasher(c.test.Alg)
	defer done()
	sum, size, code := c.run.hash(path, h, c.buf, 0)
	if code != "" {
		c.fail(key, code)
		return
	}
	i := c.item(key)
	i.sum, i.size = sum, size
}

// read returns a small file's content.
func (c *checker) read(path string, most int) ([]byte, rats.Code) {
	fd, code := c.run.system.Open([]byte(path), OpenFile)
	if code != "" {
		return nil, code
	}
	defer c.run.system.Close(fd)
	return c.run.drain(fd, most)
}

// link returns the target of a symbolic link.
func (c *checker) link(path string) (string, rats.Code) {
	b, code := c.run.told([]byte(path), OpenLink, plan.MaxName)
	return string(b), code
}

// maxLine bounds a line of what is read as lines; the kernel's are shorter than two paths.
const maxLine = 32 << 10

// lines calls each for every line of a file, without its end. It reads in pieces: a file of /proc may be long.
func (c *checker) lines(path string, each func(line []byte) bool) rats.Code {
	fd, code := c.run.system.Open([]byte(path), OpenFile)
	if code != "" {
		return code
	}
	defer c.run.system.Close(fd)
	page := pages.Get().(*[]byte) // twice maxLine
	defer pages.Put(page)
	buf := *page
	have, off := 0, int64(0)
	for {
		if c.over() {
			return c.whole
		}
		n, code := c.run.system.ReadAt(fd, buf[have:], off)
		switch {
		case code != "":
			return code
		case n < 0 || n > len(buf)-have:
			return CodeSystem.Code
		case n == 0:
			if have > 0 {
				each(buf[:have])
			}
			return ""
		}
		if c.run.left.Add(-int64(n)) < 0 {
			return CodeBytes.Code
		}
		have, off = have+n, off+int64(n)
		rest := buf[:have]
		for {
			line, tail, ok := bytes.Cut(rest, []byte{'\n'})
			if !ok {
				break
			}
			if !each(line) {
				return ""
			}
			rest = tail
		}
		if len(rest) > maxLine {
			return CodeContent.Code
		}
		have = copy(buf, rest)
	}
}

// list calls each for every entry of a directory, types resolved. What can't be described fails under its own path.
func (c *checker) list(dir string, each func(name []byte, kind uint8)) rats.Code {
	f := &found{limit: 1}
	f.list(c.run.ctx, c.run.system, []byte(dir), func(p []byte, kind uint8) { each(p[bytes.LastIndexByte(p, '/')+1:], kind) })
	switch {
	case len(f.failed) > 0:
		return f.failed[0].Err
	default:
		return f.code
	}
}

// walk calls each for everything below a directory, or for the file that it is, but what is excluded. It holds one directory's
// subdirectories per level, so that the number of files costs no memory.
func (c *checker) walk(dir []byte, each func(p []byte, kind uint8)) {
	c.walkDir(dir, each, 0)
}

func (c *checker) walkDir(dir []byte, each func(p []byte, kind uint8), depth int) {
	if c.scope.Excluded(dir) || c.over() {
		return
	}
	if depth > maxDepth {
		c.fail(string(dir), CodeName.Code)
		return
	}
	f := &found{limit: c.limit}
	var below [][]byte
	f.list(c.run.ctx, c.run.system, dir, func(p []byte, kind uint8) {
		if c.scope.Excluded(p) {
			return
		}
		each(p, kind)
		if kind == EntryDir {
			below = append(below, p)
		}
	})
	if f.code != "" && c.whole == "" {
		c.whole = f.code
	}
	for _, o := range f.failed {
		c.fail(string(o.Name), o.Err)
	}
	for _, d := range below {
		c.walkDir(d, each, depth+1)
	}
}

// paths returns the paths of the test, or the default; only the default's may be missing, so present says which are there.
func (c *checker) paths(byDefault ...string) (out [][]byte) {
	for _, text := range c.args.Paths {
		if p, err := plan.ParsePath(text); err == nil {
			out = append(out, p)
		}
	}
	if len(c.args.Paths) > 0 {
		return out
	}
	for _, p := range byDefault {
		if _, code := c.run.system.Stat([]byte(p), true); code != CodeMissing.Code {
			out = append(out, []byte(p))
		}
	}
	return out
}
