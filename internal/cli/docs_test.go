package cli

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	fence   = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$")
	command = regexp.MustCompile(`(?m)(?:^|[ $(|&])assay ((?:[a-z-]+ ?)+)(.*)$`)
	flagArg = regexp.MustCompile(`(?:^|\s)(--?[a-z][a-z-]*)`)
)

// TestCommandsInTheDocumentationExist finds commands and flags in code blocks of the documentation that this binary
// doesn't have.
func TestCommandsInTheDocumentationExist(t *testing.T) {
	const root = "../.."
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != root || d.Name() == "reference") {
			return filepath.SkipDir
		}
		if filepath.Ext(file) != ".md" {
			return nil
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, block := range fence.FindAllSubmatch(b, -1) {
			text := strings.ReplaceAll(string(block[1]), "\\\n", " ")
			for line := range strings.Lines(text) {
				line, _, _ = strings.Cut(line, " #")
				if m := command.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
					checkCommand(t, file, m[1], m[2])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkCommand(t *testing.T, file, words, rest string) {
	t.Helper()
	a := &app{env: Env{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}}
	c, left, err := a.root().Find(strings.Fields(words))
	if err != nil || c.Parent() == nil || c.HasSubCommands() && len(left) > 0 {
		t.Errorf("%s: there is no command `assay %s`", file, strings.TrimSpace(words))
		return
	}
	rest, _, _ = strings.Cut(rest, "|")
	for _, m := range flagArg.FindAllStringSubmatch(rest, -1) {
		name := strings.TrimLeft(m[1], "-")
		found := c.Flag(name) != nil || c.InheritedFlags().Lookup(name) != nil
		if !found && len(name) == 1 {
			found = c.Flags().ShorthandLookup(name) != nil || c.InheritedFlags().ShorthandLookup(name) != nil
		}
		if !found {
			t.Errorf("%s: `%s` has no flag %s", file, c.CommandPath(), m[1])
		}
	}
}
