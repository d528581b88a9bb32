// Package plan verifies and judges evidence of format "plan": what an enclave measured by an owner's plan.
//
// It guarantees that verified claims are the outcomes of exactly the plan that was ordered, run for this challenge and
// manifest, and signed by a key that a platform format of the same collection vouches for. It does not prove that the
// runner was isolated from the machine it measured: the native backend is not, its evidence carries the mark "simulated"
// and its link to the platform is "none" (S01, S17). A report by the backend enclave carries it too unless an enclave
// format of the same collection attested the very key that signed: then the link is "key-in-report", and that format's
// claims, marks and slots say what the enclave is worth.
package plan

import (
	"context"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "plan"

// Params is what the verifier knows of the order, as JSON in Inputs.Params.
type Params struct {
	Plan       []byte `json:"plan"`        // canonical bytes of the plan that was ordered
	PlanSigner []byte `json:"plan_signer"` // SubjectPublicKeyInfo of the verifier's own plan signer
}

// Resume is what one verification leaves to the next of the same node, as JSON in Inputs.Resume.
type Resume struct {
	Signer   rats.Digest `json:"signer"`            // SHA-256 of the enclave's signing key
	Sequence uint64      `json:"sequence"`          // of its last accepted report
	Covered  []byte      `json:"covered,omitempty"` // units that took their turn: 8 bytes of a digest, 4 of Unix time, ascending
	Since    int64       `json:"since,omitempty"`   // Unix time from which they are noted
}

// New returns the verifier.
func New() rats.Verifier { return verifier{} }

type verifier struct{}

var descriptor = &rats.Descriptor{
	ID:            Format,
	Title:         "measurements by plan",
	Doc:           "formats/plan.md",
	MediaTypes:    []string{plan.ReportMediaType},
	Needs:         []rats.Format{"*"}, // after all others, with the facts of all: whichever of them vouches for the enclave's keys
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         Codes,
}

// Descriptor implements rats.Verifier.
func (verifier) Descriptor() *rats.Descriptor { return descriptor }

// Verify implements rats.Verifier.
func (verifier) Verify(ctx context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	return verify(ctx, e, in)
}
