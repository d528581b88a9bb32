package plan

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
)

// Bounds of Merkle trees. A file has at most MaxChunks, so that a tree fits in memory and a proof in an outcome's value: a
// larger file needs larger chunks.
const (
	MinChunk  = 4 << 10  // bytes
	MaxChunk  = 64 << 20 // bytes
	MaxChunks = 1 << 20
	MaxSpots  = 64        // chunks that one spot check reads of a file
	MaxProof  = 1<<16 - 1 // bytes
)

// What may be trusted to say that a file is what it was (Merkle.Trust).
const (
	TrustCTime  = "ctime"  // its change time, size, device and inode: whoever sets the machine's clock, or writes to the disk below the file system, deceives it
	TrustVerity = "verity" // those, and the kernel's fs-verity digest, which makes the file immutable
)

// Merkle says that files are measured by the root of a Merkle tree over chunks. Leaves are H(0 ‖ chunk), nodes
// H(1 ‖ left ‖ right), a node without a right neighbour goes up as it is, and the root is
//
//	H(2 ‖ "assay/merkle/1" ‖ u64 chunk size ‖ u64 file size ‖ top)
//
// with big-endian integers. A file without content has one chunk, which is empty. The root commits to the size, so a proof of
// some chunks shows how many there are.
type Merkle struct {
	Chunk int64  // bytes, a power of two
	Trust string // "": all chunks are read in every run; TrustCTime, TrustVerity: those of a file that it says changed
	Spots int    // chunks that are read though nothing says that the file changed, chosen by Seed; their proof is the outcome's value
	Seed  []byte // 32 bytes, fresh; none in a policy
}

// check says what is wrong with the options of a Merkle test.
func (o FileOptions) merkle() (*Merkle, error) {
	if o.Chunk == 0 {
		if o.Trust != "" || o.Spots != 0 || len(o.Seed) > 0 {
			return nil, fmt.Errorf("trust, spots and seed need a chunk size")
		}
		return nil, nil
	}
	switch {
	case o.Verity:
		return nil, fmt.Errorf("chunk and verity exclude one another")
	case o.Chunk < MinChunk || o.Chunk > MaxChunk || o.Chunk&(o.Chunk-1) != 0:
		return nil, fmt.Errorf("chunk of %d bytes; a power of two from %d to %d", o.Chunk, MinChunk, MaxChunk)
	case o.Trust != "" && o.Trust != TrustCTime && o.Trust != TrustVerity:
		return nil, fmt.Errorf("trust %q; %s or %s", clip(o.Trust), TrustCTime, TrustVerity)
	case o.Spots < 0 || o.Spots > MaxSpots:
		return nil, fmt.Errorf("%d spots, at most %d", o.Spots, MaxSpots)
	case len(o.Seed) > 0 && (o.Spots == 0 || len(o.Seed) != 32):
		return nil, fmt.Errorf("a seed of %d bytes; 32, with spots only", len(o.Seed))
	}
	return &Merkle{Chunk: o.Chunk, Trust: o.Trust, Spots: o.Spots, Seed: o.Seed}, nil
}

// WithSeed returns a test with the seed of its spot checks, nil for none. A test without spot checks stays as it is.
func (t Test) WithSeed(seed []byte) (Test, error) {
	s, err := t.Scope()
	if err != nil || s.Merkle == nil || s.Merkle.Spots == 0 {
		return t, err
	}
	var args any
	switch t.Kind {
	case KindFile:
		var a FileArgs
		err = strict(t.Args, &a)
		a.Seed = seed
		args = a
	case KindGlob:
		var a GlobArgs
		err = strict(t.Args, &a)
		a.Seed = seed
		args = a
	default:
		var a DirArgs
		err = strict(t.Args, &a)
		a.Seed = seed
		args = a
	}
	if err != nil {
		return t, err
	}
	out, err := newTest(t.ID, t.Kind, t.Alg, args)
	out.Timed, out.Repeat = t.Timed, t.Repeat
	return out, err
}

// Chunks returns how many chunks a file has.
func Chunks(size, chunk int64) int64 { return max(1, size/chunk+min(size%chunk, 1)) }

