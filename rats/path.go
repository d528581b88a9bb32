package rats

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// EscapePath returns the text form of a path, which is bytes: control bytes, '%', DEL and bytes that are not valid
// UTF-8 become %XX. Equal paths have equal text and the other way round.
func EscapePath(p []byte) string {
	if plainPath(p) {
		return string(p)
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		if c := p[0]; n == 1 && (c < 0x20 || c == '%' || c == 0x7f || r == utf8.RuneError) {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		} else {
			b.Write(p[:n])
		}
		p = p[n:]
	}
	return b.String()
}

func plainPath(p []byte) bool {
	for _, c := range p {
		if c < 0x20 || c == '%' || c >= 0x7f {
			return false
		}
	}
	return true
}

// UnescapePath reverses EscapePath and refuses text that EscapePath does not make.
func UnescapePath(s string) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return nil, fmt.Errorf("path %q ends inside an escape", clip(s))
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return nil, fmt.Errorf("path %q has a bad escape at byte %d", clip(s), i)
		}
		out = append(out, c[0])
		i += 2
	}
	if EscapePath(out) != s {
		return nil, fmt.Errorf("path %q is not in its canonical text form", clip(s))
	}
	return out, nil
}
