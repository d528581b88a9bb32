package quickstart

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/assay-attest/assay/rats"
)

// tree is one directory that is measured.
type tree struct {
	Dir     string
	Exclude []string // what this user can't read, and what would make the tree too big
	count   int
	bytes   int64
}

// files is everything that is measured.
type files struct {
	trees []tree
	count int
}

func (f files) roots() []string {
	out := make([]string, len(f.trees))
	for i, t := range f.trees {
		out[i] = t.Dir
	}
	return out
}

// The bounds of a directory that is measured only to reach MinFiles, and of what is left out of one.
const (
	maxFillFiles = 4000
	maxFillBytes = 256 << 20
	maxExcludes  = 200
)

// findFiles takes /usr/bin, /usr/sbin, /etc and the scratch directory, and if those hold too few files, directories below
// /usr/share and /usr/lib until there are enough.
func findFiles(scratch string) (files, error) {
	var f files
	for _, dir := range []string{scratch, "/usr/bin", "/usr/sbin", "/etc"} {
		t, err := look(dir)
		if err != nil {
			return f, err
		}
		f.add(t)
	}
	for _, parent := range []string{"/usr/share", "/usr/lib"} {
		children, err := os.ReadDir(parent)
		if err != nil {
			continue // a machine without it has enough elsewhere, or the end of this function says so
		}
		for _, c := range children {
			if f.count >= MinFiles+MinFiles/20 { // a few may change or vanish before they are captured
				return f, nil
			}
			if !c.IsDir() {
				continue
			}
			t, err := look(filepath.Join(parent, c.Name()))
			if err == nil && t.count >= 20 && t.count <= maxFillFiles && t.bytes <= maxFillBytes {
				f.add(t)
			}
		}
	}
	if f.count < MinFiles {
		return f, fmt.Errorf("looking for files to measure: %d, expected %d or more", f.count, MinFiles)
	}
	return f, nil
}

func (f *files) add(t tree) {
	if t.count > 0 && len(t.Exclude) <= maxExcludes {
		f.trees = append(f.trees, t)
		f.count += t.count
	}
}

// look counts what can be read below a directory, and names what can't.
func look(dir string) (tree, error) {
	t := tree{Dir: dir}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path == dir {
				return err
			}
			t.exclude(path)
			return skip(d)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		h, err := os.Open(path)
		if err != nil {
			t.exclude(path)
			return nil
		}
		defer h.Close()
		if info, err := h.Stat(); err == nil {
			t.bytes += info.Size()
		}
		t.count++
		return nil
	})
	if err != nil {
		return t, fmt.Errorf("looking for files to measure: %w", err)
	}
	return t, nil
}

func skip(d fs.DirEntry) error {
	if d != nil && d.IsDir() {
		return fs.SkipDir
	}
	return nil
}

func (t *tree) exclude(path string) {
	t.Exclude = append(t.Exclude, rats.EscapePath([]byte(path)))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

//go:embed policy.yaml.tmpl
var policyTemplate string

// policyDocument makes the policy of the quickstart.
func policyDocument(f files, cas [][]byte, mrenclave string) ([]byte, error) {
	t, err := template.New("policy").Funcs(template.FuncMap{"quote": quote, "list": quoted}).Parse(policyTemplate)
	if err != nil {
		return nil, fmt.Errorf("parsing the policy's template: %w", err)
	}
	data := struct {
		Name, Selector, Set string
		Trees               []tree
		CAs                 []string
		MRENCLAVE           string // "": the agent measures in its own process
	}{policyName, rule, setName, f.trees, nil, mrenclave}
	for _, der := range cas {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		data.CAs = append(data.CAs, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n        "))
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("making the policy: %w", err)
	}
	return b.Bytes(), nil
}

// quote makes a YAML string: JSON's are.
func quote(s string) (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

func quoted(list []string) string {
	parts := make([]string, len(list))
	for i, s := range list {
		parts[i], _ = quote(s) // a string always encodes
	}
	return strings.Join(parts, ", ")
}
