package agent

import (
	"encoding/binary"
	"io"
	"time"
)

// The pause before a lost stream is opened again: full jitter below a bound that doubles, so that the agents a server
// lost at once don't come back at once.
const (
	pauseFirst = time.Second
	pauseMax   = time.Minute
	// steady is how long a stream must have held for the next loss to count as the first: a server that accepts and drops
	// at once isn't hammered.
	steady = 10 * time.Second
)

type backoff struct {
	rand  io.Reader
	bound time.Duration // of the next pause; 0: pauseFirst
}

func (b *backoff) reset() { b.bound = 0 }

// next returns a pause between 0 and the bound. It doubles the bound if every server was tried; before that the next one
// is likely to be better, and only the crowd of agents is to be spread.
func (b *backoff) next(all bool) time.Duration {
	bound := max(b.bound, pauseFirst)
	if all {
		b.bound = min(2*bound, pauseMax)
	}
	var r [8]byte
	if _, err := io.ReadFull(b.rand, r[:]); err != nil {
		return bound
	}
	return time.Duration(binary.BigEndian.Uint64(r[:]) % uint64(bound+1))
}
