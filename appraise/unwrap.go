package appraise

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strconv"
	"strings"
)

// Bounds of what Unwrap looks at.
const (
	maxWrapDepth  = 3   // base64 of JSON with hex in it
	maxCandidates = 256 // JSON with many long strings
	maxJSONDepth  = 16
	minWrapped    = 16 // bytes; less is no evidence
)

// Unwrap returns everything that b may hold, itself first: what its hex or base64 text decodes to, its PEM blocks, and
// the decoded strings and byte lists of its JSON, outer ones before inner ones. The results are at most 256, and together
// at most eight times as long as b.
func Unwrap(b []byte) [][]byte {
	u := &unwrapper{budget: 8 * len(b)}
	level := [][]byte{b}
	for range maxWrapDepth {
		var next [][]byte
		for _, c := range level {
			u.add(c)
			next = append(next, u.layers(c)...)
		}
		level = next
	}
	for _, c := range level {
		u.add(c)
	}
	return u.out
}

type unwrapper struct {
	out    [][]byte
	budget int
	found  int
}

func (u *unwrapper) add(b []byte) {
	if len(u.out) < maxCandidates {
		u.out = append(u.out, b)
	}
}

// afford says whether n more bytes may be decoded.
func (u *unwrapper) afford(n int) bool {
	if u.found >= maxCandidates || n > u.budget || n < minWrapped {
		return false
	}
	u.found++
	u.budget -= n
	return true
}

// layers returns what lies one wrapping below b.
func (u *unwrapper) layers(b []byte) [][]byte {
	text := bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
	if len(text) < minWrapped || !isText(text) {
		return nil
	}
	var out [][]byte
	if text[0] == '{' || text[0] == '[' {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		if t, err := dec.Token(); err == nil {
			u.walk(dec, t, 0, &out)
		}
		return out
	}
	for rest := text; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if u.afford(len(block.Bytes)) {
			out = append(out, block.Bytes)
		}
	}
	if d := u.decode(string(text)); d != nil {
		out = append(out, d)
	}
	return out
}

func isText(b []byte) bool {
	for _, c := range b {
		if c < 0x20 && c != '\n' && c != '\r' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// decode reads a string of hex or base64.
func (u *unwrapper) decode(s string) []byte {
	if !u.afford(len(s) / 2) {
		return nil
	}
	s = strings.Map(func(r rune) rune {
		if r == ' ' || r == '\n' || r == '\r' || r == '\t' {
			return -1
		}
		return r
	}, s)
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")
	if d, err := hex.DecodeString(digits); err == nil {
		return d
	}
	if d, err := hex.DecodeString(strings.ReplaceAll(s, ":", "")); err == nil {
		return d
	}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if d, err := enc.DecodeString(strings.TrimRight(s, "=")); err == nil {
			return d
		}
	}
	return nil
}

// walk collects the strings and the lists of bytes of a JSON value whose first token is t. It returns false at a syntax
// error; what was found before it stands.
func (u *unwrapper) walk(dec *json.Decoder, t json.Token, depth int, out *[][]byte) bool {
	if depth > maxJSONDepth {
		return false
	}
	if s, ok := t.(string); ok {
		u.text(s, out)
	}
	open, ok := t.(json.Delim)
	if !ok {
		return true
	}
	var list []byte
	pure := open == '['
	for dec.More() {
		if open == '{' {
			if _, err := dec.Token(); err != nil { // the name
				return false
			}
		}
		e, err := dec.Token()
		if err != nil {
			return false
		}
		if n, ok := e.(json.Number); ok && pure {
			if v, err := strconv.ParseUint(n.String(), 10, 8); err == nil {
				list = append(list, byte(v))
				continue
			}
		}
		pure = false
		if !u.walk(dec, e, depth+1, out) {
			return false
		}
	}
	if _, err := dec.Token(); err != nil { // the closing bracket
		return false
	}
	if pure && u.afford(len(list)) {
		*out = append(*out, list)
	}
	return true
}

func (u *unwrapper) text(s string, out *[][]byte) {
	if strings.HasPrefix(s, "-----BEGIN ") || strings.HasPrefix(s, "{") {
		if u.afford(len(s)) {
			*out = append(*out, []byte(s))
		}
		return
	}
	if d := u.decode(s); d != nil {
		*out = append(*out, d)
	}
}

// certificatesOf returns the certificates of a file: PEM blocks, or DER, several one after another.
func certificatesOf(b []byte) [][]byte {
	var out [][]byte
	for rest := b; len(out) < maxCandidates; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "CERTIFICATE") {
			out = append(out, block.Bytes)
		}
	}
	for rest := b; len(out) < maxCandidates && len(rest) > 1 && rest[0] == 0x30; {
		var one asn1.RawValue
		tail, err := asn1.Unmarshal(rest, &one)
		if err != nil {
			break
		}
		out = append(out, one.FullBytes)
		rest = tail
	}
	return out
}
