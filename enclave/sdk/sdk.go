// Package sdk is what enclave code is written with: entry points, OCALLs, reports, keys, sealing, randomness, time and
// cryptography at the monitor's speed. Programs that use it are built with GOOS=wasip1 GOARCH=wasm -buildmode=c-shared and
// run by the monitor; elsewhere the package builds, and everything in it is refused.
//
// It guarantees that an entry point works on its own copy of its parameters, that the copy is wiped when it returns, that
// errors without a code leave as a code without words, and that what is sealed opens only for the identity that its policy
// names.
//
// It does not make the outside honest: answers to OCALLs are the untrusted application's, and time is the system's. Strings
// and stacks of the Go runtime can't be wiped: keep secrets in byte slices or a Secret. There is one thread, and no
// goroutine runs between calls.
package sdk

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/rats"
)

// What is refused inside an enclave.
var (
	CodeOutside = rats.CodeInfo{Code: "enclave.sdk.outside", Slot: rats.RuntimeOpaque,
		Title: "the code doesn't run in an enclave", Hint: "build it for wasip1 and let the monitor run it"}
	CodeEntry = rats.CodeInfo{Code: "enclave.sdk.entry", Slot: rats.RuntimeOpaque,
		Title: "the entry point failed", Hint: "its words don't leave the enclave; return an error with a code to say more"}
	CodeSealed = rats.CodeInfo{Code: "enclave.sdk.sealed", Slot: rats.RuntimeOpaque,
		Title: "the bytes were not sealed by this package, or for another purpose", Hint: "give what Seal returned, with the same additional data"}
	CodeShelf = rats.CodeInfo{Code: "enclave.sdk.shelf", Slot: rats.RuntimeOpaque,
		Title: "what came back is not what was put outside", Hint: "the application keeps it as it got it, and returns the newest"}
)

// Codes are all reasons that this package gives.
var Codes = []rats.CodeInfo{CodeOutside, CodeEntry, CodeSealed, CodeShelf}

// None is for entry points and OCALLs without parameters or without a result.
type None = struct{}

// Serve is the whole body of an entry point: it copies the n bytes of parameters in, decodes them (see boundary.Encode for
// the types), calls f and sends what it returns.
//
//	//go:wasmexport increment
//	func increment(n int32) int32 { return sdk.Serve(n, vault.increment) }
//
// Byte slices in the parameters are wiped when f has returned: what shall stay is copied. A panic in f is the end of the
// enclave.
func Serve[In, Out any](n int32, f func(In) (Out, error)) int32 {
	size := leafSize()
	if n < 0 || uint32(n) > size {
		panic("parameters outside the marshalling buffer")
	}
	request := make([]byte, n)
	defer clear(request)
	leafGet(0, pointer(request), uint32(n))
	var in In
	reply := []byte{boundary.StatusOK}
	err := boundary.Decode(request, &in)
	if err == nil {
		var out Out
		if out, err = f(in); err == nil {
			if reply, err = boundary.Append(reply, out); err == nil && len(reply) > int(size) {
				err = boundary.CodeSize.Bad("result", fmt.Sprintf("at most %d bytes", size), fmt.Sprint(len(reply)))
			}
		}
	}
	if err != nil {
		if reply, err = boundary.Append([]byte{boundary.StatusRefused}, boundary.RefusalOf(err, CodeEntry)); err != nil {
			panic(err)
		}
	}
	leafPut(0, pointer(reply), uint32(len(reply)))
	clear(reply)
	return int32(len(reply))
}

// Call makes an OCALL: it sends in, encoded, to the function that the application registered under the name, and decodes
// its answer. The application can answer anything, or nothing for ever.
func Call[In, Out any](name string, in In) (Out, error) {
	var out Out
	request, err := boundary.Encode(in)
	if err != nil {
		return out, err
	}
	scratch.Lock()
	defer scratch.Unlock()
	if scratch.b == nil {
		scratch.b = make([]byte, leafSize())
	}
	n, err := Exchange(name, request, scratch.b)
	if err != nil {
		return out, err
	}
	defer clear(scratch.b[:n])
	return out, boundary.Decode(slices.Clone(scratch.b[:n]), &out)
}

// scratch is where answers of unknown size arrive.
var scratch struct {
	sync.Mutex
	b []byte
}

// Exchange makes an OCALL with bytes as they are, and returns the length of the answer in out.
func Exchange(name string, in, out []byte) (int, error) {
	n := leafOCall(pointer([]byte(name)), uint32(len(name)), pointer(in), uint32(len(in)), pointer(out), uint32(len(out)))
	if err := refused(n); err != nil {
		return 0, err
	}
	return int(n), nil
}

// refused returns the reason of a leaf function that refused.
func refused(n int32) error {
	if n >= 0 {
		return nil
	}
	b := make([]byte, boundary.MaxRefusal)
	size := leafRefusal(pointer(b), uint32(len(b)))
	if size <= 0 || int(size) > len(b) {
		return CodeOutside.Missing("leaf function", "a reason", "none")
	}
	var r boundary.Refusal
	if err := boundary.Decode(b[:size], &r); err != nil {
		return err
	}
	return r.Err()
}

// Random fills b with random bytes of the monitor.
func Random(b []byte) { leafRandom(pointer(b), uint32(len(b))) }

// Now returns the monitor's time, which is the untrusted system's.
func Now() time.Time { return time.Unix(0, leafTime()) }

// Instance returns 16 random bytes, made at the first call, that tell this running enclave from all others of its image
// (R109): put them into what is attested.
var Instance = sync.OnceValue(func() (id [16]byte) {
	Random(id[:])
	return id
})
