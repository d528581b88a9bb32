package house

import (
	"flag"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
)

//go:generate go test . -run TestThePageOfCodesIsUpToDate -update

var update = flag.Bool("update", false, "rewrite generated pages")

// code is one `var CodeX = rats.CodeInfo{…}` found in the sources.
type code struct {
	Dir, Var          string
	At                string // file:line
	Code, Title, Hint string
	Slot              string
	Listed            bool // in a Codes slice of its package
	Used              bool // by code outside that slice
	Tested            bool // by a test
}

var slotByName = map[string]rats.Slot{
	"InstanceIdentity": rats.InstanceIdentity, "Configuration": rats.Configuration, "Executables": rats.Executables,
	"FileSystem": rats.FileSystem, "Hardware": rats.Hardware, "RuntimeOpaque": rats.RuntimeOpaque,
	"StorageOpaque": rats.StorageOpaque, "SourcedData": rats.SourcedData,
}

// scan reads every CodeInfo literal and every mention of its variable.
type scan struct {
	t      *testing.T
	codes  map[string]*code    // "dir.Var"
	text   map[string]bool     // string literals of tests
	consts map[string]ast.Expr // "dir.Name" of constants
	makers map[string]maker    // "dir.name" of functions that only build a CodeInfo of their arguments
}

// maker is a function like `func code(c rats.Code, title, hint string) rats.CodeInfo { return rats.CodeInfo{…} }`.
type maker struct {
	params map[string]int // by name
	lit    *ast.CompositeLit
}

func scanCodes(t *testing.T) []*code {
	t.Helper()
	s := &scan{
		t: t, codes: make(map[string]*code), text: make(map[string]bool),
		consts: make(map[string]ast.Expr), makers: make(map[string]maker),
	}
	list := allSources(t)
	for _, src := range list {
		s.prepared(src)
	}
	for _, src := range list {
		if !src.Test {
			s.declared(src)
		}
	}
	for _, src := range list {
		s.mentioned(src)
	}
	scripts := ""
	if err := walk(".txtar", func(_ string, text []byte) error { scripts += string(text); return nil }); err != nil {
		t.Fatal(err)
	}
	out := make([]*code, 0, len(s.codes))
	for _, c := range s.codes {
		c.Tested = c.Tested || s.text[c.Code] || strings.Contains(scripts, c.Code)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *code) int { return strings.Compare(a.Code, b.Code) })
	return out
}

func isCodeInfo(src source, e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		return ok && e.Sel.Name == "CodeInfo" && src.imports()[x.Name] == "./rats"
	case *ast.Ident:
		return src.Dir == "rats" && e.Name == "CodeInfo"
	}
	return false
}

// prepared notes a file's constants and makers.
func (s *scan) prepared(src source) {
	for _, d := range src.AST.Decls {
		switch d := d.(type) {
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				v, ok := spec.(*ast.ValueSpec)
				if ok && d.Tok == token.CONST && len(v.Values) == len(v.Names) {
					for i, name := range v.Names {
						s.consts[src.Dir+"."+name.Name] = v.Values[i]
					}
				}
			}
		case *ast.FuncDecl:
			if lit := madeBy(src, d); lit != nil && !src.Test {
				m := maker{params: make(map[string]int), lit: lit}
				n := 0
				for _, field := range d.Type.Params.List {
					for _, name := range field.Names {
						m.params[name.Name] = n
						n++
					}
				}
				s.makers[src.Dir+"."+d.Name.Name] = m
			}
		}
	}
}

// madeBy returns the literal a function consists of, nil if it does anything else.
func madeBy(src source, d *ast.FuncDecl) *ast.CompositeLit {
	if d.Recv != nil || d.Body == nil || len(d.Body.List) != 1 {
		return nil
	}
	ret, ok := d.Body.List[0].(*ast.ReturnStmt)
	if !ok || len(ret.Results) != 1 {
		return nil
	}
	lit, ok := ret.Results[0].(*ast.CompositeLit)
	if !ok || !isCodeInfo(src, lit.Type) {
		return nil
	}
	return lit
}

