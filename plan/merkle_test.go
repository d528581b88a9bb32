package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"
)

func tree(t testing.TB, alg string, chunk int64, data []byte) *Tree {
	t.Helper()
	x, err := NewTree(alg, chunk, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range x.Len() {
		off, n := x.Chunk(i)
		h := algHash(alg)
		h.Write([]byte{LeafTag})
		h.Write(data[off : off+n])
		x.SetLeaf(i, h.Sum(nil))
	}
	x.Build(algHash(alg))
	return x
}

// naive is the root by its definition.
func naive(chunk int64, data []byte) []byte {
	var level [][]byte
	for i := int64(0); i == 0 || i < int64(len(data)); i += chunk {
		s := sha256.Sum256(append([]byte{0}, data[i:min(i+chunk, int64(len(data)))]...))
		level = append(level, s[:])
	}
	for len(level) > 1 {
		var next [][]byte
		for i := 0; i < len(level); i += 2 {
			if i+1 == len(level) {
				next = append(next, level[i])
				continue
			}
			s := sha256.Sum256(append(append([]byte{1}, level[i]...), level[i+1]...))
			next = append(next, s[:])
		}
		level = next
	}
	b := append([]byte{2}, "assay/merkle/1"...)
	b = binary.BigEndian.AppendUint64(b, uint64(chunk))
	b = binary.BigEndian.AppendUint64(b, uint64(len(data)))
	s := sha256.Sum256(append(b, level[0]...))
	return s[:]
}

// R043: roots are what the documentation says, and proofs of any chunks lead to them.
func TestProofsLeadToTheRoot(t *testing.T) {
	const chunk = MinChunk
	for _, size := range []int{0, 1, chunk, chunk + 1, 2 * chunk, 3 * chunk, 5*chunk - 1, 7 * chunk, 8 * chunk, 13*chunk + 5, 64 * chunk} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i / 97)
		}
		x := tree(t, "sha256", chunk, data)
		want := naive(chunk, data)
		if got := x.Root(algHash("sha256")); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: another root than by definition", size)
		}
		for k := 1; k <= 7; k++ {
			m := Merkle{Chunk: chunk, Spots: k, Seed: bytes.Repeat([]byte{byte(k)}, 32)}
			proof := x.Proof(SpotsOf(m.Seed, []byte("/f"), x.Len(), k))
			n, spots, root, err := m.OpenProof("sha256", []byte("/f"), proof)
			if err != nil || n != int64(size) || !bytes.Equal(root, want) || len(spots) != int(min(int64(k), x.Len())) {
				t.Errorf("%d bytes, %d spots: size %d, %d spots, %v", size, k, n, len(spots), err)
			}
			for _, bad := range [][]byte{proof[:len(proof)-1], append(bytes.Clone(proof), 0), nil, bytes.Repeat([]byte{0xff}, len(proof))} {
				if _, _, root, err := m.OpenProof("sha256", []byte("/f"), bad); err == nil && bytes.Equal(root, want) {
					t.Errorf("%d bytes, %d spots: a proof of %d bytes instead of %d was accepted", size, k, len(bad), len(proof))
				}
			}
			for i := range proof {
				bad := bytes.Clone(proof)
				bad[i] ^= 1
				if _, _, root, err := m.OpenProof("sha256", []byte("/f"), bad); err == nil && bytes.Equal(root, want) {
					t.Fatalf("%d bytes, %d spots: byte %d of the proof makes no difference", size, k, i)
				}
			}
		}
	}
}

func TestAnUpdatedTreeIsAFreshOne(t *testing.T) {
	for _, n := range []int{1, 2, 3, 6, 11} {
		data := make([]byte, n*MinChunk)
		x := tree(t, "sha384", MinChunk, data)
		for i := range n {
			data[i*MinChunk+7] = byte(i + 1)
			x.Update(algHash("sha384"), int64(i), tree(t, "sha384", MinChunk, data).Leaf(int64(i)))
			if fresh := tree(t, "sha384", MinChunk, data); !bytes.Equal(fresh.Root(algHash("sha384")), x.Root(algHash("sha384"))) {
				t.Errorf("chunk %d of %d: another root", i, n)
			}
		}
	}
}

