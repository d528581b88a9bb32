package refvalue_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

var (
	created = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	digestA = rats.SHA256([]byte("a"))
	digestB = rats.SHA384([]byte("b"))
)

const head = `{"type":"assay/refset/1","name":"lab","created":"2030-01-02T03:04:05Z","entries":`

func entry(name string) string {
	return fmt.Sprintf(`{"name":%q,"digests":["%s"]}`, name, digestA)
}

func sample(t testing.TB) *refvalue.Set {
	t.Helper()
	s, err := refvalue.New(refvalue.Header{Name: "lab", Source: "a <b> & c", Created: created, Expires: created.Add(time.Hour)}, []refvalue.Entry{
		{Name: "/usr/bin/ls", Digests: []rats.Digest{digestA, digestB}, Size: 5},
		{Name: "/bin/ü%FF", Digests: []rats.Digest{digestB}},
		{Name: "/usr/bin", Digests: []rats.Digest{digestA}},
		{Name: "/usr/lib", Digests: []rats.Digest{digestA}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSetSurvivesItsNativeForm(t *testing.T) {
	s := sample(t)
	b := s.Encode()
	p, err := refvalue.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Encode(), b) || p.Header() != s.Header() || p.Len() != 4 {
		t.Errorf("got %s", p.Encode())
	}
	e := p.Entries()
	if e[3].Name != "/usr/lib" || e[2].Name != "/usr/bin/ls" || e[2].Size != 5 || !e[2].Digests[1].Equal(digestB) {
		t.Errorf("entries %+v", e)
	}
}

func TestFieldsMayComeInAnyOrder(t *testing.T) {
	doc := ` { "entries" : [ {"size":3, "digests":["` + digestA.String() + `"], "name":"\/a"} ],
		"created":"2030-01-02T03:04:05Z", "name":"x", "type":"assay/refset/1" } `
	s, err := refvalue.Parse([]byte(doc))
	if err != nil || s.Entries()[0].Name != "/a" {
		t.Errorf("got %v", err)
	}
}

// R127: an empty list denies, and every other unclear set is refused.
func TestBadSetIsRefused(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat(`"`+digestA.String()+`",`, 65), ",")
	tests := []struct {
		name, doc string
		code      rats.CodeInfo
	}{
		{"empty", "", refvalue.CodeSetSyntax},
		{"a list", "[]", refvalue.CodeSetSyntax},
		{"no entries", head + "[]}", refvalue.CodeSetEmpty},
		{"entries missing", strings.TrimSuffix(head, `,"entries":`) + "}", refvalue.CodeSetField},
		{"null entries", head + "null}", refvalue.CodeSetSyntax},
		{"trailing bytes", head + "[" + entry("a") + "]}x", refvalue.CodeSetSyntax},
		{"trailing comma", head + "[" + entry("a") + ",]}", refvalue.CodeSetSyntax},
		{"no comma", head + "[" + entry("a") + entry("b") + "]}", refvalue.CodeSetSyntax},
		{"truncated", head + "[" + entry("a"), refvalue.CodeSetSyntax},
		{"open string", head + `[{"name":"a`, refvalue.CodeSetSyntax},
		{"control byte", head + "[" + `{"name":"a` + "\n" + `b","digests":[]}]}`, refvalue.CodeSetSyntax},
		{"no UTF-8", head + "[" + `{"name":"` + "\xff" + `","digests":[]}]}`, refvalue.CodeSetSyntax},
		{"lone surrogate", head + "[" + `{"name":"\ud800","digests":[]}]}`, refvalue.CodeSetSyntax},
		{"no colon", `{"type" "assay/refset/1"}`, refvalue.CodeSetSyntax},
		{"another type", strings.Replace(head, "refset/1", "refset/2", 1) + "[" + entry("a") + "]}", refvalue.CodeSetType},
		{"unknown field", strings.Replace(head, `"name"`, `"x":"y","name"`, 1) + "[" + entry("a") + "]}", refvalue.CodeSetField},
		{"field in another case", strings.Replace(head, `"name"`, `"Name"`, 1) + "[" + entry("a") + "]}", refvalue.CodeSetField},
		{"doubled field", strings.Replace(head, `"name"`, `"name":"y","name"`, 1) + "[" + entry("a") + "]}", refvalue.CodeSetField},
		{"empty name of the set", strings.Replace(head, `"lab"`, `""`, 1) + "[" + entry("a") + "]}", refvalue.CodeSetField},
		{"unknown field of an entry", head + `[{"name":"a","digests":[],"mode":5}]}`, refvalue.CodeSetField},
		{"doubled field of an entry", head + `[{"name":"a","name":"b","digests":[]}]}`, refvalue.CodeSetField},
		{"entry without name", head + `[{"digests":["` + digestA.String() + `"]}]}`, refvalue.CodeSetField},
		{"entry without digests", head + `[{"name":"a"}]}`, refvalue.CodeSetField},
		{"entry with no digest", head + `[{"name":"a","digests":[]}]}`, refvalue.CodeEntryDigest},
		{"bad digest", head + `[{"name":"a","digests":["sha256:00"]}]}`, refvalue.CodeEntryDigest},
		{"upper-case digest", head + `[{"name":"a","digests":["` + strings.ToUpper(digestA.String()) + `"]}]}`, refvalue.CodeEntryDigest},
		{"doubled digest", head + `[{"name":"a","digests":["` + digestA.String() + `","` + digestA.String() + `"]}]}`, refvalue.CodeEntryDigest},
		{"too many digests", head + `[{"name":"a","digests":[` + many + `]}]}`, refvalue.CodeEntryDigest},
		{"empty name", head + "[" + entry("") + "]}", refvalue.CodeEntryName},
		{"name not canonical", head + "[" + entry("a%41") + "]}", refvalue.CodeEntryName},
		{"name too long", head + "[" + entry(strings.Repeat("a", 4097)) + "]}", refvalue.CodeEntryName},
		{"names out of order", head + "[" + entry("b") + "," + entry("a") + "]}", refvalue.CodeEntryOrder},
		{"name twice", head + "[" + entry("a") + "," + entry("a") + "]}", refvalue.CodeEntryOrder},
		{"negative size", head + `[{"name":"a","digests":["` + digestA.String() + `"],"size":-1}]}`, refvalue.CodeSetSyntax},
		{"huge size", head + `[{"name":"a","digests":["` + digestA.String() + `"],"size":9007199254740992}]}`, refvalue.CodeSetSyntax},
		{"bad time", strings.Replace(head, "05Z", "05+01:00", 1) + "[" + entry("a") + "]}", refvalue.CodeSetTime},
		{"expires before it was created", strings.Replace(head, `"created"`, `"expires":"2030-01-02T03:04:05Z","created"`, 1) + "[" + entry("a") + "]}", refvalue.CodeSetTime},
		{"long source", strings.Replace(head, `"created"`, `"source":"`+strings.Repeat("a", 5000)+`","created"`, 1) + "[" + entry("a") + "]}", refvalue.CodeSetBounds},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := refvalue.Parse([]byte(test.doc))
			r, ok := rats.ReasonOf(err)
			if s != nil || !ok || r.Code != test.code.Code {
				t.Errorf("expected %s, got %v", test.code.Code, err)
			}
		})
	}
}

