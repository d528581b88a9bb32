//go:build amd64 || arm64

package monitor

// pause tells the processor that its thread looks at a word again and again: the other thread of the core runs faster, and
// the end of the looking is seen sooner.
func pause()
