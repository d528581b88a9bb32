package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

// TestMain makes this test binary the command that the scripts call.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"assay": func() {
			os.Exit(Main(context.Background(), Env{
				Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
				Now: time.Now, Rand: rand.Reader, Getenv: os.Getenv, Home: os.Getenv("HOME"), UID: os.Getuid(),
			}))
		},
	})
}

// TestScripts runs the scripts below testdata: the manual of the command line, as far as it needs no server.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return nil
		},
	})
}

func TestEveryCommandHasAShortTextAndAnExample(t *testing.T) {
	a := &app{env: Env{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}}
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() != "help" && (c.Short == "" || c.Example == "" || strings.HasSuffix(c.Short, ".")) {
			t.Errorf("%s: needs Short (no full stop) and Example", c.CommandPath())
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(a.root())
}

func TestTheReferencePageIsUpToDate(t *testing.T) {
	a := &app{env: Env{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}}
	var b bytes.Buffer
	writeReference(&b, a.root())
	got, err := os.ReadFile("../../docs/reference/cli.md")
	if err != nil || !bytes.Equal(got, b.Bytes()) {
		t.Errorf("docs/reference/cli.md is stale (%v): run `make generate` and commit it", err)
	}
}

func TestTextFromElsewhereCannotSteerTheTerminal(t *testing.T) {
	for in, want := range map[string]string{
		"web-1":                     "web-1",
		"/usr/bin/ls":               "/usr/bin/ls",
		"größe":                     "größe",
		"a\x1b[31mred":              `a\u001b[31mred`,
		"first\nsecond\tthird":      `first\u000asecond\u0009third`,
		"trusted\u202enot":          `trusted\u202enot`,
		"a\u2028b":                  `a\u2028b`,
		string([]byte{'x', 0xff}):   `x\ufffd`,
		"bell\a and carriage\rback": `bell\u0007 and carriage\u000dback`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, expected %q", in, got, want)
		}
	}
}
