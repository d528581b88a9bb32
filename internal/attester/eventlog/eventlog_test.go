package eventlog

import (
	"bytes"
	"io/fs"
	"testing"
	"testing/fstest"

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
