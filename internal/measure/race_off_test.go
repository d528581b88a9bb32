//go:build !race

package measure

const manyFiles = 10_000_000

// raceEnabled says that times mean something.
const raceEnabled = false
