package refvalue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Parse reads the native form:
//
//	{"type":"assay/refset/1","name":"lab","source":"…","created":"2030-01-31T00:00:00Z","expires":"…",
//	 "entries":[{"name":"/usr/bin/ls","digests":["sha256:…"],"size":138208}]}
//
// It is one pass over the bytes, without a tree. Unknown and doubled fields, names out of order, entries without digests,
// empty sets and trailing bytes are refused; fields may come in any order, source, expires, timing (see WithWindows) and size may be absent.
// Errors are *rats.BadEvidence with one of this package's codes.
func Parse(b []byte) (*Set, error) {
	if len(b) > MaxBytes {
		return nil, CodeSetBounds.Bad("set", fmt.Sprintf("at most %d bytes", MaxBytes), fmt.Sprint(len(b)))
	}
	p := &parser{b: b}
	s := &Set{}
	err := p.object("", map[string]func(string) error{
		"type": func(path string) error {
			t, err := p.text(path)
			if err == nil && t != TypeSet {
				return CodeSetType.Bad(path, TypeSet, quote(t))
			}
			return err
		},
		"name":    func(path string) (err error) { s.head.Name, err = p.text(path); return err },
		"source":  func(path string) (err error) { s.head.Source, err = p.text(path); return err },
		"created": func(path string) (err error) { s.head.Created, err = p.time(path); return err },
		"expires": func(path string) (err error) { s.head.Expires, err = p.time(path); return err },
		"timing":  func(path string) (err error) { s.windows, err = p.windows(path); return err },
		"entries": func(path string) error {
			return p.array(path, func(path string) error { return p.entry(s, path) })
		},
	}, "type", "name", "created", "entries")
	if err != nil {
		return nil, err
	}
	if p.space(); p.at != len(b) {
		return nil, p.syntax("the end")
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	return s, nil
}

// Encode returns the canonical native form: fields in the order of the type, one entry per line. It is what Parse
// accepts, and equal sets have equal bytes.
func (s *Set) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"type\":%s,\"name\":%s", jsonText(TypeSet), jsonText(s.head.Name))
	if s.head.Source != "" {
		fmt.Fprintf(&b, ",\"source\":%s", jsonText(s.head.Source))
	}
	fmt.Fprintf(&b, ",\"created\":%s", jsonText(s.head.Created.Format(time.RFC3339)))
	if !s.head.Expires.IsZero() {
		fmt.Fprintf(&b, ",\"expires\":%s", jsonText(s.head.Expires.Format(time.RFC3339)))
	}
	if s.windows != nil {
		encodeWindows(&b, s.windows)
	}
	b.WriteString(",\"entries\":[")
	for i, n := range s.names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n{\"name\":")
		b.Write(jsonText(n))
		b.WriteString(",\"digests\":[")
		for j, d := range s.digests(i) {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteByte('"')
			b.WriteString(d.String())
			b.WriteByte('"')
		}
		b.WriteByte(']')
		if s.sizes[i] != 0 {
			b.WriteString(",\"size\":")
			b.WriteString(strconv.FormatInt(s.sizes[i], 10))
		}
		b.WriteByte('}')
	}
	b.WriteString("\n]}\n")
	return b.Bytes()
}

func jsonText(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return bytes.TrimRight(b.Bytes(), "\n")
}

// parser reads the JSON of the native form. encoding/json would accept doubled fields and fields in another case.
type parser struct {
	b  []byte
	at int
}