func (s *scan) declared(src source) {
	known := make(map[*ast.CompositeLit]bool)
	for _, m := range s.makers {
		known[m.lit] = true
	}
	for _, d := range src.AST.Decls {
		gen, ok := d.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			for i, e := range v.Values {
				if i >= len(v.Names) {
					break
				}
				switch e := e.(type) {
				case *ast.CompositeLit:
					if isCodeInfo(src, e.Type) {
						known[e] = true
						s.add(src, v.Names[i].Name, e, nil, maker{})
					}
				case *ast.CallExpr:
					if f, ok := e.Fun.(*ast.Ident); ok {
						if m, ok := s.makers[src.Dir+"."+f.Name]; ok {
							s.add(src, v.Names[i].Name, m.lit, e.Args, m)
						}
					}
				}
			}
		}
	}
	ast.Inspect(src.AST, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		elided := false
		if array, ok := lit.Type.(*ast.ArrayType); ok && isCodeInfo(src, array.Elt) {
			for _, e := range lit.Elts {
				_, inline := e.(*ast.CompositeLit)
				elided = elided || inline
			}
		}
		named := lit.Type != nil && isCodeInfo(src, lit.Type) && !known[lit] && len(lit.Elts) > 0
		if elided || named {
			s.t.Errorf("%s:%d: a code without a variable of its own: declare it beside its check", src.File, src.line(lit.Pos()))
		}
		return true
	})
}

// add reads a literal; parameters of a maker stand for the arguments of the call.
func (s *scan) add(src source, name string, lit *ast.CompositeLit, args []ast.Expr, m maker) {
	at := lit.Pos()
	if len(args) > 0 {
		at = args[0].Pos()
	}
	c := &code{Dir: src.Dir, Var: name, At: fmt.Sprintf("%s:%d", src.File, src.line(at)), Slot: noSlot}
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			s.t.Errorf("%s: fields of a CodeInfo are named", c.At)
			return
		}
		value := kv.Value
		if id, ok := value.(*ast.Ident); ok {
			if i, ok := m.params[id.Name]; ok && i < len(args) {
				value = args[i]
			}
		}
		switch key := kv.Key.(*ast.Ident).Name; key {
		case "Code":
			c.Code = s.literal(c, value)
		case "Title":
			c.Title = s.literal(c, value)
		case "Hint":
			c.Hint = s.literal(c, value)
		case "Slot":
			c.Slot = slotOf(value)
		}
	}
	s.codes[src.Dir+"."+name] = c
}

// noSlot is what the page says of codes that never lower a node's trust: problems of a command or a document.
const noSlot = "–"

func slotOf(e ast.Expr) string {
	name := ""
	switch e := e.(type) {
	case *ast.SelectorExpr:
		name = e.Sel.Name
	case *ast.Ident:
		name = e.Name
	}
	if slot, ok := slotByName[name]; ok {
		return slot.String()
	}
	return "?"
}

func (s *scan) literal(c *code, e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if v, err := strconv.Unquote(e.Value); err == nil {
			return v
		}
	case *ast.BinaryExpr:
		return s.literal(c, e.X) + s.literal(c, e.Y)
	case *ast.Ident:
		if value, ok := s.consts[c.Dir+"."+e.Name]; ok {
			return s.literal(c, value)
		}
	}
	s.t.Errorf("%s: code, title and hint are string literals, so that the page of codes can be generated", c.At)
	return ""
}

