package house

import (
	"bytes"
	"go/ast"
	"path"
	"testing"
)

// Sizes at which a reader starts to get lost. Above look, the test says so; above fail, it fails.
const (
	fileLook, fileFail = 500, 600
	funcLook, funcFail = 80, 100
	maxMethods         = 5
)

// wideInterfaces may have more methods than maxMethods, and why.
var wideInterfaces = map[string]string{
	"internal/store.Tx":       "one accessor per table; callers take the table they need",
	"internal/measure.System": "the six raw operations an enclave asks of the outside",
}

func TestFilesFunctionsAndInterfacesKeepTheirSize(t *testing.T) {
	for _, s := range allSources(t) {
		if s.Test {
			continue
		}
		switch lines := bytes.Count(s.Text, []byte("\n")); {
		case lines > fileFail:
			t.Errorf("%s has %d lines; cut it by content below %d", s.File, lines, fileLook)
		case lines > fileLook:
			t.Logf("%s has %d lines: look twice", s.File, lines)
		}
		ast.Inspect(s.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				switch lines := s.line(n.End()) - s.line(n.Pos()) + 1; {
				case lines > funcFail:
					t.Errorf("%s: %s has %d lines, at most %d", s.File, n.Name.Name, lines, funcLook)
				case lines > funcLook:
					t.Logf("%s: %s has %d lines: look twice", s.File, n.Name.Name, lines)
				}
			case *ast.TypeSpec:
				i, ok := n.Type.(*ast.InterfaceType)
				if ok && i.Methods.NumFields() > maxMethods && wideInterfaces[s.Dir+"."+n.Name.Name] == "" {
					t.Errorf("%s: interface %s has %d methods, at most %d", s.File, n.Name.Name, i.Methods.NumFields(), maxMethods)
				}
			}
			return true
		})
	}
}

func TestMainIsTwentyLinesAtMost(t *testing.T) {
	for _, s := range allSources(t) {
		if under(s.Dir, "cmd") && path.Base(s.File) == "main.go" && bytes.Count(s.Text, []byte("\n")) > 20 {
			t.Errorf("%s has more than 20 lines", s.File)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range allPackages(t) {
		if p.Go > 0 && p.Doc == "" {
			t.Errorf("package %s has no package comment", p.Path)
		}
	}
}