func (p *parser) space() {
	for p.at < len(p.b) {
		switch p.b[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) syntax(expected string) error {
	seen := "the end"
	if p.at < len(p.b) {
		seen = quote(string(p.b[p.at:min(len(p.b), p.at+20)]))
	}
	return CodeSetSyntax.Bad(fmt.Sprintf("byte %d", p.at), expected, seen)
}

func (p *parser) token(c byte) bool {
	p.space()
	if p.at < len(p.b) && p.b[p.at] == c {
		p.at++
		return true
	}
	return false
}

// list reads elements, separated by commas, between two brackets.
func (p *parser) list(left, right byte, element func() error) error {
	if !p.token(left) {
		return p.syntax(string(left))
	}
	if p.token(right) {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if p.token(right) {
			return nil
		}
		if !p.token(',') {
			return p.syntax("a comma or " + string(right))
		}
	}
}

func (p *parser) array(path string, element func(path string) error) error {
	i := -1
	return p.list('[', ']', func() error {
		i++
		return element(path + "[" + strconv.Itoa(i) + "]")
	})
}

func (p *parser) object(path string, fields map[string]func(path string) error, required ...string) error {
	seen := make(map[string]bool, len(fields))
	err := p.list('{', '}', func() error {
		p.space()
		key, err := p.text(path)
		if err != nil {
			return err
		}
		read, ok := fields[key]
		if !ok || seen[key] {
			return CodeSetField.Bad(join(path, key), "a known field, once", quote(key))
		}
		seen[key] = true
		if !p.token(':') {
			return p.syntax("a colon")
		}
		return read(join(path, key))
	})
	if err != nil {
		return err
	}
	for _, key := range required {
		if !seen[key] {
			return CodeSetField.Bad(join(path, key), "the field", "none")
		}
	}
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// entry reads one entry into the set. It is object() unrolled: two million entries must not make two million maps.
func (p *parser) entry(s *Set, path string) error {
	if len(s.names) >= MaxEntries {
		return CodeSetBounds.Bad("entries", fmt.Sprintf("at most %d entries", MaxEntries), "more")
	}
	var e Entry
	var name, digests, size bool
	err := p.list('{', '}', func() error {
		p.space()
		key, err := p.text(path)
		if err != nil {
			return err
		}
		if key == "name" && name || key == "digests" && digests || key == "size" && size {
			return CodeSetField.Bad(join(path, key), "a field once", "twice")
		}
		if !p.token(':') {
			return p.syntax("a colon")
		}
		switch key {
		case "name":
			name = true
			e.Name, err = p.text(path)
		case "digests":
			digests = true
			err = p.list('[', ']', func() error { return p.digest(&e, path) })
		case "size":
			size = true
			e.Size, err = p.number()
		default:
			err = CodeSetField.Bad(join(path, key), "name, digests or size", quote(key))
		}
		return err
	})
	if err != nil {
		return err
	}
	if !name || !digests {
		return CodeSetField.Bad(path, "the fields name and digests", "one is missing")
	}
	return s.add(e, path)
}

func (p *parser) digest(e *Entry, path string) error {
	if len(e.Digests) >= MaxDigests {
		return CodeEntryDigest.Bad(path+".digests", fmt.Sprintf("1 to %d digests", MaxDigests), "more")
	}
	t, err := p.text(path)
	if err != nil {
		return err
	}
	d, err := rats.ParseDigest(t)
	if err != nil {
		return CodeEntryDigest.Bad(fmt.Sprintf("%s.digests[%d]", path, len(e.Digests)), "alg:hex, lower case", err.Error())
	}
	e.Digests = append(e.Digests, d)
	return nil
}

// text reads a JSON string.
func (p *parser) text(path string) (string, error) {
	p.space()
	if p.at >= len(p.b) || p.b[p.at] != '"' {
		return "", p.syntax("a string (" + path + ")")
	}
	plain := true
	for i := p.at + 1; i < len(p.b); i++ {
		switch c := p.b[i]; {
		case c == '\\':
			plain = false
			i++
		case c < 0x20:
			return "", p.syntax("a string without control bytes (" + path + ")")
		case c >= 0x7f:
			plain = false
		case c == '"':
			raw := p.b[p.at : i+1]
			if plain {
				p.at = i + 1
				return string(raw[1 : len(raw)-1]), nil
			}
			return p.escaped(raw, path)
		}
	}
	return "", p.syntax("a string that ends (" + path + ")")
}

// escaped reads a string with escapes or other than ASCII. Bytes that JSON would replace are refused: the name that is
// looked up must be the name that was written.
func (p *parser) escaped(raw []byte, path string) (string, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil || bytes.ContainsRune(raw, '\uFFFD') || containsReplacement(s) {
		return "", p.syntax("a string of valid UTF-8 (" + path + ")")
	}
	p.at += len(raw)
	return s, nil
}

func containsReplacement(s string) bool {
	for _, r := range s {
		if r == '\uFFFD' {
			return true
		}
	}
	return false
}

// number reads a non-negative integer below 2^53, without sign, fraction or exponent.
func (p *parser) number() (int64, error) {
	p.space()
	from := p.at
	for p.at < len(p.b) && p.b[p.at] >= '0' && p.b[p.at] <= '9' {
		p.at++
	}
	digits := string(p.b[from:p.at])
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n >= 1<<53 || len(digits) > 1 && digits[0] == '0' {
		p.at = from
		return 0, p.syntax("a whole number below 2^53")
	}
	return n, nil
}

func (p *parser) time(path string) (time.Time, error) {
	t, err := p.text(path)
	if err != nil {
		return time.Time{}, err
	}
	at, err := time.Parse("2006-01-02T15:04:05Z", t)
	if err != nil || at.IsZero() || at.Nanosecond() != 0 {
		return time.Time{}, CodeSetTime.Bad(path, "UTC RFC 3339 in whole seconds", quote(t))
	}
	return at, nil
}
