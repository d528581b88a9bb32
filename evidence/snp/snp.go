// Package snp is the evidence format "snp": an attestation report of an AMD SEV-SNP guest (SEV Secure Nested Paging
// Firmware ABI, document 56860, section 7.3), version 2 to 5, signed by a chip's key (VCEK) or by a key leased to a cloud
// (VLEK), as it comes from the firmware or inside the envelope of Azure's paravisor (HCL).
//
// A verified report guarantees that AMD's firmware on a chip of the named product made exactly these bytes: guest policy,
// measurement, TCB versions, report data. It guarantees that the key was made for the chip and the TCB version that the
// report names, and that its chain ends in AMD's root, pinned here. It doesn't say that the TCB is new enough, that the
// measurement is wanted or that nobody can debug the guest (rules do); nothing about what the guest loaded after its launch;
// and nothing about a guest behind a paravisor but what the paravisor's own measurement says.
package snp

import (
	"slices"

	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "snp"

// Media types. Which of the two a body is is told by its content.
const (
	MediaType    = "application/vnd.assay.snp-report"
	MediaTypeHCL = hcl.MediaType
)

// PartCerts is the name of the one part a piece of evidence may have: certificates beside the report, as the table of the
// extended guest request (ParseCertTable), as PEM or as one DER certificate.
const PartCerts = "certs"

// KeyAK is the use of the key that an HCL report vouches for: the attestation key of the guest's vTPM, as
// SubjectPublicKeyInfo.
const KeyAK = rats.KeyAK

// Product is a line of AMD processors that share a root key.
type Product string

// The products with SEV-SNP. Genoa includes Bergamo and Siena.
const (
	Milan Product = "Milan"
	Genoa Product = "Genoa"
	Turin Product = "Turin"
)

// productOfCPU returns the product of a family and model as CPUID combines them.
func productOfCPU(family, model byte) (Product, bool) {
	switch {
	case family == 0x19 && model <= 0x0f:
		return Milan, true
	case family == 0x19 && (model >= 0x10 && model <= 0x1f || model >= 0xa0 && model <= 0xaf):
		return Genoa, true
	case family == 0x1a && model <= 0x1f:
		return Turin, true
	}
	return "", false
}

// Codes lists every code of this package.
var Codes = slices.Concat(reportCodes, chainCodes, verifyCodes, importCodes, ruleCodes)

var descriptor = &rats.Descriptor{
	ID:         Format,
	Title:      "AMD SEV-SNP report",
	Doc:        "formats/snp.md",
	MediaTypes: []string{MediaType, MediaTypeHCL},
	// An HCL report is bound to an exchange only by a quote of the TPM whose key it names (S01).
	Needs:         []rats.Format{hcl.FormatTPM},
	Hardware:      true,
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         slices.Concat(Codes, hcl.Codes),
}

// New returns the verifier of SEV-SNP reports. It remembers the certificates it has verified.
func New() rats.Verifier { return &verifier{seen: newMemo()} }

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }

// Detect says whether raw bytes could be evidence of this format.
func Detect(b []byte) bool {
	if hcl.Detect(b) {
		h, err := hcl.Parse(b)
		return err != nil || h.Kind == hcl.KindSNP
	}
	if len(b) < ReportSize || len(b) > maxBody {
		return false
	}
	_, err := ParseReport(b[:ReportSize])
	return err == nil
}
