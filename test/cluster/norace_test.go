//go:build !race

package cluster

import "time"

// nodes is how many there are.
const nodes = 500

// starved is how much later than due an attestation may be for want of a processor.
const starved = 2 * time.Second
