package measure

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// code yields findings about executable memory of running processes.
//
//	patched PATH       pages of this file's code that a process has changed for itself; values: program and offsets
//	anonymous PROGRAM  executable memory that is no file's: a just-in-time compiler's, or injected
//	writable PATH      a file's code that is mapped writable and executable at once
//	deleted, replaced, memory, foreign PATH   as of executables, for every mapped file; what of it is private isn't compared
//	probed PROGRAM     the kernel's breakpoints (uprobes)
//	cached PATH        with disk: what the page cache holds of the file's mapped code is not what the disk holds
//	mapped PATH        with mapped: every file whose code is mapped, with the digest of its content
//
// Code of a file is mapped as it is: where the kernel says that a page of it is private memory, somebody wrote to it, and only
// such pages are read and compared (text of x86-64 and arm64 has no relocations). All others are the page cache's, which the
// file itself is measured by; disk compares those with what the disk holds.
//
// A finding counts only if a second look has it too: a process that loads another program in between would look like one that
// patches itself.
func (c *checker) code() {
	s := &codeScan{checker: c, page: c.pageSize(), files: make(map[string]*codeFile)}
	c.processes(func(p process) {
		found, code := s.process(p)
		if code == "" && len(found) > 0 {
			var again map[string]string
			if again, code = s.process(p); code == "" {
				for key, value := range found {
					if again[key] == value {
						c.add(key, value)
					}
				}
				// What shows only once, but shows, is changing: it is reported without its value's details.
				for key := range again {
					if _, ok := found[key]; ok && again[key] != found[key] {
						c.add(key, p.exe(c)+" changing")
					}
				}
			}
		}
		if code != "" && !gone(code) && !p.gone(c) {
			c.fail("process "+p.comm(c), code)
		}
	})
	s.each()
}

type codeScan struct {
	*checker
	page  uint64
	files map[string]*codeFile // that still are what is mapped
}

// codeFile is a file with the spans of it that are mapped as code.
type codeFile struct {
	id    identity
	spans map[span]bool
}

type span struct{ off, size uint64 }

// pageSize asks the kernel.
func (c *checker) pageSize() uint64 {
	size := uint64(4096)
	c.lines("/proc/self/smaps", func(line []byte) bool {
		rest, ok := bytes.CutPrefix(line, []byte("KernelPageSize:"))
		if !ok {
			return true
		}
		if f := strings.Fields(string(rest)); len(f) > 0 {
			if n, err := strconv.ParseUint(f[0], 10, 20); err == nil && n >= 4 && n&(n-1) == 0 {
				size = n << 10
			}
		}
		return false
	})
	return size
}

// mapping is one line of /proc/PID/maps.
type mapping struct {
	start, end, off uint64
	perms           string
	id              identity
	path            string
}

// parseMapping reads "start-end perms offset major:minor inode   path".
func parseMapping(line []byte) (m mapping, ok bool) {
	f := strings.SplitN(string(line), " ", 6)
	if len(f) < 5 {
		return mapping{}, false
	}
	from, to, cut := strings.Cut(f[0], "-")
	var errs [4]error
	m.start, errs[0] = strconv.ParseUint(from, 16, 64)
	m.end, errs[1] = strconv.ParseUint(to, 16, 64)
	m.off, errs[2] = strconv.ParseUint(f[2], 16, 64)
	m.id.ino, errs[3] = strconv.ParseUint(f[4], 10, 64)
	m.id.dev, ok = device(f[3])
	m.perms = f[1]
	if len(f) == 6 {
		m.path = strings.ReplaceAll(strings.TrimLeft(f[5], " "), `\012`, "\n")
	}
	return m, ok && cut && errs == [4]error{} && m.start < m.end && len(m.perms) == 4
}

