package monitor

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns both ends of a channel. The ends of this one are threads of one process; what crossing costs is the same.
func pair(t testing.TB, looks int) (*channel, *channel) {
	t.Helper()
	a, fds, err := share(4096)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	t.Cleanup(a.unmap)
	a.spin.looks = looks
	b := &channel{mem: a.mem, bell: a.bell, side: sideEnclave, spin: a.spin, gone: new(atomic.Bool)}
	*a.turn() = sideMonitor
	return a, b
}

// R047: a side that looks in vain doesn't go on looking, and begins again when it pays.
func TestLookingStopsWhereItDoesNotPay(t *testing.T) {
	var word uint32
	s := spinner{looks: 10}
	in := func(waits int) (looked int) { // waits in vain: those that looked
		for range waits {
			if s.rest == 0 {
				looked++
			}
			if s.spin(&word, 1) {
				t.Fatal("it sees a turn that is not there")
			}
		}
		return looked
	}
	if n := in(10_000); n > 50 {
		t.Errorf("it looked in %d of 10,000 waits in vain", n)
	}
	s.rest = 0 // it is over, and from now on every look is rewarded
	word = 1
	for range longestRest {
		if !s.spin(&word, 1) {
			t.Fatal("it doesn't see its turn")
		}
	}
	word = 0
	if n := in(shortestRest + 2); n != 2 {
		t.Errorf("after one exception it looked %d times in %d waits", n, shortestRest+2)
	}
	s = spinner{}
	if n := in(10); s.spin(&word, 1) || n != 10 || s.last != 0 {
		t.Error("one that shall not look looks")
	}
}

func TestLookingIsBoundInTime(t *testing.T) {
	if n := looksIn(spinTime, time.Now); n < 100 || n > 20_000 {
		t.Errorf("%d looks", n)
	}
	at := time.Unix(0, 0)
	if n := looksIn(spinTime, func() time.Time { return at }); n != 100 {
		t.Errorf("by a clock that stands: %d looks", n)
	}
	slow := looksIn(spinTime, func() time.Time { at = at.Add(time.Millisecond); return at })
	fast := looksIn(spinTime, func() time.Time { at = at.Add(time.Microsecond); return at })
	if slow != 100 || fast != 20_000 {
		t.Errorf("looks on a slow processor %d, on a fast one %d", slow, fast)
	}
}

// R047: messages cross in both directions whatever each side does while it waits, and the end of one is seen by the other.
func TestMessagesCrossSpinningAndAsleep(t *testing.T) {
	for _, looks := range [][2]int{{0, 0}, {500, 0}, {0, 500}, {500, 500}} {
		a, b := pair(t, 0)
		a.spin.looks, b.spin.looks = looks[0], looks[1]
		ended := make(chan int)
		go func() {
			n := 0
			for m, ok := b.receive(); ok; m, ok = b.receive() {
				if m.op != opOCall || m.name != "ping" || int(m.a) != n {
					t.Errorf("message %d: %+v", n, m)
				}
				n++
				b.send(message{op: opReply, a: m.a + 1})
			}
			ended <- n
		}()
		for i := range 2000 {
			if i%500 == 0 {
				time.Sleep(time.Millisecond) // the other side falls asleep
			}
			a.send(message{op: opOCall, a: uint32(i), name: "ping"})
			if m, ok := a.receive(); !ok || m.op != opReply || int(m.a) != i+1 {
				t.Fatalf("reply %d: %+v, %t", i, m, ok)
			}
		}
		b.gone.Store(true)
		b.wake()
		if n := <-ended; n != 2000 {
			t.Errorf("%v: %d messages arrived", looks, n)
		}
	}
}

// BenchmarkCrossing is one way out and back between two sides, without the engine and without a call: what mode process adds.
func BenchmarkCrossing(b *testing.B) {
	for name, looks := range map[string]int{"futex": 0, "spinning": looksIn(spinTime, time.Now)} {
		b.Run(name, func(b *testing.B) {
			a, other := pair(b, looks)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				runtime.LockOSThread()
				for {
					m, ok := other.receive()
					if !ok || m.op != opOCall {
						return
					}
					other.send(message{op: opReply, a: m.a})
				}
			}()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			const many = 200
			best := time.Duration(0)
			for b.Loop() { // the fastest of many short runs: others use the processor too
				began := time.Now()
				for range many {
					a.send(message{op: opOCall, a: 7, name: "ping"})
					a.receive()
				}
				if took := time.Since(began); best == 0 || took < best {
					best = took
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(best.Nanoseconds())/many, "ns/op")
			a.send(message{op: opRefused})
			<-ended
		})
	}
}
