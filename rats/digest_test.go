package rats

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestDigestSurvivesItsText(t *testing.T) {
	for _, d := range []Digest{SHA256([]byte("a"), []byte("b")), SHA384(), {Alg: "sha1", Sum: make([]byte, 20)}, {Alg: "sha512", Sum: make([]byte, 64)}, {Alg: "sm3", Sum: make([]byte, 32)}} {
		got, err := ParseDigest(d.String())
		if err != nil || !got.Equal(d) || d.Check() != nil {
			t.Errorf("%s: %v", d, err)
		}
		b, _ := json.Marshal(d)
		var again Digest
		if err := json.Unmarshal(b, &again); err != nil || !again.Equal(d) {
			t.Errorf("%s: %v", b, err)
		}
	}
	if got := SHA256([]byte("abc")).String(); got != "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("FIPS 180-4 example: %s", got)
	}
}

func TestOtherTextIsNoDigest(t *testing.T) {
	for _, s := range []string{"", "sha256", "sha256:", "sha256:00", "md5:" + strings.Repeat("0", 32), "sha256:" + strings.Repeat("g", 64), "sha256:" + strings.Repeat("A", 64), "SHA256:" + strings.Repeat("0", 64), " sha256:" + strings.Repeat("0", 64)} {
		if _, err := ParseDigest(s); !errors.Is(err, ErrDigest) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestZeroDigestEqualsNothing(t *testing.T) {
	var zero Digest
	if zero.Equal(zero) || zero.Check() == nil || zero.String() != "" || !zero.IsZero() {
		t.Error("the zero digest is something")
	}
	d := SHA256()
	if err := d.UnmarshalText(nil); err != nil || !d.IsZero() {
		t.Error("empty text is not the zero digest")
	}
	if (Digest{Alg: "sha256", Sum: []byte{1}}).Check() == nil || SHA256().Equal(Digest{Alg: "sm3", Sum: SHA256().Sum}) {
		t.Error("a malformed or other digest passed")
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(SHA256().String())
	f.Add("sha1:00")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDigest(s); err == nil && (d.String() != s || d.Check() != nil) {
			t.Errorf("%q became %q", s, d)
		}
	})
}