// process returns the findings about one process.
func (s *codeScan) process(p process) (map[string]string, rats.Code) {
	var list []mapping
	bad := false
	code := s.lines(p.dir+"/maps", func(line []byte) bool {
		m, ok := parseMapping(line)
		bad = bad || !ok
		if ok && m.perms[2] == 'x' {
			list = append(list, m)
		}
		return !bad
	})
	if code != "" {
		return nil, code
	}
	if bad {
		return nil, CodeContent.Code
	}
	if len(list) == 0 {
		return nil, "" // a thread of the kernel
	}
	found := make(map[string]string)
	exe := p.exe(s.checker)
	for _, m := range list {
		if code := s.mapping(p, exe, m, found); code != "" {
			return nil, code
		}
	}
	return found, ""
}

func note(found map[string]string, key, value string) {
	if old := found[key]; old != "" && old != value {
		value = old + "\n" + value
	}
	found[key] = value
}

func (s *codeScan) mapping(p process, exe string, m mapping, found map[string]string) rats.Code {
	switch {
	case m.path == "[vsyscall]": // a fixed page of the kernel's, the same for all, without a page table to ask
		return ""
	case m.path == "[uprobes]":
		note(found, "probed "+exe, "probed")
		return ""
	case m.path == "[vdso]":
		changed, code := s.private(p, m)
		if len(changed) > 0 {
			note(found, "patched [vdso]", exe)
		}
		return code
	case m.id.ino == 0 || !strings.HasPrefix(m.path, "/"):
		note(found, "anonymous "+exe, strings.TrimSpace(m.perms+" "+m.path))
		return ""
	}
	what, code := s.standing(p, m.path, m.id)
	if code != "" {
		return code
	}
	path := m.path
	if what != "" {
		path = strings.TrimSuffix(path, deletedMark)
		note(found, what+" "+path, exe)
	}
	if m.perms[1] == 'w' {
		note(found, "writable "+path, exe)
	}
	if m.perms[3] == 'p' {
		pages, code := s.private(p, m)
		if code != "" {
			return code
		}
		if len(pages) > 0 && what != "" {
			note(found, "patched "+path, exe+" private pages without a file to compare")
		} else if len(pages) > 0 {
			differ, code := s.compare(p, m, pages)
			if code != "" {
				return code
			}
			if differ != "" {
				note(found, "patched "+path, exe+" "+differ)
			}
		}
	}
	if what == "" {
		f := s.files[path]
		if f == nil {
			f = &codeFile{id: m.id, spans: make(map[span]bool)}
			s.files[path] = f
		}
		f.spans[span{m.off, m.end - m.start}] = true
	}
	return ""
}

// Bits of an entry of /proc/PID/pagemap.
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageFile    = 1 << 61 // a page of a file, or of shared memory
)

// private returns the addresses of a mapping's pages that are the process's own memory instead of the file's.
func (s *codeScan) private(p process, m mapping) ([]uint64, rats.Code) {
	fd, code := s.run.system.Open([]byte(p.dir+"/pagemap"), OpenFile)
	if code != "" {
		return nil, code
	}
	defer s.run.system.Close(fd)
	var out []uint64
	buf := s.buf
	for page := m.start / s.page; page < m.end/s.page; {
		if s.over() {
			return nil, s.whole
		}
		want := min(int(m.end/s.page-page)*8, len(buf))
		n, code := s.run.system.ReadAt(fd, buf[:want], int64(page*8))
		switch {
		case code != "":
			return nil, code
		case n == 0: // the process has ended
			return nil, CodeMissing.Code
		case n < 8 || n > want:
			return nil, CodeSystem.Code
		}
		for i := 0; i+8 <= n; i += 8 {
			e := binary.LittleEndian.Uint64(buf[i:])
			if e&(pagePresent|pageSwapped) != 0 && e&pageFile == 0 {
				out = append(out, page*s.page)
			}
			page++
		}
	}
	return out, ""
}

