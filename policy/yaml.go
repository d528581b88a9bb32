package policy

import (
	"bytes"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/rats"
)

const (
	maxDocument = 1 << 20
	maxDepth    = 32
)

// source is a parsed document: it finds the place of every field, and gathers what is wrong.
type source struct {
	nodes  map[string]*yaml.Node // by field path: "formats.tpm.pcrs.7", "rules[0].require"
	errors []rats.Reason
}

// parse reads the one YAML document in b. It returns nil if there is none worth looking at.
func parse(b []byte) (*source, *yaml.Node) {
	s := &source{nodes: make(map[string]*yaml.Node)}
	if len(b) > maxDocument {
		s.errors = append(s.errors, CodeDocumentSize.Refuse("document", fmt.Sprintf("at most %d bytes", maxDocument), fmt.Sprintf("%d bytes", len(b))))
		return s, nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		s.errors = append(s.errors, CodeDocumentSyntax.Refuse(lineOf(err), "one YAML mapping", yamlText(err)))
		return s, nil
	}
	if err := dec.Decode(&more); err == nil {
		s.errors = append(s.errors, CodeDocumentMultiple.Refuse(position(&more), "one document", "another one"))
		return s, nil
	} else if !errors.Is(err, io.EOF) {
		s.errors = append(s.errors, CodeDocumentSyntax.Refuse(lineOf(err), "the end", yamlText(err)))
		return s, nil
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		s.errors = append(s.errors, CodeDocumentSyntax.Refuse("line 1, column 1", "one YAML mapping", "something else"))
		return s, nil
	}
	s.walk(doc.Content[0], "", 0)
	return s, doc.Content[0]
}

// walk notes the place of every field below n and refuses what no section may contain.
func (s *source) walk(n *yaml.Node, path string, depth int) {
	s.nodes[path] = n
	switch {
	case depth > maxDepth:
		s.refuse(CodeDocumentDepth, n, path, fmt.Sprintf("at most %d levels", maxDepth), "more")
		return
	case n.Kind == yaml.AliasNode, n.Anchor != "", n.Style&yaml.TaggedStyle != 0:
		s.refuse(CodeDocumentAlias, n, path, "a value written out", clip(n.Value+n.Anchor))
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, c := range n.Content {
			s.walk(c, path+"["+strconv.Itoa(i)+"]", depth+1)
		}
	case yaml.MappingNode:
		seen := make(map[string]bool, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			at := join(path, k.Value)
			switch {
			case k.Kind != yaml.ScalarNode:
				s.refuse(CodeFieldType, k, path, "a plain key", "a list or mapping")
				continue
			case k.ShortTag() == "!!merge", k.Anchor != "", k.Style&yaml.TaggedStyle != 0:
				s.refuse(CodeDocumentAlias, k, path, "fields written out", clip(k.Value))
				continue
			case seen[k.Value]:
				s.refuse(CodeFieldDuplicate, k, at, "the field once", "twice")
				continue
			}
			seen[k.Value] = true
			s.walk(n.Content[i+1], at, depth+1)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func position(n *yaml.Node) string { return fmt.Sprintf("line %d, column %d", n.Line, n.Column) }

func clip(s string) string {
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return strconv.Quote(s)
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

func lineOf(err error) string {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		return "line " + m[1] + ", column 1"
	}
	return "line 1, column 1"
}

func yamlText(err error) string {
	if errors.Is(err, io.EOF) {
		return "an empty document"
	}
	return strings.TrimPrefix(err.Error(), "yaml: ")
}

// refuse notes an error at a node.
func (s *source) refuse(c rats.CodeInfo, n *yaml.Node, path, expected, seen string) {
	s.errors = append(s.errors, c.Refuse(s.place(n, path), expected, seen))
}

// refuseAt notes an error at a field path.
func (s *source) refuseAt(c rats.CodeInfo, path, expected, seen string) {
	s.errors = append(s.errors, c.Refuse(s.placeOf(path), expected, seen))
}

func (s *source) place(n *yaml.Node, path string) string {
	if path == "" {
		return position(n)
	}
	return position(n) + " (" + path + ")"
}

// placeOf returns line, column and path of a field, or of the nearest field around it that is there.
func (s *source) placeOf(path string) string {
	for p := path; ; {
		if n := s.nodes[p]; n != nil {
			return s.place(n, path)
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			break
		}
		p = p[:i]
	}
	if n := s.nodes[""]; n != nil {
		return s.place(n, path)
	}
	return path
}

func (s *source) has(path string) bool { return s.nodes[path] != nil }

var (
	nodeType     = reflect.TypeFor[yaml.Node]()
	durationType = reflect.TypeFor[time.Duration]()
	decimal      = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
)

// fill decodes n into v as encoding/json would, but strictly: fields must be known, values of the field's type.
// Durations are text (30s), byte slices lower-case hex; types with UnmarshalYAML or UnmarshalText read themselves.
func (s *source) fill(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		return // refused by walk
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		s.fill(n, v.Elem(), path)
		return
	}
	if s.fillSpecial(n, v, path) {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		s.fillStruct(n, v, path)
	case reflect.Map:
		s.fillMap(n, v, path)
	case reflect.Slice, reflect.Array:
		s.fillList(n, v, path)
	case reflect.Interface:
		if err := n.Decode(v.Addr().Interface()); err != nil {
			s.refuse(CodeFieldType, n, path, "a value", yamlText(err))
		}
	default:
		s.fillScalar(n, v, path)
	}
}

// fillSpecial handles types that don't decode by their kind, and says whether v is of one.
func (s *source) fillSpecial(n *yaml.Node, v reflect.Value, path string) bool {
	switch v.Type() {
	case nodeType:
		v.Set(reflect.ValueOf(*n))
		return true
	case durationType:
		d, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			s.refuse(CodeDurationBad, n, path, "a duration such as 30s", clip(n.Value))
		}
		v.SetInt(int64(d))
		return true
	}
	switch u := v.Addr().Interface().(type) {
	case yaml.Unmarshaler:
		s.refuseValue(u.UnmarshalYAML(n), n, path)
		return true
	case interface{ UnmarshalYAML(func(any) error) error }:
		s.refuseValue(u.UnmarshalYAML(func(out any) error { return s.try(n, out, path) }), n, path)
		return true
	case encoding.TextUnmarshaler:
		if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
			s.refuse(CodeFieldType, n, path, "text", kindOf(n))
		} else {
			s.refuseValue(u.UnmarshalText([]byte(n.Value)), n, path)
		}
		return true
	}
	if v.Kind() == reflect.Slice && v.Type().Elem() == reflect.TypeFor[byte]() {
		b, err := hex.DecodeString(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || strings.ToLower(n.Value) != n.Value {
			s.refuse(CodeFieldValue, n, path, "lower-case hex digits", clip(n.Value))
		}
		v.SetBytes(b)
		return true
	}
	return false
}

// refuseValue notes the error of a type that read itself: with its own reason, if it has one.
func (s *source) refuseValue(err error, n *yaml.Node, path string) {
	if err == nil {
		return
	}
	if r, ok := rats.ReasonOf(err); ok {
		if !strings.HasPrefix(r.Path, "line ") {
			r.Path = s.place(n, path)
		}
		s.errors = append(s.errors, r)
		return
	}
	s.refuse(CodeFieldValue, n, path, "an acceptable value", yamlText(err))
}

// try fills out, as strictly as everything else, for a type that reads itself and may try several forms. Its error is
// the first thing that is wrong.
func (s *source) try(n *yaml.Node, out any, path string) error {
	v := reflect.ValueOf(out)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("decoding into a %T", out)
	}
	own := &source{nodes: s.nodes}
	own.fill(n, v.Elem(), path)
	if len(own.errors) > 0 {
		return &rats.BadEvidence{Reason: own.errors[0]}
	}
	return nil
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "the bool " + clip(n.Value)
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	}
	return "the text " + clip(n.Value)
}

