package plan

import (
	"bytes"
	"fmt"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// CodeProof refuses a spot check that proves nothing.
var CodeProof = code("plan.outcome.proof", "spot check doesn't prove the root it states", "the runner read other chunks than the challenge chose, or made the root up")

// Spots says how much of a file a spot check read, and what that is worth: how likely it meets a change, if so much of the
// file was changed, in millionths. It is about this one run; runs add up, for each chooses anew.
type Spots struct {
	Chunks   int64 `json:"chunks"`    // of the file
	Read     int64 `json:"read"`      // of them, chosen by the challenge
	OneChunk int64 `json:"one_chunk"` // one chunk was changed
	Permille int64 `json:"permille"`  // 0.1 % of the chunks were
	Percent  int64 `json:"percent"`   // 1 %
	Tenth    int64 `json:"tenth"`     // 10 %
}

func spotsOf(chunks int64, read int) *Spots {
	of := func(parts int64) int64 { return int64(1e6 * plan.Detection(chunks, (chunks+parts-1)/parts, read)) }
	return &Spots{Chunks: chunks, Read: int64(read), OneChunk: of(chunks), Permille: of(1000), Percent: of(100), Tenth: of(10)}
}

// spotCheck verifies the proof of a spot check. What it proves is the root, so that equal files have equal claims whichever
// chunks were read.
func spotCheck(t plan.Test, m *plan.Merkle, o plan.Outcome) (*Spots, error) {
	path, _ := plan.CutName(o.Name)
	size, spots, root, err := m.OpenProof(t.Alg, path, o.Value)
	switch {
	case err != nil:
		return nil, CodeProof.Bad(rats.EscapePath(o.Name), "the proof of the chunks that the challenge chose", err.Error())
	case !bytes.Equal(root, o.Digest):
		return nil, CodeProof.Bad(rats.EscapePath(o.Name), fmt.Sprintf("%s:%x", t.Alg, o.Digest), fmt.Sprintf("%s:%x", t.Alg, root))
	case size != o.Size:
		return nil, CodeProof.Bad(rats.EscapePath(o.Name), fmt.Sprintf("a file of %d bytes", size), fmt.Sprint(o.Size))
	}
	return spotsOf(plan.Chunks(size, m.Chunk), len(spots)), nil
}

// seeded gives a test's spot checks a seed of the challenge's.
func seeded(t plan.Test, seed [32]byte) (plan.Test, error) {
	return t.WithSeed(rats.SHA256([]byte("assay/spots/seed/1"), seed[:], fmt.Appendf(nil, "%d", t.ID)).Sum)
}
