// Package identity is all issuance: the verifier's certificate authority, its server certificates, the client
// certificates of nodes, and the join exchange that turns a one-time token and a TPM into a node.
//
// It guarantees that a certificate counts only when a pinned CA signed it directly (depth 1), that a join token admits
// one node once, that a client certificate is issued only for a key which the TPM named in the enrolment certified, and
// that a node is approved only by an EK the administrator named or by a policy that vouches for it.
//
// It does not say whether a node may be trusted: a certificate names a connection's peer, evidence judges the machine
// behind it (S07). It reads no clock and no randomness of its own, keeps no private key on disk and stores nothing
// between the two steps of joining.
package identity

import (
	"slices"

	"github.com/assay-attest/assay/rats"
)

// Codes are the reasons this package refuses with. Those of the TPM format (bad AK attributes, bad certification) pass
// through and are listed by that format.
var Codes = slices.Concat([]rats.CodeInfo{
	CodePeerPlain, CodePeerMissing, CodePeerChain, CodePeerCA, CodePeerExpired, CodePeerUsage, CodePeerName,
	CodePeerNamespace, CodePeerNode, CodePeerKey, CodePeerRevoked,
	CodeTokenMalformed, CodeTokenNamespace, CodeTokenUnknown, CodeTokenExpired, CodeTokenUsed, CodeTokenEK,
	CodeTokenTTL, CodeTokenKind, CodeTokenLabels, CodeTokenParent, CodeTokenEKForm,
	CodeRequestSize, CodeKeyInvalid, CodeNameInvalid, CodeNameTaken, CodeNodeExists,
	CodeContinueForged, CodeContinueLate, CodeContinueOther, CodeActivationWrong, CodeCertifyKey,
	CodeEnrolmentUnvouched, CodeApproveRevoked, CodeEKTaken,
}, akCodes)
