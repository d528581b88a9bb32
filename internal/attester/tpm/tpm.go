// Package tpm collects evidence of format "tpm": it has the TPM quote the PCRs that were asked for, bound to the
// exchange.
//
// It guarantees that the values it sends are those that were signed. It judges nothing, and it quotes whatever PCRs a
// verifier asks for: they hold digests, no secrets.
package tpm

import (
	"context"
	"errors"
	"fmt"

	evidence "github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

type attester struct {
	device *tpm.Device
	ak     *tpm.AK
}

// New returns the Attester that quotes with ak. Without a device or a key it is never ready, and says so.
func New(dev *tpm.Device, ak *tpm.AK) rats.Attester { return attester{dev, ak} }

var errNoTPM = errors.New("this machine has no TPM in use")

// Descriptor implements rats.Attester.
func (attester) Descriptor() *rats.Descriptor { return evidence.Describe() }

// Probe implements rats.Attester: it says whether the TPM answers.
func (a attester) Probe(ctx context.Context) rats.Readiness {
	if a.device == nil {
		return rats.Readiness{
			Why: errNoTPM.Error(),
			Fix: "enable the TPM in the firmware's setup, load the kernel's tpm_crb or tpm_tis driver, and let the agent's user open /dev/tpmrm0 (group tss)",
		}
	}
	if a.ak == nil {
		return rats.Readiness{Why: "the TPM has no attestation key of ours yet", Fix: "let the node join"}
	}
	if _, err := a.device.Clock(ctx); err != nil {
		return rats.Readiness{
			Why: err.Error(),
			Fix: "see that nothing else holds " + a.device.Path() + " open; a TPM in failure mode needs a restart of the machine",
		}
	}
	return rats.Readiness{OK: true}
}

// Collect implements rats.Attester. The ask's Params are those of package evidence/tpm; the binding's user data becomes
// the quote's extraData as it is.
func (a attester) Collect(ctx context.Context, ask rats.Ask) (rats.Evidence, error) {
	if a.device == nil || a.ak == nil {
		return rats.Evidence{}, fmt.Errorf("collecting a TPM quote: %w", errNoTPM)
	}
	if ask.Format != evidence.Format {
		return rats.Evidence{}, fmt.Errorf("collecting a TPM quote: asked for format %.40q", ask.Format)
	}
	params, err := evidence.ParseParams(ask.Params)
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting a TPM quote: %w", err)
	}
	if len(ask.Binding.UserData) == 0 {
		return rats.Evidence{}, errors.New("collecting a TPM quote: nothing to bind it to")
	}
	q, err := a.device.Quote(ctx, a.ak, params.Bank, params.PCRs, ask.Binding.UserData)
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting a TPM quote: %w", err)
	}
	values, err := evidence.EncodePCRs(q.Bank, q.PCRs)
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting a TPM quote: %w", err)
	}
	return rats.Evidence{
		Format: evidence.Format, MediaType: evidence.MediaType, Body: q.Attest,
		Parts: []rats.Part{
			{Name: evidence.PartSignature, Data: q.Signature},
			{Name: evidence.PartPCRs, Data: values},
			{Name: evidence.PartAK, Data: a.ak.Public},
		},
	}, nil
}
