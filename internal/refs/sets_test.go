package refs

import (
	"fmt"
	"testing"

	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

func setOf(name string, n int) string {
	s := `{"type":"assay/refset/1","name":"` + name + `","created":"2026-01-01T00:00:00Z","entries":[`
	for i := range n {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprintf(`{"name":"/%06d","digests":["%s"]}`, i, rats.SHA256([]byte(name), []byte{byte(i)}))
	}
	return s + "]}"
}

// R037, R040: memory first, then the database; what is in memory is bounded, and every look-up is counted.
func TestSetThatMadeRoomIsReadAgain(t *testing.T) {
	space := open(t)
	for _, name := range []string{"a", "b", "c"} {
		put(t, space, store.DocSet, name, setOf(name, 200))
	}
	c := NewCache(all.Descriptors())
	c.sets.limit = 40_000 // about two of them
	v, err := c.Fresh(t.Context(), space, "default")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, name := range []string{"a", "b", "c"} {
			d := rats.SHA256([]byte(name), []byte{7})
			hit, err := v.Index.Find(name, "/000007", d)
			if err != nil || !hit.Known || hit.Version != 1 {
				t.Fatalf("%s: %+v, %v", name, hit, err)
			}
			if hit, err = v.Index.Find(name, "/000008", d); err != nil || hit.Known || len(hit.Expected) != 1 {
				t.Fatalf("%s: %+v, %v", name, hit, err)
			}
			if s := c.Stats(); s.Bytes > c.sets.limit || s.Sets == 0 {
				t.Fatalf("%d sets of %d bytes are in memory", s.Sets, s.Bytes)
			}
		}
	}
	s := c.Stats()
	if s.Memory.Hits == 0 || s.Database.Hits == 0 || s.Memory.Misses != s.Database.Hits || s.Memory.Hits+s.Memory.Misses != 18 || s.Database.Misses != 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestWhatNoViewUsesIsForgotten(t *testing.T) {
	space := open(t)
	c := NewCache(all.Descriptors())
	var old *View
	for i := range 5 {
		put(t, space, store.DocSet, "a", setOf(fmt.Sprint("a", i), 20))
		v, err := c.Fresh(t.Context(), space, "default")
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			old = v
		}
	}
	if s := c.Stats(); s.Sets != 1 {
		t.Errorf("%d versions of one set are in memory", s.Sets)
	}
	// A judgement under way by the first version still finds that one.
	if hit, err := old.Index.Find("a", "/000003", rats.SHA256([]byte("a0"), []byte{3})); err != nil || !hit.Known || hit.Version != 1 {
		t.Errorf("%+v, %v", hit, err)
	}
}
