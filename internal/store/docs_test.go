package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

func TestRecordSurvivesItsEncoding(t *testing.T) {
	r := store.Record{Result: rats.Result{ID: "at_1", Subject: "node:nd_1", At: time.Unix(5, 0).UTC()}, Epoch: 7}
	bare, err := store.EncodeRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := store.DecodeRecord(bare); err != nil || got.Pack != nil || got.Epoch != 7 {
		t.Errorf("without a pack: %+v, %v", got, err)
	}
	r.Pack.Add([]byte("a piece"))
	b, err := store.EncodeRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.DecodeRecord(b)
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, %v", got, err)
	}
	old, _ := json.Marshal(r)
	if got, err := store.DecodeRecord(old); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("as earlier releases kept it: %+v, %v", got, err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	b, _ := store.EncodeRecord(store.Record{Epoch: 1, Pack: store.Pack("xyz")})
	f.Add(b)
	f.Add(b[:7])
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := store.DecodeRecord(b)
		if err == nil && !bytes.HasSuffix(b, r.Pack) && b[0] == 1 {
			t.Error("the pack is not the rest")
		}
	})
}

func TestNodeIsReadAsItsDocumentSays(t *testing.T) {
	var c store.NodeDocs
	n := store.Node{
		ID: "nd_1", Name: "a", Labels: map[string]string{"x": "1"}, Marks: []string{}, CreatedAt: time.Now(), LastAt: time.Now().In(time.FixedZone("z", 3600)),
		Endorsements: []rats.Endorsement{{MediaType: "m", Body: []byte("b"), Fetched: time.Now()}}, Resume: map[rats.Format][]byte{"f": {1}},
	}
	doc, err := c.Encode(n)
	if err != nil {
		t.Fatal(err)
	}
	var fresh store.Node
	if err := json.Unmarshal(doc, &fresh); err != nil {
		t.Fatal(err)
	}
	got, err := c.Decode("nd_1", doc)
	if err != nil || !reflect.DeepEqual(got, fresh) {
		t.Errorf("remembered %+v, decoded %+v, %v", got, fresh, err)
	}
	// What a caller does to its copy stays its own.
	got.Labels["x"] = "2"
	delete(got.Resume, "f")
	got.Endorsements[0].MediaType = "other"
	if again, _ := c.Decode("nd_1", doc); !reflect.DeepEqual(again, fresh) {
		t.Errorf("changed by a caller: %+v", again)
	}
	// Another document of the same id, as another server wrote it, is read and not remembered as this one.
	n.Name = "b"
	other, _ := json.Marshal(n)
	if got, err := c.Decode("nd_1", other); err != nil || got.Name != "b" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestNodeDocsAreBounded(t *testing.T) {
	var c store.NodeDocs
	for i := range 200 {
		n := store.Node{ID: fmt.Sprint("nd_", i), Resume: map[rats.Format][]byte{"f": make([]byte, 300_000)}}
		doc, err := c.Encode(n)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Decode(n.ID, doc); err != nil || got.ID != n.ID {
			t.Fatalf("%s: %v", n.ID, err)
		}
	}
	if c.Size() > 33<<20 {
		t.Errorf("%d bytes are remembered", c.Size())
	}
}

func TestBlobIsPutAgainAfterAnHourAndAfterPurging(t *testing.T) {
	var c store.BlobTimes
	d, now := rats.SHA256([]byte("x")), time.Unix(1000, 0)
	c.Committed("a", now, [][32]byte{[32]byte(d.Sum)})
	for name, want := range map[string]bool{"a": true, "b": false} {
		if c.Fresh(name, d, now.Add(time.Minute)) != want {
			t.Errorf("namespace %s: not %v", name, want)
		}
	}
	if c.Fresh("a", d, now.Add(time.Hour)) || c.Fresh("a", d, now.Add(-time.Second)) {
		t.Error("fresh too long, or before its time")
	}
	c.Forget()
	if c.Fresh("a", d, now) {
		t.Error("fresh after it was forgotten")
	}
}
