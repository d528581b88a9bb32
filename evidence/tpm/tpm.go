// Package tpm is the evidence format "tpm": a quote of PCRs by a TPM 2.0 (TPM 2.0 Library, parts 1 and 2), signed by an
// attestation key (AK) that was enrolled together with the TPM's endorsement key (EK).
//
// A verified quote guarantees that the enrolled AK signed exactly these PCR values together with exactly this binding,
// during the boot that resetCount and restartCount name. It does not say who made the TPM (rules do, by the EK's
// certificate or a pinned EK), that the PCRs hold good values (rules do), in which order different PCRs were extended
// (S13), or that other evidence comes from the same machine (S01).
package tpm

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "tpm"

// Media types.
const (
	MediaType          = "application/vnd.assay.tpm-quote"
	EnrolmentMediaType = "application/vnd.assay.tpm-enrolment+json"
)

// Names of the parts of a piece of evidence. The body is the TPMS_ATTEST as it was signed.
const (
	PartSignature = "signature" // TPMT_SIGNATURE
	PartPCRs      = "pcrs"      // EncodePCRs
	PartAK        = "ak"        // TPM2B_PUBLIC
	PartAKCert    = "ak-cert"   // optional: a certificate of the AK, its issuers behind it; DER or PEM
)

// What ties the attestation key to its TPM.
const (
	SourceCredential    = "credential"     // at enrolment the EK's TPM opened a credential made for the AK
	SourceIAK           = "iak"            // besides, the machine's maker certified it as initial attestation key
	SourceAKCertificate = "ak-certificate" // besides, somebody certified it as attestation key
	SourceGiven         = "given"          // of recordings: the caller says so
	SourceInside        = "inside"         // of recordings: it came with the quote
)

// lastPCR is the highest index of a PC client TPM.
const lastPCR = 23

// bankSizes are the PCR banks that count, with the size of a value. SHA-1 is not among them.
var bankSizes = map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}

// Params is what is asked of the Attester: which PCRs of which bank.
type Params struct {
	Bank string `json:"bank"` // sha256, sha384, sha512
	PCRs []int  `json:"pcrs"` // 0 to 23, ascending, none twice
}

// Check says why p can't be asked for, nil if it can.
func (p Params) Check() error {
	if _, ok := bankSizes[p.Bank]; !ok {
		return fmt.Errorf("bank %.40q is not one of sha256, sha384, sha512", p.Bank)
	}
	if len(p.PCRs) == 0 {
		return fmt.Errorf("no PCRs")
	}
	for i, n := range p.PCRs {
		if n < 0 || n > lastPCR || i > 0 && p.PCRs[i-1] >= n {
			return fmt.Errorf("PCR %d is not from 0 to %d, or not in ascending order", n, lastPCR)
		}
	}
	return nil
}

// ParseParams reads the JSON of Params and refuses what Check refuses.
func ParseParams(b []byte) (Params, error) {
	var p Params
	if err := json.Unmarshal(b, &p); err != nil {
		return Params{}, fmt.Errorf("reading the parameters of a quote: %w", err)
	}
	if err := p.Check(); err != nil {
		return Params{}, fmt.Errorf("reading the parameters of a quote: %w", err)
	}
	return p, nil
}

// Claims are what a verified quote says about the machine. The clock's value is left out: claims are stored by their
// content, and equal machines shall have equal claims.
type Claims struct {
	AK            rats.Digest                  `json:"ak"`           // SHA-256 of the AK's TPM2B_PUBLIC
	EK            rats.Digest                  `json:"ek"`           // EKDigest of the enrolled EK
	EKCertified   bool                         `json:"ek_certified"` // the enrolment holds a certificate of the EK; rules check its chain
	EKCertificate []byte                       `json:"ek_certificate,omitempty"`
	EKChain       [][]byte                     `json:"ek_chain,omitempty"`      // issuers that came along
	EKVendor      string                       `json:"ek_vendor,omitempty"`     // of the built-in set, in which the chain ends; dates are for rules
	EKRevocation  *Revocation                  `json:"ek_revocation,omitempty"` // of the chain to that maker
	AKSource      string                       `json:"ak_source"`               // credential, iak, ak-certificate; of recordings: given, inside
	AKCertificate []byte                       `json:"ak_certificate,omitempty"`
	AKChain       [][]byte                     `json:"ak_chain,omitempty"`
	Device        *Device                      `json:"device,omitempty"`       // what the AK's certificate says
	Manufacturer  string                       `json:"manufacturer,omitempty"` // "id:494E5443", of the EK certificate
	Model         string                       `json:"model,omitempty"`
	Software      bool                         `json:"software"`      // a software TPM, or one nobody vouches for
	Firmware      string                       `json:"firmware"`      // firmwareVersion, 16 hex digits
	ResetCount    uint32                       `json:"reset_count"`   // TPM Resets so far
	RestartCount  uint32                       `json:"restart_count"` // TPM Restarts and Resumes since
	ClockSafe     bool                         `json:"clock_safe"`    // false after a power failure, which alone is harmless
	PCRs          map[string]map[string]string `json:"pcrs"`          // bank → index (decimal) → value (hex)
	Recorded      *Recorded                    `json:"recorded,omitempty"`
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// BootID identifies one boot of the machine whose TPM has this AK (TPM2B_PUBLIC). Every TPM Reset, Restart and Resume
// gives another one.
func BootID(akPub []byte, reset, restart uint32) rats.Digest {
	b := append([]byte("assay/tpm-boot/1"), byte(len(akPub)>>8), byte(len(akPub)))
	b = append(b, akPub...)
	b = binary.BigEndian.AppendUint32(b, reset)
	return rats.SHA256(binary.BigEndian.AppendUint32(b, restart))
}

// Codes are all reasons that this package gives.
var Codes = slices.Concat(verifyCodes, enrolCodes, ruleCodes, recordedCodes, certificateCodes, deviceCodes)
