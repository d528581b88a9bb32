package conformance

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"
)

// where are the claims that a fact of another name stands in, by format.
var where = map[string]map[string]string{
	"tdx": {
		"rtmr0": "rtmrs.0", "rtmr1": "rtmrs.1", "rtmr2": "rtmrs.2", "rtmr3": "rtmrs.3",
		"tcb_date": "tcb.date", "tcb_evaluation_data_number": "evaluation_data_number",
	},
	"eventlog": {"secure_boot": "secure_boot.enabled"},
	"ccel":     {"secure_boot": "secure_boot.enabled"},
	"ima": {
		"entries": "count", "violations": "violated", "file_digest_algorithm": "algorithms",
	},
}

// fact finds a fact in the claims: by its own name, or by the one the format has for it, wherever it stands. What a case
// says about the recording and not about its content isn't compared.
func (r *runner) fact(name string, claims any, v verdict) (got any, compared bool) {
	switch {
	case name == "registers": // whether the expected registers were recorded or computed
		return nil, false
	case r.c.Format == "ccel" && strings.HasPrefix(name, "rtmr"):
		return register(claims, int(name[4]-'0')+1), true
	case r.c.Format == "ima" && strings.HasPrefix(name, "pcr10_"), name == "template_digests_ok":
		return nil, false // compared by replaying to them
	case name == "secureboot_variable_data_length":
		if logged, _ := find(claims, "logged"); logged == false { // the variable is there without a value
			return 0.0, true
		}
		return "some", true
	case name == "report_signature_ok":
		return v.Genuine, true
	case name == "host_data_is_sha256_of":
		path, _, _ := strings.Cut(text(r.c.Expect.Facts[name]), " ")
		return r.isHash(path, claims), true
	}
	key := name
	if k, ok := where[r.c.Format][name]; ok {
		key = k
	}
	doc := claims
	for part := range strings.SplitSeq(key, ".") {
		doc, _ = find(doc, part)
	}
	return doc, true
}

// register returns a register's value out of the claims of a log.
func register(claims any, index int) any {
	list, _ := find(claims, "registers")
	all, _ := list.([]any)
	for _, e := range all {
		if m, ok := e.(map[string]any); ok && m["index"] == float64(index) {
			return m["value"]
		}
	}
	return nil
}

// isHash returns the fact's own text if the host data is the hash of that file's content.
func (r *runner) isHash(path string, claims any) any {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, path))
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		r.t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	if have, _ := find(claims, "host_data"); have == hex.EncodeToString(sum[:]) {
		return r.c.Expect.Facts["host_data_is_sha256_of"]
	}
	return "another file"
}

// find looks for a name in an object and what is below it, the nearest first.
func find(v any, name string) (any, bool) {
	level := []any{v}
	for len(level) > 0 {
		var next []any
		for _, v := range level {
			switch v := v.(type) {
			case map[string]any:
				if got, ok := v[name]; ok {
					return got, true
				}
				for _, e := range v {
					next = append(next, e)
				}
			}
		}
		level = next
	}
	return nil, false
}

// same compares a fact with what was found: text without regard to case, times as moments.
func same(_ string, want, got any) bool {
	if reflect.DeepEqual(want, got) {
		return true
	}
	if list, ok := got.([]any); ok && len(list) == 1 && reflect.TypeOf(want).Kind() == reflect.String {
		got = list[0]
	}
	a, b := text(want), text(got)
	if strings.EqualFold(a, b) {
		return true
	}
	if _, err := time.Parse("2006-01-02T15:04:05", a); err == nil {
		a += "Z" // of a service that names no zone and means UTC
	}
	ta, err1 := time.Parse(time.RFC3339, a)
	tb, err2 := time.Parse(time.RFC3339, b)
	return err1 == nil && err2 == nil && ta.Equal(tb)
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
