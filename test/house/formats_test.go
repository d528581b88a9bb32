package house

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"testing"
)

// formats returns the ids of the formats: the folders of evidence/ but the list itself and the code two formats share.
func formats(t *testing.T) []string {
	t.Helper()
	var ids []string
	for _, p := range allPackages(t) {
		if path.Dir(p.Path) == "evidence" && p.Path != "evidence/all" && p.Path != "evidence/dcap" && p.Path != "evidence/hcl" {
			ids = append(ids, path.Base(p.Path))
		}
	}
	return ids
}

// formatExceptions are the packages that import one format besides the two lists, and why. Adding a format must never
// add a line here.
var formatExceptions = map[string]string{
	"internal/identity": "joining proves a TPM by credential activation: it needs evidence/tpm's MakeCredential, Enrol and VerifyCertify",
}

func TestFormatsAreImportedByTheTwoListsOnly(t *testing.T) {
	needed := make(map[string]bool)
	for _, p := range allPackages(t) {
		if p.Path == "evidence/all" || p.Path == "internal/attesters" || under(p.Path, "test", "internal/testkit", "internal/fakevendor") {
			continue
		}
		for _, imp := range p.Imports {
			dep, ok := inModule(imp)
			if !ok || !under(dep, "evidence", "internal/attester") || dep == "evidence/all" || dep == "evidence/dcap" || dep == "evidence/hcl" {
				continue
			}
			if path.Base(dep) == path.Base(p.Path) && path.Dir(p.Path) == "internal/attester" || under(p.Path, dep) {
				continue // the node-side half of the same format
			}
			needed[p.Path] = true
			if formatExceptions[p.Path] == "" {
				t.Errorf("%s imports %s: formats are named in evidence/all and internal/attesters only", p.Path, dep)
			}
		}
	}
	for p := range formatExceptions {
		if !needed[p] && exists(p) {
			t.Errorf("the exception for %s is not needed any more", p)
		}
	}
}

func TestGenericCodeNamesNoFormat(t *testing.T) {
	ids := formats(t)
	generic := []string{
		"rats", "policy", "appraise", "refvalue", "result", "api", "client", "internal/broker", "internal/httpapi", "internal/cli",
		"internal/appraiser", "internal/node", "internal/server", "internal/refs", "internal/agent", "internal/quickstart",
	}
	// Words that are also something else than a format: a node's kind may be enclave.
	also := map[string]string{"internal/node": "enclave"}
	for _, s := range allSources(t) {
		if s.Test || !under(s.Dir, generic...) {
			continue
		}
		imports := make(map[*ast.BasicLit]bool)
		for _, spec := range s.AST.Imports {
			imports[spec.Path] = true
		}
		ast.Inspect(s.AST, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING || imports[lit] {
				return true
			}
			if v, err := strconv.Unquote(lit.Value); err == nil && slices.Contains(ids, v) && also[s.Dir] != v {
				t.Errorf("%s:%d: names the format %q; texts, sections and claims come from descriptors", s.File, s.line(lit.Pos()), v)
			}
			return true
		})
	}
}
