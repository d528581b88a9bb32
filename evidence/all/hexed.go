package all

import (
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"unicode"
)

// decoded is a binary structure for people, of something that can be open to a debugger.
type decoded struct {
	fields any
	debug  bool
}

func decodedAs(v any, debug bool) decoded { return decoded{hexed(v), debug} }

// MarshalJSON implements json.Marshaler.
func (d decoded) MarshalJSON() ([]byte, error) { return json.Marshal(d.fields) }

// DebugEnabled says what the structure says.
func (d decoded) DebugEnabled() bool { return d.debug }

// hexed returns a copy of a structure for people: fields by their names in snake case, bytes in hex. Binary structures
// have no json tags.
func hexed(v any) any { return hexedValue(reflect.ValueOf(v), 0) }

const maxHexedDepth = 8

func hexedValue(v reflect.Value, depth int) any {
	if !v.IsValid() || depth > maxHexedDepth {
		return nil
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return hexedValue(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(b), v)
			return hex.EncodeToString(b)
		}
		out := make([]any, v.Len())
		for i := range out {
			out[i] = hexedValue(v.Index(i), depth+1)
		}
		return out
	case reflect.Struct:
		out := make(map[string]any)
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				out[snake(f.Name)] = hexedValue(v.Field(i), depth+1)
			}
		}
		return out
	case reflect.String:
		return v.String()
	case reflect.Bool:
		return v.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return v.Uint()
	}
	return nil
}

// snake turns ISVProdID into isv_prod_id and MRENCLAVE into mrenclave.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		boundary := i > 0 && unicode.IsUpper(r) &&
			(unicode.IsLower(runes[i-1]) || unicode.IsDigit(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]) && unicode.IsUpper(runes[i-1]))
		if boundary {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
