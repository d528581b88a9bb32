package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/rats"
)

// The values of --output.
const (
	outputTable = "table"
	outputJSON  = "json"
	outputYAML  = "yaml"
)

// show prints a result on standard output: v as JSON or YAML, or what table writes for people.
func (a *app) show(v any, table func(io.Writer)) error {
	switch a.flags.output {
	case outputJSON:
		enc := json.NewEncoder(a.env.Out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case outputYAML:
		return writeYAML(a.env.Out, v)
	default:
		w := tabwriter.NewWriter(a.env.Out, 0, 4, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
}

// done says on standard error that something without a result was done.
func (a *app) done(format string, args ...any) {
	fmt.Fprintf(a.env.Err, format+"\n", args...)
}

// writeYAML writes v with the names and the order of its JSON.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("turning the answer into YAML: %w", err)
	}
	blockStyle(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return err
	}
	return enc.Close()
}

func blockStyle(n *yaml.Node) {
	if n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Style == yaml.DoubleQuotedStyle {
		n.Style = 0 // quoted again by the encoder where YAML would read something else
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// row writes one line of a table; cells from elsewhere can't break out of it.
func row(w io.Writer, cells ...string) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		if c == "" {
			c = "-"
		}
		fmt.Fprint(w, clean(c))
	}
	fmt.Fprintln(w)
}

// clean makes text from elsewhere harmless on a terminal: control characters, direction marks and line breaks show as
// escapes.
func clean(s string) string {
	bad := func(r rune) bool {
		return unicode.Is(unicode.C, r) || r == unicode.ReplacementChar || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)
	}
	if strings.IndexFunc(s, bad) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if bad(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// short cuts a digest for a table.
func short(d rats.Digest) string {
	s := d.String()
	if alg, sum, ok := strings.Cut(s, ":"); ok && len(sum) > 12 {
		return alg + ":" + sum[:12]
	}
	return s
}

// ago says how long ago t was, and in how long it will be: "3m ago", "in 20s".
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := a.env.Now().Sub(t)
	if d < 0 {
		return "in " + brief(-d)
	}
	return brief(d) + " ago"
}

// brief is a duration by its largest unit or two.
func brief(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// at is a moment for people, in UTC as everywhere else.
func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// labels prints labels in the order of their names.
func labels(m map[string]string) string {
	parts := make([]string, 0, len(m))
	for _, k := range sortedKeys(m) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}
