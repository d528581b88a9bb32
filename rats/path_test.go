package rats

import (
	"bytes"
	"testing"
)

func TestPathHasOneText(t *testing.T) {
	for raw, text := range map[string]string{
		"/usr/bin/x":    "/usr/bin/x",
		"/a b/ü€":       "/a b/ü€",
		"/new\nline":    "/new%0Aline",
		"/100%":         "/100%25",
		"/\x7f\x00\x1b": "/%7F%00%1B",
		"/\xff\xfe":     "/%FF%FE",
		"/\xc3":         "/%C3",
		"/\xef\xbf\xbd": "/\ufffd", // a replacement character that really stands there
		"":              "",
	} {
		if got := EscapePath([]byte(raw)); got != text {
			t.Errorf("%q: %q, want %q", raw, got, text)
		}
		if got, err := UnescapePath(text); err != nil || string(got) != raw {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestOtherTextsOfAPathAreRefused(t *testing.T) {
	for _, s := range []string{"/%", "/%4", "/%zz", "/%41", "/%0a", "/a\nb", "/100%", "/\xff", "/%C3%BC"} {
		if p, err := UnescapePath(s); err == nil {
			t.Errorf("%q became %q", s, p)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add([]byte("/usr/\xff%\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		s := EscapePath(p)
		got, err := UnescapePath(s)
		if err != nil || !bytes.Equal(got, p) {
			t.Errorf("%q → %q → %q, %v", p, s, got, err)
		}
		if q, err := UnescapePath(string(p)); err == nil && EscapePath(q) != string(p) {
			t.Errorf("%q has two texts", q)
		}
	})
}
