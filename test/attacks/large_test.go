package attacks

import (
	"bytes"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	evplan "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// slow is a machine whose files come from far away, while it is on.
type slow struct {
	measure.System
	on *atomic.Bool
}

func (s slow) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	if s.on.Load() {
		time.Sleep(50 * time.Millisecond)
	}
	return s.System.ReadAt(fd, p, off)
}

// R043, R155: a large file is spot-checked and values served from elsewhere are refused for their time, through the real API.
func TestSpotChecksAndTimesGoTheWholeWay(t *testing.T) {
	r := newRig(t)
	const chunk, chunks = 64 << 10, 40
	r.write("big", string(bytes.Repeat([]byte("0123456789abcdef"), chunk*chunks/16)))
	r.write("near", "near")
	big, near := r.files+"/big", r.files+"/near"
	var on atomic.Bool
	system := slow{measure.Restrict(measure.Local(), []string{r.files, "/proc"}, nil), &on}

	spots, err := plan.NewFilesTest(1, plan.KindFile, "sha256", big, nil, plan.FileOptions{Chunk: chunk, Spots: 64})
	if err != nil {
		t.Fatal(err)
	}
	timed, err := plan.NewTest(2, plan.KindFile, "sha256", near, nil)
	if err != nil {
		t.Fatal(err)
	}
	timed.Timed, timed.Repeat = true, 5 // one undisturbed measurement in five is enough
	tests := []plan.Test{spots, timed}
	var entries []refvalue.Entry
	var runs [][]plan.Timed
	for range plan.MinRuns {
		out, err := measure.Runner{System: system, Now: r.now}.Run(t.Context(), tests, plan.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		times, err := plan.Times(tests, out)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, plan.InUnits(times))
		entries = nil
		for _, o := range out {
			entries = append(entries, refvalue.Entry{Name: rats.EscapePath(o.Name), Digests: []rats.Digest{{Alg: "sha256", Sum: o.Digest}}})
		}
	}
	set, err := refvalue.New(refvalue.Header{Name: "lab", Source: "test", Created: r.now()}, entries)
	if err != nil {
		t.Fatal(err)
	}
	w, err := plan.Learn(runs, plan.Learning{Backend: plan.BackendNative, Margin: 1000})
	if err != nil {
		t.Fatal(err)
	}
	// Few runs on a busy machine: only what takes a hundred times as long is to count here.
	w.Pace, w.Spread.High = plan.Range{High: max(100_000, w.Pace.High)}, 1<<40
	w.Names[0].Low, w.Names[0].High = 0, 1<<40
	if set, err = set.WithWindows(&w); err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.PutRefSet(t.Context(), "lab", set.Encode()); err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(r.defaultPolicy(), "    tests:")
	r.apply(before + strings.ReplaceAll(`    timing: {reference: lab, judge: fail}
    tests:
      - {name: big, file: DIR/big, chunk: 65536, spots: 64, reference: lab}
      - {name: near, file: DIR/near, reference: lab, timed: true, repeat: 5, tmax: 40ms, timing: fail}
`, "DIR", r.files))
	o := r.options("large")
	o.System = system
	m, err := wire.Join(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	told := r.trusted(m)
	view, err := r.admin.Result(t.Context(), told.ID)
	if err != nil || len(view.Reasons) > 0 {
		t.Errorf("%v %v", view.Reasons, err)
	}

	on.Store(true)
	told, err = m.Attest(t.Context(), r.again(m))
	if err != nil {
		t.Fatal(err)
	}
	view, err = r.admin.Result(t.Context(), told.ID)
	if err != nil || told.State != rats.StateContraindicated || !found(view, evplan.CodePace, "lab") || !found(view, evplan.CodeDuration, near) {
		t.Errorf("served from far away: %s, %v, %v", told.Verdict, view.Reasons, err)
	}
	on.Store(false)

	f, err := os.OpenFile(big, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("evil"), 17*chunk); err != nil {
		t.Fatal(err)
	}
	f.Close()
	told, err = m.Attest(t.Context(), r.again(m))
	if err != nil {
		t.Fatal(err)
	}
	view, err = r.admin.Result(t.Context(), told.ID)
	if err != nil || told.State != rats.StateContraindicated || !found(view, evplan.CodeChanged, big+"%00merkle-65536") {
		t.Errorf("a changed chunk: %s, %v, %v", told.Verdict, view.Reasons, err)
	}
}