func TestBuilderRefusesWhatParseRefuses(t *testing.T) {
	good := refvalue.Header{Name: "x", Created: created}
	one := []rats.Digest{digestA}
	tests := []struct {
		name    string
		head    refvalue.Header
		entries []refvalue.Entry
		code    rats.CodeInfo
	}{
		{"empty", good, nil, refvalue.CodeSetEmpty},
		{"no time", refvalue.Header{Name: "x"}, []refvalue.Entry{{Name: "a", Digests: one}}, refvalue.CodeSetTime},
		{"doubled name", good, []refvalue.Entry{{Name: "a", Digests: one}, {Name: "a", Digests: one}}, refvalue.CodeEntryOrder},
		{"zero digest", good, []refvalue.Entry{{Name: "a", Digests: []rats.Digest{{}}}}, refvalue.CodeEntryDigest},
		{"negative size", good, []refvalue.Entry{{Name: "a", Digests: one, Size: -1}}, refvalue.CodeSetField},
	}
	for _, test := range tests {
		_, err := refvalue.New(test.head, test.entries)
		if r, _ := rats.ReasonOf(err); r.Code != test.code.Code {
			t.Errorf("%s: expected %s, got %v", test.name, test.code.Code, err)
		}
	}
}

func TestIndexKnowsOnlyNameAndDigestTogether(t *testing.T) {
	x := refvalue.NewIndex(map[string]refvalue.Versioned{
		"os":  {Set: sample(t), Ref: rats.Ref{Name: "os", Version: 7}},
		"nil": {}, "zero": {Set: &refvalue.Set{}},
	})
	tests := []struct {
		name  string
		d     rats.Digest
		known bool
		want  int
	}{
		{"/usr/bin/ls", digestA, true, 1},
		{"/usr/bin/ls", digestB, true, 1},
		{"/usr/bin/ls", rats.SHA256(), false, 2},
		{"/usr/bin/ls", rats.Digest{}, false, 2},
		{"/usr/bin/ls", rats.Digest{Alg: "sha384", Sum: digestA.Sum}, false, 2},
		{"/usr/lib", digestB, false, 1},
		{"/usr/li", digestA, false, 0},
		{"", rats.Digest{}, false, 0},
	}
	for _, test := range tests {
		hit, err := x.Find("os", test.name, test.d)
		if err != nil || hit.Known != test.known || len(hit.Expected) != test.want || hit.Version != 7 || !hit.Expires.Equal(created.Add(time.Hour)) {
			t.Errorf("%s %s: %+v, %v", test.name, test.d, hit, err)
		}
	}
	for _, set := range []string{"none", "nil", "zero"} {
		_, err1 := x.Find(set, "/usr/lib", digestA)
		_, err2 := x.Names(set, "")
		_, err3 := x.Ref(set)
		_, err4 := x.Expires(set)
		for _, err := range []error{err1, err2, err3, err4} {
			if r, _ := rats.ReasonOf(err); r.Code != refvalue.CodeSetMissing.Code || r.Tier != rats.None {
				t.Errorf("set %s: %v", set, err)
			}
		}
	}
}

