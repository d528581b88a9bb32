package sgx

import (
	"testing"

	"github.com/assay-attest/assay/internal/testkit/dcaptest"
	"github.com/assay-attest/assay/rats"
)

// R103: recorded genuine quotes verify, and every stated change of them is refused.
func TestRecordedCases(t *testing.T) {
	v := New()
	cases := dcaptest.Cases(t, string(Format))
	for _, c := range cases {
		b := c.Input(t)
		var o dcaptest.Outcome
		_, body, err := Parse(b)
		if o.Parsed = err == nil; o.Parsed {
			o.Debug = body.Attributes.Debug()
		}
		in := c.Inputs(t)
		verified, err := v.Verify(t.Context(), rats.Evidence{Format: Format, MediaType: MediaType, Body: b}, in)
		if o.Genuine = err == nil; !o.Genuine {
			if _, ok := rats.ReasonOf(err); !ok {
				t.Errorf("%s: malfunction: %v", c.ID, err)
			}
			o.Why = err.Error()
		} else {
			claims := verified.Claims.(*Claims)
			o.TCBStatus, o.Advisories, _ = claims.TCBStatus()
			o.Facts = map[string]any{
				"mrenclave": claims.MRENCLAVE, "mrsigner": claims.MRSIGNER, "fmspc": claims.FMSPC, "quote_version": claims.QuoteVersion,
			}
			r := &Rules{Rules: c.Rules(), AnyMeasurement: true}
			if reasons := r.Lint(); len(reasons) > 0 {
				t.Fatal(reasons)
			}
			reasons := r.Check(claims, nil, in.Now)
			o.Accepted = rats.VerdictOf(rats.Worst(reasons), false).Exit == rats.ExitOK
			for _, r := range reasons {
				o.Why += r.String() + "\n"
			}
		}
		c.Compare(t, o)
	}
	t.Logf("%d cases", len(cases))
}
