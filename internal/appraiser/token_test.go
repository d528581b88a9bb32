package appraiser

import (
	"reflect"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
)

func sampleChallenge() challenge {
	at := time.Unix(1_900_000_000, 5).UTC()
	return challenge{
		ID: [16]byte{1, 2}, Step: stepOutcome, Namespace: "ns", Node: "nd_1", Purpose: rats.PurposeAttest, Nonce: []byte("nonce"),
		Policy: rats.Ref{Name: "p", Version: 3, Digest: rats.SHA256([]byte("p"))}, Epoch: 9, Formats: []rats.Format{"tpm", "plan"}, Steady: true,
		Params: map[rats.Format][]byte{"tpm": []byte("x")}, Asked: at, Issued: at.Add(1), Expires: at.Add(2),
		Pending: rats.SHA256([]byte("a")), Manifest: rats.SHA384([]byte("m")), Age: time.Second,
	}
}

func TestChallengeSurvivesItsToken(t *testing.T) {
	c := sampleChallenge()
	got, err := decodeChallenge(c.encode())
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("got %+v, %v", got, err)
	}
	c.Params, c.Pending, c.Manifest, c.Steady = nil, rats.Digest{}, rats.Digest{}, false
	if got, err = decodeChallenge(c.encode()); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("got %+v, %v", got, err)
	}
	b := c.encode()
	for n := range b {
		if _, err := decodeChallenge(b[:n]); err == nil {
			t.Fatalf("%d of %d bytes are accepted", n, len(b))
		}
	}
	if _, err := decodeChallenge(append(b, 0)); err == nil {
		t.Error("trailing bytes are accepted")
	}
}

func FuzzDecodeChallenge(f *testing.F) {
	f.Add(sampleChallenge().encode())
	f.Add([]byte{tokenVersion, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeChallenge(b)
		if err != nil {
			return
		}
		if again, err := decodeChallenge(c.encode()); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%+v, then %+v: %v", c, again, err)
		}
	})
}
