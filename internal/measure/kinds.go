package measure

import (
	"bytes"
	"slices"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// kinds says how a test of each kind is measured: what is found at once, and what is left to the workers.
var kinds = map[string]func(r *run, t plan.Test, s plan.Scope, files int64) section{
	plan.KindFile:    (*run).files,
	plan.KindGlob:    (*run).files,
	plan.KindDir:     (*run).files,
	plan.KindCommand: (*run).command,
	plan.KindCheck:   (*run).check,
}

// section is what one test yields. Outcomes that neither have an error nor a digest are jobs.
type section struct {
	test     plan.Test
	scope    plan.Scope
	outcomes []plan.Outcome
}

// job is one outcome to be filled by a worker.
type job struct {
	outcome *plan.Outcome
	section *section
}

func (s *section) jobs() []job {
	var out []job
	for i := range s.outcomes {
		if o := &s.outcomes[i]; o.Err == "" && o.Digest == nil {
			out = append(out, job{o, s})
		}
	}
	return out
}

func (j job) measure(r *run, o *plan.Outcome, w *worker) ([]byte, int64, rats.Code) {
	s := j.section
	path, what := plan.CutName(o.Name)
	switch {
	case plan.IsAttributes(what):
		record, code := r.attributes(path, s.scope.Attributes)
		if code != "" {
			return nil, 0, code
		}
		return r.sum(s.test.Alg, record), int64(len(record)), ""
	case s.scope.Verity:
		return r.verity(path, s.test.Alg)
	case s.scope.Merkle != nil:
		return r.merkle(path, s, w, o)
	}
	h, done := r.hasher(s.test.Alg)
	defer done()
	return r.hash(path, h, w.buf, s.flags())
}

// flags are how contents are opened.
func (s *section) flags() uint32 {
	if s.scope.Direct {
		return OpenDirect
	}
	return 0
}

// section makes the section of one test. A test that is over a limit yields only that: half of a directory would look like a
// directory with missing files.
func (r *run) section(t plan.Test, files int64) section {
	scope, err := t.Scope()
	measure := kinds[t.Kind]
	if err != nil || measure == nil || plan.AlgSize(t.Alg) == 0 {
		return whole(t, CodeKind.Code)
	}
	if r.ctx.Err() != nil {
		return whole(t, CodeTime.Code)
	}
	unit := int64(0)
	if t.Timed && (t.Kind == plan.KindCommand || t.Kind == plan.KindCheck) {
		unit = new(worker).reference(r)
	}
	s := measure(r, t, scope, files)
	s.test, s.scope = t, scope
	for i := range s.outcomes {
		s.outcomes[i].Test, s.outcomes[i].Unit = t.ID, unit
	}
	// A directory that changes while it is listed may show a name twice. A failure wins over a success.
	slices.SortFunc(s.outcomes, func(a, b plan.Outcome) int {
		if c := bytes.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return -bytes.Compare([]byte(a.Err), []byte(b.Err))
	})
	s.outcomes = slices.CompactFunc(s.outcomes, func(a, b plan.Outcome) bool { return bytes.Equal(a.Name, b.Name) })
	return s
}

func whole(t plan.Test, code rats.Code) section {
	return section{outcomes: []plan.Outcome{{Test: t.ID, Err: code}}}
}

// files lists what a test of files is about; workers read it.
func (r *run) files(t plan.Test, scope plan.Scope, files int64) section {
	f := find(r.ctx, r.system, scope, files)
	if f.code == "" && int64(len(f.files)+len(f.failed)) > files {
		f.code = CodeFiles.Code
	}
	if f.code != "" {
		return whole(t, f.code)
	}
	s := section{outcomes: f.failed}
	for _, p := range f.files {
		s.outcomes = append(s.outcomes, plan.Outcome{Name: p})
	}
	return s
}
