package sealed_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

func key(t testing.TB) *sealed.Key {
	t.Helper()
	k, err := sealed.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantCode(t *testing.T, err error, want rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != want.Code {
		t.Errorf("got %v, want %s", err, want.Code)
	}
}

func TestBoxOpensWithItsKeyAndPurposeOnly(t *testing.T) {
	k, other := key(t), key(t)
	for _, plain := range []string{"", "x", strings.Repeat("long", 100_000)} {
		box, err := sealed.Seal(k.Public(), []byte("purpose"), []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		if len(box) != len(plain)+sealed.Overhead {
			t.Errorf("box of %d bytes for %d", len(box), len(plain))
		}
		got, err := k.Open([]byte("purpose"), box)
		if err != nil || string(got) != plain {
			t.Fatalf("opening: %v", err)
		}
		_, err = k.Open([]byte("another"), box)
		wantCode(t, err, sealed.CodeBox)
		_, err = other.Open([]byte("purpose"), box)
		wantCode(t, err, sealed.CodeBox)
		for _, i := range []int{0, 31, 32, len(box) - 1} {
			bent := bytes.Clone(box)
			bent[i] ^= 1
			_, err = k.Open([]byte("purpose"), bent)
			wantCode(t, err, sealed.CodeBox)
		}
	}
	_, err := k.Open(nil, make([]byte, sealed.Overhead-1))
	wantCode(t, err, sealed.CodeBox)
}

func TestTwoBoxesOfOneTextDiffer(t *testing.T) {
	k := key(t)
	a, _ := sealed.Seal(k.Public(), nil, []byte("text"))
	b, _ := sealed.Seal(k.Public(), nil, []byte("text"))
	if bytes.Equal(a, b) {
		t.Error("equal boxes")
	}
}

func TestMalformedKeysAreRefused(t *testing.T) {
	_, err := sealed.ParseKey([]byte("short"))
	wantCode(t, err, sealed.CodeKey)
	_, err = sealed.Seal(make([]byte, 31), nil, nil)
	wantCode(t, err, sealed.CodeKey)
	_, err = sealed.Seal(make([]byte, 32), nil, nil) // low order
	wantCode(t, err, sealed.CodeKey)
}

func TestKeySurvivesItsBytesAndComesFromTheReader(t *testing.T) {
	seed := bytes.Repeat([]byte{7}, 32)
	k, err := sealed.GenerateKey(bytes.NewReader(seed))
	if err != nil {
		t.Fatal(err)
	}
	again, err := sealed.ParseKey(k.Bytes())
	if err != nil || !bytes.Equal(again.Public(), k.Public()) || !bytes.Equal(k.Bytes(), seed) {
		t.Errorf("another key: %v", err)
	}
	if _, err := sealed.GenerateKey(bytes.NewReader(seed[:31])); err == nil {
		t.Error("a key of too little randomness")
	}
}

func TestPrivateKeyIsNotPrinted(t *testing.T) {
	k := key(t)
	out := fmt.Sprintf("%v %+v %#v %s", k, k, k, k)
	if out != strings.Repeat("sealed.Key ", 3)+"sealed.Key" {
		t.Errorf("printed %q", out)
	}
}

func FuzzOpen(f *testing.F) {
	k := key(f)
	box, _ := sealed.Seal(k.Public(), []byte("p"), []byte("text"))
	f.Add(box)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := k.Open([]byte("p"), b); err == nil && !bytes.Equal(b, box) {
			t.Errorf("opened %x to %q", b, got)
		}
	})
}

func TestBoxesOfOneSenderOpenInAnyOrder(t *testing.T) {
	k, info := key(t), []byte("purpose")
	var senders sealed.Senders
	boxes := make([][]byte, 5)
	for i := range boxes {
		var err error
		if boxes[i], err = senders.Seal(k.Public(), info, fmt.Appendf(nil, "message %d", i)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(boxes[i][:32], boxes[0][:32]) {
			t.Error("the public-key work was done again")
		}
		if i > 0 && bytes.Equal(boxes[i][32:40], boxes[i-1][32:40]) {
			t.Fatal("two boxes of one number: the nonce was used twice")
		}
	}
	for _, i := range []int{3, 0, 4, 4, 1} { // one never arrives, one twice
		got, err := k.Open(info, boxes[i])
		if err != nil || string(got) != fmt.Sprintf("message %d", i) {
			t.Errorf("%d: %q, %v", i, got, err)
		}
	}
	other, err := senders.Seal(key(t).Public(), info, nil)
	if err != nil || bytes.Equal(other[:32], boxes[0][:32]) {
		t.Errorf("one sender for two keys, or %v", err)
	}
	other, err = senders.Seal(k.Public(), []byte("another purpose"), nil)
	if err != nil || bytes.Equal(other[:32], boxes[0][:32]) {
		t.Errorf("one sender for two purposes, or %v", err)
	}
}

// What is remembered of a sender must not open what would not open without.
func TestRememberedSenderOpensNothingElse(t *testing.T) {
	k, info := key(t), []byte("purpose")
	s, err := sealed.NewSender(k.Public(), info)
	if err != nil {
		t.Fatal(err)
	}
	box, err := s.Seal([]byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open(info, box); err != nil {
		t.Fatal(err)
	}
	_, err = k.Open([]byte("another purpose"), box)
	wantCode(t, err, sealed.CodeBox)
	_, err = key(t).Open(info, box)
	wantCode(t, err, sealed.CodeBox)
	for i := range box {
		b := bytes.Clone(box)
		b[i] ^= 1
		_, err = k.Open(info, b)
		wantCode(t, err, sealed.CodeBox)
	}
}
