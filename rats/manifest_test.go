package rats

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"reflect"
	"testing"
)

func manifest() Manifest {
	return Manifest{
		Purpose: PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: SHA256([]byte("verifier")),
		Nonce: bytes.Repeat([]byte{1}, 32), Instance: bytes.Repeat([]byte{2}, 16),
		Keys:    []BoundKey{{Use: KeyHPKE, Public: []byte("h")}, {Use: KeySign, Public: []byte("s")}, {Use: KeyTLS, Public: []byte("t")}},
		Formats: []Format{"tpm", "plan"},
	}
}

func TestManifestSurvivesItsEncoding(t *testing.T) {
	m := manifest()
	b, err := m.Bind()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Manifest)
	if b.Profile != ProfileAssay || !bytes.Equal(b.UserData, sum[:]) {
		t.Errorf("binding %+v", b)
	}
	got, err := DecodeManifest(b.Manifest)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v, %v", got, err)
	}
	if k, ok := got.Key(KeySign); !ok || string(k.Public) != "s" {
		t.Errorf("key %+v", k)
	}
}

func TestIncompleteManifestIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Manifest){
		"no purpose":        func(m *Manifest) { m.Purpose = "" },
		"no namespace":      func(m *Manifest) { m.Namespace = "" },
		"no node":           func(m *Manifest) { m.Node = "" },
		"no verifier":       func(m *Manifest) { m.Verifier = Digest{} },
		"short nonce":       func(m *Manifest) { m.Nonce = m.Nonce[:31] },
		"long nonce":        func(m *Manifest) { m.Nonce = append(m.Nonce, 0) },
		"short instance":    func(m *Manifest) { m.Instance = m.Instance[:15] },
		"long instance":     func(m *Manifest) { m.Instance = make([]byte, 65) },
		"keys out of order": func(m *Manifest) { m.Keys[0], m.Keys[1] = m.Keys[1], m.Keys[0] },
		"a use twice":       func(m *Manifest) { m.Keys[1].Use = m.Keys[0].Use },
		"a key of no use":   func(m *Manifest) { m.Keys[0].Use = "" },
		"an empty key":      func(m *Manifest) { m.Keys[0].Public = nil },
		"too many keys":     func(m *Manifest) { m.Keys = make([]BoundKey, 9) },
		"no formats":        func(m *Manifest) { m.Formats = nil },
		"an empty format":   func(m *Manifest) { m.Formats[0] = "" },
		"a format twice":    func(m *Manifest) { m.Formats[1] = m.Formats[0] },
		"too many formats":  func(m *Manifest) { m.Formats = make([]Format, 17) },
		"too long":          func(m *Manifest) { m.Keys[0].Public = make([]byte, 16<<10) },
	} {
		m := manifest()
		change(&m)
		if _, err := m.Encode(); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := m.Bind(); !errors.Is(err, ErrManifest) {
			t.Errorf("%s bound: %v", name, err)
		}
	}
}

func TestOtherEncodingsOfAManifestAreRefused(t *testing.T) {
	b, _ := manifest().Encode()
	changed := func(f func([]byte) []byte) []byte { return f(bytes.Clone(b)) }
	for name, bad := range map[string][]byte{
		"empty":           nil,
		"truncated":       b[:len(b)-1],
		"followed":        append(bytes.Clone(b), 0),
		"another profile": changed(func(b []byte) []byte { b[len("assay/")+4] = '2'; return b }),
		"huge length":     changed(func(b []byte) []byte { b[0] = 0xff; return b }),
		"upper-case hex":  bytes.Replace(b, []byte("sha256:"), []byte("SHA256:"), 1),
		"too long":        make([]byte, 16<<10+1),
	} {
		if _, err := DecodeManifest(bad); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeManifest(f *testing.F) {
	b, _ := manifest().Encode()
	f.Add(b)
	f.Add(b[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			return
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("decoded %x, encoded %x: %v", b, again, err)
		}
	})
}
