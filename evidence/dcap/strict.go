package dcap

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// object is a JSON object read strictly: names count letter by letter and none stands twice, which encoding/json
// doesn't see to. The first error sticks; after it every getter yields a zero.
type object struct {
	fields map[string]json.RawMessage
	path   string
	err    *error
}

// readObject splits the JSON object in raw into its fields, whose bytes are as received.
func readObject(raw []byte, path string, err *error) object {
	o := object{path: path, err: err}
	if *err != nil {
		return o
	}
	fields, problem := splitObject(raw)
	if problem != nil {
		o.fail("", "a JSON object", problem.Error())
		return o
	}
	o.fields = fields
	return o
}

const maxFields = 128

func splitObject(raw []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("no object")
	}
	fields := make(map[string]json.RawMessage)
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("broken JSON at byte %d", dec.InputOffset())
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("broken JSON at byte %d", dec.InputOffset())
		}
		if _, twice := fields[name]; twice || len(fields) >= maxFields {
			return nil, fmt.Errorf("field %s twice, or too many fields", strconv.Quote(clip(name)))
		}
		fields[name] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("broken JSON at byte %d", dec.InputOffset())
	}
	if rest := raw[dec.InputOffset():]; len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("bytes after the object")
	}
	return fields, nil
}

func (o object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

func (o object) fail(name, expected, seen string) {
	if *o.err == nil {
		*o.err = CodeCollateralMalformed.Bad(o.at(name), expected, clip(seen))
	}
}

func (o object) has(name string) bool { return o.fields[name] != nil }

func (o object) get(name, expected string, out any) {
	if *o.err != nil {
		return
	}
	raw, ok := o.fields[name]
	if !ok {
		o.fail(name, expected, "nothing")
		return
	}
	if bytes.Equal(raw, []byte("null")) || json.Unmarshal(raw, out) != nil {
		o.fail(name, expected, string(raw))
	}
}

func (o object) text(name string) string {
	var s string
	o.get(name, "text", &s)
	return s
}

func (o object) integer(name string, limit uint64) uint64 {
	var n uint64
	o.get(name, fmt.Sprintf("an integer from 0 to %d", limit), &n)
	if n > limit {
		o.fail(name, fmt.Sprintf("at most %d", limit), fmt.Sprint(n))
		return 0
	}
	return n
}

// hex reads exactly len(out) bytes.
func (o object) hex(name string, out []byte) {
	s := o.text(name)
	if *o.err != nil {
		return
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(out) {
		o.fail(name, fmt.Sprintf("%d hex digits", 2*len(out)), s)
		return
	}
	copy(out, b)
}

func (o object) time(name string) time.Time {
	s := o.text(name)
	if *o.err != nil {
		return time.Time{}
	}
	t, err := time.Parse("2006-01-02T15:04:05Z", s)
	if err != nil {
		o.fail(name, "a time such as 2026-01-02T15:04:05Z", s)
	}
	return t
}

func (o object) list(name string, limit int) []json.RawMessage {
	var l []json.RawMessage
	o.get(name, "a list", &l)
	if len(l) > limit {
		o.fail(name, fmt.Sprintf("at most %d entries", limit), fmt.Sprint(len(l)))
		return nil
	}
	return l
}

func (o object) texts(name string, limit int) []string {
	var out []string
	if !o.has(name) {
		return nil
	}
	for _, raw := range o.list(name, limit) {
		var s string
		if json.Unmarshal(raw, &s) != nil || len(s) > 128 {
			o.fail(name, "a list of texts", string(raw))
			return nil
		}
		out = append(out, s)
	}
	return out
}

func (o object) child(name string) object {
	if !o.has(name) {
		o.fail(name, "an object", "nothing")
	}
	return readObject(o.fields[name], o.at(name), o.err)
}

// clip bounds foreign text in reasons.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("?")))
}