func TestLargestProofFitsAnOutcome(t *testing.T) {
	for alg := range algSizes {
		x, err := NewTree(alg, MinChunk, MinChunk*MaxChunks)
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for seed := range 4 {
			most = max(most, len(x.Proof(SpotsOf([]byte{byte(seed)}, nil, x.Len(), MaxSpots))))
		}
		// The most that chunks spread evenly can need.
		spread := make([]int64, MaxSpots)
		for i := range spread {
			spread[i] = int64(i) * MaxChunks / MaxSpots
		}
		if most = max(most, len(x.Proof(spread))); most > MaxProof {
			t.Errorf("%s: %d bytes, at most %d", alg, most, MaxProof)
		}
	}
	if _, err := NewTree("sha256", MinChunk, MinChunk*MaxChunks+1); err == nil {
		t.Error("a tree of too many chunks was made")
	}
}

// R043: the detection probability that is stated is the one that is seen.
func TestSpotsAreUniformAndDetectAsStated(t *testing.T) {
	const n, changed, k, rounds = 200, 10, 20, 4000
	var hits [n]int
	found := 0
	for i := range rounds {
		spots := SpotsOf(binary.BigEndian.AppendUint64(nil, uint64(i)), []byte("/x"), n, k)
		if !slices.IsSorted(spots) || len(slices.Compact(slices.Clone(spots))) != k || spots[k-1] >= n {
			t.Fatalf("spots %v", spots)
		}
		met := false
		for _, s := range spots {
			hits[s]++
			met = met || s < changed
		}
		if met {
			found++
		}
	}
	want := Detection(n, changed, k)
	if got := float64(found) / rounds; math.Abs(got-want) > 0.03 {
		t.Errorf("detected %.3f, stated %.3f", got, want)
	}
	for i, h := range hits {
		if mean := rounds * k / n; h < mean*7/10 || h > mean*13/10 {
			t.Errorf("chunk %d was read %d times, expected about %d", i, h, mean)
		}
	}
	if Detection(10, 10, 1) != 1 || Detection(10, 0, 10) != 0 || Detection(10, 1, 10) != 1 || math.Abs(Detection(1<<20, 10486, 64)-0.4745) > 0.001 {
		t.Errorf("got %v", Detection(1<<20, 10486, 64))
	}
}

func TestMerkleOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]FileOptions{
		"no power of two": {Chunk: 5000}, "small": {Chunk: 2048}, "large": {Chunk: MaxChunk * 2}, "below zero": {Chunk: -MinChunk},
		"trust": {Chunk: MinChunk, Trust: "mtime"}, "spots": {Chunk: MinChunk, Spots: MaxSpots + 1}, "spots below zero": {Chunk: MinChunk, Spots: -1},
		"seed": {Chunk: MinChunk, Spots: 1, Seed: make([]byte, 31)}, "seed without spots": {Chunk: MinChunk, Seed: make([]byte, 32)},
		"spots without chunk": {Spots: 1}, "trust without chunk": {Trust: TrustCTime}, "both": {Chunk: MinChunk, Verity: true},
	} {
		if _, err := NewFilesTest(1, KindFile, "sha256", "/a", nil, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, kind := range []string{KindFile, KindDir, KindGlob} {
		test, err := NewFilesTest(1, kind, "sha256", "/a", nil, FileOptions{Chunk: 1 << 20, Spots: 3})
		if err != nil {
			t.Fatal(err)
		}
		test.Timed, test.Repeat = true, 3
		seeded, err := test.WithSeed(make([]byte, 32))
		if err != nil || bytes.Equal(seeded.Args, test.Args) || !seeded.Timed || seeded.Repeat != 3 {
			t.Errorf("%s: %+v, %v", kind, seeded, err)
		}
		if back, err := seeded.WithSeed(nil); err != nil || !bytes.Equal(back.Args, test.Args) {
			t.Errorf("%s: %s, %v", kind, back.Args, err)
		}
	}
}

// A root is never taken for a digest of the content, nor for one over chunks of another size.
func TestRootsHaveNamesOfTheirOwn(t *testing.T) {
	scope := func(o FileOptions) Scope {
		x, err := NewFilesTest(1, KindFile, "sha256", "/a", nil, o)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := x.Scope()
		return s
	}
	all := []Scope{scope(FileOptions{}), scope(FileOptions{Chunk: MinChunk}), scope(FileOptions{Chunk: 2 * MinChunk, Trust: TrustVerity}), scope(FileOptions{Verity: true})}
	for i, a := range all {
		for j, b := range all {
			if a.Covers(b.ContentName([]byte("/a"))) != (i == j) {
				t.Errorf("scope %d and name %q", i, b.ContentName([]byte("/a")))
			}
		}
	}
}

func FuzzProof(f *testing.F) {
	data := make([]byte, 9*MinChunk)
	x := tree(f, "sha256", MinChunk, data)
	seed := make([]byte, 32)
	f.Add(x.Proof(SpotsOf(seed, []byte("/f"), x.Len(), 4)))
	f.Add([]byte{})
	root := x.Root(algHash("sha256"))
	valid := x.Proof(SpotsOf(seed, []byte("/f"), x.Len(), 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, got, err := Merkle{Chunk: MinChunk, Spots: 4, Seed: seed}.OpenProof("sha256", []byte("/f"), b)
		if err == nil && bytes.Equal(got, root) && !bytes.Equal(b, valid) {
			t.Fatalf("another proof of the root: %x", b)
		}
	})
}

func TestConditionsSurviveAndOthersAreRefused(t *testing.T) {
	o := []Outcome{{Test: 1, Name: []byte("a"), Digest: make([]byte, 32), Nanos: 3000, Unit: 2000}}
	list := []Condition{{"load", 5}, {"steal-ticks", 0}}
	bulk, timings, err := EncodeOutcomes([]uint32{1}, o, list)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeConditions(timings)
	if err != nil || !slices.Equal(got, list) {
		t.Errorf("%v, %v", got, err)
	}
	if _, back, err := DecodeOutcomes(bulk, timings); err != nil || back[0].Unit != 2000 || back[0].Units() != 1500 {
		t.Errorf("%+v, %v", back, err)
	}
	if UnitsOf(5, 0) != 0 || UnitsOf(math.MaxInt64, 1) != 0 || UnitsOf(1, 5000) != 1 {
		t.Error("units out of range")
	}
	for name, bad := range map[string][]Condition{
		"order": {{"b", 1}, {"a", 1}}, "twice": {{"a", 1}, {"a", 1}}, "name": {{"A b", 1}}, "no name": {{"", 1}}, "below zero": {{"a", -1}},
		"many": make([]Condition, MaxConditions+1),
	} {
		_, _, err := EncodeOutcomes([]uint32{1}, o, bad)
		wantCode(t, name, err, CodeOutcomes)
	}
	_, err = DecodeConditions(append(bytes.Clone(timings), 0))
	wantCode(t, "followed", err, CodeOutcomes)
}

func lab(runs, files int, noise func(run, file int) int64) [][]Timed {
	out := make([][]Timed, runs)
	for r := range out {
		for f := range files {
			out[r] = append(out[r], Timed{fmt.Sprintf("/f%02d", f), int64(1000+100*f) * noise(r, f) / 1000})
		}
	}
	return out
}

// R029, R030: windows are learned, and a run is judged as a whole and by each outcome.
func TestWindowsAreLearnedAndJudge(t *testing.T) {
	noise := func(r, f int) int64 { return 1000 + int64((r*7+f*13)%100) }
	w, err := Learn(lab(50, 20, noise), Learning{Backend: BackendNative, Margin: 250})
	if err != nil || len(w.Names) != 20 || w.Runs != 50 || w.Repeat != 1 {
		t.Fatalf("%+v, %v", w, err)
	}
	usual := w.Judge(lab(51, 20, noise)[50])
	if !w.Pace.Holds(usual.Pace) || !w.Spread.Holds(usual.Spread) || len(usual.Outside) > 0 || usual.Compared != 20 {
		t.Errorf("a run like the lab's: %+v", usual)
	}
	slow := w.Judge(lab(1, 20, func(r, f int) int64 { return 2 * noise(r, f) })[0])
	if w.Pace.Holds(slow.Pace) || len(slow.Outside) != 20 {
		t.Errorf("a run twice as slow: %+v", slow)
	}
	one := w.Judge(lab(1, 20, func(r, f int) int64 {
		if f == 3 {
			return 40_000
		}
		return noise(r, f)
	})[0])
	if !w.Pace.Holds(one.Pace) || len(one.Outside) != 1 || one.Outside[0].Name != "/f03" {
		t.Errorf("one slow file: %+v", one)
	}
	if j := w.Judge([]Timed{{"/else", 5}, {"/f01", 0}}); j.Compared != 0 || j.Pace != 0 {
		t.Errorf("nothing comparable: %+v", j)
	}
	for name, runs := range map[string][][]Timed{"few": lab(MinRuns-1, 3, noise), "nothing in common": {{{"a", 1}}, {{"b", 1}}, nil, nil, nil}} {
		if _, err := Learn(runs, Learning{}); err == nil {
			t.Errorf("%s: learned", name)
		}
	}
	if _, err := Learn(lab(9, 1, noise), Learning{Margin: -1}); err == nil {
		t.Error("learned with a margin below zero")
	}
}
