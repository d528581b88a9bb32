package measure

import (
	"bytes"
	"context"
	"path"
	"slices"
	"sync"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// pages are what directories and lines of /proc are read into: a check reads thousands of them.
var pages = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// maxDepth bounds how deep directories are walked; a path of 4096 bytes can't hold more.
const maxDepth = plan.MaxName / 2

// found is what a test is about on this machine: regular files, the names of attributes to be measured, and what could not be
// looked at.
type found struct {
	files  [][]byte
	failed []plan.Outcome
	limit  int64 // of files that may still be found
	code   rats.Code
	scope  plan.Scope
}

// take takes something that was found: a regular file's content, and anything's attributes where they are wanted.
func (f *found) take(p []byte, kind uint8) {
	if kind == EntryFile {
		f.file(f.scope.ContentName(p))
	}
	if len(f.scope.Attributes) > 0 {
		f.file(plan.AttributesName(p))
	}
}

// full says whether looking further makes no sense: more files than the limit, or time is up.
func (f *found) full(ctx context.Context) bool {
	if f.code == "" && ctx.Err() != nil {
		f.code = CodeTime.Code
	}
	return f.code != ""
}

func (f *found) file(p []byte) {
	if int64(len(f.files)) >= f.limit {
		f.code = CodeFiles.Code
		return
	}
	f.files = append(f.files, p)
}

func (f *found) fail(p []byte, code rats.Code) {
	if int64(len(f.failed)) >= f.limit {
		f.code = CodeFiles.Code
		return
	}
	f.failed = append(f.failed, plan.Outcome{Name: p, Err: code})
}

// find lists what a scope covers. A file test yields its path whether or not it exists: opening it says what is wrong.
func find(ctx context.Context, s System, scope plan.Scope, limit int64) *found {
	f := &found{limit: limit, scope: scope}
	switch scope.Kind {
	case plan.KindFile:
		f.named(s, scope.Path)
	case plan.KindDir:
		if len(scope.Attributes) > 0 && !scope.Excluded(scope.Path) {
			f.take(scope.Path, EntryDir)
		}
		f.dir(ctx, s, scope, scope.Path, 0)
	case plan.KindGlob:
		f.glob(ctx, s, nil, scope.Elements())
	default:
		f.code = CodeKind.Code
	}
	return f
}

func join(dir, name []byte) []byte {
	p := make([]byte, 0, len(dir)+1+len(name))
	p = append(p, dir...)
	if len(p) == 0 || p[len(p)-1] != '/' {
		p = append(p, '/')
	}
	return append(p, name...)
}

func (f *found) dir(ctx context.Context, s System, scope plan.Scope, dir []byte, depth int) {
	if scope.Excluded(dir) || f.full(ctx) {
		return
	}
	if depth > maxDepth {
		f.fail(dir, CodeName.Code)
		return
	}
	var below [][]byte
	f.list(ctx, s, dir, func(p []byte, kind uint8) {
		if scope.Excluded(p) {
			return
		}
		f.take(p, kind)
		if kind == EntryDir {
			below = append(below, p)
		}
	})
	// Directories are entered after theirs is closed: depth costs no descriptors.
	for _, d := range below {
		f.dir(ctx, s, scope, d, depth+1)
	}
}

// list calls each for every entry of a directory, its type resolved. What can't be listed, or described, fails.
func (f *found) list(ctx context.Context, s System, dir []byte, each func(p []byte, kind uint8)) {
	fd, code := s.Open(dir, OpenDir)
	if code != "" {
		f.fail(dir, code)
		return
	}
	defer s.Close(fd)
	page := pages.Get().(*[]byte)
	defer pages.Put(page)
	buf := *page
	cookie := uint64(0)
	for !f.full(ctx) {
		n, code := s.List(fd, cookie, buf)
		if code == "" && (n < 0 || n > len(buf)) {
			code = CodeSystem.Code
		}
		if code != "" {
			f.fail(dir, code)
			return
		}
		if n == 0 {
			return
		}
		for rest := buf[:n]; len(rest) > 0; {
			e, tail, ok := nextEntry(rest)
			if !ok || e.Next == cookie {
				f.fail(dir, CodeSystem.Code)
				return
			}
			rest, cookie = tail, e.Next
			f.entry(s, join(dir, e.Name), e.Type, each)
		}
	}
}

func (f *found) entry(s System, p []byte, kind uint8, each func(p []byte, kind uint8)) {
	if len(p) > plan.MaxName {
		f.fail(p[:plan.MaxName], CodeName.Code)
		return
	}
	if kind == EntryUnknown {
		st, code := s.Stat(p, false)
		if code != "" {
			f.fail(p, code)
			return
		}
		kind = entryType(st.Mode)
	}
	each(p, kind)
}

func entryType(mode uint32) uint8 {
	switch mode & ModeType {
	case ModeRegular:
		return EntryFile
	case ModeDir:
		return EntryDir
	case ModeSymlink:
		return EntrySymlink
	default:
		return EntryOther
	}
}

// glob matches pattern elements below dir. Elements without wildcards are not listed, so a directory that may be passed but
// not read does no harm. What a wildcard matches is never a symbolic link, and a directory that must be listed isn't one
// either; links among the literal elements before it are followed, as in any path.
func (f *found) glob(ctx context.Context, s System, dir []byte, pattern []string) {
	if f.full(ctx) {
		return
	}
	if name, ok := literal(pattern[0]); ok {
		p := join(dir, name)
		if len(pattern) > 1 {
			f.glob(ctx, s, p, pattern[1:])
			return
		}
		f.last(s, p)
		return
	}
	if len(dir) == 0 {
		dir = []byte("/")
	}
	if _, code := s.Stat(dir, true); code == CodeMissing.Code {
		return // nothing matches below a directory that is not there
	}
	var below [][]byte
	f.list(ctx, s, dir, func(p []byte, kind uint8) {
		if ok, err := path.Match(pattern[0], string(p[bytes.LastIndexByte(p, '/')+1:])); !ok || err != nil {
			return
		}
		switch {
		case len(pattern) == 1:
			f.take(p, kind)
		case len(pattern) > 1 && kind == EntryDir:
			below = append(below, p)
		}
	})
	for _, d := range below {
		f.glob(ctx, s, d, pattern[1:])
	}
}

// last takes the literal last element of a pattern: a regular file matches, anything else, or nothing, doesn't.
func (f *found) last(s System, p []byte) {
	st, code := s.Stat(p, false)
	switch {
	case code == CodeMissing.Code:
	case code != "":
		f.fail(p, code)
	default:
		f.take(p, entryType(st.Mode))
	}
}

// named takes the path of a file test. Where targets of links are measured, a link is not an error.
func (f *found) named(s System, p []byte) {
	kind := EntryFile
	if slices.Contains(f.scope.Attributes, plan.AttrLinks) {
		if st, code := s.Stat(p, false); code == "" && entryType(st.Mode) == EntrySymlink {
			kind = EntrySymlink
		}
	}
	f.take(p, kind)
}

// literal returns the name a pattern element matches if it is only one.
func literal(element string) ([]byte, bool) {
	name := make([]byte, 0, len(element))
	for i := 0; i < len(element); i++ {
		switch c := element[i]; c {
		case '*', '?', '[':
			return nil, false
		case '\\':
			if i++; i == len(element) {
				return nil, false
			}
			name = append(name, element[i])
		default:
			name = append(name, c)
		}
	}
	return name, true
}
