// Package monitor runs enclave images: it alone owns their memory, checks who signed them, lets calls in and out through a
// marshalling buffer of fixed size, and answers their leaf functions: reports, keys, quotes, randomness, time, and
// cryptography over their own memory.
//
// It guarantees that an enclave runs only if its pages are those its SIGSTRUCT was made for and the launch policy knows its
// signer; that one call at a time is inside and nothing runs between calls; that parameters cross only in the marshalling
// buffer, with every pointer and length checked; that an enclave reaches the outside through the OCALLs its application
// registered and nothing else; that it is bounded in memory, time and OCALLs; and that after a fault it is gone.
//
// It does not hide an enclave from whoever administers the machine, other than by what Platform says of its memory
// (secret memory is in nobody's /proc): the engine's call stack, the marshalling buffer and the key schedules of leaf
// functions lie in the monitor's ordinary memory. Time and OCALL results are the untrusted system's. Side channels are not
// dealt with.
package monitor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
)

// Policy says who may start enclaves. Its zero value lets nobody.
type Policy struct {
	Own     [][32]byte // MRSIGNERs of the operator's own enclaves: any mode
	Foreign [][32]byte // MRSIGNERs of others' enclaves: never inline (S15)
	Debug   [][32]byte // exact MRENCLAVEs that may run with DEBUG (R105)
}

// Budget bounds an enclave. Zero fields are the defaults.
type Budget struct {
	Memory uint64        // bytes of linear memory; default 1 GiB
	Time   time.Duration // of one call, from outside; default 1 minute
	OCalls int           // of one call; default 1 << 20
}

// The default budget.
const (
	DefaultMemory = 1 << 30
	DefaultTime   = time.Minute
	DefaultOCalls = 1 << 20
)

// Quoter makes a quote of a report's body: whatever format the platform has. The bytes go to the enclave.
type Quoter func(ctx context.Context, body abi.ReportBody) ([]byte, error)

// Config is what a monitor is made with.
type Config struct {
	Key      *enclave.MonitorKey // of this monitor's version; needed
	Platform abi.Platform        // launch, root, version and what is true of the process; Mode is filled in for each enclave
	Policy   Policy
	Budget   Budget
	Rand     io.Reader        // needed
	Now      func() time.Time // needed; what the enclave takes for time: the system's word
	Quote    Quoter           // nil: quotes are refused
	Compiler *Compiler        // nil: one of its own, in memory
	Program  string           // what mode process starts: a program that begins with IsChild; "": there is no such mode
	Debug    io.Writer        // what enclaves with DEBUG print; nil: nothing
	Log      *slog.Logger     // nil: nothing
}

// Monitor runs enclaves. It is safe for concurrent use.
type Monitor struct {
	c     Config
	keyID [32]byte // of reports, one for each start
	own   bool     // the compiler
}

// New starts a monitor.
func New(ctx context.Context, c Config) (*Monitor, error) {
	if c.Key == nil || c.Rand == nil || c.Now == nil {
		return nil, errors.New("a monitor needs a key, randomness and a clock")
	}
	if c.Budget.Memory == 0 {
		c.Budget.Memory = DefaultMemory
	}
	if c.Budget.Time == 0 {
		c.Budget.Time = DefaultTime
	}
	if c.Budget.OCalls == 0 {
		c.Budget.OCalls = DefaultOCalls
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := c.Platform
	p.Mode = abi.ModeInline
	if _, err := abi.ParsePlatform(p.CPUSVN()); err != nil {
		return nil, err
	}
	if c.Compiler != nil && c.Compiler.kept != nil && p.Root == abi.RootSimulated {
		return nil, errors.New("compiled modules of a simulated root stay in memory: anybody has its key")
	}
	if p.SVN != c.Key.SVN() {
		return nil, fmt.Errorf("the platform is of version %d, the monitor's key of %d", p.SVN, c.Key.SVN())
	}
	m := &Monitor{c: c}
	if _, err := io.ReadFull(c.Rand, m.keyID[:]); err != nil {
		return nil, fmt.Errorf("reading randomness for a key id: %w", err)
	}
	if c.Compiler == nil {
		var err error
		if m.c.Compiler, err = NewCompiler(ctx, CompilerOptions{Log: c.Log}); err != nil {
			return nil, err
		}
		m.own = true
	}
	return m, nil
}

// Close ends the monitor; its enclaves must have been destroyed.
func (m *Monitor) Close(ctx context.Context) error {
	if m.own {
		return m.c.Compiler.Close(ctx)
	}
	return nil
}

// String keeps the key out of logs.
func (m *Monitor) String() string { return "monitor.Monitor" }

// GoString keeps the key out of logs.
func (m *Monitor) GoString() string { return "monitor.Monitor" }

// admit is the launch policy.
func (m *Monitor) admit(id enclave.Identity, mode abi.Mode) error {
	p := m.c.Policy
	own, foreign := slices.Contains(p.Own, id.MRSIGNER), slices.Contains(p.Foreign, id.MRSIGNER)
	switch {
	case !own && !foreign:
		return CodeSigner.Bad("mrsigner", "a signer of the launch policy", hex.EncodeToString(id.MRSIGNER[:]))
	case !own && mode == abi.ModeInline:
		return CodeMode.Bad("mode", abi.ModeProcess.String(), mode.String())
	case id.Attributes.Debug() && !slices.Contains(p.Debug, id.MRENCLAVE):
		return CodeDebug.Bad("attributes", "no DEBUG", hex.EncodeToString(id.MRENCLAVE[:]))
	}
	return nil
}

// Load creates an enclave of an image file, adds its pages and initialises it.
func (m *Monitor) Load(ctx context.Context, image, sigstruct []byte, o Options) (*Instance, error) {
	i, err := enclave.Parse(image)
	if err != nil {
		return nil, err
	}
	s, err := abi.ParseSigstruct(sigstruct)
	if err != nil {
		return nil, err
	}
	e, err := m.Create(o)
	if err != nil {
		return nil, err
	}
	if err := e.addImage(i); err != nil {
		e.Destroy()
		return nil, err
	}
	if err := e.Init(ctx, s); err != nil {
		e.Destroy()
		return nil, err
	}
	return e, nil
}
