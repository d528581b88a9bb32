//go:build wasip1

// Command inside is the inside of the measuring enclave: package measure over the SDK. Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -ldflags='-s -w -buildid=' -o measuring.wasm ./internal/measuring/inside
package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// What is inside. There is one thread, so there are no locks; a run's goroutine and an entry point take turns.
var (
	enclave *measure.Enclave
	job     *task
)

//go:wasmexport start
func start(n int32) int32 { return sdk.Serve(n, doStart) }

//go:wasmexport attest
func attest(n int32) int32 { return sdk.Serve(n, doAttest) }

//go:wasmexport begin
func begin(n int32) int32 { return sdk.Serve(n, doBegin) }

//go:wasmexport step
func step(n int32) int32 { return sdk.Serve(n, doStep) }

//go:wasmexport fetch
func fetch(n int32) int32 { return sdk.Serve(n, doFetch) }

//go:wasmexport abandon
func abandon(n int32) int32 { return sdk.Serve(n, doAbandon) }

//go:wasmexport open
func open(n int32) int32 { return sdk.Serve(n, doOpen) }

// random is the monitor's randomness.
type random struct{}

func (random) Read(b []byte) (int, error) {
	sdk.Random(b)
	return len(b), nil
}

var _ io.Reader = random{}

// doStart makes the keys. Whose plans are obeyed is not the host's to choose: the launch configuration is in every report.
func doStart(in measuring.Setup) (out measuring.Born, err error) {
	if enclave != nil {
		return out, measuring.CodeSetup.Bad("enclave", "a first start", "another")
	}
	self, err := sdk.Self()
	if err != nil {
		return out, err
	}
	var want [64]byte
	copy(want[:], rats.SHA256(in.PlanSigner).Sum)
	if self.ConfigID != want {
		return out, measuring.CodeSigner.Bad("configid", fmt.Sprintf("%x", self.ConfigID), fmt.Sprintf("%x", want))
	}
	// Near the end of the heap memory is worth more than time.
	debug.SetMemoryLimit(measuring.Heap * 3 / 4)
	e, err := measure.NewEnclave(measure.Config{
		System: outside{}, Rand: random{}, Now: sdk.Now, PlanSigner: append([]byte(nil), in.PlanSigner...),
		Namespace: in.Namespace, Node: in.Node, Workers: 1, Backend: plan.BackendEnclave, Hash: sdk.NewHash,
	})
	if err != nil {
		return out, err
	}
	for _, k := range e.Keys() {
		switch k.Use {
		case rats.KeyHPKE:
			out.HPKE = k.Public
		case rats.KeySign:
			out.Sign = k.Public
		}
	}
	enclave = e
	return out, nil
}

func started() error {
	if enclave == nil {
		return measuring.CodeSetup.Missing("enclave", "a start", "none")
	}
	return nil
}

// doAttest has a manifest quoted that binds this enclave's own keys: whoever trusts the quote trusts them.
func doAttest(in measuring.Document) (out measuring.Document, err error) {
	if err := started(); err != nil {
		return out, err
	}
	if _, err := enclave.CheckManifest(in.Bytes); err != nil {
		return out, err
	}
	var data [64]byte
	copy(data[:], rats.SHA256(in.Bytes).Sum)
	out.Bytes, err = sdk.Quote(data)
	return out, err
}

func doOpen(in measuring.Release) (out measuring.Document, err error) {
	if err := started(); err != nil {
		return out, err
	}
	out.Bytes, err = enclave.OpenRelease(api.Release{Name: in.Name, Version: in.Version, Result: in.Result, Sealed: in.Sealed})
	return out, err
}

func main() {} // nothing runs by itself

// task is a run. It goes on in calls of step, each of which lets it make a number of OCALLs.
type task struct {
	cancel context.CancelFunc
	turn   chan struct{} // the run's goroutine may go on
	rest   chan struct{} // it wants its next turn, or has ended
	left   int           // OCALLs of this turn
	until  int64         // end of this turn, by the monitor's clock
	ended  bool
	box    []byte
	err    error
}

// What one turn may take. A monitor grants a call a million OCALLs and a minute.
const (
	turnCalls = 100_000
	turnNanos = 2e9
)

func doBegin(in measuring.Task) (measuring.Progress, error) {
	if err := started(); err != nil {
		return measuring.Progress{}, err
	}
	if job != nil && !job.ended {
		return measuring.Progress{}, measure.CodeBusy.Missing("enclave", "", "")
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &task{cancel: cancel, turn: make(chan struct{}), rest: make(chan struct{})}
	manifest, order := append([]byte(nil), in.Manifest...), append([]byte(nil), in.Order...)
	job = t
	go func() {
		<-t.turn
		t.box, t.err = enclave.Run(ctx, manifest, order)
		t.ended = true
		t.rest <- struct{}{}
	}()
	return doStep(sdk.None{})
}

func doStep(sdk.None) (measuring.Progress, error) {
	if job == nil || job.ended {
		return measuring.Progress{}, measuring.CodeIdle.Missing("run", "one that goes on", "none")
	}
	job.resume()
	if !job.ended {
		return measuring.Progress{}, nil
	}
	if err := job.err; err != nil {
		job = nil
		return measuring.Progress{}, err
	}
	return measuring.Progress{Done: true, Size: uint32(len(job.box))}, nil
}

// resume gives the run one turn.
func (t *task) resume() {
	t.left, t.until = turnCalls, sdk.Now().UnixNano()+turnNanos
	t.turn <- struct{}{}
	<-t.rest
}

func doFetch(in measuring.From) (out measuring.Document, err error) {
	if job == nil || !job.ended || int64(in.Offset) >= int64(len(job.box)) {
		return out, measuring.CodeIdle.Missing("report", "an offset within one", fmt.Sprint(in.Offset))
	}
	rest := job.box[in.Offset:]
	out.Bytes = rest[:min(len(rest), measuring.Chunk)]
	if len(rest) <= measuring.Chunk {
		job = nil // it was handed out
	}
	return out, nil
}

// doAbandon ends a run that nobody waits for: it looks at its context before every file and every read.
func doAbandon(sdk.None) (out sdk.None, err error) {
	for job != nil && !job.ended {
		job.cancel()
		job.resume()
	}
	job = nil
	return out, nil
}

// spend counts an OCALL of the run, and waits for its next turn when this one is used up.
func spend() {
	t := job
	if t == nil {
		return
	}
	if t.left--; t.left > 0 && (t.left%64 != 0 || sdk.Now().UnixNano() < t.until) {
		return
	}
	t.rest <- struct{}{}
	<-t.turn
}

// outside is the machine as the monitor's OCALLs show it.
type outside struct{ sdk.Outside }

func (o outside) Open(path []byte, flags uint32) (int32, rats.Code) {
	spend()
	return o.Outside.Open(path, flags)
}

func (o outside) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	spend()
	return o.Outside.ReadAt(fd, p, off)
}

func (o outside) Stat(path []byte, follow bool) (measure.Stat, rats.Code) {
	spend()
	st, code := o.Outside.Stat(path, follow)
	return measure.Stat(st), code
}

func (o outside) List(fd int32, cookie uint64, buf []byte) (int, rats.Code) {
	spend()
	return o.Outside.List(fd, cookie, buf)
}

func (o outside) Exec(argv [][]byte, l plan.Limits) (int32, rats.Code) {
	spend()
	return o.Outside.Exec(argv, l)
}
