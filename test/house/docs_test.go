package house

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	mdLink    = regexp.MustCompile(`\[[^\]\n]*\]\(([^)\s]+)\)`)
	mdFence   = regexp.MustCompile("(?ms)^```.*?^```$")
	mdHeading = regexp.MustCompile(`(?m)^#{1,6} +(.+)$`)
	funcRef   = regexp.MustCompile("`([a-z0-9_/.-]+\\.go):([A-Za-z0-9_.]+)`")
	anchorOff = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func pages(t *testing.T) map[string]string {
	t.Helper()
	m := make(map[string]string)
	err := walk(".md", func(file string, text []byte) error {
		if !strings.Contains(file, "testdata/") {
			m[file] = string(text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLinksInTheDocumentationAreAlive(t *testing.T) {
	all := pages(t)
	for file, text := range all {
		for _, m := range mdLink.FindAllStringSubmatch(mdFence.ReplaceAllString(text, ""), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := file
			if target != "" {
				to = path.Join(path.Dir(file), target)
			}
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(to))); err != nil {
				t.Errorf("%s links to %s, which is not there", file, m[1])
				continue
			}
			if page, ok := all[to]; ok && anchor != "" && !anchors(page)[anchor] {
				t.Errorf("%s links to %s, but that page has no such heading", file, m[1])
			}
		}
	}
}

func anchors(page string) map[string]bool {
	m := make(map[string]bool)
	for _, h := range mdHeading.FindAllStringSubmatch(mdFence.ReplaceAllString(page, ""), -1) {
		s := anchorOff.ReplaceAllString(strings.ToLower(strings.TrimSpace(h[1])), "")
		m[strings.ReplaceAll(s, " ", "-")] = true
	}
	return m
}

// TestFunctionsNamedInTheDocumentationExist checks references of the form `internal/agent/run.go:Run`, or with a type:
// `rats/result.go:Result.Verdict`.
func TestFunctionsNamedInTheDocumentationExist(t *testing.T) {
	have := make(map[string]bool)
	for _, s := range allSources(t) {
		for _, d := range s.AST.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				have[s.File+":"+receiver(d)+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						have[s.File+":"+spec.Name.Name] = true
					case *ast.ValueSpec:
						for _, name := range spec.Names {
							have[s.File+":"+name.Name] = true
						}
					}
				}
			}
		}
	}
	for file, text := range pages(t) {
		for _, m := range funcRef.FindAllStringSubmatch(text, -1) {
			if !have[m[1]+":"+m[2]] {
				t.Errorf("%s: %s:%s is not there (any more)", file, m[1], m[2])
			}
		}
	}
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	e := d.Recv.List[0].Type
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name + "."
	}
	return ""
}

var (
	requirement  = regexp.MustCompile(`\bR\d{3}\b`)
	securityRule = regexp.MustCompile(`\bS\d{2}\b`)
)

// TestRequirementsAndSecurityRulesThatAreCitedExist finds misspelt ids in comments and scripts.
func TestRequirementsAndSecurityRulesThatAreCitedExist(t *testing.T) {
	known := make(map[string]bool)
	for _, id := range requirement.FindAllString(readFile(t, "docs/requirements.md"), -1) {
		known[id] = true
	}
	for _, id := range securityRule.FindAllString(readFile(t, "docs/security-rules.md"), -1) {
		known[id] = true
	}
	check := func(file, text string) {
		for _, re := range []*regexp.Regexp{requirement, securityRule} {
			for _, id := range re.FindAllString(text, -1) {
				if !known[id] {
					t.Errorf("%s cites %s, which is neither in docs/requirements.md nor in docs/security-rules.md", file, id)
				}
			}
		}
	}
	for _, s := range allSources(t) {
		for _, group := range s.AST.Comments {
			check(s.File, group.Text())
		}
	}
	for file, text := range pages(t) {
		check(file, text)
	}
}

var dependencyRow = regexp.MustCompile("(?m)^\\| `([a-z0-9.]+\\.[a-z]+/[A-Za-z0-9./_-]+)` \\|")

func TestEveryDirectDependencyHasAReasonInTheArchitecture(t *testing.T) {
	rows := make(map[string]bool)
	for _, m := range dependencyRow.FindAllStringSubmatch(readFile(t, "ARCHITECTURE.md"), -1) {
		rows[m[1]] = true
	}
	direct := make(map[string]bool)
	for line := range strings.Lines(readFile(t, "go.mod")) {
		line = strings.TrimSpace(line)
		mod, _, ok := strings.Cut(line, " v")
		if !ok || strings.Contains(line, "// indirect") || strings.HasPrefix(line, "//") {
			continue
		}
		mod = strings.TrimPrefix(mod, "require ")
		direct[mod] = true
		if !rows[mod] {
			t.Errorf("go.mod needs %s, but ARCHITECTURE.md's table of dependencies gives no reason for it", mod)
		}
	}
	for mod := range rows {
		if !direct[mod] {
			t.Errorf("ARCHITECTURE.md gives a reason for %s, which go.mod doesn't need", mod)
		}
	}
}
