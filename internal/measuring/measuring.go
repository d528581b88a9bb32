// Package measuring is the measuring enclave as its host sees it: the plan runner of package measure as an enclave image
// that a monitor runs.
//
// It guarantees that plans are verified and decrypted inside: the host hands boxes in and out and sees the arguments of
// OCALLs, nothing else of a plan before its turn. The keys are born inside and are new with every start (R025). A run is
// cut into calls of bounded length, so that no plan exceeds what a monitor grants to a call, and a long run can be given
// up between two of them. An enclave that was stopped, for a fault or a budget, is started anew with new keys.
//
// It makes nothing true that isn't: whose word the enclave's isolation is, and what it is worth, is in the evidence of
// format enclave. What is inside is in folder inside.
package measuring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/measuring/entry"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/internal/monitor/daemon"
	"github.com/assay-attest/assay/rats"
)

// Loader has a monitor start an enclave.
type Loader func(ctx context.Context, image, sigstruct []byte, o monitor.Options) (monitor.Running, error)

// InProcess is the Loader of a monitor in this process.
func InProcess(m *monitor.Monitor) Loader {
	return func(ctx context.Context, image, sigstruct []byte, o monitor.Options) (monitor.Running, error) {
		i, err := m.Load(ctx, image, sigstruct, o)
		if err != nil {
			return nil, err
		}
		return i, nil
	}
}

// ByDaemon is the Loader of the monitor behind a socket. Every enclave has a connection of its own.
func ByDaemon(socket string) Loader {
	return func(ctx context.Context, image, sigstruct []byte, o monitor.Options) (monitor.Running, error) {
		c, err := daemon.Dial(ctx, socket)
		if err != nil {
			return nil, err
		}
		e, err := c.Load(ctx, image, sigstruct, o)
		if err != nil {
			c.Close()
			return nil, err
		}
		return remote{e, c}, nil
	}
}

// remote is an enclave and the connection it lives over.
type remote struct {
	*daemon.Enclave
	c *daemon.Client
}

// Destroy implements monitor.Running.
func (r remote) Destroy() error { return errors.Join(r.Enclave.Destroy(), r.c.Close()) }

// Config is what a measuring enclave is started with. All fields but Mode, Switchless and Log are needed.
type Config struct {
	Load             Loader
	Image, Sigstruct []byte
	Mode             abi.Mode // 0: inline
	Switchless       bool
	System           measure.System // restricted to what this machine lets be read: the enclave names any path
	PlanSigner       []byte         // SubjectPublicKeyInfo of the one key whose plans are obeyed (S05)
	Namespace, Node  string         // whose orders are obeyed
	Log              *slog.Logger   // nil: nothing
}

// Options are those that the image is built with. Whoever starts it names the plan signer, hence KSS.
func Options() enclave.Options {
	return enclave.Options{
		Heap: entry.Heap, Buffer: entry.Buffer, ProductID: entry.ProductID, SVN: entry.SVN,
		Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64 | abi.FlagKSS, XFRM: enclave.DefaultXFRM},
	}
}

// Enclave is a measuring enclave. It is safe for concurrent use.
type Enclave struct {
	c  Config
	mu sync.Mutex      // one call at a time is inside
	in monitor.Running // nil: it was stopped, and the next use starts it anew
	gn uint64          // how often it was started
	k  []rats.BoundKey
}

