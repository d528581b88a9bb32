package boundary_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/rats"
)

type inner struct {
	A int8
	B []string
}

type all struct {
	Bool   bool
	I8     int8
	I16    int16
	I32    int32
	I64    int64
	Int    int
	U8     uint8
	U16    uint16
	U32    uint32
	U64    uint64
	Uint   uint
	String string
	Bytes  []byte
	Array  [3]uint16
	Inner  []inner
}

var sample = all{
	true, -1, -2, -3, math.MinInt64, -5, 6, 7, 8, math.MaxUint64, 10, "eleven", []byte{12}, [3]uint16{13, 14, 15},
	[]inner{{-16, []string{"seventeen", ""}}, {}},
}

func TestValuesSurviveTheBoundary(t *testing.T) {
	b, err := boundary.Encode(sample)
	if err != nil {
		t.Fatal(err)
	}
	var got all
	if err := boundary.Decode(b, &got); err != nil {
		t.Fatal(err)
	}
	got.Inner[1].B = nil // an empty slice has one encoding
	if !reflect.DeepEqual(got, sample) {
		t.Errorf("%+v, want %+v", got, sample)
	}
	for n := range b {
		if err := boundary.Decode(b[:n], new(all)); !isCode(err, boundary.CodeMalformed) {
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if err := boundary.Decode(append(b, 0), new(all)); !isCode(err, boundary.CodeMalformed) {
		t.Errorf("a byte more: %v", err)
	}
}

func isCode(err error, want rats.CodeInfo) bool {
	r, ok := rats.ReasonOf(err)
	return ok && r.Code == want.Code
}

type chain struct{ Next []chain }

func TestValuesThatEncodingWouldNotMakeAreRefused(t *testing.T) {
	for what, c := range map[string]struct {
		b  []byte
		to any
	}{
		"a boolean of 2":          {[]byte{2}, new(bool)},
		"a negative length":       {[]byte{0xff, 0xff, 0xff, 0xff, 1}, new([]byte)},
		"a length past the end":   {[]byte{2, 0, 0, 0, 1}, new(string)},
		"elements of no bytes":    {[]byte{4, 0, 0, 0, 1, 1, 1, 1}, new([][1 << 20]byte)},
		"a chain without an end":  {bytes.Repeat([]byte{1, 0, 0, 0}, 100), new(chain)},
		"bytes where none belong": {[]byte{1}, new(struct{})},
	} {
		if err := boundary.Decode(c.b, c.to); !isCode(err, boundary.CodeMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, v := range []any{map[string]int{}, 1.5, new(int), struct{ a int }{1}, []any{1}} {
		if _, err := boundary.Encode(v); err == nil {
			t.Errorf("%T is encoded", v)
		}
	}
	if boundary.Decode([]byte{1}, 5) == nil || boundary.Decode(make([]byte, 8), new(float64)) == nil || boundary.Decode(make([]byte, 8), &struct{ a int }{}) == nil {
		t.Error("decoded into what can't hold it")
	}
	deep := chain{}
	for range 100 {
		deep = chain{[]chain{deep}}
	}
	if _, err := boundary.Encode(deep); !isCode(err, boundary.CodeMalformed) {
		t.Errorf("a deep chain: %v", err)
	}
}

func TestErrorsCrossWithTheirCodeOrWithoutWords(t *testing.T) {
	other := rats.CodeInfo{Code: "other", Title: "other", Slot: rats.RuntimeOpaque}
	for _, want := range []error{
		boundary.CodeSize.Bad("a", "b", "c"), boundary.CodeSize.Missing("a", "b", "c"), other.Bad("", "", ""),
	} {
		b, err := boundary.Append([]byte{boundary.StatusRefused}, boundary.RefusalOf(want, other))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := boundary.ParseReply(b); !reflect.DeepEqual(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	r := boundary.RefusalOf(errors.New("the secret is 4711"), other)
	if b, _ := boundary.Encode(r); bytes.Contains(b, []byte("4711")) || !isCode(r.Err(), other) {
		t.Errorf("%+v", r)
	}
	long := strings.Repeat("x", 1<<20)
	if b, _ := boundary.Encode(boundary.RefusalOf(boundary.CodeSize.Bad(long, long, long), other)); len(b) > boundary.MaxRefusal {
		t.Errorf("a refusal of %d bytes", len(b))
	}
	for _, b := range [][]byte{nil, {2}, {boundary.StatusRefused}, {boundary.StatusRefused, 9}} {
		if _, err := boundary.ParseReply(b); !isCode(err, boundary.CodeMalformed) {
			t.Errorf("reply %x: %v", b, err)
		}
	}
	if b, err := boundary.ParseReply([]byte{boundary.StatusOK, 7}); err != nil || !bytes.Equal(b, []byte{7}) {
		t.Errorf("%x, %v", b, err)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := boundary.Encode(sample)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var v all
		if boundary.Decode(b, &v) != nil {
			return
		}
		again, err := boundary.Encode(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x is encoded as %x, %v", b, again, err)
		}
	})
}
