package policy

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/assay-attest/assay/rats"
)

// shape is a schema with what CEL needs: the CEL type, and how to reach the fields of the Go struct.
type shape struct {
	kind   string
	typ    *types.Type
	elem   *shape
	name   string            // of an object: its CEL type name
	fields map[string]*field // of an object, by JSON name
	digest bool
}

type field struct {
	*shape
	index    int
	optional bool
}

// shapes knows the object types of an environment. It is CEL's type provider: a misspelt field is unknown to it, so
// the condition doesn't compile.
type shapes struct {
	*types.Registry
	objects map[string]*shape
}

func newShapes() (*shapes, error) {
	r, err := types.NewRegistry()
	return &shapes{Registry: r, objects: make(map[string]*shape)}, err
}

var digestType = reflect.TypeFor[rats.Digest]()

// add makes the shape of a Go type whose schema is s. Objects get the name given; object types below it that name, a
// dot, and their field.
func (p *shapes) add(t reflect.Type, s *rats.Schema, name string) *shape {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	sh := &shape{kind: s.Kind, digest: t == digestType}
	switch s.Kind {
	case rats.KindBool:
		sh.typ = types.BoolType
	case rats.KindInt:
		sh.typ = types.IntType
	case rats.KindUint:
		sh.typ = types.UintType
	case rats.KindDouble:
		sh.typ = types.DoubleType
	case rats.KindString:
		sh.typ = types.StringType
	case rats.KindBytes:
		sh.typ = types.BytesType
	case rats.KindTimestamp:
		sh.typ = types.TimestampType
	case rats.KindDuration:
		sh.typ = types.DurationType
	case rats.KindList:
		sh.elem = p.add(t.Elem(), s.Elem, name)
		sh.typ = types.NewListType(sh.elem.typ)
	case rats.KindMap:
		sh.elem = p.add(t.Elem(), s.Elem, name)
		sh.typ = types.NewMapType(types.StringType, sh.elem.typ)
	case rats.KindObject:
		p.addObject(t, s, name, sh)
	default:
		sh.typ = types.DynType
	}
	return sh
}

func (p *shapes) addObject(t reflect.Type, s *rats.Schema, name string, sh *shape) {
	sh.name, sh.fields = name, make(map[string]*field, len(s.Fields))
	sh.typ = types.NewObjectType(name, traits.FieldTesterType|traits.IndexerType)
	p.objects[name] = sh
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if key == "" {
			key = f.Name
		}
		fs, ok := s.Fields[key]
		if !ok || !f.IsExported() {
			continue
		}
		sh.fields[key] = &field{shape: p.add(f.Type, fs, name+"."+key), index: i, optional: fs.Optional}
	}
}

// FindStructType implements types.Provider.
func (p *shapes) FindStructType(name string) (*types.Type, bool) {
	if sh, ok := p.objects[name]; ok {
		return types.NewTypeTypeWithParam(sh.typ), true
	}
	return nil, false
}

// FindStructFieldNames implements types.Provider.
func (p *shapes) FindStructFieldNames(name string) ([]string, bool) {
	sh, ok := p.objects[name]
	if !ok {
		return nil, false
	}
	return slices.Sorted(maps.Keys(sh.fields)), true
}

// FindStructFieldType implements types.Provider.
func (p *shapes) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	sh, ok := p.objects[name]
	if !ok {
		return nil, false
	}
	f, ok := sh.fields[fieldName]
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type: f.typ,
		IsSet: func(target any) bool {
			o, ok := target.(*object)
			return ok && o.has(fieldName)
		},
		GetFrom: func(target any) (any, error) {
			o, ok := target.(*object)
			if !ok {
				return nil, errAbsent
			}
			return o.get(fieldName)
		},
	}, true
}

// NewValue implements types.Provider: conditions read claims, they don't make any.
func (p *shapes) NewValue(name string, _ map[string]ref.Val) ref.Val {
	return types.NewErr("a condition can't make a value of type %s", name)
}

var errAbsent = errors.New("no such claim")

// object is a Go struct as CEL sees it.
type object struct {
	shape *shape
	v     reflect.Value
}

