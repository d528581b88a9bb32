package conformance

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// where are the claims that a fact of another name stands in, by format.
var where = map[string]map[string]string{
	"sgx": {"quote_version": "quote_version", "fmspc": "fmspc"},
}

// fact finds a fact in the claims: by its own name, or by the one the format has for it, wherever it stands.
func fact(format, name string, claims any, v verdict) (any, bool) {
	key := name
	if k, ok := where[format][name]; ok {
		key = k
	}
	var doc any = claims
	for part := range strings.SplitSeq(key, ".") {
		found, ok := find(doc, part)
		if !ok {
			return nil, false
		}
		doc = found
	}
	return doc, true
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
	a, b := text(want), text(got)
	if strings.EqualFold(a, b) {
		return true
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
