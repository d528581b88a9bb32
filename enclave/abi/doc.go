// Package abi holds the binary structures of Intel SGX and TDX, and HyperEnclave's quote, in both directions: what the
// hardware, the SDKs and the quoting enclaves read and write, bit for bit.
//
// It guarantees that every structure it reads is written again byte for byte the same (reserved fields are kept), that
// a length other than the structure's is refused with the byte offset, and that nothing is trusted by parsing: only
// [Sigstruct.Verify] checks a signature. It does not judge reserved bits, attributes or versions; formats do.
//
// Integers are little-endian. Sections are of the Intel SDM volume 3D (SGX, chapters 34 and 38) and of the Intel TDX
// Module ABI and DCAP Quote Generation specifications.
package abi

import (
	"encoding/binary"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// Sizes in bytes.
const (
	ReportBodySize   = 384
	ReportSize       = 432
	TargetInfoSize   = 512
	KeyRequestSize   = 512
	SigstructSize    = 1808
	QuoteHeaderSize  = 48
	TDReport10Size   = 584
	TDReport15Size   = 648
	TDReportSize     = 1024
	EPIDQuoteSize    = 436 // without signature
	ReportDataSize   = 64
	sigstructKeySize = 384
)

// What can be wrong with a structure.
var (
	CodeLength = rats.CodeInfo{Code: "abi.structure.length", Slot: rats.Hardware,
		Title: "the structure has another length", Hint: "the bytes are truncated, padded or of another kind"}
	CodeSigstructHeader = rats.CodeInfo{Code: "abi.sigstruct.header", Slot: rats.Executables,
		Title: "the bytes are not a SIGSTRUCT", Hint: "give the 1808 bytes that the signing tool made"}
	CodeSigstructKey = rats.CodeInfo{Code: "abi.sigstruct.key", Slot: rats.Executables,
		Title: "the signing key is not an RSA-3072 key with exponent 3", Hint: "sign the enclave again"}
	CodeSigstructSignature = rats.CodeInfo{Code: "abi.sigstruct.signature", Slot: rats.Executables,
		Title: "the signature of the SIGSTRUCT is not valid", Hint: "the SIGSTRUCT was altered; sign the enclave again"}
	CodeSigstructQuotients = rats.CodeInfo{Code: "abi.sigstruct.quotients", Slot: rats.Executables,
		Title: "Q1 or Q2 of the SIGSTRUCT is wrong", Hint: "the processor refuses it; sign the enclave again"}
	CodeHyperEnclave = rats.CodeInfo{Code: "abi.hyperenclave.malformed", Slot: rats.Hardware,
		Title: "the bytes are not a quote of HyperEnclave", Hint: "the quote was truncated or altered"}
	CodeHyperEnclaveVersion = rats.CodeInfo{Code: "abi.hyperenclave.version", Slot: rats.Hardware,
		Title: "the quote is of another version or signature type", Hint: "HyperEnclave's published monitor makes version 1 with signature type 4"}
	CodeHyperEnclaveStatement = rats.CodeInfo{Code: "abi.hyperenclave.statement", Slot: rats.Hardware,
		Title: "no TPM composed the platform's statement as a quote", Hint: "the quote was truncated or altered"}
	CodeHyperEnclaveCertificate = rats.CodeInfo{Code: "abi.hyperenclave.certificate", Slot: rats.Hardware,
		Title: "the quote doesn't end with one DER certificate", Hint: "the quote was truncated or altered, or the monitor had no certificate"}
	CodeHyperEnclaveLength = rats.CodeInfo{Code: "abi.hyperenclave.signature-length", Slot: rats.Hardware,
		Title: "the quote has another length than it claims", Hint: "the quote was truncated or altered"}
)

// Codes are all reasons that this package gives.
var Codes = []rats.CodeInfo{
	CodeLength, CodeSigstructHeader, CodeSigstructKey, CodeSigstructSignature, CodeSigstructQuotients, CodeHyperEnclave,
	CodeHyperEnclaveVersion, CodeHyperEnclaveStatement, CodeHyperEnclaveCertificate, CodeHyperEnclaveLength,
	CodePlatform, CodeEvents,
}

// decode fills a structure of fixed layout from exactly its bytes.
func decode(b []byte, v any, what string) error {
	if size := binary.Size(v); len(b) != size {
		return CodeLength.Bad(fmt.Sprintf("%s at byte %d", what, min(len(b), size)), fmt.Sprintf("%d bytes", size), fmt.Sprintf("%d bytes", len(b)))
	}
	_, err := binary.Decode(b, binary.LittleEndian, v)
	return err
}

// encode writes a structure of fixed layout. Its types hold integers and byte arrays only, so it can't fail.
func encode(v any) []byte {
	b, err := binary.Append(make([]byte, 0, binary.Size(v)), binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}
