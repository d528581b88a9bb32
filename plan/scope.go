package plan

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// Scope says what a test is about. Runner and verifier both ask it, so they can't differ.
type Scope struct {
	Kind       string
	Path       []byte       // of KindFile and KindDir; the pattern of KindGlob; "command:…"; "CHECK:"
	Exclude    [][]byte     // of KindDir and KindCheck
	Attributes []string     // of files: what is measured beside contents
	Direct     bool         // of files: contents are read past the page cache
	Merkle     *Merkle      // of files: nil for plain digests
	Verity     bool         // of files: the kernel's fs-verity digests instead of contents
	Command    *CommandArgs // of KindCommand
	Check      *CheckArgs   // of KindCheck
}

// ErrUnknown is a kind of test, or a check, that this version doesn't know: a newer verifier's.
var ErrUnknown = errors.New("unknown kind of test")

// Scope returns what the test is about. It refuses unknown kinds and fields, and paths that are not absolute and clean.
func (t Test) Scope() (Scope, error) {
	s := Scope{Kind: t.Kind}
	switch t.Kind {
	case KindFile:
		var a FileArgs
		if err := strict(t.Args, &a); err != nil {
			return Scope{}, err
		}
		return s.with(a.Path, nil, a.FileOptions)
	case KindGlob:
		var a GlobArgs
		if err := strict(t.Args, &a); err != nil {
			return Scope{}, err
		}
		s, err := s.with(a.Pattern, nil, a.FileOptions)
		for _, e := range s.Elements() {
			if _, bad := path.Match(e, ""); bad != nil {
				return Scope{}, fmt.Errorf("pattern element %q: %w", clip(e), bad)
			}
			if plain := strings.ReplaceAll(e, `\`, ""); plain == "" || plain == "." || plain == ".." {
				return Scope{}, fmt.Errorf("pattern element %q names a directory's neighbour", clip(e))
			}
		}
		return s, err
	case KindDir:
		var a DirArgs
		if err := strict(t.Args, &a); err != nil {
			return Scope{}, err
		}
		return s.with(a.Path, a.Exclude, a.FileOptions)
	case KindCommand:
		return commandScope(t.Args)
	case KindCheck:
		return checkScope(t.Args)
	default:
		return Scope{}, fmt.Errorf("%w: kind %q", ErrUnknown, clip(t.Kind))
	}
}

func (s Scope) with(text string, exclude []string, o FileOptions) (Scope, error) {
	if err := checkAttributes(o.Attributes); err != nil {
		return Scope{}, err
	}
	m, err := o.merkle()
	if err != nil {
		return Scope{}, err
	}
	s.Attributes, s.Direct, s.Merkle, s.Verity = o.Attributes, o.Direct, m, o.Verity
	if len(exclude) > MaxExcludes {
		return Scope{}, fmt.Errorf("%d excludes, at most %d", len(exclude), MaxExcludes)
	}
	if s.Path, err = ParsePath(text); err != nil {
		return Scope{}, err
	}
	if s.Kind == KindFile && len(s.Path) == 1 {
		return Scope{}, errors.New("/ is not a file")
	}
	for _, e := range exclude {
		p, err := ParsePath(e)
		if err != nil {
			return Scope{}, fmt.Errorf("exclude: %w", err)
		}
		s.Exclude = append(s.Exclude, p)
	}
	return s, nil
}

// NewTest makes a test of files' contents, of kind file, glob or dir, with the text path (or pattern) and, for
// directories, excludes.
func NewTest(id uint32, kind, alg, text string, exclude []string) (Test, error) {
	return NewFilesTest(id, kind, alg, text, exclude, FileOptions{})
}

// NewFilesTest is NewTest with options. Attributes may come in any order.
func NewFilesTest(id uint32, kind, alg, text string, exclude []string, o FileOptions) (Test, error) {
	o.Attributes = slices.Sorted(slices.Values(o.Attributes))
	switch kind {
	case KindFile:
		return newTest(id, kind, alg, FileArgs{Path: text, FileOptions: o})
	case KindGlob:
		return newTest(id, kind, alg, GlobArgs{Pattern: text, FileOptions: o})
	case KindDir:
		return newTest(id, kind, alg, DirArgs{Path: text, Exclude: exclude, FileOptions: o})
	default:
		return Test{}, fmt.Errorf("kind %q is not file, glob or dir", clip(kind))
	}
}

// ParsePath reads a path's text form (rats.EscapePath) and refuses one that is not absolute, not clean, longer than
// MaxName or holds a zero byte.
func ParsePath(text string) ([]byte, error) {
	if len(text) > 3*MaxName {
		return nil, fmt.Errorf("path of %d characters", len(text))
	}
	p, err := rats.UnescapePath(text)
	if err != nil {
		return nil, err
	}
	return p, CheckPath(p)
}

// CheckPath says why p is not an absolute, clean path of 1 to MaxName bytes, nil if it is.
func CheckPath(p []byte) error {
	switch {
	case len(p) == 0 || p[0] != '/':
		return fmt.Errorf("path %q is not absolute", clip(rats.EscapePath(p)))
	case len(p) > MaxName:
		return fmt.Errorf("path of %d bytes, at most %d", len(p), MaxName)
	case bytes.IndexByte(p, 0) >= 0:
		return fmt.Errorf("path %q holds a zero byte", clip(rats.EscapePath(p)))
	case path.Clean(string(p)) != string(p):
		return fmt.Errorf("path %q is not clean: it holds //, /./, /../ or a trailing /", clip(rats.EscapePath(p)))
	}
	return nil
}

// Within says whether clean path p is root or lies below it: /usr holds /usr and /usr/x, never /usrevil.
func Within(p, root []byte) bool {
	if len(root) == 1 && root[0] == '/' {
		return len(p) > 0 && p[0] == '/'
	}
	return bytes.HasPrefix(p, root) && (len(p) == len(root) || p[len(root)] == '/')
}

// Excluded says whether p is, or lies below, an exclude.
func (s Scope) Excluded(p []byte) bool {
	for _, e := range s.Exclude {
		if Within(p, e) {
			return true
		}
	}
	return false
}

// Covers says whether an outcome called p belongs to the test: a regular file's path (ContentName), the attributes of anything that lies
// where the test looks (AttributesName), the label of a command, an item of a check.
func (s Scope) Covers(p []byte) bool {
	if s.Kind == KindCheck {
		return len(p) > len(s.Path) && bytes.HasPrefix(p, s.Path)
	}
	if s.Kind == KindCommand {
		return bytes.Equal(p, s.Path)
	}
	path, what := CutName(p)
	if IsAttributes(what) {
		return len(s.Attributes) > 0 && (s.coversFile(path) || s.Kind == KindDir && bytes.Equal(path, s.Path) && !s.Excluded(path))
	}
	return what == s.contentWhat() && s.coversFile(path)
}

func (s Scope) coversFile(p []byte) bool {
	switch s.Kind {
	case KindFile:
		return bytes.Equal(p, s.Path)
	case KindGlob:
		return matchElements(s.Elements(), p)
	case KindDir:
		return Within(p, s.Path) && len(p) > len(s.Path) && !s.Excluded(p)
	default:
		return false
	}
}

// Elements returns the elements of a pattern, to be matched one by one with path.Match: no wildcard, not even a
// negated class, crosses a slash.
func (s Scope) Elements() []string {
	if len(s.Path) == 0 {
		return nil
	}
	return strings.Split(string(s.Path[1:]), "/")
}

func matchElements(pattern []string, p []byte) bool {
	if len(p) == 0 || p[0] != '/' {
		return false
	}
	rest := string(p[1:])
	for i, e := range pattern {
		name, tail, more := strings.Cut(rest, "/")
		if more != (i < len(pattern)-1) {
			return false
		}
		if ok, err := path.Match(e, name); !ok || err != nil {
			return false
		}
		rest = tail
	}
	return true
}

// Literal returns the longest path that every covered path starts with: the file itself, or a directory with its
// trailing slash. It ends at a slash so that its text form is a prefix of theirs.
func (s Scope) Literal() []byte {
	switch s.Kind {
	case KindGlob:
		p := s.Path
		if i := bytes.IndexAny(p, `*?[\`); i >= 0 {
			p = p[:i]
		}
		return p[:bytes.LastIndexByte(p, '/')+1]
	case KindDir:
		if len(s.Path) == 1 || len(s.Attributes) > 0 { // its own attributes have no slash after it
			return s.Path
		}
		return append(bytes.Clone(s.Path), '/')
	default:
		return s.Path
	}
}