// compare says at which of a mapping's pages memory and file differ: "0x1000 0x5000" as offsets in the file. Beyond the file's
// end memory must be zero.
func (s *codeScan) compare(p process, m mapping, pages []uint64) (string, rats.Code) {
	mem, code := s.run.system.Open([]byte(p.dir+"/mem"), OpenFile)
	if code != "" {
		return "", code
	}
	defer s.run.system.Close(mem)
	file, code := s.run.system.Open([]byte(m.path), OpenFile)
	if code != "" {
		return "", code
	}
	defer s.run.system.Close(file)
	a, b := make([]byte, s.page), make([]byte, s.page)
	var out []string
	const most = 64 // offsets that are told
	differing := 0
	for _, at := range pages {
		if s.over() {
			return "", s.whole
		}
		n, code := s.full(mem, a, int64(at))
		if code != "" {
			return "", code
		}
		if n < len(a) {
			return "", CodeMissing.Code // unmapped meanwhile: it is looked at again
		}
		off := at - m.start + m.off
		n, code = s.full(file, b, int64(off))
		if code != "" {
			return "", code
		}
		clear(b[n:])
		if !bytes.Equal(a, b) {
			if differing++; differing <= most {
				out = append(out, fmt.Sprintf("0x%x", off))
			}
		}
	}
	if differing > most {
		out = append(out, fmt.Sprintf("and %d pages more", differing-most))
	}
	return strings.Join(out, " "), ""
}

// full reads until p is full or the end.
func (c *checker) full(fd int32, p []byte, off int64) (int, rats.Code) {
	n := 0
	for n < len(p) {
		m, code := c.run.system.ReadAt(fd, p[n:], off+int64(n))
		if code != "" {
			return n, code
		}
		if m < 0 || m > len(p)-n {
			return n, CodeSystem.Code
		}
		if m == 0 {
			break
		}
		n += m
	}
	if c.run.left.Add(-int64(n)) < 0 {
		return n, CodeBytes.Code
	}
	return n, ""
}

// each looks at every mapped file once, as the switches ask for.
func (s *codeScan) each() {
	for _, path := range sorted(maps.Keys(s.files)) {
		if s.over() {
			return
		}
		f := s.files[path]
		if s.args.Has("mapped") {
			s.content("mapped "+path, []byte(path))
		}
		if s.args.Has("disk") {
			s.disk(path, f)
		}
	}
}

// disk compares what the page cache and the disk hold of a file's code.
func (s *codeScan) disk(path string, f *codeFile) {
	cached, code := s.run.system.Open([]byte(path), OpenFile)
	if code != "" {
		s.fail("cached "+path, code)
		return
	}
	defer s.run.system.Close(cached)
	direct, code := s.run.system.Open([]byte(path), OpenDirect)
	if code != "" {
		s.fail("cached "+path, code)
		return
	}
	defer s.run.system.Close(direct)
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	a, b := s.buf, *buf
	ends := f.ends()
	for _, start := range sorted(maps.Keys(ends)) {
		for off := start; off < ends[start]; off += uint64(len(a)) {
			if s.over() {
				return
			}
			want := int(min(uint64(len(a)), ends[start]-off))
			want = (want + DirectAlign - 1) / DirectAlign * DirectAlign
			n, code := s.full(cached, a[:want], int64(off))
			if code == "" {
				var m int
				if m, code = s.run.system.ReadAt(direct, b[:want], int64(off)); code == "" && (m < 0 || m > want) {
					code = CodeSystem.Code
				}
				n = min(n, m)
			}
			if code != "" {
				s.fail("cached "+path, code)
				return
			}
			if !bytes.Equal(a[:n], b[:n]) {
				s.add("cached "+path, fmt.Sprintf("0x%x", off))
			}
		}
	}
}

// ends returns the spans as start → end; start is aligned by how files are mapped.
func (f *codeFile) ends() map[uint64]uint64 {
	out := make(map[uint64]uint64, len(f.spans))
	for s := range f.spans {
		out[s.off] = max(out[s.off], s.off+s.size)
	}
	return out
}
