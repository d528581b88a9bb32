package ima

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"testing"
	"testing/fstest"

	evidence "github.com/assay-attest/assay/evidence/ima"
	"github.com/assay-attest/assay/rats"
)

func entry(template string, data []byte) []byte {
	b := append([]byte{10, 0, 0, 0}, bytes.Repeat([]byte{7}, 20)...)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(len(template))), template...)
	if template == "ima" {
		b = append(b, make([]byte, 20)...)
	}
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(data))), data...)
}

var (
	first  = entry("ima-ng", []byte("one"))
	second = entry("ima", []byte("/two"))
	third  = entry("ima-sig", nil)
	list   = bytes.Join([][]byte{first, second, third}, nil)
)

func tree(b []byte) fs.FS { return fstest.MapFS{Path: {Data: b}} }

// R102: from a fake tree.
func TestListIsSentFromTheEntryThatIsAskedFor(t *testing.T) {
	a := New(tree(list))
	if r := a.Probe(t.Context()); !r.OK {
		t.Error(r)
	}
	for params, want := range map[string]rats.Evidence{
		``:             {Body: list},
		`{}`:           {Body: list},
		`{"offset":1}`: {Parts: []rats.Part{{Name: evidence.PartList, Offset: 1, Data: list[len(first):]}}},
		`{"offset":2}`: {Parts: []rats.Part{{Name: evidence.PartList, Offset: 2, Data: third}}},
		`{"offset":3}`: {Parts: []rats.Part{{Name: evidence.PartList, Offset: 3}}},
		`{"offset":4}`: {Body: list}, // fewer entries: the machine restarted
	} {
		e, err := a.Collect(t.Context(), rats.Ask{Format: evidence.Format, Params: []byte(params)})
		if err != nil || !bytes.Equal(e.Body, want.Body) || len(e.Parts) != len(want.Parts) {
			t.Errorf("%s: %+v, %v", params, e, err)
			continue
		}
		for i, p := range e.Parts {
			if w := want.Parts[i]; p.Name != w.Name || p.Offset != w.Offset || !bytes.Equal(p.Data, w.Data) {
				t.Errorf("%s: %+v", params, p)
			}
		}
	}
}

func TestMachineWithoutListSaysWhy(t *testing.T) {
	for name, root := range map[string]fs.FS{"no file": fstest.MapFS{}, "empty": tree(nil), "denied": denied{}} {
		if r := New(root).Probe(t.Context()); r.OK || r.Why == "" || r.Fix == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, err := New(fstest.MapFS{}).Collect(t.Context(), rats.Ask{Format: evidence.Format}); err == nil {
		t.Error("collected without a list")
	}
}

func TestDamagedListAndOtherAsksAreRefused(t *testing.T) {
	for _, p := range []string{`{`, `{"offset":-1}`} {
		if _, err := New(tree(list)).Collect(t.Context(), rats.Ask{Format: evidence.Format, Params: []byte(p)}); err == nil {
			t.Error(p)
		}
	}
	if _, err := New(tree(list)).Collect(t.Context(), rats.Ask{Format: "tpm"}); err == nil {
		t.Error("asked for tpm")
	}
	ask := rats.Ask{Format: evidence.Format, Params: []byte(`{"offset":3}`)}
	for n := len(list) - 1; n > len(list)-len(third); n-- {
		if _, err := New(tree(list[:n])).Collect(t.Context(), ask); err == nil {
			t.Errorf("cut to %d bytes", n)
		}
	}
	huge := bytes.Clone(first)
	binary.LittleEndian.PutUint32(huge[24:], 1<<30)
	if _, err := New(tree(huge)).Collect(t.Context(), ask); err == nil {
		t.Error("a template name of 1 GB")
	}
}

type denied struct{}

func (denied) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
}
