package eventlog

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	evidence "github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/rats"
)

var ask = rats.Ask{Format: evidence.Format}

// R102: from a fake tree.
func TestLogIsSentAsTheKernelGivesIt(t *testing.T) {
	log := bytes.Repeat([]byte{1}, 100)
	for path, media := range map[string]string{PathTPM: evidence.MediaType, PathCCEL: evidence.MediaTypeCCEL} {
		a := New(fstest.MapFS{path: {Data: log}})
		if r := a.Probe(t.Context()); !r.OK {
			t.Error(path, r)
		}
		e, err := a.Collect(t.Context(), ask)
		if err != nil || e.MediaType != media || !bytes.Equal(e.Body, log) || len(e.Parts) != 0 {
			t.Errorf("%s: %s %d bytes, %v", path, e.MediaType, len(e.Body), err)
		}
	}
	both := New(fstest.MapFS{PathTPM: {Data: log}, PathCCEL: {Data: log}})
	if e, err := both.Collect(t.Context(), ask); err != nil || e.MediaType != evidence.MediaType {
		t.Errorf("%s, %v", e.MediaType, err)
	}
}

func TestSystemdsLogGoesWithATPMsLog(t *testing.T) {
	later := []byte("\x1e{}\n")
	root := fstest.MapFS{PathTPM: {Data: []byte{1}}, PathSystemd: {Data: later}}
	e, err := New(root).Collect(t.Context(), ask)
	if p, ok := e.Part(evidence.PartSystemd); err != nil || !ok || len(e.Parts) != 1 || !bytes.Equal(p.Data, later) {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := New(fstest.MapFS{PathCCEL: {Data: []byte{1}}, PathSystemd: {Data: later}}).Collect(t.Context(), ask); err != nil || len(e.Parts) != 0 {
		t.Errorf("of a TD: %+v, %v", e, err)
	}
	root[PathSystemd] = &fstest.MapFile{Data: make([]byte, maxSystemd+1)}
	if _, err := New(root).Collect(t.Context(), ask); err == nil {
		t.Error("a log that is too long was left out")
	}
}

// What systemd holds a lock for is one measurement: the log is read after it.
func TestSystemdsLogIsReadWhenItsWriterIsDone(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{PathTPM: "x", PathSystemd: ""} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, PathSystemd), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	got := make(chan rats.Evidence)
	go func() {
		e, err := New(os.DirFS(dir)).Collect(t.Context(), ask)
		if err != nil {
			t.Error(err)
		}
		got <- e
	}()
	time.Sleep(2 * lockPause) // the reader meets the lock, or comes later: either way it must see the record
	if _, err := f.WriteString("\x1e{}\n"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if p, ok := (<-got).Part(evidence.PartSystemd); !ok || len(p.Data) != 4 {
		t.Errorf("%q", p.Data)
	}
}

func TestMachineWithoutLogSaysWhy(t *testing.T) {
	for name, root := range map[string]fs.FS{
		"no file":  fstest.MapFS{},
		"empty":    fstest.MapFS{PathTPM: {}},
		"too long": fstest.MapFS{PathTPM: {Data: make([]byte, maxLog+1)}},
		"denied":   denied{},
	} {
		a := New(root)
		if r := a.Probe(t.Context()); r.OK || r.Why == "" || r.Fix == "" {
			t.Errorf("%s: %+v", name, r)
		}
		if _, err := a.Collect(t.Context(), ask); err == nil {
			t.Errorf("%s: collected", name)
		}
	}
}

func TestOtherAsksAreRefused(t *testing.T) {
	a := New(fstest.MapFS{PathTPM: {Data: []byte{1}}})
	for _, k := range []rats.Ask{{Format: "tpm"}, {Format: evidence.Format, Params: []byte("{")}} {
		if _, err := a.Collect(t.Context(), k); err == nil {
			t.Errorf("%+v", k)
		}
	}
	if a.Descriptor().ID != evidence.Format {
		t.Error("another descriptor")
	}
}

type denied struct{}

func (denied) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
}
