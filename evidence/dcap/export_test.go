package dcap

import "crypto/x509"

// NewVerifierOf returns a verifier with other built-in roots, so that what it remembers of them can be tested.
func NewVerifierOf(roots ...*x509.Certificate) *Verifier {
	v := NewVerifier()
	v.roots, v.memo, v.parsed = roots, newMemo(50), newMemo(10)
	return v
}

// Remembered returns how many results a verifier holds.
func (v *Verifier) Remembered() int { return v.memo.order.Len() + v.parsed.order.Len() }

// Converge is the merge of statuses.
var Converge = converge
