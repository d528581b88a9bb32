package rats

import (
	"reflect"
	"strings"
	"time"
)

// The kinds of a Schema.
const (
	KindBool      = "bool"
	KindInt       = "int"
	KindUint      = "uint"
	KindDouble    = "double"
	KindString    = "string"
	KindBytes     = "bytes"
	KindTimestamp = "timestamp"
	KindDuration  = "duration"
	KindList      = "list"
	KindMap       = "map" // keys are strings
	KindObject    = "object"
	KindAny       = "any"
)

// Schema describes the shape of a format's claims, derived from their Go struct: what conditions may name.
type Schema struct {
	Name     string             // of an object: the Go type's name
	Kind     string             // one of the Kind constants
	Optional bool               // the field may be absent (omitempty, or a pointer)
	Fields   map[string]*Schema // of an object, by JSON name
	Elem     *Schema            // of a list or map
}

var (
	timeType     = reflect.TypeFor[time.Time]()
	durationType = reflect.TypeFor[time.Duration]()
	digestType   = reflect.TypeFor[Digest]()
)

// SchemaOf returns the schema of claims. Digests are strings, byte slices bytes, integer-keyed maps are maps with
// decimal keys (as in JSON).
func SchemaOf(c Claims) *Schema { return schemaOf(reflect.TypeOf(c)) }

func schemaOf(t reflect.Type) *Schema {
	switch t {
	case timeType:
		return &Schema{Kind: KindTimestamp}
	case durationType:
		return &Schema{Kind: KindDuration}
	case digestType:
		return &Schema{Kind: KindString}
	}
	switch t.Kind() {
	case reflect.Pointer:
		s := schemaOf(t.Elem())
		s.Optional = true
		return s
	case reflect.Bool:
		return &Schema{Kind: KindBool}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &Schema{Kind: KindInt}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &Schema{Kind: KindUint}
	case reflect.Float32, reflect.Float64:
		return &Schema{Kind: KindDouble}
	case reflect.String:
		return &Schema{Kind: KindString}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return &Schema{Kind: KindBytes}
		}
		return &Schema{Kind: KindList, Elem: schemaOf(t.Elem())}
	case reflect.Map:
		return &Schema{Kind: KindMap, Elem: schemaOf(t.Elem())}
	case reflect.Struct:
		return objectOf(t)
	default:
		return &Schema{Kind: KindAny}
	}
}

func objectOf(t reflect.Type) *Schema {
	s := &Schema{Name: t.Name(), Kind: KindObject, Fields: map[string]*Schema{}}
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fs := schemaOf(f.Type)
		if strings.Contains(opts, "omitempty") || strings.Contains(opts, "omitzero") {
			fs.Optional = true
		}
		s.Fields[name] = fs
	}
	return s
}
