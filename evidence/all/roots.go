package all

import (
	"crypto/x509"

	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/evidence/snp"
)

// Roots returns the pinned root certificates by vendor ("intel", "amd"): what collateral must lead to before it is kept.
// Verifiers check everything again under their own roots.
func Roots() map[string][]*x509.Certificate {
	return map[string][]*x509.Certificate{
		"intel": {dcap.IntelRoot()},
		"amd":   snp.Roots(),
	}
}
