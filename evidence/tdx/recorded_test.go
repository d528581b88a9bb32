package tdx

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
			return body.Debug(), err
		},
		Verify: func(b []byte, in rats.Inputs) (rats.Verified, error) { return v.Verify(t.Context(), evidence(b), in) },
		Facts: func(claims rats.Claims) map[string]any {
			c := claims.(*Claims)
			return map[string]any{
				"mrtd": c.MRTD, "rtmr0": c.RTMR["0"], "rtmr1": c.RTMR["1"], "rtmr2": c.RTMR["2"], "rtmr3": c.RTMR["3"],
				"fmspc": c.FMSPC, "quote_version": c.QuoteVersion, "tcb_date": c.TCB.Date, "tcb_evaluation_data_number": c.TCB.EvaluationNumber,
			}
		},
		Rules: func(r dcap.Rules) rats.Rules { return &Rules{Rules: r, AnyMeasurement: true} },
	}.Run(t)
}
