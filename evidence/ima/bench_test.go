package ima

import (
	"fmt"
	"testing"
)

// BenchmarkVerify is the figure of entries per second: the whole list parsed, checked against its template digests,
// replayed in the SHA-256 bank and packed into claims; and the same for the newest 1 % of it.
func BenchmarkVerify(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		l := booted()
		for i := 1; i < n-n/100; i++ {
			l.file(fmt.Sprintf("/usr/lib/x86_64-linux-gnu/lib%06d.so.1", i), fmt.Sprint(i))
		}
		at, count := len(l.b), l.count
		_, resume := mustVerify(b, evidence(l.b), l.inputs("a"))
		for i := l.count; i < n; i++ {
			l.file(fmt.Sprintf("/usr/lib/x86_64-linux-gnu/lib%06d.so.1", i), fmt.Sprint(i))
		}
		in := l.inputs("a")
		run := func(name string, entries int, verify func() error) {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := verify(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
			})
		}
		run("full", n, func() error {
			_, err := New().Verify(b.Context(), evidence(l.b), in)
			return err
		})
		in2 := in
		in2.Resume = resume
		run("incremental", n, func() error {
			_, err := New().Verify(b.Context(), rest(l, count, at), in2)
			return err
		})
		c, _ := mustVerify(b, evidence(l.b), in)
		set := lookup{}
		for e := range c.All() {
			set[e.Text()] = []string{fmt.Sprint(e.Index)}
		}
		r := &Rules{Allow: []string{"files"}}
		r.Lint()
		run("check", n, func() error {
			r.Check(c, set, noon)
			return nil
		})
	}
}
