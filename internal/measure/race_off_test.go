//go:build !race

package measure

const manyFiles = 10_000_000
