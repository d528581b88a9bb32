package api_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

func submission() api.Submission {
	return api.Submission{
		Token: []byte("token"), Manifest: []byte("manifest"),
		Evidence: []rats.Evidence{{Format: "tpm", MediaType: "m", Body: []byte("b"), Parts: []rats.Part{{Name: "p", Offset: 7, Data: []byte("d")}, {Name: "q", Data: []byte("e")}}}},
		Sealed:   []api.Sealed{{Format: "plan", Data: []byte("box")}},
	}
}

func TestSubmissionSurvivesItsBinaryForm(t *testing.T) {
	b, err := submission().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var got api.Submission
	if err := got.UnmarshalBinary(b); err != nil || !reflect.DeepEqual(got, submission()) {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range b {
		if err := got.UnmarshalBinary(b[:n]); !errors.Is(err, api.ErrSubmission) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if err := got.UnmarshalBinary(append(bytes.Clone(b), 0)); !errors.Is(err, api.ErrSubmission) {
		t.Errorf("trailing byte: %v", err)
	}
}

func FuzzSubmission(f *testing.F) {
	b, _ := submission().MarshalBinary()
	f.Add(b)
	f.Add(b[:40])
	f.Add([]byte{0, 0, 0, 18})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s api.Submission
		if s.UnmarshalBinary(b) != nil {
			return
		}
		if again, err := s.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("read %x, wrote %x: %v", b, again, err)
		}
	})
}
