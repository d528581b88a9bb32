package sgx

import (
	"testing"

	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/internal/testkit/dcaptest"
	"github.com/assay-attest/assay/rats"
)

// R103: recorded genuine quotes verify, and every stated change of them is refused.
func TestRecordedCases(t *testing.T) {
	v := New()
	dcaptest.Judge{
		Format: Format,
		Parse: func(b []byte) (bool, error) {
			_, body, err := Parse(b)
			return body.Attributes.Debug(), err
		},
		Verify: func(b []byte, in rats.Inputs) (rats.Verified, error) { return v.Verify(t.Context(), evidence(b), in) },
		Facts: func(claims rats.Claims) map[string]any {
			c := claims.(*Claims)
			return map[string]any{"mrenclave": c.MRENCLAVE, "mrsigner": c.MRSIGNER, "fmspc": c.FMSPC, "quote_version": c.QuoteVersion}
		},
		Rules: func(r dcap.Rules) rats.Rules { return &Rules{Rules: r, AnyMeasurement: true} },
	}.Run(t)
}
