package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	module = "github.com/assay-attest/assay"
	root   = "../.."
)

// pkg is one package of the module as `go list` tells it; paths are relative to the module ("." never occurs).
type pkg struct {
	Path    string   // internal/store
	Doc     string   // first sentence of the package comment
	Imports []string // of non-test files: relative if in the module, else as written
	Deps    []string // likewise, transitive
	Tests   []string // imports of test files
	Go      int      // number of non-test files
}

var packages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,GoFiles,Imports,Deps,TestImports,XTestImports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New(stderr.String())
	}
	var list []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Doc                                   string
			GoFiles, Imports, Deps, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		list = append(list, pkg{
			Path: relative(p.ImportPath), Doc: p.Doc, Go: len(p.GoFiles),
			Imports: relatives(p.Imports), Deps: relatives(p.Deps),
			Tests: relatives(append(p.TestImports, p.XTestImports...)),
		})
	}
})

// relative strips the module's path; what is left of the module's packages has no dot in its first element, like the
// standard library: inModule tells them apart.
func relative(importPath string) string {
	if rest, ok := strings.CutPrefix(importPath, module+"/"); ok {
		return "./" + rest
	}
	return importPath
}

func relatives(list []string) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = relative(p)
	}
	return out
}

// inModule returns the path below the module's root.
func inModule(importPath string) (string, bool) { return strings.CutPrefix(importPath, "./") }

func allPackages(t *testing.T) []pkg {
	t.Helper()
	list, err := packages()
	if err != nil {
		t.Fatalf("listing packages: %v", err)
	}
	for i := range list {
		list[i].Path = strings.TrimPrefix(list[i].Path, "./")
	}
	return list
}

// source is one parsed Go file of the repository.
type source struct {
	File string // relative to the root, with slashes
	Dir  string
	Test bool
	Fset *token.FileSet
	AST  *ast.File
	Text []byte
}

// line returns the line of a position.
func (s source) line(p token.Pos) int { return s.Fset.Position(p).Line }

// imports maps the names under which the file knows packages to import paths (module packages with "./").
func (s source) imports() map[string]string {
	m := make(map[string]string, len(s.AST.Imports))
	for _, spec := range s.AST.Imports {
		p := strings.Trim(spec.Path.Value, `"`)
		name := path.Base(p)
		if strings.HasPrefix(name, "v") && strings.Trim(name[1:], "0123456789") == "" {
			name = path.Base(path.Dir(p))
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		m[name] = relative(p)
	}
	return m
}

var sources = sync.OnceValues(func() ([]source, error) {
	var list []source
	err := walk(".go", func(file string, text []byte) error {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, file, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		list = append(list, source{
			File: file, Dir: path.Dir(file), Test: strings.HasSuffix(file, "_test.go"),
			Fset: fset, AST: f, Text: text,
		})
		return nil
	})
	return list, err
})

func allSources(t *testing.T) []source {
	t.Helper()
	list, err := sources()
	if err != nil {
		t.Fatalf("parsing the tree: %v", err)
	}
	return list
}

// walk calls f for every file of the repository whose name ends in suffix, but those in hidden folders, build output
// and testdata folders of Go files.
func walk(suffix string, f func(file string, text []byte) error) error {
	return filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			name := d.Name()
			hidden := strings.HasPrefix(name, ".") && rel != "."
			if hidden || rel == "bin" || rel == "dist" || suffix == ".go" && name == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, suffix) {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return f(rel, text)
	})
}

func under(p string, parents ...string) bool {
	for _, parent := range parents {
		if p == parent || strings.HasPrefix(p, parent+"/") {
			return true
		}
	}
	return false
}

func exists(file string) bool {
	_, err := os.Stat(filepath.Join(root, filepath.FromSlash(file)))
	return err == nil
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
