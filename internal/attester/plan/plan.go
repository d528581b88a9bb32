// Package plan is the Attester of format "plan": it hands an order to the enclave and the enclave's sealed report back. It
// sees neither the plan nor its outcomes; it can lose them, and nothing else.
package plan

import (
	"context"
	"errors"
	"fmt"

	"github.com/assay-attest/assay/api"
	evidence "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// ErrOrder is wrapped by Collect's error if the order is for other keys than this enclave's: it was restarted since the
// verifier learnt them. The platform part alone then leads to a new order.
var ErrOrder = errors.New("order is not for this enclave")

// Enclave runs orders: the native one of package measure, or the one of package measuring.
type Enclave interface {
	Run(ctx context.Context, manifest, order []byte) ([]byte, error)
}

// New returns the Attester over an enclave; nil if there is none.
func New(e Enclave) rats.Attester { return &attester{e} }

type attester struct{ enclave Enclave }

func (a *attester) Descriptor() *rats.Descriptor { return evidence.New().Descriptor() }

func (a *attester) Probe(context.Context) rats.Readiness {
	if a.enclave == nil {
		return rats.Readiness{Why: "no enclave was started", Fix: "start the agent with a plan signer: join a server first"}
	}
	return rats.Readiness{OK: true}
}

// Collect runs the order in ask.Params, as it came, for the manifest in ask.Binding. The evidence is sealed to the
// verifier: its media type is api.TypeSealed and its body the box.
func (a *attester) Collect(ctx context.Context, ask rats.Ask) (rats.Evidence, error) {
	if a.enclave == nil {
		return rats.Evidence{}, errors.New("no enclave was started")
	}
	box, err := a.enclave.Run(ctx, ask.Binding.Manifest, ask.Params)
	if r, ok := rats.ReasonOf(err); ok && (r.Code == plan.CodeOrderSealed.Code || r.Code == plan.CodeOrderAddressee.Code) {
		return rats.Evidence{}, fmt.Errorf("%w: %w", ErrOrder, err)
	}
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("running an order: %w", err)
	}
	return rats.Evidence{Format: evidence.Format, MediaType: api.TypeSealed, Body: box}, nil
}