func TestNamesYieldsThePrefixInOrder(t *testing.T) {
	x := refvalue.NewIndex(map[string]refvalue.Versioned{"os": {Set: sample(t)}})
	for prefix, want := range map[string][]string{
		"":          {"/bin/ü%FF", "/usr/bin", "/usr/bin/ls", "/usr/lib"},
		"/usr/bin":  {"/usr/bin", "/usr/bin/ls"},
		"/usr/bin/": {"/usr/bin/ls"},
		"/usr/lib":  {"/usr/lib"},
		"/usr/libx": nil,
		"/z":        nil,
		"!":         nil,
	} {
		names, err := x.Names("os", prefix)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Collect(names); !slices.Equal(got, want) {
			t.Errorf("%q: %q, expected %q", prefix, got, want)
		}
	}
}

func TestEveryCodeIsListed(t *testing.T) {
	seen := make(map[rats.Code]bool)
	for _, c := range refvalue.Codes {
		if seen[c.Code] || c.Hint == "" {
			t.Errorf("code %s", c.Code)
		}
		seen[c.Code] = true
	}
	if !seen[refvalue.CodeSetExpired.Code] {
		t.Error("refvalue.set.expired, which package policy uses, isn't listed")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample(f).Encode())
	f.Add([]byte(head + "[" + entry("a") + "]}"))
	f.Add([]byte(head + `[{"name":"\u00e4","digests":["` + digestA.String() + `"],"size":0}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := refvalue.Parse(b)
		if err != nil {
			if _, ok := rats.ReasonOf(err); !ok {
				t.Fatalf("an error without a code: %v", err)
			}
			return
		}
		again, err := refvalue.Parse(s.Encode())
		if err != nil || !bytes.Equal(again.Encode(), s.Encode()) || s.Len() == 0 {
			t.Fatalf("%v", err)
		}
		rebuilt, err := refvalue.New(s.Header(), s.Entries())
		if err != nil || !bytes.Equal(rebuilt.Encode(), s.Encode()) {
			t.Fatalf("rebuilding: %v", err)
		}
	})
}

func large(b *testing.B, n int) *refvalue.Set {
	b.Helper()
	entries := make([]refvalue.Entry, n)
	for i := range entries {
		name := fmt.Sprintf("/usr/lib/package-%03d/file-%07d.so", i%997, i)
		entries[i] = refvalue.Entry{Name: name, Digests: []rats.Digest{rats.SHA256([]byte(name))}, Size: int64(i)}
	}
	s, err := refvalue.New(refvalue.Header{Name: "large", Created: created}, entries)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkFindIn500000(b *testing.B) {
	x := refvalue.NewIndex(map[string]refvalue.Versioned{"large": {Set: large(b, 500_000)}})
	names, _ := x.Names("large", "")
	all := slices.Collect(names)
	i := 0
	for b.Loop() {
		n := all[i%len(all)]
		i += 7919
		if hit, err := x.Find("large", n, digestA); err != nil || hit.Known || len(hit.Expected) != 1 {
			b.Fatal(hit, err)
		}
	}
}

func BenchmarkParse500000(b *testing.B) {
	doc := large(b, 500_000).Encode()
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := refvalue.Parse(doc); err != nil {
			b.Fatal(err)
		}
	}
}
