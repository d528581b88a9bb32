package rats

import (
	"reflect"
	"testing"
	"time"
)

func collection() Collection {
	return Collection{
		Binding: Binding{Profile: "p", Manifest: []byte("m"), UserData: []byte("u")},
		Evidence: []Evidence{
			{Format: "a", MediaType: "t/a", Body: []byte("body"), Parts: []Part{{Name: "log", Offset: 1, Data: []byte("data")}}},
			{Format: "b", MediaType: "t/b", Body: []byte("body")},
		},
	}
}

func TestEveryFieldChangesTheDigestOfACollection(t *testing.T) {
	want := collection().Digest()
	if !want.Equal(collection().Digest()) {
		t.Fatal("not deterministic")
	}
	seen := map[string]string{want.String(): "unchanged"}
	for name, change := range map[string]func(*Collection){
		"profile":       func(c *Collection) { c.Binding.Profile = "q" },
		"manifest":      func(c *Collection) { c.Binding.Manifest = []byte("n") },
		"user data":     func(c *Collection) { c.Binding.UserData = nil },
		"format":        func(c *Collection) { c.Evidence[0].Format = "c" },
		"media type":    func(c *Collection) { c.Evidence[0].MediaType = "t/c" },
		"body":          func(c *Collection) { c.Evidence[0].Body = []byte("other") },
		"part name":     func(c *Collection) { c.Evidence[0].Parts[0].Name = "gol" },
		"part offset":   func(c *Collection) { c.Evidence[0].Parts[0].Offset = 2 },
		"part data":     func(c *Collection) { c.Evidence[0].Parts[0].Data = nil },
		"no parts":      func(c *Collection) { c.Evidence[0].Parts = nil },
		"order":         func(c *Collection) { c.Evidence[0], c.Evidence[1] = c.Evidence[1], c.Evidence[0] },
		"one less":      func(c *Collection) { c.Evidence = c.Evidence[:1] },
		"one more":      func(c *Collection) { c.Evidence = append(c.Evidence, Evidence{}) },
		"shifted bytes": func(c *Collection) { c.Binding.Profile, c.Binding.Manifest = "pm", nil },
	} {
		c := collection()
		change(&c)
		d := c.Digest().String()
		if with, ok := seen[d]; ok {
			t.Errorf("%s has the digest of %s", name, with)
		}
		seen[d] = name
	}
}

func TestDoubledPartIsNoPart(t *testing.T) {
	e := Evidence{Parts: []Part{{Name: "log"}, {Name: "log"}, {Name: "one", Data: []byte("1")}}}
	if _, ok := e.Part("log"); ok {
		t.Error("one of two was chosen")
	}
	if p, ok := e.Part("one"); !ok || string(p.Data) != "1" {
		t.Error("the only one was not found")
	}
	if _, ok := e.Part("none"); ok {
		t.Error("none was found")
	}
}

func TestKeysThatDifferAreNoKey(t *testing.T) {
	f := Facts{Keys: []BoundKey{{KeySign, []byte("a")}}, Boots: []Boot{{By: "x"}}}
	same := f.Merge(Facts{Keys: []BoundKey{{KeySign, []byte("a")}}, UserData: [][]byte{{1}}, Registers: []Registers{{By: "y"}}})
	if k, ok := same.Key(KeySign); !ok || string(k.Public) != "a" || len(same.Boots) != 1 || len(same.UserData) != 1 || len(same.Registers) != 1 {
		t.Errorf("%+v", same)
	}
	if _, ok := same.Merge(Facts{Keys: []BoundKey{{KeySign, []byte("b")}}}).Key(KeySign); ok {
		t.Error("one of two keys was chosen")
	}
	if _, ok := f.Key(KeyHPKE); ok {
		t.Error("a key nobody vouched for")
	}
}

type testClaims struct {
	Text    string            `json:"text"`
	Count   int64             `json:"count,omitempty"`
	Natural uint16            `json:"natural"`
	Flag    bool              `json:"flag"`
	Ratio   float64           `json:"ratio"`
	Sum     Digest            `json:"sum,omitzero"`
	Raw     []byte            `json:"raw"`
	At      time.Time         `json:"at"`
	For     time.Duration     `json:"for"`
	List    []inner           `json:"list"`
	Map     map[int][]byte    `json:"map"`
	Maybe   *inner            `json:"maybe"`
	Any     any               `json:"any"`
	Hidden  string            `json:"-"`
	private string            //lint:ignore U1000 must not be in the schema
	Plain   map[string]string // named by its field
}

type inner struct {
	Name string `json:"name"`
}

func (*testClaims) ClaimsOf() Format { return "test" }

func TestSchemaFollowsTheClaims(t *testing.T) {
	s := SchemaOf(new(testClaims))
	obj := func(optional bool) *Schema {
		return &Schema{Name: "inner", Kind: KindObject, Optional: optional, Fields: map[string]*Schema{"name": {Kind: KindString}}}
	}
	want := map[string]*Schema{
		"text": {Kind: KindString}, "count": {Kind: KindInt, Optional: true}, "natural": {Kind: KindUint}, "flag": {Kind: KindBool},
		"ratio": {Kind: KindDouble}, "sum": {Kind: KindString, Optional: true}, "raw": {Kind: KindBytes}, "at": {Kind: KindTimestamp},
		"for": {Kind: KindDuration}, "list": {Kind: KindList, Elem: obj(false)}, "map": {Kind: KindMap, Elem: &Schema{Kind: KindBytes}},
		"maybe": obj(true), "any": {Kind: KindAny}, "Plain": {Kind: KindMap, Elem: &Schema{Kind: KindString}},
	}
	if s.Kind != KindObject || s.Name != "testClaims" {
		t.Errorf("%+v", s)
	}
	for name, w := range want {
		if !reflect.DeepEqual(s.Fields[name], w) {
			t.Errorf("%s: %+v, want %+v", name, s.Fields[name], w)
		}
	}
	if len(s.Fields) != len(want) {
		t.Errorf("%d fields, want %d", len(s.Fields), len(want))
	}
}
