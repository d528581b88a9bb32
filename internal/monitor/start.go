package monitor

import (
	"context"
	"io"

	"github.com/assay-attest/assay/enclave/abi"
)

// start starts the enclave's code in its mode and notes what is true of its memory. The budget of time holds for its
// initialisation too; compiling is the monitor's own work.
func (e *Instance) start(ctx context.Context, module []byte) error {
	if e.o.Mode == abi.ModeProcess {
		return e.startProcess(ctx, module)
	}
	e.buffer = make([]byte, e.options.Buffer)
	var debug io.Writer
	if e.id.Attributes.Debug() {
		debug = e.m.c.Debug
	}
	if _, err := e.m.c.Compiler.compile(ctx, module); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(context.WithValue(ctx, within{e}, true), e.m.c.Budget.Time)
	defer cancel()
	s := &inline{e: e, left: e.m.c.Budget.OCalls}
	s.guest = &guest{buffer: e.buffer, services: s, rand: e.m.c.Rand, now: e.m.c.Now, debug: debug}
	var err error
	if s.guest.memory, err = newMemory(e.options.Heap); err != nil {
		return err
	}
	e.platform.Isolation |= s.guest.memory.isolation
	if err := e.m.c.Compiler.start(limit, module, s.guest); err != nil {
		return e.fault(limit, "init", err)
	}
	e.run = s
	return nil
}
