package abi

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// hyperEnclaveQuote composes a quote by the published offsets, around a certificate of the given content.
func hyperEnclaveQuote(content []byte) []byte {
	b := make([]byte, 775)
	for i := range b {
		b[i] = byte(i)
	}
	binary.LittleEndian.PutUint16(b[0:], 1)
	binary.LittleEndian.PutUint16(b[2:], 4)
	binary.BigEndian.PutUint32(b[564:], 0xff544347)
	binary.BigEndian.PutUint16(b[568:], 0x8018)
	b = append(b, 0x30, 0x82, byte(len(content)>>8), byte(len(content)))
	if len(content) < 128 {
		b = append(b[:775], 0x30, byte(len(content)))
	}
	return append(b, content...)
}

// R090: the published layout is read field by field, and written again.
func TestHyperEnclaveQuoteIsParsed(t *testing.T) {
	b := hyperEnclaveQuote(make([]byte, 600))
	q, err := ParseHyperEnclaveQuote(b)
	if err != nil || !bytes.Equal(q.Bytes(), b) {
		t.Fatalf("%v", err)
	}
	if q.Signature[0] != b[436] || q.Key[0] != b[500] || q.TPMSignature[0] != b[711] || len(q.Certificate) != 604 || q.Head.Body.MRENCLAVE[0] != b[112] {
		t.Errorf("%+v", q)
	}
	padded := append(bytes.Clone(b), 0, 0, 0)
	if q, err = ParseHyperEnclaveQuote(padded); err != nil || q.Padding != 3 || !bytes.Equal(q.Bytes(), padded) {
		t.Errorf("%v", err)
	}
}

// R090: each truncated or changed field is refused.
func TestTruncatedOrChangedHyperEnclaveQuoteIsRefused(t *testing.T) {
	good := hyperEnclaveQuote(make([]byte, 600))
	for n := range good {
		if _, err := ParseHyperEnclaveQuote(good[:n]); codeOf(t, err) != CodeHyperEnclave.Code {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for name, change := range map[string]func([]byte) []byte{
		"version":        func(b []byte) []byte { b[0] = 2; return b },
		"signature type": func(b []byte) []byte { b[2] = 2; return b },
		"magic":          func(b []byte) []byte { b[564]++; return b },
		"type":           func(b []byte) []byte { b[569]--; return b },
		"certificate":    func(b []byte) []byte { b[775] = 0x31; return b },
		"shorter length": func(b []byte) []byte { b[778] = 1; b[b[778]+200] = 1; return append(b, 1) },
		"padding":        func(b []byte) []byte { return append(b, 0, 1) },
		"too long":       func(b []byte) []byte { return append(b, make([]byte, 2000)...) },
	} {
		if _, err := ParseHyperEnclaveQuote(change(bytes.Clone(good))); codeOf(t, err) != CodeHyperEnclave.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
}
