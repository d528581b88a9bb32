package plan

import "github.com/assay-attest/assay/rats"

// Codes lists what this package refuses with.
var Codes = []rats.CodeInfo{
	CodeDocument,
	CodeOrderSealed, CodeOrderSignature, CodeOrderMalformed, CodeOrderAddressee, CodeOrderNamespace, CodeOrderNode,
	CodeOrderNonce, CodeOrderExpired,
	CodeOutcomes, CodeReport, CodeReportSignature, CodeReportParts,
	CodeEvidenceSealed, CodeEvidence,
}
