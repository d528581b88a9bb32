package dcap

import (
	"slices"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with a quote and its chain.
var (
	CodeQuoteMalformed = rats.CodeInfo{Code: "dcap.quote.malformed", Slot: rats.Hardware,
		Title: "the bytes are not a quote", Hint: "give the quote as the quoting enclave made it"}
	CodeQuoteUnsupported = rats.CodeInfo{Code: "dcap.quote.unsupported", Slot: rats.Hardware,
		Title: "the quote is of a version or kind that is not supported", Hint: "use ECDSA-P256 quotes of version 3, 4 or 5"}
	CodeQuoteTrailing = rats.CodeInfo{Code: "dcap.quote.trailing", Slot: rats.Hardware,
		Title: "other than zero bytes follow the quote", Hint: "hand over the declared bytes of the quote only"}
	CodeQuoteKey = rats.CodeInfo{Code: "dcap.quote.key", Slot: rats.Hardware,
		Title: "the attestation key is not a point of P-256", Hint: "the quote was altered"}
	CodeQuoteSignature = rats.CodeInfo{Code: "dcap.quote.signature", Slot: rats.Hardware,
		Title: "the signature of the quote is not valid", Hint: "the quote was altered or spliced"}
	CodeKeyUnbound = rats.CodeInfo{Code: "dcap.qe.key-unbound", Slot: rats.Hardware,
		Title: "the quoting enclave does not vouch for the attestation key", Hint: "the quote was altered or spliced"}
	CodeQESignature = rats.CodeInfo{Code: "dcap.qe.signature", Slot: rats.Hardware,
		Title: "the report of the quoting enclave is not signed by the platform", Hint: "the quote was altered, or the platform certificate is another machine's"}
	CodeQEDebug = rats.CodeInfo{Code: "dcap.qe.debug", Slot: rats.Hardware,
		Title: "the quoting enclave is open to a debugger", Hint: "a debug quoting enclave signs anything; treat the machine as forged"}
	CodeQEIdentity = rats.CodeInfo{Code: "dcap.qe.identity", Slot: rats.Hardware,
		Title: "the quoting enclave is not the one Intel names", Hint: "treat the quote as forged by software"}
	CodeChainMissing = rats.CodeInfo{Code: "dcap.chain.missing", Slot: rats.Hardware,
		Title: "the certificate of the platform is not at hand", Hint: "hand over the PCK certificate and its chain beside the quote"}
	CodeChainMalformed = rats.CodeInfo{Code: "dcap.chain.malformed", Slot: rats.Hardware,
		Title: "the certificates of the platform can't be read", Hint: "the quote was altered"}
	CodeChainSignature = rats.CodeInfo{Code: "dcap.chain.signature", Slot: rats.Hardware,
		Title: "the certificates of the platform do not sign one another", Hint: "the quote was altered or spliced"}
	CodeChainRoot = rats.CodeInfo{Code: "dcap.chain.root", Slot: rats.Hardware,
		Title: "the certificates of the platform do not lead to a trusted root", Hint: "only platforms certified by Intel are trusted"}
	CodeChainProfile = rats.CodeInfo{Code: "dcap.chain.profile", Slot: rats.Hardware,
		Title: "a certificate of the chain is of another kind than its place demands", Hint: "the chain must be PCK certificate, processor or platform CA, root"}
	CodeChainOther = rats.CodeInfo{Code: "dcap.chain.other", Slot: rats.Hardware,
		Title: "the certificate beside the quote is not of the key that the quote names", Hint: "fetch the PCK certificate of this platform for exactly the CPUSVN, PCESVN and PCE id in the quote"}
	CodeChainExpired = rats.CodeInfo{Code: "dcap.chain.expired", Slot: rats.Hardware,
		Title: "a certificate of the platform has expired", Hint: "let the machine fetch a new PCK certificate; stored evidence can be verified at a stated time"}
	CodeChainEarly = rats.CodeInfo{Code: "dcap.chain.not-yet-valid", Slot: rats.Hardware,
		Title: "a certificate of the platform is not valid yet", Hint: "check the clock of the verifier"}
	CodeRevoked = rats.CodeInfo{Code: "dcap.chain.revoked", Slot: rats.Hardware,
		Title: "a certificate of the platform is revoked", Hint: "the platform's keys are compromised; don't trust it again"}
	CodeUnbound = rats.CodeInfo{Code: "dcap.binding.unknown", Slot: rats.InstanceIdentity,
		Title: "it is not known what the quote must be bound to", Hint: "give the manifest or report data of this exchange, 16 to 64 bytes"}
	CodeBinding = rats.CodeInfo{Code: "dcap.binding.broken", Slot: rats.InstanceIdentity,
		Title: "the binding does not hang together", Hint: "user data must be the SHA-256 of the manifest"}
	CodeReportData = rats.CodeInfo{Code: "dcap.binding.report-data", Slot: rats.InstanceIdentity,
		Title: "the quote is bound to something else", Hint: "a quote answers one challenge only; collect a new one"}
)

// What can be wrong with collateral: told apart from what is wrong with a quote.
var (
	CodeCollateralUnknown = rats.CodeInfo{Code: "dcap.collateral.unknown", Slot: rats.Hardware,
		Title: "the bytes are no collateral", Hint: "give TCB info, an identity, certificates or revocation lists"}
	CodeCollateralMalformed = rats.CodeInfo{Code: "dcap.collateral.malformed", Slot: rats.Hardware,
		Title: "the collateral can't be read", Hint: "fetch it again"}
	CodeCollateralSignature = rats.CodeInfo{Code: "dcap.collateral.signature", Slot: rats.Hardware,
		Title: "the collateral is not signed by Intel", Hint: "fetch it again; hand over the chain of its signer too"}
	CodeCollateralSigner = rats.CodeInfo{Code: "dcap.collateral.signer-revoked", Slot: rats.Hardware,
		Title: "the signer of the collateral is revoked", Hint: "fetch the collateral again"}
	CodeCollateralExpired = rats.CodeInfo{Code: "dcap.collateral.expired", Slot: rats.Hardware,
		Title: "the collateral has expired", Hint: "fetch it again"}
	CodeCollateralEarly = rats.CodeInfo{Code: "dcap.collateral.not-yet-valid", Slot: rats.Hardware,
		Title: "the collateral is of a later time", Hint: "check the clock, or verify with collateral of that time"}
	CodeCollateralAge = rats.CodeInfo{Code: "dcap.collateral.age", Slot: rats.Hardware,
		Title: "the collateral is older than policy allows", Hint: "fetch it again"}
	CodeTCBInfoMissing = rats.CodeInfo{Code: "dcap.tcb-info.missing", Slot: rats.Hardware,
		Title: "the TCB info of the platform is not at hand", Hint: "fetch the collateral of the platform's FMSPC"}
	CodeTCBInfoOther = rats.CodeInfo{Code: "dcap.tcb-info.other", Slot: rats.Hardware,
		Title: "the TCB info is of another kind of platform", Hint: "fetch the collateral of the platform's FMSPC and technology"}
	CodeIdentityMissing = rats.CodeInfo{Code: "dcap.identity.missing", Slot: rats.Hardware,
		Title: "the identity of the quoting enclave is not at hand", Hint: "fetch the identity of the quoting enclave (QE for SGX, TD_QE for TDX)"}
	CodeCRLMissing = rats.CodeInfo{Code: "dcap.crl.missing", Slot: rats.Hardware,
		Title: "a revocation list is not at hand", Hint: "fetch the lists of the root and of the platform's CA"}
	CodeCRLSignature = rats.CodeInfo{Code: "dcap.crl.signature", Slot: rats.Hardware,
		Title: "a revocation list is not signed by its issuer", Hint: "fetch it again"}
	CodeModule = rats.CodeInfo{Code: "dcap.module.identity", Slot: rats.Hardware,
		Title: "the TDX module is not one Intel names", Hint: "load a TDX module signed by Intel"}
)

var verifyCodes = []rats.CodeInfo{
	CodeQuoteMalformed, CodeQuoteUnsupported, CodeQuoteTrailing, CodeQuoteKey, CodeQuoteSignature, CodeKeyUnbound,
	CodeQESignature, CodeQEDebug, CodeQEIdentity, CodeChainMissing, CodeChainMalformed, CodeChainSignature, CodeChainRoot,
	CodeChainProfile, CodeChainOther, CodeChainExpired, CodeChainEarly, CodeRevoked, CodeUnbound, CodeBinding, CodeReportData,
}

var collateralCodes = []rats.CodeInfo{
	CodeCollateralUnknown, CodeCollateralMalformed, CodeCollateralSignature, CodeCollateralSigner, CodeCollateralExpired,
	CodeCollateralEarly, CodeCollateralAge, CodeTCBInfoMissing, CodeTCBInfoOther, CodeIdentityMissing, CodeCRLMissing,
	CodeCRLSignature, CodeModule,
}

// Codes are all reasons that this package gives; the formats built on it list them too.
var Codes = slices.Concat(verifyCodes, collateralCodes, ruleCodes)

// infoOf returns the description of a code of this package.
func infoOf(code rats.Code) (rats.CodeInfo, bool) {
	i := slices.IndexFunc(Codes, func(c rats.CodeInfo) bool { return c.Code == code })
	if i < 0 {
		return rats.CodeInfo{}, false
	}
	return Codes[i], true
}
