package store

import (
	"bytes"
	"testing"

	"github.com/assay-attest/assay/rats"
)

func TestPieceIsFoundByItsDigestAndHasIt(t *testing.T) {
	var r Record
	one, two := r.Pack.Add([]byte("one")), r.Pack.Add(nil)
	size := len(r.Pack)
	if again := r.Pack.Add([]byte("one")); !again.Equal(one) || len(r.Pack) != size {
		t.Error("a piece was packed twice")
	}
	for want, d := range map[string]rats.Digest{"one": one, "": two} {
		if got, err := r.Piece(nil, d); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	r.Pack[bytes.Index(r.Pack, []byte("one"))] ^= 1
	if _, err := r.Piece(nil, one); err == nil {
		t.Error("a damaged piece was returned")
	}
	for n := range r.Pack {
		r.Pack[:n].find(two) // of a cut one, nothing panics
	}
}
