package house

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The sides of the house, as ARCHITECTURE.md's table of rooms writes them.
const (
	library  = "library" // public, pure Go, no device, no network (client excepted)
	node     = "node"    // runs where the evidence is made
	server   = "server"  // runs where it is judged
	both     = "both"    // a leaf that both sides use
	above    = "above"   // sees both sides: command line, simulator
	forTests = "test"    // for tests alone
)

// roomRow is a line of the table: | `internal/store` | server | what it is |
var roomRow = regexp.MustCompile("(?m)^\\| `([a-z0-9/_-]+)` \\| (library|node|server|both|above|test) \\| (.+) \\|$")

func rooms(t *testing.T) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for _, row := range roomRow.FindAllStringSubmatch(readFile(t, "ARCHITECTURE.md"), -1) {
		if _, twice := m[row[1]]; twice {
			t.Errorf("ARCHITECTURE.md: room %s stands twice in the table", row[1])
		}
		m[row[1]] = row[2]
	}
	return m
}

func TestEveryPackageHasARowInTheTableOfRoomsAndEveryRowAPackage(t *testing.T) {
	table := rooms(t)
	found := make(map[string]bool)
	for _, p := range allPackages(t) {
		found[p.Path] = true
		side, ok := table[p.Path]
		if !ok {
			t.Errorf("ARCHITECTURE.md: package %s has no row in the table of rooms (| `%s` | side | what it is |)", p.Path, p.Path)
			continue
		}
		public := !under(p.Path, "internal", "cmd", "test", "hack", "bench", "examples")
		if public != (side == library) {
			t.Errorf("ARCHITECTURE.md: %s is called %s, but its path says public=%t", p.Path, side, public)
		}
	}
	for room := range table {
		if !found[room] {
			t.Errorf("ARCHITECTURE.md: room %s has a row but no package", room)
		}
	}
}

func TestRatsImportsTheStandardLibraryOnly(t *testing.T) {
	for _, p := range allPackages(t) {
		if p.Path != "rats" {
			continue
		}
		for _, imp := range p.Imports {
			if strings.Contains(imp, ".") {
				t.Errorf("rats imports %s", imp)
			}
		}
	}
}

func TestAFormatNeverImportsAnotherFormat(t *testing.T) {
	allowed := []string{"rats", "evidence/dcap", "evidence/hcl", "enclave/abi", "plan"}
	for _, p := range allPackages(t) {
		if !under(p.Path, "evidence") || p.Path == "evidence/all" {
			continue
		}
		for _, imp := range p.Imports {
			dep, ok := inModule(imp)
			if ok && !slices.Contains(allowed, dep) && !under(dep, p.Path) {
				t.Errorf("%s imports %s; formats may import %v only", p.Path, dep, allowed)
			}
		}
	}
}

// outside are the standard packages that reach a device, a process or the network.
var outside = []string{"net", "net/http", "net/rpc", "net/smtp", "net/http/httptest", "os", "os/exec", "os/signal", "os/user", "syscall", "plugin", "C"}

func TestPublicPackagesReachNoInternalPackageNoDeviceAndNoNetwork(t *testing.T) {
	table := rooms(t)
	// The one public package that talks to the network, and what it may use of the list above (os and syscall: names of errors).
	network := map[string][]string{"client": {"net", "net/http", "os", "syscall"}}
	for _, p := range allPackages(t) {
		if table[p.Path] != library {
			continue
		}
		for _, dep := range p.Deps {
			if dep, ok := inModule(dep); ok && table[dep] != library {
				t.Errorf("public package %s depends on %s", p.Path, dep)
			}
		}
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, "golang.org/x/sys") || slices.Contains(outside, imp) && !slices.Contains(network[p.Path], imp) {
				t.Errorf("public package %s imports %s", p.Path, imp)
			}
		}
	}
}

func TestNodeSideAndServerSideNeverImportOneAnother(t *testing.T) {
	table := rooms(t)
	forbidden := map[string][]string{
		node:   {server, above, forTests},
		server: {node, above, forTests},
		both:   {node, server, above, forTests},
		above:  {forTests},
	}
	for _, p := range allPackages(t) {
		for _, dep := range p.Deps {
			if dep, ok := inModule(dep); ok && slices.Contains(forbidden[table[p.Path]], table[dep]) {
				t.Errorf("%s (%s side) depends on %s (%s side)", p.Path, table[p.Path], dep, table[dep])
			}
		}
	}
}

func TestTheCommandLineTalksToAServerThroughClientOnly(t *testing.T) {
	table := rooms(t)
	// What the command line may run in its own process: a server, and the collateral cache of the machine it runs on,
	// which needs no server.
	allowed := []string{"internal/server", "internal/endorse"}
	for _, p := range allPackages(t) {
		if !under(p.Path, "internal/cli", "internal/quickstart") {
			continue
		}
		for _, imp := range p.Imports {
			if dep, ok := inModule(imp); ok && table[dep] == server && !slices.Contains(allowed, dep) {
				t.Errorf("%s imports %s: every feature of the command line is a feature of the API, by way of client", p.Path, dep)
			}
		}
	}
}

func TestNoPackageIsADrawer(t *testing.T) {
	drawers := []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "types", "shared"}
	for _, p := range allPackages(t) {
		for element := range strings.SplitSeq(p.Path, "/") {
			if slices.Contains(drawers, element) {
				t.Errorf("package %s: %q says nothing about what is inside", p.Path, element)
			}
		}
	}
}

func TestNoCgo(t *testing.T) {
	for _, s := range allSources(t) {
		for _, spec := range s.AST.Imports {
			if spec.Path.Value == `"C"` {
				t.Errorf("%s imports C", s.File)
			}
		}
	}
}
