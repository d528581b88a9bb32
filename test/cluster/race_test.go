//go:build race

package cluster

// nodes is smaller where every memory access is watched: two cores attest 500 nodes in 12 s, but not ten times slower.
const nodes = 120
