//go:build !race

package cluster

// nodes is how many there are.
const nodes = 500
