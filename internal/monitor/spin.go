package monitor

import (
	"sync/atomic"
	"time"
)

// spinner decides how long a side looks for its turn before it sleeps. Looking pays if the other side runs on another core
// and answers sooner than a switch takes; it harms if the other side waits for the very core that looks. Nobody says which
// it is, so it is learned: after a look in vain the next waits go to sleep at once, twice as many each time that happens
// again, and so a caller who pauses, an application that takes its time or a busy machine costs next to nothing (R047).
type spinner struct {
	looks int // at most, for one wait; 0: it never looks
	rest  int // waits that go to sleep at once
	last  int // how long the last rest was, less what went well since
}

// What a look in vain costs: waits without looking.
const (
	shortestRest = 8
	longestRest  = 256
)

// spinTime is about what sleeping and being woken costs where the core has gone idle meanwhile, and on a virtual machine has
// to be given back first: were it less, one side's sleep would make the other's look vain.
const spinTime = 50 * time.Microsecond

// spin says whether the turn came while looking.
func (s *spinner) spin(turn *uint32, side uint32) bool {
	switch {
	case atomic.LoadUint32(turn) == side: // sooner than could be looked
		s.last, s.rest = max(s.last-1, 0), max(s.rest-1, 0)
		return true
	case s.looks == 0:
		return false
	case s.rest > 0:
		s.rest--
		return false
	}
	for range s.looks {
		pause()
		if atomic.LoadUint32(turn) == side {
			s.last = max(s.last-1, 0)
			return true
		}
	}
	s.last = min(max(2*s.last, shortestRest), longestRest)
	s.rest = s.last
	return false
}

// looksIn returns how often a side looks in spinTime: processors take between 10 and 150 cycles for a pause.
func looksIn(d time.Duration, now func() time.Time) int {
	const sample, least, most = 500, 100, 20_000
	var word uint32
	best := time.Duration(0)
	for range 3 {
		began := now()
		s := spinner{looks: sample}
		s.spin(&word, 1)
		if took := now().Sub(began); took > 0 && (best == 0 || took < best) { // more: it was interrupted
			best = took
		}
	}
	if best == 0 { // the clock stands
		return least
	}
	return min(max(int(sample*d/best), least), most)
}
