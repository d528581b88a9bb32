package measure

import (
	"github.com/assay-attest/assay/api"
)

// OpenRelease opens a secret that was sealed to this enclave's hpke key. The info it was sealed under is made here, of the
// enclave's own namespace and node, so that nothing else sealed to the same key (an order, above all) can be opened this
// way. The secret is the caller's to wipe.
func (e *Enclave) OpenRelease(r api.Release) ([]byte, error) {
	return e.box.Open(api.ReleaseInfo(e.c.Namespace, e.c.Node, r.Name, r.Version, r.Result), r.Sealed)
}
