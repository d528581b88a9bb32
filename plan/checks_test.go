package plan

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
)

// Equal labels are equal commands: a reference value of one is never another's.
func TestLabelsOfCommandsAreTheirOwn(t *testing.T) {
	seen := make(map[string][]string)
	for _, argv := range [][]string{
		{"/bin/a"}, {"/bin/a", ""}, {"/bin/a", "b c"}, {"/bin/a", "b", "c"}, {"/bin/a", `"b`, `c"`}, {"/bin/a", `"b c"`}, {"/bin/a", "b\nc"}, {"/bin/a", "ü"}, {"/bin/a", "\xfc"},
	} {
		test, err := NewCommand(1, "sha256", CommandArgs{Argv: argv})
		if err != nil {
			if strings.Contains(strings.Join(argv, ""), "\xfc") {
				continue
			}
			t.Fatal(err)
		}
		s, err := test.Scope()
		if err != nil {
			t.Fatal(err)
		}
		if old := seen[string(s.Path)]; old != nil {
			t.Errorf("%q and %q are both %s", old, argv, s.Path)
		}
		seen[string(s.Path)] = argv
		if !s.Covers(s.Path) || s.Covers(append(bytes.Clone(s.Path), 'x')) || !bytes.Equal(s.Literal(), s.Path) {
			t.Errorf("%s", s.Path)
		}
	}
}

// R034: what a newer verifier asks of an older runner is said of that test, and the rest of the plan is run.
func TestUnknownKindsDoNotRefuseThePlan(t *testing.T) {
	p := testPlan()
	p.Tests[0].Kind, p.Tests[0].Args = "levitation", []byte(`{"height":3}`)
	p.Tests[1].Kind, p.Tests[1].Args = KindCheck, []byte(`{"check":"telepathy"}`)
	if got, err := Decode(p.Encode()); err != nil || !reflect.DeepEqual(got, p) {
		t.Error(err)
	}
	p.Tests[1].Args = []byte(`{"check":"modules","moods":1}`)
	_, err := Decode(p.Encode())
	wantCode(t, "unknown argument of a check", err, CodeDocument)
}

func TestAttributesBelongToWhatATestLooksAt(t *testing.T) {
	test, err := NewFilesTest(1, KindDir, "sha256", "/opt", []string{"/opt/tmp"}, FileOptions{Attributes: []string{"owner", "mode"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(test.Args); got != `{"path":"/opt","exclude":["/opt/tmp"],"attributes":["mode","owner"]}` {
		t.Error(got)
	}
	s, _ := test.Scope()
	for name, in := range map[string]bool{
		"/opt%00attributes": true, "/opt/x%00attributes": true, "/opt/x": true, "/opt": false, "/opt/tmp%00attributes": false,
		"/optevil%00attributes": false, "/opt/x%00other": true, "%00attributes": false,
	} {
		p, err := rats.UnescapePath(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "/opt/x%00other" {
			continue // a name with a zero byte is no path: no runner can have found it
		}
		if s.Covers(p) != in {
			t.Errorf("%s: %v", name, !in)
		}
		if in && !bytes.HasPrefix(p, s.Literal()) {
			t.Errorf("%s does not start with %s", name, s.Literal())
		}
	}
}

func TestOutcomesCarryValues(t *testing.T) {
	o := []Outcome{{Test: 1, Name: []byte("a"), Digest: make([]byte, 32), Value: []byte("v\n")}}
	bulk, timings, err := EncodeOutcomes([]uint32{1}, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := DecodeOutcomes(bulk, timings); err != nil || string(got[0].Value) != "v\n" {
		t.Errorf("%+v %v", got, err)
	}
	for name, bad := range map[string]Outcome{
		"too long":        {Test: 1, Name: []byte("a"), Digest: make([]byte, 32), Value: make([]byte, MaxProof+1)},
		"beside an error": {Test: 1, Name: []byte("a"), Err: "x", Value: []byte("v")},
	} {
		_, _, err := EncodeOutcomes([]uint32{1}, []Outcome{bad}, nil)
		wantCode(t, name, err, CodeOutcomes)
	}
}

func FuzzScope(f *testing.F) {
	f.Add(KindCheck, []byte(`{"check":"sysctls","names":["a.b"]}`))
	f.Add(KindCommand, []byte(`{"argv":["/bin/a"],"match":"(a+)+$"}`))
	f.Add(KindDir, []byte(`{"path":"/a","attributes":["mode"]}`))
	f.Fuzz(func(t *testing.T, kind string, args []byte) {
		s, err := (Test{ID: 1, Kind: kind, Alg: "sha256", Args: args}).Scope()
		if err == nil && s.Kind == KindCommand && !s.Covers(s.Path) {
			t.Errorf("%s doesn't cover itself", s.Path)
		}
	})
}
