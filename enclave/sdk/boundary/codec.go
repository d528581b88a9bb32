package boundary

import (
	"encoding/binary"
	"fmt"
	"reflect"
)

// maxDepth bounds nested values: types can hold themselves in slices.
const maxDepth = 32

// Encode returns the bytes of a value made of booleans, integers, strings, arrays, slices and structs with exported
// fields. Integers are little-endian in their own width (int and uint in 64 bits), lengths are 32 bits, nothing is
// padded, so a value has one encoding. A type with anything else in it is a programming error.
func Encode(v any) ([]byte, error) { return Append(nil, v) }

// Append appends the bytes of a value to b.
func Append(b []byte, v any) ([]byte, error) {
	if v == nil {
		return b, nil
	}
	return appendValue(b, reflect.ValueOf(v), 0)
}

func appendValue(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, CodeMalformed.Bad("value", fmt.Sprintf("at most %d levels", maxDepth), "more")
	}
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1), nil
		}
		return append(b, 0), nil
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Int:
		return appendUint(b, uint64(v.Int()), width(v.Type())), nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		return appendUint(b, v.Uint(), width(v.Type())), nil
	case reflect.String:
		return append(appendUint(b, uint64(v.Len()), 4), v.String()...), nil
	case reflect.Slice:
		b = appendUint(b, uint64(v.Len()), 4)
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return append(b, v.Bytes()...), nil
		}
		return appendElements(b, v, depth)
	case reflect.Array:
		return appendElements(b, v, depth)
	case reflect.Struct:
		for i := range v.NumField() {
			var err error
			if !v.Type().Field(i).IsExported() {
				return nil, fmt.Errorf("encoding %s: field %s is not exported", v.Type(), v.Type().Field(i).Name)
			}
			if b, err = appendValue(b, v.Field(i), depth+1); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("encoding a value of type %s: not supported", v.Type())
}

func appendElements(b []byte, v reflect.Value, depth int) ([]byte, error) {
	var err error
	for i := range v.Len() {
		if b, err = appendValue(b, v.Index(i), depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendUint(b []byte, v uint64, size int) []byte {
	var raw [8]byte
	binary.LittleEndian.PutUint64(raw[:], v)
	return append(b, raw[:size]...)
}

// width returns an integer's size on the wire: int is 32 bits wide inside no enclave and 64 in ours, so it is fixed.
func width(t reflect.Type) int {
	if t.Kind() == reflect.Int || t.Kind() == reflect.Uint {
		return 8
	}
	return int(t.Size())
}

// Decode reads exactly one value into what v points to. Byte slices share the memory of b: whoever wipes b has wiped
// them; what shall live longer is copied. v is unchanged in parts after an error.
func Decode(b []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return fmt.Errorf("decoding into %T: not a pointer", v)
	}
	d := decoder{b: b, left: max(len(b), 1) * 64}
	if err := d.value(p.Elem(), 0); err != nil {
		return err
	}
	if d.at != len(b) {
		return d.bad("the end", fmt.Sprintf("%d more bytes", len(b)-d.at))
	}
	return nil
}

type decoder struct {
	b    []byte
	at   int
	left int // bytes of memory that slices may still take
}

func (d *decoder) bad(expected, seen string) error {
	return CodeMalformed.Bad(fmt.Sprintf("value at byte %d", d.at), expected, seen)
}

func (d *decoder) take(n int) ([]byte, error) {
	if n < 0 || n > len(d.b)-d.at {
		return nil, d.bad(fmt.Sprintf("%d bytes", n), fmt.Sprintf("%d", len(d.b)-d.at))
	}
	d.at += n
	return d.b[d.at-n : d.at : d.at], nil
}

func (d *decoder) uint(size int) (uint64, error) {
	b, err := d.take(size)
	if err != nil {
		return 0, err
	}
	var raw [8]byte
	copy(raw[:], b)
	return binary.LittleEndian.Uint64(raw[:]), nil
}

// length reads a length, of which each element takes at least one byte.
func (d *decoder) length() (int, error) {
	n, err := d.uint(4)
	if err == nil && n > uint64(len(d.b)-d.at) {
		err = d.bad(fmt.Sprintf("a length up to %d", len(d.b)-d.at), fmt.Sprint(n))
	}
	return int(n), err
}

func (d *decoder) value(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return d.bad(fmt.Sprintf("at most %d levels", maxDepth), "more")
	}
	switch v.Kind() {
	case reflect.Bool:
		n, err := d.uint(1)
		if err == nil && n > 1 {
			err = d.bad("0 or 1", fmt.Sprint(n))
		}
		v.SetBool(n == 1)
		return err
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Int:
		size := width(v.Type())
		n, err := d.uint(size)
		shift := 64 - 8*size
		v.SetInt(int64(n<<shift) >> shift)
		return err
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		n, err := d.uint(width(v.Type()))
		v.SetUint(n)
		return err
	case reflect.String:
		n, err := d.length()
		if err != nil {
			return err
		}
		b, err := d.take(n)
		v.SetString(string(b))
		return err
	case reflect.Slice:
		return d.slice(v, depth)
	case reflect.Array:
		for i := range v.Len() {
			if err := d.value(v.Index(i), depth+1); err != nil {
				return err
			}
		}
		return nil
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				return fmt.Errorf("decoding %s: field %s is not exported", v.Type(), v.Type().Field(i).Name)
			}
			if err := d.value(v.Field(i), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("decoding a value of type %s: not supported", v.Type())
}

func (d *decoder) slice(v reflect.Value, depth int) error {
	n, err := d.length()
	if err != nil {
		return err
	}
	if v.Type().Elem().Kind() == reflect.Uint8 {
		b, err := d.take(n)
		if err == nil {
			v.SetBytes(b)
		}
		return err
	}
	if d.left -= n * int(v.Type().Elem().Size()); d.left < 0 {
		return d.bad("elements that fit their bytes", fmt.Sprintf("%d elements", n))
	}
	s := reflect.MakeSlice(v.Type(), n, n)
	for i := range n {
		if err := d.value(s.Index(i), depth+1); err != nil {
			return err
		}
	}
	v.Set(s)
	return nil
}
