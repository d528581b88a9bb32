// Package attesters is the node side's list of formats: one line each. Adding a format to the agent is a line here.
//
// It opens nothing itself: what the Attesters work with is handed in.
package attesters

import (
	"context"
	"fmt"

	evtpm "github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/attester/plan"
	"github.com/assay-attest/assay/internal/attester/tpm"
	"github.com/assay-attest/assay/internal/measure"
	device "github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// Deps is what Attesters work with.
type Deps struct {
	TPM     *device.Device
	AK      *device.AK
	Enclave *measure.Enclave
}

// List returns an Attester of every format this node side knows.
func List(d Deps) []rats.Attester {
	return []rats.Attester{
		tpm.New(d.TPM, d.AK),
		plan.New(d.Enclave),
	}
}

// Boot identifies the present boot as the platform's formats would. It is a claim of the agent: a server may let it lower
// trust, never raise it.
func Boot(ctx context.Context, d Deps) (rats.Digest, error) {
	c, err := d.TPM.Clock(ctx)
	if err != nil {
		return rats.Digest{}, fmt.Errorf("reading the TPM's clock: %w", err)
	}
	return evtpm.BootID(d.AK.Public, c.ResetCount, c.RestartCount), nil
}
