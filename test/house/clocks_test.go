package house

import (
	"go/ast"
	"slices"
	"testing"
)

// ambient are the functions and variables that reach for the process's own clock, randomness or network.
var ambient = map[string][]string{
	"time":        {"Now", "Since", "Until"},
	"crypto/rand": {"Reader", "Read", "Text"},
	"net":         {"Dial", "DialTimeout", "DialTCP", "DialUDP"},
	"crypto/tls":  {"Dial", "DialWithDialer"},
	"net/http":    {"Get", "Post", "PostForm", "Head", "DefaultClient", "DefaultTransport"},
}

// ambientExceptions are files that may reach for them, and why. cmd hands the real ones to everything else.
var ambientExceptions = map[string]string{
	"client/client.go":              "the library's documented default for callers that give no clock",
	"internal/agent/local.go":       "the agent's own socket on this machine",
	"internal/swtpmproc/process.go": "the control socket of its own child",
	"internal/httpapi/agents.go":    "deadlines of connections are kept by the runtime's clock",
	"internal/httpapi/handler.go":   "deadlines of connections are kept by the runtime's clock",
}

// TestClockRandomnessAndDialerAreInjected finds what a test could not replace.
func TestClockRandomnessAndDialerAreInjected(t *testing.T) {
	needed := make(map[string]bool)
	for _, s := range allSources(t) {
		if s.Test || s.AST.Name.Name == "main" || under(s.Dir, "test", "bench", "internal/testkit") {
			continue
		}
		names := s.imports()
		ast.Inspect(s.AST, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok || !slices.Contains(ambient[names[x.Name]], sel.Sel.Name) {
				return true
			}
			needed[s.File] = true
			if ambientExceptions[s.File] == "" {
				t.Errorf("%s:%d: %s.%s is not injected", s.File, s.line(sel.Pos()), x.Name, sel.Sel.Name)
			}
			return true
		})
	}
	for file := range ambientExceptions {
		if !needed[file] && exists(file) {
			t.Errorf("the exception for %s is not needed any more", file)
		}
	}
}
