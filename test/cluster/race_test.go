//go:build race

package cluster

import "time"

// nodes is smaller where every memory access is watched: two cores attest 500 nodes in 12 s, but not ten times slower.
const nodes = 120

// starved is how much later than due an attestation may be for want of a processor: servers and nodes share the machine with
// other tests, and the race detector makes each ten times as slow.
const starved = 8 * time.Second
