package abi

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/assay-attest/assay/rats"
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
	b = append(b, content...)
	binary.LittleEndian.PutUint32(b[432:], uint32(len(b)-436))
	return b
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
		want := CodeHyperEnclave.Code
		if n >= 777 {
			want = CodeHyperEnclaveCertificate.Code
		}
		if _, err := ParseHyperEnclaveQuote(good[:n]); codeOf(t, err) != want {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for name, tc := range map[string]struct {
		change func([]byte) []byte
		want   rats.CodeInfo
	}{
		"version":          {func(b []byte) []byte { b[0] = 2; return b }, CodeHyperEnclaveVersion},
		"signature type":   {func(b []byte) []byte { b[2] = 2; return b }, CodeHyperEnclaveVersion},
		"signature length": {func(b []byte) []byte { b[432]++; return b }, CodeHyperEnclaveLength},
		"magic":            {func(b []byte) []byte { b[564]++; return b }, CodeHyperEnclaveStatement},
		"type":             {func(b []byte) []byte { b[569]--; return b }, CodeHyperEnclaveStatement},
		"certificate":      {func(b []byte) []byte { b[775] = 0x31; return b }, CodeHyperEnclaveCertificate},
		"shorter length":   {func(b []byte) []byte { b[778] = 1; b[1300] = 1; return b }, CodeHyperEnclave},
		"padding":          {func(b []byte) []byte { return append(b, 0, 1) }, CodeHyperEnclave},
		"too long":         {func(b []byte) []byte { return append(b, make([]byte, 2000)...) }, CodeHyperEnclave},
	} {
		if _, err := ParseHyperEnclaveQuote(tc.change(bytes.Clone(good))); codeOf(t, err) != tc.want.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !IsHyperEnclaveQuote(good) || IsHyperEnclaveQuote(good[1:]) || IsHyperEnclaveQuote(nil) {
		t.Error("the quote is not detected, or other bytes are")
	}
}

func FuzzParseHyperEnclaveQuote(f *testing.F) {
	good := hyperEnclaveQuote(make([]byte, 600))
	f.Add(good)
	f.Add(good[:777])
	f.Add(append(bytes.Clone(good), 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := ParseHyperEnclaveQuote(b); err == nil && !bytes.Equal(q.Bytes(), b) {
			t.Errorf("read and written differ: %x", b)
		}
	})
}