// objectOf wraps a struct, or a pointer to one, whose shape is sh. It is nil if there is no struct of that type.
func objectOf(v any, sh *shape, t reflect.Type) *object {
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer && !rv.IsNil() {
		rv = rv.Elem()
	}
	if rv.Kind() != reflect.Struct || rv.Type() != t {
		return nil
	}
	return &object{shape: sh, v: rv}
}

// has says whether a field is there. An optional field is absent where JSON would leave it out, so that claims judge
// alike before and after they were stored.
func (o *object) has(name string) bool {
	f, ok := o.shape.fields[name]
	if !ok {
		return false
	}
	v := o.v.Field(f.index)
	if !f.optional {
		return true
	}
	if k := v.Kind(); k == reflect.Slice || k == reflect.Map {
		return v.Len() > 0
	}
	return !v.IsZero()
}

func (o *object) get(name string) (ref.Val, error) {
	f, ok := o.shape.fields[name]
	if !ok || !o.has(name) {
		return nil, fmt.Errorf("%w: %s", errAbsent, name)
	}
	return valueOf(o.v.Field(f.index), f.shape), nil
}

func (o *object) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("claims have no native form %s", t)
}

func (o *object) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return o.shape.typ
	}
	return types.NewErr("claims can't be converted to %s", t.TypeName())
}

func (o *object) Equal(other ref.Val) ref.Val {
	p, ok := other.(*object)
	return types.Bool(ok && p.shape == o.shape && reflect.DeepEqual(o.v.Interface(), p.v.Interface()))
}

func (o *object) Type() ref.Type { return o.shape.typ }
func (o *object) Value() any     { return o }

// IsSet implements traits.FieldTester.
func (o *object) IsSet(name ref.Val) ref.Val {
	s, ok := name.(types.String)
	return types.Bool(ok && o.has(string(s)))
}

// Get implements traits.Indexer.
func (o *object) Get(name ref.Val) ref.Val {
	s, _ := name.(types.String)
	v, err := o.get(string(s))
	if err != nil {
		return types.WrapErr(err)
	}
	return v
}

// elements adapts the elements of a list, by their shape.
type elements struct{ elem *shape }

func (e elements) NativeToValue(v any) ref.Val {
	if r, ok := v.(ref.Val); ok {
		return r
	}
	return valueOf(reflect.ValueOf(v), e.elem)
}

func valueOf(v reflect.Value, sh *shape) ref.Val {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface && sh.kind != rats.KindAny {
		if v.IsNil() {
			return types.WrapErr(errAbsent)
		}
		v = v.Elem()
	}
	switch sh.kind {
	case rats.KindBool:
		return types.Bool(v.Bool())
	case rats.KindInt:
		return types.Int(v.Int())
	case rats.KindUint:
		return types.Uint(v.Uint())
	case rats.KindDouble:
		return types.Double(v.Float())
	case rats.KindString:
		if sh.digest {
			return types.String(v.Interface().(rats.Digest).String())
		}
		return types.String(v.String())
	case rats.KindBytes:
		b := make([]byte, v.Len())
		for i := range b {
			b[i] = byte(v.Index(i).Uint())
		}
		return types.Bytes(b)
	case rats.KindList:
		return types.NewDynamicList(elements{sh.elem}, v.Interface())
	case rats.KindMap:
		return mapOf(v, sh)
	case rats.KindObject:
		return &object{shape: sh, v: v}
	default: // timestamps and durations are CEL's own; anything else is dyn
		return types.DefaultTypeAdapter.NativeToValue(v.Interface())
	}
}

func mapOf(v reflect.Value, sh *shape) ref.Val {
	m := make(map[string]any, v.Len())
	for it := v.MapRange(); it.Next(); {
		var key string
		switch k := it.Key(); {
		case k.CanInt():
			key = strconv.FormatInt(k.Int(), 10)
		case k.CanUint():
			key = strconv.FormatUint(k.Uint(), 10)
		default:
			key = k.String()
		}
		m[key] = valueOf(it.Value(), sh.elem)
	}
	return types.NewStringInterfaceMap(elements{sh.elem}, m)
}
