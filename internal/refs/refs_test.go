package refs

import (
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/store/sqlite"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

func open(t *testing.T) store.Space {
	t.Helper()
	db, err := sqlite.Open(t.Context(), t.TempDir()+"/db", sqlite.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Create(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	return db.In("default")
}

func put(t *testing.T, space store.Space, kind, name, body string) {
	t.Helper()
	err := space.Update(t.Context(), func(tx store.Tx) error {
		_, err := tx.Documents().Put(store.Document{Kind: kind, Name: name, Body: []byte(body), Digest: rats.SHA256([]byte(body)), At: time.Now()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDocumentThatCannotBeUsedMakesNothingTrusted(t *testing.T) {
	for _, tt := range []struct {
		kind string
		want rats.Code
	}{
		{store.DocPolicy, CodeDocumentBroken.Code},
		{store.DocSet, CodeSetBroken.Code},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			space := open(t)
			put(t, space, tt.kind, "broken", "written by a later version")
			v, err := NewCache(all.Descriptors()).Fresh(t.Context(), space, "default")
			if err != nil {
				t.Fatal(err)
			}
			if _, why := v.Active(policy.NodeFacts{Name: "x"}); len(why) == 0 || why[0].Code != tt.want {
				t.Errorf("reasons %v, want %s", why, tt.want)
			}
		})
	}
}

func TestViewIsKeptUntilTheEpochChanges(t *testing.T) {
	space := open(t)
	c := NewCache(all.Descriptors())
	first, err := c.Fresh(t.Context(), space, "default")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := c.Fresh(t.Context(), space, "default"); again != first {
		t.Error("the view was loaded again though nothing changed")
	}
	put(t, space, store.DocSet, "s", `{"type":"assay/refset/1","name":"s","source":"t","created":"2026-01-01T00:00:00Z","entries":[{"name":"/a","digests":["sha256:0000000000000000000000000000000000000000000000000000000000000000"],"size":1}]}`)
	if old, _ := c.View(t.Context(), space, "default"); old != first {
		t.Error("View should give what it has")
	}
	next, err := c.Fresh(t.Context(), space, "default")
	if err != nil || next.Epoch <= first.Epoch || len(next.Broken) != 0 {
		t.Errorf("epoch %d after %d, broken %v, %v", next.Epoch, first.Epoch, next.Broken, err)
	}
	if _, err := next.Index.Ref("s"); err != nil {
		t.Error(err)
	}
}

func TestNodesThatDifferInOneFactAreSelectedForAlone(t *testing.T) {
	space := open(t)
	put(t, space, store.DocPolicy, "lab", `apiVersion: assay/v1
kind: Policy
metadata: {name: lab}
selector: '"env" in node.labels && node.labels["env"] == "lab"'
formats:
  tpm: {ek_vendors: all}
`)
	v, err := NewCache(all.Descriptors()).Fresh(t.Context(), space, "default")
	if err != nil || len(v.Broken) > 0 {
		t.Fatal(err, v.Broken)
	}
	for range 2 { // chosen, then remembered
		for name, tt := range map[string]struct {
			facts policy.NodeFacts
			want  bool
		}{
			"lab":            {policy.NodeFacts{Name: "a", Labels: map[string]string{"env": "lab"}}, true},
			"other value":    {policy.NodeFacts{Name: "a", Labels: map[string]string{"env": "prod"}}, false},
			"no label":       {policy.NodeFacts{Name: "a"}, false},
			"run together":   {policy.NodeFacts{Name: "a", Labels: map[string]string{"envlab": ""}}, false},
			"another's name": {policy.NodeFacts{Name: "b", Labels: map[string]string{"env": "lab"}}, true},
		} {
			if a, why := v.Active(tt.facts); (len(why) == 0) != tt.want || tt.want && a.Name() != "lab" {
				t.Errorf("%s: %v", name, why)
			}
		}
	}
}
