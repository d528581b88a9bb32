// Package sgx is the evidence format "sgx": an ECDSA quote of an SGX enclave, version 3, or version 4 and 5 with an SGX
// body (Intel DCAP Quote Generation, appendix A), with the collateral that judges its platform.
//
// A verified quote guarantees that a platform certified by Intel ran an enclave with exactly this measurement, signer
// and attributes, and that the enclave itself asked for exactly this report data. It does not say that the platform is
// up to date (claim tcb does, where collateral was at hand), that the enclave is a good one or in production (rules
// do), which of two instances of the enclave spoke (the instance nonce in the manifest does, R109), or that other
// evidence comes from the same machine (S01).
package sgx

import (
	"context"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"time"

	"crypto/x509"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "sgx"

// MediaType is the media type of a quote.
const MediaType = "application/vnd.assay.sgx-quote"

// What can be wrong besides what package dcap says of every quote.
var (
	CodeMediaType = rats.CodeInfo{Code: "sgx.evidence.media-type", Slot: rats.InstanceIdentity,
		Title: "the evidence is of another kind", Hint: "send evidence of format sgx as " + MediaType + ", without parts"}
	CodeBody = rats.CodeInfo{Code: "sgx.quote.body", Slot: rats.Hardware,
		Title: "the quote is not of an SGX enclave", Hint: "verify a TDX quote as format tdx"}
)

// Codes are the reasons of this package; those of package dcap come besides.
var Codes = slices.Concat([]rats.CodeInfo{CodeMediaType, CodeBody}, ruleCodes)

// Claims are what a verified quote says about the enclave and its platform.
type Claims struct {
	MRENCLAVE    string        `json:"mrenclave"` // hex, as all byte strings
	MRSIGNER     string        `json:"mrsigner"`
	ISVProdID    uint16        `json:"isv_prod_id"`
	ISVSVN       uint16        `json:"isv_svn"`
	ISVExtProdID string        `json:"isv_ext_prod_id"`
	ISVFamilyID  string        `json:"isv_family_id"`
	ConfigID     string        `json:"config_id"`
	ConfigSVN    uint16        `json:"config_svn"`
	Debug        bool          `json:"debug"`
	Attributes   string        `json:"attributes"` // flags and XFRM, 32 hex digits
	Flags        []string      `json:"flags"`
	MiscSelect   uint32        `json:"misc_select"`
	CPUSVN       string        `json:"cpu_svn"`
	QuoteVersion uint16        `json:"quote_version"`
	FMSPC        string        `json:"fmspc"`
	Platform     dcap.Platform `json:"platform"`
	TCB          dcap.TCB      `json:"tcb"`
	Collateral   dcap.Used     `json:"collateral"`
	ReportData   string        `json:"report_data,omitempty"` // only where no manifest is bound
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// TCBStatus returns the status of the platform, the advisories it is open to, and the date of its level.
func (c *Claims) TCBStatus() (status string, advisories []string, date time.Time) {
	return c.TCB.Status, c.TCB.Advisories, c.TCB.Date
}

// DebugEnabled says whether a debugger may look into the enclave.
func (c *Claims) DebugEnabled() bool { return c.Debug }

var descriptor = &rats.Descriptor{
	ID:            Format,
	Title:         "SGX quote",
	Doc:           "formats/sgx.md",
	MediaTypes:    []string{MediaType},
	Hardware:      true,
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         slices.Concat(Codes, dcap.Codes, abi.Codes[:1]),
}

type verifier struct{ dcap *dcap.Verifier }

// New returns the verifier of SGX quotes. It remembers verified chains and collateral, in bounds.
func New() rats.Verifier { return verifier{dcap.NewVerifier()} }

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }

// Detect says cheaply whether b could be an SGX quote, bare or wrapped as Parse unwraps it.
func Detect(b []byte) bool { return dcap.Detect(Unwrap(b), abi.TEESGX) }

// Parse reads a quote, bare or wrapped, and its body. It checks no signature.
func Parse(b []byte) (*dcap.Quote, abi.ReportBody, error) {
	q, err := dcap.ParseQuote(Unwrap(b))
	if err != nil {
		return nil, abi.ReportBody{}, err
	}
	if q.BodyType != dcap.BodySGX {
		return nil, abi.ReportBody{}, CodeBody.Bad("TEE type at byte 4", "0 (SGX)", "another one")
	}
	body, err := abi.ParseReportBody(q.Body)
	return q, body, err
}

// The extensions under which certificates carry quotes: of Open Enclave and of Intel's RA-TLS.
var oidsQuote = []asn1.ObjectIdentifier{{1, 2, 840, 113556, 10, 1, 1}, {1, 2, 840, 113741, 1337, 6}, {1, 2, 840, 113741, 1, 13, 1, 0}}

// Unwrap returns the quote inside an Open Enclave report (16 bytes of header) or a self-signed certificate of attested
// TLS, and b itself if it is neither. Whether the certificate's key is bound is not looked at.
func Unwrap(b []byte) []byte {
	if len(b) > 4 && b[0] == 0x30 {
		if cert, err := x509.ParseCertificate(b); err == nil {
			for _, e := range cert.Extensions {
				if slices.ContainsFunc(oidsQuote, e.Id.Equal) {
					return Unwrap(e.Value)
				}
			}
		}
		return b
	}
	const head = 16
	le := binary.LittleEndian
	if len(b) > head && le.Uint32(b) == 1 && (le.Uint32(b[4:]) == 2 || le.Uint32(b[4:]) == 3) && le.Uint64(b[8:]) == uint64(len(b)-head) {
		return b[head:]
	}
	return b
}

// Descriptor implements rats.Verifier.
func (verifier) Descriptor() *rats.Descriptor { return descriptor }

// Verify implements rats.Verifier. Its inputs are the binding, the time, the collateral among the endorsements
// (dcap.ParseCollateral says what is recognised) and, for tests and private roots, the anchors.
func (v verifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	if e.Format != Format || e.MediaType != MediaType || len(e.Parts) > 0 {
		return rats.Verified{}, CodeMediaType.Bad("media_type", MediaType+", no parts", string(e.Format))
	}
	q, body, err := Parse(e.Body)
	if err != nil {
		return rats.Verified{}, err
	}
	verdict, out, err := v.dcap.Judge(q, nil, body.ReportData[:], in)
	if err != nil {
		return rats.Verified{}, err
	}
	c := claimsOf(q, body, verdict)
	if out.Claims = c; c.Debug {
		out.Marks = []string{rats.MarkDebug}
	}
	return out, nil
}

// flagNames are the names of the attribute flags (SDM 3D, 34.7.1).
var flagNames = []struct {
	bit  uint64
	name string
}{
	{abi.FlagInit, "init"}, {abi.FlagDebug, "debug"}, {abi.FlagMode64, "mode64bit"}, {abi.FlagProvisionKey, "provision-key"},
	{abi.FlagEInitToken, "einittoken-key"}, {abi.FlagCET, "cet"}, {abi.FlagKSS, "kss"}, {abi.FlagAEXNotify, "aex-notify"},
}

func claimsOf(q *dcap.Quote, b abi.ReportBody, v dcap.Verdict) *Claims {
	h := func(b []byte) string { return hex.EncodeToString(b) }
	c := &Claims{
		MRENCLAVE: h(b.MRENCLAVE[:]), MRSIGNER: h(b.MRSIGNER[:]), ISVProdID: b.ISVProdID, ISVSVN: b.ISVSVN,
		ISVExtProdID: h(b.ISVExtProdID[:]), ISVFamilyID: h(b.ISVFamilyID[:]), ConfigID: h(b.ConfigID[:]), ConfigSVN: b.ConfigSVN,
		Debug: b.Attributes.Debug(), Attributes: h(b.Attributes.Bytes()), MiscSelect: b.MiscSelect, CPUSVN: h(b.CPUSVN[:]),
		QuoteVersion: q.Header.Version, FMSPC: v.Platform.FMSPC, Platform: v.Platform, TCB: v.TCB, Collateral: v.Collateral,
		ReportData: v.ReportData,
	}
	for _, f := range flagNames {
		if b.Attributes.Flags&f.bit != 0 {
			c.Flags = append(c.Flags, f.name)
		}
	}
	return c
}
