package measure

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/plan"
)

// A worker's reference hash is done again when it is older than this.
const referenceAge = 5 * time.Millisecond

var referenceData [plan.ReferenceBytes]byte

// worker is what one goroutine that measures has for itself.
type worker struct {
	buf     []byte
	helpers int       // goroutines that may hash one file together; 0 or 1: this one alone
	unit    int64     // nanoseconds of its last reference hash
	at      time.Time // when that was
}

// reference returns the nanoseconds that the reference hash takes now, 0 without a clock. The fastest of several is the least
// disturbed by others.
func (w *worker) reference(r *run) int64 {
	if r.now == nil {
		return 0
	}
	if start := r.now(); w.unit == 0 || start.Sub(w.at) > referenceAge || start.Before(w.at) {
		h, done := r.hasher("sha256")
		defer done()
		w.unit = 0
		for range plan.ReferenceTries {
			h.Reset()
			start := r.now()
			h.Write(referenceData[:])
			h.Sum(nil)
			if took := int64(r.now().Sub(start)); took > 0 && (w.unit == 0 || took < w.unit) {
				w.unit = took
			}
		}
		w.at = r.now()
	}
	return w.unit
}

// timed measures a job as often as its test wants it, and keeps the shortest time, in units of the reference hash. Others'
// load makes a measurement longer, never shorter.
func (r *run) timed(j job, w *worker) {
	o := j.outcome
	for i := range max(j.section.test.Repeat, 1) {
		if r.ctx.Err() != nil {
			*o = plan.Outcome{Test: o.Test, Name: o.Name, Err: CodeTime.Code}
			return
		}
		unit := w.reference(r)
		start := r.clock()
		sum, size, code := j.measure(r, o, w)
		nanos := max(int64(r.clock().Sub(start)), 0)
		if code == "" && i > 0 && !bytes.Equal(sum, o.Digest) {
			code = CodeChanged.Code
		}
		if code != "" {
			*o = plan.Outcome{Test: o.Test, Name: o.Name, Nanos: nanos, Unit: unit, Err: code}
			return
		}
		if i == 0 || less(nanos, unit, o.Nanos, o.Unit) {
			o.Nanos, o.Unit = nanos, unit
		}
		o.Digest, o.Size = sum, size
	}
}

func less(a, unitA, b, unitB int64) bool {
	if unitA == 0 || unitB == 0 {
		return a < b
	}
	return float64(a)/float64(unitA) < float64(b)/float64(unitB)
}

// counters are what the machine says of itself that explains times. What can't be read is left out: the roots that may be read
// decide, and /proc/stat, /proc/loadavg and /proc/pressure/cpu tell no secrets.
func (r *run) counters() map[string]int64 {
	out := make(map[string]int64)
	if line, ok := r.line("/proc/stat", "cpu "); ok {
		// user nice system idle iowait irq softirq steal guest guest_nice: the last two are part of the first
		var total int64
		for i, f := range strings.Fields(line) {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil || i >= 8 {
				break
			}
			total += n
			if i == 7 {
				out["steal-ticks"] = n
			}
		}
		out["cpu-ticks"] = total
	}
	if line, ok := r.line("/proc/loadavg", ""); ok {
		if whole, rest, _ := strings.Cut(strings.Fields(line + " 0")[0], "."); len(rest) == 2 {
			if n, err := strconv.ParseInt(whole+rest, 10, 64); err == nil {
				out["load-hundredths"] = n
			}
		}
	}
	if line, ok := r.line("/proc/pressure/cpu", "some "); ok {
		if _, v, ok := strings.Cut(line, "total="); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
				out["cpu-waited-micros"] = n
			}
		}
	}
	if v, ok := r.line("/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", ""); ok {
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			out["throttled"] = n
		}
	}
	if v, ok := r.line("/proc/cpuinfo", "cpu MHz"); ok {
		if _, v, ok := strings.Cut(v, ":"); ok {
			if n, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil && n > 0 && n < 1e6 {
				out["cpu-mhz"] = int64(n)
			}
		}
	}
	return out
}

// line returns what follows a prefix in the first line of a file that begins with it.
func (r *run) line(path, prefix string) (string, bool) {
	fd, code := r.system.Open([]byte(path), OpenFile)
	if code != "" {
		return "", false
	}
	defer r.system.Close(fd)
	b := make([]byte, 4096) // what is looked for stands at the beginning
	n, code := r.system.ReadAt(fd, b, 0)
	if code != "" || n < 0 || n > len(b) {
		return "", false
	}
	for line := range strings.Lines(string(b[:n])) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return rest, true
		}
	}
	return "", false
}

// growing are the counters of which the difference counts.
var growing = []string{"cpu-ticks", "cpu-waited-micros", "steal-ticks", "throttled"}

// conditions are what is reported next to times: how much the counters grew in the run, the rest as it is at its end.
func conditions(before, after map[string]int64) []plan.Condition {
	var out []plan.Condition
	for name, v := range after {
		if slices.Contains(growing, name) {
			first, ok := before[name]
			if !ok || v < first {
				continue
			}
			v -= first
		}
		if v >= 0 {
			out = append(out, plan.Condition{Name: name, Value: v})
		}
	}
	slices.SortFunc(out, func(a, b plan.Condition) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func anyTimed(tests []plan.Test) bool {
	return slices.ContainsFunc(tests, func(t plan.Test) bool { return t.Timed })
}
