// Package hyperenclave is the legacy evidence format "hyperenclave": the quote of HyperEnclave's published monitor, with
// SM2 signatures (GB/T 32918) and SM3 digests (GB/T 32905).
//
// A verified quote guarantees that the caller's certificate authority certified a TPM's key with a baseline of its
// registers, that this key signed a TPM quote over the SM3 digest of the enclave's report data and a register digest equal
// to that baseline, that the baseline's PCR 13 holds exactly the key in the quote, and that this key signed the report
// body. It guarantees no more than that, and it is weak: the TPM's statement covers the report data and not the report
// body, and the register values come from the certificate and not from a policy. So rules accept nothing of this format
// unless they say until when, and name the register digests they trust (R090).
//
// There is no built-in root: anchors are given as endorsements. Source: the layout and the order of signatures published
// with HyperEnclave (USENIX ATC 2022) and its open monitor and verifier.
package hyperenclave

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "hyperenclave"

// Media types: of a quote, which is the body and has no parts, and of the endorsement that is a trusted certificate (DER).
const (
	MediaType       = "application/vnd.assay.hyperenclave-quote"
	MediaTypeAnchor = "application/vnd.assay.trust-anchor"
)

// What can be wrong with a quote; package abi has more about its structure.
var (
	CodeMediaType = rats.CodeInfo{Code: "hyperenclave.evidence.media-type", Slot: rats.InstanceIdentity,
		Title: "the evidence is of another kind, or has parts", Hint: "send the quote alone, as " + MediaType}
	CodeHead = rats.CodeInfo{Code: "hyperenclave.quote.head", Slot: rats.Hardware,
		Title: "a field that nothing signs is not zero", Hint: "the published monitor leaves group, versions and base name zero; the quote was altered"}
	CodeCertificate = rats.CodeInfo{Code: "hyperenclave.certificate.malformed", Slot: rats.Hardware,
		Title: "the certificate of the TPM's key can't be used", Hint: "it must hold an SM2 key, be signed by SM2 with SM3, and be no CA's"}
	CodeNoAnchor = rats.CodeInfo{Code: "hyperenclave.certificate.no-anchor", Slot: rats.Hardware,
		Title: "no certificate authority is given", Hint: "none is built in; give the issuer's certificate (--ca)"}
	CodeUntrusted = rats.CodeInfo{Code: "hyperenclave.certificate.untrusted", Slot: rats.Hardware,
		Title: "the certificate of the TPM's key is not by a given authority", Hint: "give the issuer's certificate, or treat the quote as forged"}
	CodeExpired = rats.CodeInfo{Code: "hyperenclave.certificate.expired", Slot: rats.Hardware,
		Title: "a certificate is not valid at this time", Hint: "stored evidence can be verified at a stated time"}
	CodeBaseline = rats.CodeInfo{Code: "hyperenclave.certificate.baseline", Slot: rats.Hardware,
		Title: "the certificate carries no baseline of registers", Hint: "the extension 1.2.86.1 must hold the register digest and PCR 13"}
	CodeTPMSignature = rats.CodeInfo{Code: "hyperenclave.tpm.signature", Slot: rats.Hardware,
		Title: "the TPM's signature is not valid", Hint: "the TPM's statement, its signature or the certificate was altered"}
	CodeStatement = rats.CodeInfo{Code: "hyperenclave.tpm.statement", Slot: rats.Hardware,
		Title: "the TPM's statement is not a quote with SM3", Hint: "the monitor quotes with SM3 digests only"}
	CodeSelection = rats.CodeInfo{Code: "hyperenclave.tpm.selection", Slot: rats.Hardware,
		Title: "the TPM quoted other registers", Hint: "PCRs 0 to 9, 12 and 13 of the SM3 bank must be quoted"}
	CodeExtraData = rats.CodeInfo{Code: "hyperenclave.tpm.extra-data", Slot: rats.Hardware,
		Title: "the TPM's statement is of another report", Hint: "statements must not be reused: the published verifier doesn't notice, this one does"}
	CodePCRDigest = rats.CodeInfo{Code: "hyperenclave.tpm.pcr-digest", Slot: rats.Hardware,
		Title: "the registers are not those of the certificate's baseline", Hint: "the machine started other software than when its key was certified, or the monitor was restarted"}
	CodeMonitorKey = rats.CodeInfo{Code: "hyperenclave.monitor.key", Slot: rats.Hardware,
		Title: "the monitor's key is not a point of the SM2 curve", Hint: "the quote was altered"}
	CodeUnmeasured = rats.CodeInfo{Code: "hyperenclave.monitor.unmeasured", Slot: rats.Hardware,
		Title: "the monitor's key is not the one in PCR 13", Hint: "the quote was altered, or is by a monitor that this TPM didn't measure"}
	CodeSignature = rats.CodeInfo{Code: "hyperenclave.report.signature", Slot: rats.Hardware,
		Title: "the monitor's signature of the report is not valid", Hint: "the report was altered"}
)