// SpotsOf returns which of n chunks a spot check reads: k different ones, or all, ascending. They are a function of seed
// and name, uniform, and not to be foreseen without the seed.
func SpotsOf(seed, name []byte, n int64, k int) []int64 {
	if int64(k) >= n {
		out := make([]int64, n)
		for i := range out {
			out[i] = int64(i)
		}
		return out
	}
	base := appendField(appendField(appendField(nil, []byte("assay/spots/1")), seed), name)
	out := make([]int64, 0, k)
	for counter := uint64(0); len(out) < k; counter++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(base, counter))
		for b := sum[:]; len(b) > 0 && len(out) < k; b = b[8:] {
			v := binary.BigEndian.Uint64(b)
			if v >= -uint64(n)%uint64(n) { // the rest is a multiple of n: no chunk is likelier than another
				if i := int64(v % uint64(n)); !slices.Contains(out, i) {
					out = append(out, i)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// Detection returns the probability that reading k of n chunks, chosen uniformly, meets one of those that changed.
func Detection(n, changed int64, k int) float64 {
	missed := 1.0
	for i := range int64(k) {
		if n-changed-i <= 0 {
			return 1
		}
		missed *= float64(n-changed-i) / float64(n-i)
	}
	return 1 - missed
}

func algHash(alg string) hash.Hash {
	switch alg {
	case "sha384":
		return sha512.New384()
	case "sha512":
		return sha512.New()
	default:
		return sha256.New()
	}
}

// LeafTag is what a leaf's hash begins with.
const LeafTag = 0

func nodeSum(h hash.Hash, left, right, out []byte) []byte {
	h.Reset()
	h.Write([]byte{1})
	h.Write(left)
	h.Write(right)
	return h.Sum(out)
}

func rootSum(h hash.Hash, chunk, size int64, top []byte) []byte {
	h.Reset()
	b := append([]byte{2}, "assay/merkle/1"...)
	b = binary.BigEndian.AppendUint64(b, uint64(chunk))
	h.Write(binary.BigEndian.AppendUint64(b, uint64(size)))
	h.Write(top)
	return h.Sum(nil)
}

// Tree is a Merkle tree over a file's chunks, with all its nodes. It is not safe for concurrent use, but for SetLeaf of
// different chunks before Build.
type Tree struct {
	sum         int // bytes of one hash
	chunk, size int64
	levels      [][]byte // levels[0] are the leaves
}

// NewTree returns a tree whose leaves are still to be set. It refuses a file of more than MaxChunks chunks.
func NewTree(alg string, chunk, size int64) (*Tree, error) {
	n := Chunks(size, chunk)
	if AlgSize(alg) == 0 || size < 0 || n > MaxChunks {
		return nil, fmt.Errorf("a file of %d chunks by %q, at most %d", n, alg, MaxChunks)
	}
	t := &Tree{sum: AlgSize(alg), chunk: chunk, size: size}
	for {
		t.levels = append(t.levels, make([]byte, n*int64(t.sum)))
		if n == 1 {
			return t, nil
		}
		n = (n + 1) / 2
	}
}

// TreeBytes returns the memory that the tree of a file takes.
func TreeBytes(alg string, chunk, size int64) int64 {
	return 2 * Chunks(size, chunk) * int64(AlgSize(alg))
}

// Len returns the number of chunks.
func (t *Tree) Len() int64 { return int64(len(t.levels[0]) / t.sum) }

// Chunk returns where chunk i begins and how many bytes it has.
func (t *Tree) Chunk(i int64) (offset, size int64) {
	offset = i * t.chunk
	return offset, min(t.chunk, t.size-offset)
}

func (t *Tree) at(level int, i int64) []byte {
	return t.levels[level][i*int64(t.sum) : (i+1)*int64(t.sum)]
}

// SetLeaf sets the hash of a chunk.
func (t *Tree) SetLeaf(i int64, sum []byte) { copy(t.at(0, i), sum) }

// Leaf returns the hash of a chunk.
func (t *Tree) Leaf(i int64) []byte { return t.at(0, i) }

// Build computes all nodes above the leaves.
func (t *Tree) Build(h hash.Hash) {
	for level := range len(t.levels) - 1 {
		for i := range int64(len(t.levels[level+1]) / t.sum) {
			t.join(h, level, i)
		}
	}
}

// join computes node i of the level above.
func (t *Tree) join(h hash.Hash, level int, i int64) {
	out := t.at(level+1, i)
	if 2*i+1 == int64(len(t.levels[level])/t.sum) {
		copy(out, t.at(level, 2*i))
		return
	}
	nodeSum(h, t.at(level, 2*i), t.at(level, 2*i+1), out[:0])
}

// Update sets the hash of one chunk in a built tree, and what stands above it.
func (t *Tree) Update(h hash.Hash, i int64, sum []byte) {
	t.SetLeaf(i, sum)
	for level := range len(t.levels) - 1 {
		i /= 2
		t.join(h, level, i)
	}
}

// Root returns the root of a built tree.
func (t *Tree) Root(h hash.Hash) []byte {
	return rootSum(h, t.chunk, t.size, t.at(len(t.levels)-1, 0))
}

// Proof shows that the chunks of spots (ascending) belong to a built tree: u64 size of the file ‖ the chunks' hashes ‖ the
// nodes that are missing on the way up, level by level, from left to right.
func (t *Tree) Proof(spots []int64) []byte {
	out := binary.BigEndian.AppendUint64(nil, uint64(t.size))
	for _, i := range spots {
		out = append(out, t.Leaf(i)...)
	}
	climb(t.Len(), spots, func(level int, i int64) { out = append(out, t.at(level, i)...) }, func(int, int, int) {})
	return out
}

// climb goes from the known nodes of a tree with n leaves to its top. It asks for every missing neighbour, and says which
// nodes are joined: those at positions a and b of the level's known nodes, b being -1 for the neighbour just asked for and
// -2 where there is none; -3 if a itself is the right one of the pair.
func climb(n int64, known []int64, missing func(level int, i int64), join func(a, b, next int)) {
	known = slices.Clone(known)
	for level := 0; n > 1; level++ {
		next := make([]int64, 0, len(known))
		for a := 0; a < len(known); a++ {
			i := known[a]
			switch {
			case i%2 == 1: // the left neighbour is unknown, or it had taken this one along
				missing(level, i-1)
				join(a, -3, len(next))
			case i+1 == n:
				join(a, -2, len(next))
			case a+1 < len(known) && known[a+1] == i+1:
				join(a, a+1, len(next))
				a++
			default:
				missing(level, i+1)
				join(a, -1, len(next))
			}
			next = append(next, i/2)
		}
		known, n = next, (n+1)/2
	}
}

// OpenProof reads a proof for a file called name, by the options of its test: it returns the file's size, the chunks that were
// read, and the root that they prove. Every length is checked: a proof has one size.
func (m Merkle) OpenProof(alg string, name, proof []byte) (size int64, spots []int64, root []byte, err error) {
	sum := AlgSize(alg)
	r := &reader{rest: proof}
	n := r.uint64()
	if r.bad || sum == 0 || n > uint64(m.Chunk)*MaxChunks {
		return 0, nil, nil, fmt.Errorf("a proof of %d bytes for a file of %d", len(proof), n)
	}
	size = int64(n)
	spots = SpotsOf(m.Seed, name, Chunks(size, m.Chunk), m.Spots)
	nodes := make([][]byte, len(spots))
	for i := range nodes {
		nodes[i] = r.take(sum)
	}
	h := algHash(alg)
	var beside []byte
	climb(Chunks(size, m.Chunk), spots, func(int, int64) { beside = r.take(sum) }, func(a, b, next int) {
		switch {
		case r.bad:
		case b == -2:
			nodes[next] = nodes[a]
		case b == -3:
			nodes[next] = nodeSum(h, beside, nodes[a], nil)
		case b == -1:
			nodes[next] = nodeSum(h, nodes[a], beside, nil)
		default:
			nodes[next] = nodeSum(h, nodes[a], nodes[b], nil)
		}
	})
	if !r.done() {
		return 0, nil, nil, fmt.Errorf("a proof of %d bytes for %d of %d chunks", len(proof), len(spots), Chunks(size, m.Chunk))
	}
	return size, spots, rootSum(h, m.Chunk, size, nodes[0]), nil
}

// What the name of an outcome says after the path and a zero byte, which no path holds.
const (
	whatAttributes = "attributes"
	whatVerity     = "verity"
	whatMerkle     = "merkle-" // and the chunk size
)

// CutName splits the name of an outcome about a file: its path, and what was measured: "" is the content itself.
func CutName(name []byte) (path []byte, what string) {
	if i := bytes.IndexByte(name, 0); i > 0 {
		return name[:i], string(name[i+1:])
	}
	return name, ""
}

// AttributesName returns the name of the outcome about the attributes of path p.
func AttributesName(p []byte) []byte { return append(slices.Clone(p), "\x00"+whatAttributes...) }

// IsAttributes says whether the second part of CutName means a file's attributes.
func IsAttributes(what string) bool { return what == whatAttributes }

// contentWhat is what a test of files measures of contents. A root is never taken for a file's digest, nor for one of
// another chunk size: they have names of their own in reference sets.
func (s Scope) contentWhat() string {
	switch {
	case s.Verity:
		return whatVerity
	case s.Merkle != nil:
		return fmt.Sprintf("%s%d", whatMerkle, s.Merkle.Chunk)
	default:
		return ""
	}
}

// ContentName returns the name of the outcome about the content of path p.
func (s Scope) ContentName(p []byte) []byte {
	if what := s.contentWhat(); what != "" {
		return append(append(slices.Clone(p), 0), what...)
	}
	return p
}
