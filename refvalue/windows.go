package refvalue

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/assay-attest/assay/plan"
)

// timingVersion is the only form of the field timing.
const timingVersion = 1

// maxUnits bounds what a window may say, so that judging it can't overflow.
const maxUnits = 1 << 52

// WithWindows returns a copy of the set that also says what lab runs took, nil for nothing. In the native form that is
//
//	"timing":{"version":1,"backend":"native","runs":50,"repeat":3,"pace":[700,1400],"spread":[0,300],"windows":[
//	{"name":"/usr/bin/ls","window":[low,median,high,mad]}]}
//
// with names ascending and durations in thousandths of the reference hash (plan.Windows). Its errors have CodeTiming.
func (s *Set) WithWindows(w *plan.Windows) (*Set, error) {
	if err := checkWindows(w); err != nil {
		return nil, err
	}
	out := *s
	out.windows = w
	return &out, nil
}

// Windows returns what lab runs took, nil if the set doesn't say. It must not be changed.
func (s *Set) Windows() *plan.Windows { return s.windows }

func checkWindows(w *plan.Windows) error {
	if w == nil {
		return nil
	}
	bad := func(path, expected, seen string) error { return CodeTiming.Bad("timing."+path, expected, seen) }
	switch {
	case w.Backend == "" || len(w.Backend) > 64 || !canonicalName(w.Backend):
		return bad("backend", "1 to 64 bytes", quote(w.Backend))
	case w.Runs < plan.MinRuns || w.Repeat < 1 || w.Repeat > plan.MaxRepeat:
		return bad("runs", fmt.Sprintf("at least %d runs of 1 to %d repetitions", plan.MinRuns, plan.MaxRepeat), fmt.Sprintf("%d of %d", w.Runs, w.Repeat))
	case len(w.Names) == 0 || len(w.Names) > plan.MaxWindows:
		return bad("windows", fmt.Sprintf("1 to %d windows", plan.MaxWindows), fmt.Sprint(len(w.Names)))
	}
	for _, r := range []plan.Range{w.Pace, w.Spread} {
		if r.Low < 0 || r.High < r.Low || r.High > maxUnits {
			return bad("pace", "ranges from low to high", fmt.Sprint(r))
		}
	}
	for i, x := range w.Names {
		if x.Name == "" || len(x.Name) > 3*MaxName || !canonicalName(x.Name) || i > 0 && w.Names[i-1].Name >= x.Name {
			return bad("windows", "names in their canonical text form, ascending", quote(x.Name))
		}
		if x.Low < 0 || x.Median < x.Low || x.High < x.Median || x.High > maxUnits || x.MAD < 0 || x.MAD > maxUnits {
			return bad("windows", "low, median and high in this order, and a deviation", quote(x.Name))
		}
	}
	return nil
}

func encodeWindows(b *bytes.Buffer, w *plan.Windows) {
	fmt.Fprintf(b, ",\"timing\":{\"version\":%d,\"backend\":%s,\"runs\":%d,\"repeat\":%d,\"pace\":[%d,%d],\"spread\":[%d,%d],\"windows\":[",
		timingVersion, jsonText(w.Backend), w.Runs, w.Repeat, w.Pace.Low, w.Pace.High, w.Spread.Low, w.Spread.High)
	for i, x := range w.Names {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, "\n{\"name\":%s,\"window\":[%d,%d,%d,%d]}", jsonText(x.Name), x.Low, x.Median, x.High, x.MAD)
	}
	b.WriteString("\n]}")
}

// windows reads the field timing. What its numbers mean together is checked when the set is finished.
func (p *parser) windows(path string) (*plan.Windows, error) {
	w := &plan.Windows{}
	small := func(to *int) func(string) error {
		return func(path string) error {
			n, err := p.number()
			if err == nil && n > 1<<30 {
				err = CodeTiming.Bad(path, "a small number", strconv.FormatInt(n, 10))
			}
			*to = int(n)
			return err
		}
	}
	span := func(to *plan.Range) func(string) error {
		return func(path string) error { return p.numbers(path, &to.Low, &to.High) }
	}
	var version int
	err := p.object(path, map[string]func(string) error{
		"version": small(&version),
		"backend": func(path string) (err error) { w.Backend, err = p.text(path); return err },
		"runs":    small(&w.Runs),
		"repeat":  small(&w.Repeat),
		"pace":    span(&w.Pace),
		"spread":  span(&w.Spread),
		"windows": func(path string) error {
			return p.array(path, func(path string) error {
				if len(w.Names) >= plan.MaxWindows {
					return CodeSetBounds.Bad(path, fmt.Sprintf("at most %d windows", plan.MaxWindows), "more")
				}
				var x plan.Window
				err := p.object(path, map[string]func(string) error{
					"name":   func(path string) (err error) { x.Name, err = p.text(path); return err },
					"window": func(path string) error { return p.numbers(path, &x.Low, &x.Median, &x.High, &x.MAD) },
				}, "name", "window")
				w.Names = append(w.Names, x)
				return err
			})
		},
	}, "version", "backend", "runs", "repeat", "pace", "spread", "windows")
	if err == nil && version != timingVersion {
		err = CodeTiming.Bad(path+".version", strconv.Itoa(timingVersion), strconv.Itoa(version))
	}
	return w, err
}

// numbers reads an array of exactly so many numbers.
func (p *parser) numbers(path string, to ...*int64) error {
	n := 0
	err := p.array(path, func(path string) (err error) {
		if n == len(to) {
			return CodeTiming.Bad(path, fmt.Sprintf("%d numbers", len(to)), "more")
		}
		*to[n], err = p.number()
		n++
		return err
	})
	if err == nil && n < len(to) {
		err = CodeTiming.Bad(path, fmt.Sprintf("%d numbers", len(to)), strconv.Itoa(n))
	}
	return err
}
