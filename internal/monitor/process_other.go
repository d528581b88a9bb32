//go:build !linux

package monitor

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
)

// IsChild says whether this process was started to run one enclave: here there is no mode process.
func IsChild([]string) bool { return false }

// Child refuses.
func Child(io.Reader, func() time.Time) error { return errors.New("this system has no mode process") }

func (e *Instance) startProcess(context.Context, []byte) error {
	return CodeMode.Bad("mode", "a mode this system has", abi.ModeProcess.String())
}