// mentioned notes where the variables are named: in a Codes slice, in other code, in tests.
func (s *scan) mentioned(src source) {
	names := src.imports()
	for _, d := range src.AST.Decls {
		list, own := ast.Node(nil), make(map[*ast.Ident]bool)
		if gen, ok := d.(*ast.GenDecl); ok && gen.Tok == token.VAR {
			for _, spec := range gen.Specs {
				v := spec.(*ast.ValueSpec)
				for _, name := range v.Names {
					own[name] = true
				}
				if len(v.Names) == 1 && strings.HasSuffix(strings.ToLower(v.Names[0].Name), "codes") {
					list = v
				}
			}
		}
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if dir, in := inModule(names[identName(x, ok)]); ok && in {
					s.mention(src, dir+"."+n.Sel.Name, list, n)
					return false
				}
			case *ast.Ident:
				if !own[n] {
					s.mention(src, src.Dir+"."+n.Name, list, n)
				}
			case *ast.BasicLit:
				if v, err := strconv.Unquote(n.Value); src.Test && n.Kind == token.STRING && err == nil {
					s.text[v] = true
				}
			}
			return true
		})
	}
}

func identName(x *ast.Ident, ok bool) string {
	if !ok {
		return ""
	}
	return x.Name
}

func (s *scan) mention(src source, key string, list, n ast.Node) {
	c, ok := s.codes[key]
	if !ok {
		return
	}
	switch {
	case src.Test:
		c.Tested = true
	case list != nil && list.Pos() <= n.Pos() && n.End() <= list.End():
		c.Listed = c.Listed || src.Dir == c.Dir
	default:
		c.Used = true
	}
}

var codeForm = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+){1,3}$`)

// TestEveryCodeIsUniqueListedUsedAndTested reads the sources, so that a code cannot exist without its list, its check
// and its test.
//
// R146: every refusal has a stable reason code and a hint.
func TestEveryCodeIsUniqueListedUsedAndTested(t *testing.T) {
	first := make(map[string]*code)
	for _, c := range scanCodes(t) {
		if !codeForm.MatchString(c.Code) {
			t.Errorf("%s: code %q is not of the form area.thing.problem", c.At, c.Code)
		}
		if other := first[c.Code]; other != nil {
			t.Errorf("%s: code %q is also declared at %s", c.At, c.Code, other.At)
		}
		first[c.Code] = c
		if c.Title == "" || strings.HasSuffix(c.Title, ".") || c.Hint == "" {
			t.Errorf("%s: %s needs a title (no full stop) and a hint", c.At, c.Code)
		}
		if c.Slot == "?" {
			t.Errorf("%s: %s: the slot is not one of rats' constants", c.At, c.Code)
		}
		if !c.Listed {
			t.Errorf("%s: %s (%s) is not in the Codes of its package", c.At, c.Var, c.Code)
		}
		if !c.Used {
			t.Errorf("%s: %s (%s) is used nowhere", c.At, c.Var, c.Code)
		}
		if !c.Tested {
			t.Errorf("%s: %s (%s) is provoked by no test", c.At, c.Var, c.Code)
		}
	}
}

const pageOfCodes = "docs/reference/codes.md"

// TestThePageOfCodesIsUpToDate fails when docs/reference/codes.md is stale; `make generate` rewrites it.
func TestThePageOfCodesIsUpToDate(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Reason codes\n\nGenerated from the sources by `make generate`; do not edit.\n\n" +
		"Every refusal carries one of these codes. A code never changes its meaning and is never reused. *Slot* is the entry of the\n" +
		"AR4SI trustworthiness vector that the code lowers when it speaks against a node.\n")
	area := ""
	for _, c := range scanCodes(t) {
		if a, _, _ := strings.Cut(c.Code, "."); a != area {
			area = a
			fmt.Fprintf(&b, "\n## %s\n\n| code | what is wrong | what to do | slot | package |\n|---|---|---|---|---|\n", area)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | `%s` |\n", c.Code, cell(c.Title), cell(c.Hint), c.Slot, c.Dir)
	}
	generated(t, pageOfCodes, b.String())
}

func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;", ">", "&gt;").Replace(s)
}

// generated compares a generated page with the tree, and writes it with -update.
func generated(t *testing.T, file, want string) {
	t.Helper()
	name := filepath.Join(root, filepath.FromSlash(file))
	if *update {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != want {
		t.Errorf("%s is stale (%v): run `make generate` and commit it", file, err)
	}
}
