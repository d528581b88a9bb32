package attesters

import (
	"context"

	"github.com/assay-attest/assay/evidence/enclave"
	attester "github.com/assay-attest/assay/internal/attester/enclave"
	"github.com/assay-attest/assay/rats"
)

// Complete makes evidence of a quote that an enclave asked its monitor for: it adds the enclave's SIGSTRUCT and, unless the
// root is simulated, what the TPM vouches for. The params are those of the format (null: PCR 11 alone). It is for
// enclaves that bind themselves to something else than a manifest, such as a key exchange.
func Complete(d Deps, sigstruct, params []byte) func(ctx context.Context, quote []byte) ([]rats.Evidence, error) {
	if params == nil {
		params = []byte(`{"pcrs":[11]}`)
	}
	return func(ctx context.Context, quote []byte) ([]rats.Evidence, error) {
		a := attester.New(attester.Config{Enclave: given{quote, sigstruct}, Device: d.TPM, AK: d.AK, Measured: d.Keeper, Root: d.Root})
		// The quote is made already: what it is bound to isn't asked for again.
		e, err := a.Collect(ctx, rats.Ask{Format: enclave.Format, Binding: rats.Binding{Profile: rats.ProfileRaw, Manifest: quote}, Params: params})
		return []rats.Evidence{e}, err
	}
}

// given is the source of one quote.
type given struct{ quote, sigstruct []byte }

func (g given) Quote(context.Context, []byte) ([]byte, error) { return g.quote, nil }

func (g given) Sigstruct() []byte { return g.sigstruct }
