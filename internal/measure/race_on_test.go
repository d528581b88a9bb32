//go:build race

package measure

// manyFiles is less under the race detector, which makes each step ten times as slow.
const manyFiles = 500_000

// raceEnabled says that times mean nothing.
const raceEnabled = true