// Codes are the reasons of this package. Those of the structure come from package abi, those of binding from package dcap.
var Codes = slices.Concat([]rats.CodeInfo{
	CodeMediaType, CodeHead, CodeCertificate, CodeNoAnchor, CodeUntrusted, CodeExpired, CodeBaseline, CodeTPMSignature, CodeStatement,
	CodeSelection, CodeExtraData, CodePCRDigest, CodeMonitorKey, CodeUnmeasured, CodeSignature,
}, ruleCodes)

// Claims are what a verified quote says.
type Claims struct {
	MRENCLAVE  string      `json:"mrenclave"`
	MRSIGNER   string      `json:"mrsigner"`
	ISVProdID  uint16      `json:"isv_prod_id"`
	ISVSVN     uint16      `json:"isv_svn"`
	Debug      bool        `json:"debug"`
	Attributes string      `json:"attributes"`
	Legacy     bool        `json:"legacy"`      // always true
	MonitorKey rats.Digest `json:"monitor_key"` // SM3 of x ‖ y, as extended into PCR 13
	PCRDigest  rats.Digest `json:"pcr_digest"`  // SM3 over PCRs 0 to 9, 12 and 13
	Baseline   string      `json:"baseline"`    // whose word the register values are: always "certificate"
	TPM        TPM         `json:"tpm"`
	ReportData string      `json:"report_data,omitempty"` // only where no manifest is bound
}

// TPM is what the TPM's statement and the certificate of its key say.
type TPM struct {
	Key          rats.Digest `json:"key"` // SM3 of the SubjectPublicKeyInfo
	Subject      string      `json:"subject"`
	Issuer       string      `json:"issuer"`
	NotAfter     time.Time   `json:"not_after"`
	Clock        uint64      `json:"clock"`
	ResetCount   uint32      `json:"reset_count"`
	RestartCount uint32      `json:"restart_count"`
	Safe         bool        `json:"safe"`
	Firmware     uint64      `json:"firmware"`
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// DebugEnabled says whether a debugger may look into the enclave.
func (c *Claims) DebugEnabled() bool { return c.Debug }

var descriptor = &rats.Descriptor{
	ID:            Format,
	Title:         "HyperEnclave quote (legacy)",
	Doc:           "formats/hyperenclave.md",
	MediaTypes:    []string{MediaType},
	Hardware:      true,
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes: slices.Concat(Codes, []rats.CodeInfo{
		abi.CodeHyperEnclave, abi.CodeHyperEnclaveVersion, abi.CodeHyperEnclaveStatement, abi.CodeHyperEnclaveCertificate, abi.CodeHyperEnclaveLength,
		dcap.CodeUnbound, dcap.CodeBinding, dcap.CodeReportData,
	}),
}

type verifier struct{}

// New returns the verifier of HyperEnclave's quotes.
func New() rats.Verifier { return verifier{} }

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }

// Descriptor implements rats.Verifier.
func (verifier) Descriptor() *rats.Descriptor { return descriptor }

// Detect says cheaply whether b could be a quote.
func Detect(b []byte) bool { return abi.IsHyperEnclaveQuote(b) }

// keyUsageOK says whether a certificate's key may sign statements; without the extension it may.
func keyUsageOK(u x509.KeyUsage) bool { return u == 0 || u&x509.KeyUsageDigitalSignature != 0 }
