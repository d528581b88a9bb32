package snp

import "crypto/x509"

// Roots returns AMD's root certificates, which this package trusts, for those who judge certificates by themselves.
func Roots() []*x509.Certificate {
	var out []*x509.Certificate
	for _, p := range []Product{Milan, Genoa, Turin} {
		out = append(out, pinned()[p].ark)
	}
	return out
}
