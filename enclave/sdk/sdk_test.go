package sdk_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/rats"
)

// What works inside is shown by the monitor's tests and the vault's; outside, everything is refused.
func TestOutsideAnEnclaveEverythingIsRefused(t *testing.T) {
	key := sdk.NewSecret(make([]byte, 16))
	for what, f := range map[string]func() error{
		"report":    func() error { _, err := sdk.Report(abi.TargetInfo{}, [64]byte{}); return err },
		"verifying": func() error { return sdk.VerifyReport(abi.Report{}) },
		"target":    func() error { _, err := sdk.Target(); return err },
		"quote":     func() error { _, err := sdk.Quote([64]byte{}); return err },
		"key":       func() error { _, err := sdk.GetKey(abi.KeyRequest{}); return err },
		"sealing":   func() error { _, err := sdk.Seal(sdk.ToEnclave, nil, nil); return err },
		"an OCALL":  func() error { _, err := sdk.Call[sdk.None, sdk.None]("x", sdk.None{}); return err },
		"HKDF":      func() error { _, err := sdk.HKDF(key, nil, nil, 16); return err },
		"AES-GCM":   func() error { _, err := sdk.SealWith(key, [12]byte{}, nil, nil); return err },
	} {
		if r, ok := rats.ReasonOf(f()); !ok || r.Code != sdk.CodeOutside.Code {
			t.Errorf("%s: %v", what, f())
		}
	}
	if _, code := (sdk.Outside{}).Open([]byte("/"), 0); code != sdk.CodeOutside.Code {
		t.Errorf("opening: %s", code)
	}
	for _, box := range [][]byte{nil, make([]byte, 71), make([]byte, 200)} {
		if _, err := sdk.Unseal(nil, box); err == nil {
			t.Errorf("%d bytes opened", len(box))
		} else if r, _ := rats.ReasonOf(err); r.Code != sdk.CodeSealed.Code {
			t.Errorf("%d bytes: %v", len(box), err)
		}
	}
	// Hashing works anywhere.
	h := sdk.NewSHA256()
	h.Write([]byte("abc"))
	if got := fmt.Sprintf("%x", h.Sum(nil)); got[:8] != "ba7816bf" || fmt.Sprintf("%x", sdk.SHA256([]byte("abc"))) != got {
		t.Errorf("SHA-256 of abc: %s", got)
	}
}

// R113: secrets are wiped, compared in constant time, and never printed.
func TestSecretIsNeverPrintedAndIsWiped(t *testing.T) {
	b := []byte("the treasure")
	s := sdk.NewSecret(b)
	if string(b) != "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("the original is still there: %q", b)
	}
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		for _, v := range []any{s, *s, []*sdk.Secret{s}, struct{ S sdk.Secret }{*s}} {
			if got := fmt.Sprintf(f, v); !containsOnly(got) {
				t.Errorf("%s prints %s", f, got)
			}
		}
	}
	if b, err := json.Marshal(s); err == nil {
		t.Errorf("it is marshalled as %s", b)
	}
	if _, err := s.MarshalBinary(); err == nil {
		t.Error("it has an encoding")
	}
	if !s.Equal([]byte("the treasure")) || s.Equal([]byte("another")) || s.Len() != 12 {
		t.Error("it is not what it was made of")
	}
	var lent []byte
	s.Use(func(b []byte) { lent = b })
	s.Wipe()
	s.Wipe()
	if string(lent) != string(b) || s.Len() != 0 {
		t.Errorf("after wiping: %q", lent)
	}
}

func containsOnly(s string) bool {
	for _, leak := range []string{"treasure", "116 104 101", "746865", "0x74"} {
		for i := range len(s) - len(leak) + 1 {
			if s[i:i+len(leak)] == leak {
				return false
			}
		}
	}
	return true
}