func (s *source) fillStruct(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		s.refuse(CodeFieldType, n, path, "a mapping", kindOf(n))
		return
	}
	fields := make(map[string]reflect.Value)
	yamlFields(v, fields)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		f, ok := fields[k.Value]
		if !ok {
			s.refuse(CodeFieldUnknown, k, join(path, k.Value), "one of "+strings.Join(keysOf(fields), ", "), clip(k.Value))
			continue
		}
		s.fill(n.Content[i+1], f, join(path, k.Value))
	}
}

// yamlFields lists the fields of a struct by the names that package yaml would give them.
func yamlFields(v reflect.Value, out map[string]reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case slices.Contains(strings.Split(opts, ","), "inline") && f.Type.Kind() == reflect.Struct:
			yamlFields(v.Field(i), out)
		case name == "":
			out[strings.ToLower(f.Name)] = v.Field(i)
		default:
			out[name] = v.Field(i)
		}
	}
}

func keysOf[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (s *source) fillMap(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		s.refuse(CodeFieldType, n, path, "a mapping", kindOf(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, at := n.Content[i], join(path, n.Content[i].Value)
		key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		before := len(s.errors)
		s.fill(k, key, at)
		if len(s.errors) > before {
			continue
		}
		if v.MapIndex(key).IsValid() {
			s.refuse(CodeFieldDuplicate, k, at, "the key once", "twice")
			continue
		}
		s.fill(n.Content[i+1], elem, at)
		v.SetMapIndex(key, elem)
	}
}

func (s *source) fillList(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		s.refuse(CodeFieldType, n, path, "a list", kindOf(n))
		return
	}
	if v.Kind() == reflect.Array && v.Len() != len(n.Content) {
		s.refuse(CodeFieldType, n, path, fmt.Sprintf("a list of %d", v.Len()), fmt.Sprintf("a list of %d", len(n.Content)))
		return
	}
	if v.Kind() == reflect.Slice {
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	}
	for i, c := range n.Content {
		s.fill(c, v.Index(i), path+"["+strconv.Itoa(i)+"]")
	}
}

func (s *source) fillScalar(n *yaml.Node, v reflect.Value, path string) {
	want, ok := "a value this program understands", false
	tag := n.ShortTag()
	switch v.Kind() {
	case reflect.String:
		// Digits alone are text too: nobody quotes a hash that happens to hold no letter.
		want, ok = "text", tag != "!!bool" && tag != "!!null"
	case reflect.Bool:
		want, ok = "true or false", tag == "!!bool"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		want, ok = "a whole decimal number", tag == "!!int" && decimal.MatchString(n.Value)
	case reflect.Float32, reflect.Float64:
		want, ok = "a number", tag == "!!int" || tag == "!!float"
	}
	if n.Kind != yaml.ScalarNode || !ok {
		s.refuse(CodeFieldType, n, path, want, kindOf(n))
		return
	}
	if v.Kind() == reflect.String {
		v.SetString(n.Value)
		return
	}
	if err := n.Decode(v.Addr().Interface()); err != nil {
		s.refuse(CodeFieldType, n, path, want+" within its bounds", kindOf(n))
	}
}
