// Package all is the list of evidence formats: one line each. To add a format, add its line here and, if this node side
// can collect it, in internal/attesters.
package all

import (
	"github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/evidence/hyperenclave"
	"github.com/assay-attest/assay/evidence/ias"
	"github.com/assay-attest/assay/evidence/ima"
	"github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/evidence/sgx"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// Verifiers returns a verifier of every format.
func Verifiers() []rats.Verifier {
	return []rats.Verifier{
		tpm.New(),
		eventlog.New(),
		ima.New(),
		sgx.New(),
		tdx.New(),
		snp.New(),
		ias.New(),
		hyperenclave.New(),
		enclave.New(),
		plan.New(),
	}
}

// Descriptors returns the descriptor of every format.
func Descriptors() []*rats.Descriptor {
	vs := Verifiers()
	out := make([]*rats.Descriptor, len(vs))
	for i, v := range vs {
		out[i] = v.Descriptor()
	}
	return out
}
