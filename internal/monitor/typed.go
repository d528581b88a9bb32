package monitor

import (
	"context"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// Running is an enclave that was started: an Instance here, or one of a monitor's daemon.
type Running interface {
	Enter(ctx context.Context, entry string, in []byte) ([]byte, error)
	Identity() enclave.Identity
	Platform() abi.Platform
	Destroy() error
}

var _ Running = (*Instance)(nil)

// Call enters an entry point with typed parameters and returns its typed result.
func Call[In, Out any](ctx context.Context, e Running, entry string, in In) (Out, error) {
	var out Out
	b, err := boundary.Encode(in)
	if err != nil {
		return out, err
	}
	defer clear(b)
	reply, err := e.Enter(ctx, entry, b)
	if err != nil {
		return out, err
	}
	return out, boundary.Decode(reply, &out)
}

// Host makes an OCALL of a typed function.
func Host[In, Out any](f func(ctx context.Context, in In) (Out, error)) HostCall {
	return func(ctx context.Context, in, out []byte) (int, error) {
		var v In
		if err := boundary.Decode(append([]byte(nil), in...), &v); err != nil {
			return 0, err
		}
		r, err := f(ctx, v)
		if err != nil {
			return 0, err
		}
		return answer(out, r)
	}
}
