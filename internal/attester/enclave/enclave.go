// Package enclave collects evidence of format "enclave": the quote that a software enclave asked its monitor for, a TPM quote
// over it by the node's attestation key, and the log of the register in which the monitor's key was measured.
//
// It guarantees that the TPM quote is over exactly what the monitor signed, and that the log yields the quoted value of the
// register. It judges nothing, and it can't choose what the enclave binds itself to: the enclave makes the report data of the
// manifest, after its own look at it.
package enclave

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/assay-attest/assay/enclave/abi"
	evidence "github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/internal/monitor/daemon"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// Source is a running enclave.
type Source interface {
	// Quote hands the enclave the manifest of an exchange and returns what its leaf function gave: an abi.MonitorQuote.
	Quote(ctx context.Context, manifest []byte) ([]byte, error)
	// Sigstruct is the certificate the enclave was started with.
	Sigstruct() []byte
}

// Measured returns the texts that the root keeper measured into abi.KeyPCR in this boot, in this order.
type Measured func(ctx context.Context) ([]string, error)

// ByMonitor asks the monitor at a socket, which has it from the keeper.
func ByMonitor(socket string) Measured {
	return func(ctx context.Context) ([]string, error) {
		c, err := daemon.Dial(ctx, socket)
		if err != nil {
			return nil, err
		}
		defer func() { _ = c.Close() }()
		i, err := c.Info(ctx)
		return i.Events, err
	}
}

// Firmware returns the SHA-256 digests by which a boot event log extends a register, in order.
type Firmware func(log []byte, register int) ([][32]byte, error)

// Config is what the Attester works with. Without an enclave it is never ready.
type Config struct {
	Enclave  Source
	Device   *tpm.Device // not needed with a simulated root
	AK       *tpm.AK
	Measured Measured // not needed with a simulated root
	Root     fs.FS    // the machine's file tree, for the logs of firmware and systemd
	Firmware Firmware // reads the former
}

type attester struct{ c Config }

// New returns the Attester.
func New(c Config) rats.Attester { return attester{c} }

var errNone = errors.New("no enclave runs in a monitor")

// Descriptor implements rats.Attester.
func (attester) Descriptor() *rats.Descriptor { return evidence.Describe() }

// Probe implements rats.Attester.
func (a attester) Probe(context.Context) rats.Readiness {
	if a.c.Enclave == nil {
		return rats.Readiness{Why: errNone.Error(), Fix: "start assay-monitor and name its socket in the agent's configuration"}
	}
	return rats.Readiness{OK: true}
}

// Collect implements rats.Attester. The ask's Params are those of package evidence/enclave.
func (a attester) Collect(ctx context.Context, ask rats.Ask) (rats.Evidence, error) {
	if ask.Format != evidence.Format {
		return rats.Evidence{}, fmt.Errorf("collecting an enclave's quote: asked for format %.40q", ask.Format)
	}
	if a.c.Enclave == nil {
		return rats.Evidence{}, fmt.Errorf("collecting an enclave's quote: %w", errNone)
	}
	e, err := a.collect(ctx, ask)
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting an enclave's quote: %w", err)
	}
	return e, nil
}

func (a attester) collect(ctx context.Context, ask rats.Ask) (rats.Evidence, error) {
	params, err := evidence.ParseParams(ask.Params)
	if err != nil {
		return rats.Evidence{}, err
	}
	if len(ask.Binding.Manifest) == 0 {
		return rats.Evidence{}, errors.New("there is no manifest to bind it to")
	}
	body, err := a.c.Enclave.Quote(ctx, ask.Binding.Manifest)
	if err != nil {
		return rats.Evidence{}, err
	}
	q, err := abi.ParseMonitorQuote(body)
	if err != nil {
		return rats.Evidence{}, err
	}
	p, err := abi.ParsePlatform(q.Body.CPUSVN)
	if err != nil {
		return rats.Evidence{}, err
	}
	e := rats.Evidence{
		Format: evidence.Format, MediaType: evidence.MediaType, Body: body,
		Parts: []rats.Part{{Name: evidence.PartSigstruct, Data: a.c.Enclave.Sigstruct()}},
	}
	if p.Root == abi.RootSimulated {
		return e, nil
	}
	more, err := a.root(ctx, q, params)
	e.Parts = append(e.Parts, more...)
	return e, err
}

// root has the TPM quote what the monitor signed, and reads the log afterwards (S03).
func (a attester) root(ctx context.Context, q abi.MonitorQuote, params evidence.Params) ([]rats.Part, error) {
	if a.c.Device == nil || a.c.AK == nil || a.c.Measured == nil {
		return nil, errors.New("the monitor's root is in a TPM, and none is in use here")
	}
	extra := q.Extra()
	quote, err := a.c.Device.Quote(ctx, a.c.AK, "sha256", params.PCRs, extra[:])
	if err != nil {
		return nil, err
	}
	var values []byte
	for _, n := range slices.Sorted(slices.Values(params.PCRs)) {
		values = append(values, quote.PCRs[n]...)
	}
	texts, err := a.c.Measured(ctx)
	if err != nil {
		return nil, err
	}
	events, err := explain([32]byte(quote.PCRs[abi.KeyPCR]), texts, a.c.Root, a.c.Firmware)
	if err != nil {
		return nil, err
	}
	return []rats.Part{
		{Name: evidence.PartAttest, Data: quote.Attest},
		{Name: evidence.PartSignature, Data: quote.Signature},
		{Name: evidence.PartPCRs, Data: values},
		{Name: evidence.PartAK, Data: a.c.AK.Public},
		{Name: evidence.PartEvents, Data: abi.EncodeEvents(events)},
	}, nil
}
