package keyring_test

import "testing"

func TestDerivedKeysAreOfTheirLabelAndKeyring(t *testing.T) {
	k, _ := made(t)
	other, _ := made(t)
	a, err := k.Derive("a")
	again, err2 := k.Derive("a")
	b, err3 := k.Derive("b")
	foreign, err4 := other.Derive("a")
	if err != nil || err2 != nil || err3 != nil || err4 != nil {
		t.Fatal(err, err2, err3, err4)
	}
	if a != again || a == b || a == foreign || a == [32]byte{} {
		t.Error("derived keys are not of their label and keyring")
	}
	k.Close()
	if _, err := k.Derive("a"); err == nil {
		t.Error("a closed keyring derives")
	}
}