// Start starts the enclave and has it make its keys.
func Start(ctx context.Context, c Config) (*Enclave, error) {
	if c.Load == nil || c.System == nil || len(c.PlanSigner) == 0 {
		return nil, errors.New("a measuring enclave needs a monitor, a system and a plan signer")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Enclave{c: c}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e, e.start(ctx)
}

// ConfigID is the launch configuration for a plan signer: its SHA-256 and 32 zero bytes.
func ConfigID(planSigner []byte) (id [64]byte) {
	copy(id[:], rats.SHA256(planSigner).Sum)
	return id
}

// start loads the image. The caller holds the lock.
func (e *Enclave) start(ctx context.Context) error {
	calls, closed := monitor.Outside(e.c.System)
	in, err := e.c.Load(ctx, e.c.Image, e.c.Sigstruct, monitor.Options{
		Mode: e.c.Mode, Start: enclave.Start{ConfigID: ConfigID(e.c.PlanSigner)}, Host: calls, Close: closed, Switchless: e.c.Switchless,
	})
	if err != nil {
		return fmt.Errorf("starting the measuring enclave: %w", err)
	}
	e.in = in
	e.gn++
	born, err := call[entry.Setup, entry.Born](ctx, e, entry.Start, entry.Setup{PlanSigner: e.c.PlanSigner, Namespace: e.c.Namespace, Node: e.c.Node})
	if err != nil {
		e.drop()
		return fmt.Errorf("starting the measuring enclave: %w", err)
	}
	e.k = []rats.BoundKey{
		{Use: rats.KeyHPKE, Public: born.HPKE},
		{Use: rats.KeyPlanSigner, Public: bytes.Clone(e.c.PlanSigner)},
		{Use: rats.KeySign, Public: born.Sign},
	}
	return nil
}

// drop forgets an instance that is gone, or must go.
func (e *Enclave) drop() {
	if e.in != nil {
		_ = e.in.Destroy() // whatever it says, it is not used any more
	}
	e.in, e.k = nil, nil
}

// call enters with types. The caller holds the lock. The context's end doesn't reach inside: it would cost the enclave its
// life, and what calls do here is short.
func call[In, Out any](ctx context.Context, e *Enclave, name string, in In) (Out, error) {
	out, err := monitor.Call[In, Out](context.WithoutCancel(ctx), e.in, name, in)
	if err != nil && gone(err) {
		e.c.Log.Warn("the measuring enclave was stopped; its next use starts it anew", "entry", name, "error", err)
		e.drop()
	}
	return out, err
}

// gone says whether the instance doesn't answer any more: it was stopped, or its monitor is gone. A refusal leaves it be.
func gone(err error) bool {
	r, coded := rats.ReasonOf(err)
	if !coded {
		return true
	}
	harmless := []rats.Code{monitor.CodeBusy.Code, monitor.CodeReentry.Code, monitor.CodeInput.Code, monitor.CodeQuote.Code}
	return strings.HasPrefix(string(r.Code), "monitor.") && !slices.Contains(harmless, r.Code)
}

// with calls f while nobody else is inside, with a running enclave.
func (e *Enclave) with(ctx context.Context, f func() error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.in == nil {
		if err := e.start(ctx); err != nil {
			return err
		}
	}
	return f()
}

// Keys returns what a manifest must hold of this enclave: hpke, plan-signer and sign, in ascending order of use. They are
// others after it was stopped and started anew.
func (e *Enclave) Keys(ctx context.Context) (keys []rats.BoundKey, err error) {
	err = e.with(ctx, func() error {
		keys = slices.Clone(e.k)
		return nil
	})
	return keys, err
}

// Identity returns what the enclave is; the zero value if it was stopped.
func (e *Enclave) Identity() (id enclave.Identity, p abi.Platform) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.in == nil {
		return id, p
	}
	return e.in.Identity(), e.in.Platform()
}

// Sigstruct returns the SIGSTRUCT it was started with.
func (e *Enclave) Sigstruct() []byte { return e.c.Sigstruct }

// Quote has the enclave check that a manifest (canonical bytes) holds its own keys, and returns the monitor's quote of the
// manifest's SHA-256.
func (e *Enclave) Quote(ctx context.Context, manifest []byte) ([]byte, error) {
	var out entry.Document
	err := e.with(ctx, func() (err error) {
		out, err = call[entry.Document, entry.Document](ctx, e, entry.Attest, entry.Document{Bytes: manifest})
		return err
	})
	return out.Bytes, err
}

// OpenRelease opens a secret that was sealed to the enclave's hpke key for this node. The secret is the caller's to wipe.
func (e *Enclave) OpenRelease(ctx context.Context, r api.Release) ([]byte, error) {
	var out entry.Document
	err := e.with(ctx, func() (err error) {
		out, err = call[entry.Release, entry.Document](ctx, e, entry.Open, entry.Release{Name: r.Name, Version: r.Version, Result: r.Result, Sealed: r.Sealed})
		return err
	})
	return out.Bytes, err
}

// Run has the enclave open an order, run its plan for the attestation that the manifest (canonical bytes) describes, and
// seal the signed report to the key that the order names. It ends with its context between two calls, after which the
// enclave is free for another run.
func (e *Enclave) Run(ctx context.Context, manifest, order []byte) ([]byte, error) {
	var p entry.Progress
	var started uint64
	err := e.with(ctx, func() (err error) {
		p, err = call[entry.Task, entry.Progress](ctx, e, entry.Begin, entry.Task{Manifest: manifest, Order: order})
		started = e.gn
		return err
	})
	for err == nil && !p.Done {
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), again(ctx, e, started, func() error {
				_, err := call[struct{}, struct{}](ctx, e, entry.Abandon, struct{}{})
				return err
			}))
		}
		err = again(ctx, e, started, func() (err error) {
			p, err = call[struct{}, entry.Progress](ctx, e, entry.Step, struct{}{})
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	box := make([]byte, 0, p.Size)
	for len(box) < int(p.Size) {
		err := again(ctx, e, started, func() error {
			part, err := call[entry.From, entry.Document](ctx, e, entry.Fetch, entry.From{Offset: uint32(len(box))})
			if err == nil && (len(part.Bytes) == 0 || len(part.Bytes) > int(p.Size)-len(box)) {
				err = boundary.CodeMalformed.Bad(entry.Fetch, "a part of the report", fmt.Sprintf("%d bytes", len(part.Bytes)))
			}
			box = append(box, part.Bytes...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return box, nil
}

// again calls f in the instance in which a run was begun, and in no other.
func again(ctx context.Context, e *Enclave, started uint64, f func() error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.in == nil || e.gn != started {
		return monitor.CodePoisoned.Bad("run", "", "")
	}
	return f()
}

// Close destroys the enclave. Its keys are gone.
func (e *Enclave) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drop()
	return nil
}

// String keeps what it holds out of logs.
func (e *Enclave) String() string { return "measuring.Enclave" }

// GoString keeps what it holds out of logs.
func (e *Enclave) GoString() string { return "measuring.Enclave" }
