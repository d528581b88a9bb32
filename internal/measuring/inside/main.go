//go:build wasip1

// Command inside is the inside of the measuring enclave: package measure over the SDK. Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -ldflags='-s -w -buildid=' -o measuring.wasm ./internal/measuring/inside
package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/measuring/entry"
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
func doStart(in entry.Setup) (out entry.Born, err error) {
	if enclave != nil {
		return out, entry.CodeSetup.Bad("enclave", "a first start", "another")
	}
	self, err := sdk.Self()
	if err != nil {
		return out, err
	}
	var want [64]byte
	copy(want[:], rats.SHA256(in.PlanSigner).Sum)
	if self.ConfigID != want {
		return out, entry.CodeSigner.Bad("configid", fmt.Sprintf("%x", self.ConfigID), fmt.Sprintf("%x", want))
	}
	// Near the end of the heap memory is worth more than time.
	debug.SetMemoryLimit(entry.Heap * 3 / 4)
	e, err := measure.NewEnclave(measure.Config{
		System: outside{ahead: &ahead{}}, Rand: random{}, Now: sdk.Now, PlanSigner: append([]byte(nil), in.PlanSigner...),
		Namespace: in.Namespace, Node: in.Node, Workers: 1, Backend: plan.BackendEnclave, Hash: newHash,
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
		return entry.CodeSetup.Missing("enclave", "a start", "none")
	}
	return nil
}

// doAttest has a manifest quoted that binds this enclave's own keys: whoever trusts the quote trusts them.
func doAttest(in entry.Document) (out entry.Document, err error) {
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

func doOpen(in entry.Release) (out entry.Document, err error) {
	if err := started(); err != nil {
		return out, err
	}
	out.Bytes, err = enclave.OpenRelease(api.Release{Name: in.Name, Version: in.Version, Result: in.Result, Sealed: in.Sealed})
	return out, err
}

func main() {} // nothing runs by itself
