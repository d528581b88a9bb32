// Package untrusted is the application of the counter vault: it starts the enclave, keeps its sealed state and asks it for
// the secret. It guarantees nothing: that is what the enclave is for.
package untrusted

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/assay-attest/assay/examples/vault"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

// Vault is a running vault and the file its state is kept in.
type Vault struct {
	monitor.Running
	file     string
	complete func(context.Context, []byte) ([]rats.Evidence, error)
	mu       sync.Mutex
}

// Start starts a vault of an image and its SIGSTRUCT in a monitor of this process. Its state is kept in file.
func Start(ctx context.Context, m *monitor.Monitor, image, sigstruct []byte, file string) (*Vault, error) {
	return StartBy(func(o monitor.Options) (monitor.Running, error) { return m.Load(ctx, image, sigstruct, o) }, file)
}

// StartBy starts a vault by a function that loads it: in a monitor here, or over the socket of a monitor's daemon.
func StartBy(load func(monitor.Options) (monitor.Running, error), file string) (*Vault, error) {
	v := &Vault{file: file}
	var err error
	v.Running, err = load(monitor.Options{Host: map[string]monitor.HostCall{vault.Store: monitor.Host(v.store), vault.Complete: monitor.Host(v.evidence)}})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// String names the vault's enclave.
func (v *Vault) String() string { return fmt.Sprint(v.Running) }

// store is the OCALL: the enclave hands its sealed state out, and the application keeps it.
func (v *Vault) store(_ context.Context, s vault.Sealed) (struct{}, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := os.WriteFile(v.file+".new", s.State, 0o600); err != nil {
		return struct{}{}, fmt.Errorf("keeping the vault's state: %w", err)
	}
	if err := os.Rename(v.file+".new", v.file); err != nil {
		return struct{}{}, fmt.Errorf("keeping the vault's state: %w", err)
	}
	return struct{}{}, nil
}

// Fill fills the vault.
func (v *Vault) Fill(ctx context.Context, c vault.Contents) error {
	_, err := monitor.Call[vault.Contents, struct{}](ctx, v.Running, vault.Fill, c)
	return err
}

// Open gives the vault the state that was kept, after a restart, and returns how often it may show its secret.
func (v *Vault) Open(ctx context.Context) (uint32, error) {
	b, err := os.ReadFile(v.file)
	if err != nil {
		return 0, fmt.Errorf("reading the vault's state: %w", err)
	}
	left, err := monitor.Call[vault.Sealed, vault.Left](ctx, v.Running, vault.Open, vault.Sealed{State: b})
	return left.Times, err
}

// Show returns the secret, and how often it may be shown again.
func (v *Vault) Show(ctx context.Context) (vault.Shown, error) {
	return monitor.Call[struct{}, vault.Shown](ctx, v.Running, vault.Show, struct{}{})
}

// Introduce lets v check that other is a vault on the same platform, and returns who it is: v says where reports for it
// go, other makes one about v's challenge, v checks it.
func (v *Vault) Introduce(ctx context.Context, other *Vault, challenge [32]byte) (vault.Peer, error) {
	target, err := monitor.Call[struct{}, vault.Paper](ctx, v.Running, vault.Target, struct{}{})
	if err != nil {
		return vault.Peer{}, err
	}
	report, err := monitor.Call[vault.ForTarget, vault.Paper](ctx, other.Running, vault.Vouch, vault.ForTarget{Target: target.Bytes, Challenge: challenge})
	if err != nil {
		return vault.Peer{}, err
	}
	return monitor.Call[vault.Introduced, vault.Peer](ctx, v.Running, vault.Meet, vault.Introduced{Report: report.Bytes, Challenge: challenge})
}

// Completes says how the platform's evidence is made of the monitor's quote: what surrounds it, SIGSTRUCT and TPM quote. It
// is needed before Provision.
func (v *Vault) Completes(f func(ctx context.Context, quote []byte) ([]rats.Evidence, error)) {
	v.complete = f
}

// evidence is the OCALL: the enclave shows its quote here, so that the platform can vouch for it. The server will see it
// only inside the encrypted message.
func (v *Vault) evidence(ctx context.Context, quote vault.Paper) (vault.Paper, error) {
	if v.complete == nil {
		return vault.Paper{}, errors.New("completing a quote: the application doesn't know how")
	}
	all, err := v.complete(ctx, quote.Bytes)
	if err != nil {
		return vault.Paper{}, err
	}
	b, err := json.Marshal(all)
	return vault.Paper{Bytes: b}, err
}

// Line is the way to the server: a message there, and its answer. Whoever listens on it, this application included, learns
// nothing of what the vault is filled with.
type Line func(ctx context.Context, message []byte) ([]byte, error)

// Provision has the vault filled by a server: it carries messages and understands none of them.
func (v *Vault) Provision(ctx context.Context, server Line) error {
	message, err := monitor.Call[struct{}, vault.Paper](ctx, v.Running, vault.Hello, struct{}{})
	for _, entry := range []string{vault.Prove, vault.Receive} {
		if err != nil {
			return err
		}
		if message.Bytes, err = server(ctx, message.Bytes); err != nil {
			return err
		}
		message, err = monitor.Call[vault.Paper, vault.Paper](ctx, v.Running, entry, message)
	}
	if err != nil {
		return err
	}
	_, err = server(ctx, message.Bytes)
	return err
}
