// Package tdx is the evidence format "tdx": an ECDSA quote of a TDX trust domain (TD), version 4 or 5, for module 1.0
// and 1.5 (Intel DCAP Quote Generation for TDX, appendix A), with the collateral that judges its platform.
//
// A verified quote guarantees that a platform certified by Intel ran a TD with exactly these measurements (MRTD, RTMR0
// to RTMR3), attributes and configuration, under exactly this TDX module, and that software inside the TD asked for
// exactly this report data. It does not say that platform and module are up to date (claim tcb does, where collateral
// was at hand), what the registers mean (a boot log replayed into them does), that the TD is in production (rules do),
// or that other evidence comes from the same machine (S01).
package tdx

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "tdx"

// Media types: of a quote, and of a report of Azure's paravisor with the quote beside it.
const (
	MediaType    = "application/vnd.assay.tdx-quote"
	MediaTypeHCL = hcl.MediaType
)

// PartQuote is the name of the one part beside a paravisor's report: the quote of the TDREPORT in it.
const PartQuote = "quote"

// What can be wrong besides what package dcap says of every quote.
var (
	CodeMediaType = rats.CodeInfo{Code: "tdx.evidence.media-type", Slot: rats.InstanceIdentity,
		Title: "the evidence is of another kind", Hint: "send evidence of format tdx as " + MediaType + ", without parts, or a paravisor's report with the part " + PartQuote}
	CodeBody = rats.CodeInfo{Code: "tdx.quote.body", Slot: rats.Hardware,
		Title: "the quote is not of a TDX trust domain", Hint: "verify an SGX quote as format sgx"}
	CodeReport = rats.CodeInfo{Code: "tdx.quote.local-report", Slot: rats.Hardware,
		Title: "the bytes are a TDREPORT, which only its own platform can check", Hint: "let the quoting enclave make a quote of it"}
	CodeOtherReport = rats.CodeInfo{Code: "tdx.hcl.other-report", Slot: rats.Hardware,
		Title: "the quote is of another TDREPORT than the one in the paravisor's report", Hint: "have the quote made of exactly this report"}
)

// Codes are the reasons of this package; those of package dcap come besides.
var Codes = slices.Concat([]rats.CodeInfo{CodeMediaType, CodeBody, CodeReport, CodeOtherReport}, ruleCodes)

// Claims are what a verified quote says about the trust domain and its platform.
type Claims struct {
	MRTD           string            `json:"mrtd"`  // hex, as all byte strings
	RTMR           map[string]string `json:"rtmrs"` // "0" to "3"
	MRConfigID     string            `json:"mr_config_id"`
	MROwner        string            `json:"mr_owner"`
	MROwnerConfig  string            `json:"mr_owner_config"`
	MRServiceTD    string            `json:"mr_service_td,omitempty"` // module 1.5
	Debug          bool              `json:"debug"`                   // any bit under which the TD is not in production
	Attributes     string            `json:"td_attributes"`           // 8 bytes as they stand in the report
	Flags          []string          `json:"flags"`
	XFAM           string            `json:"xfam"`
	MRSEAM         string            `json:"mr_seam"`
	MRSIGNERSEAM   string            `json:"mr_signer_seam"`
	SEAMAttributes string            `json:"seam_attributes"`
	Module         string            `json:"module"`                 // major version and SVN by TEE_TCB_SVN: "1.5"
	TEETCBSVN      string            `json:"tee_tcb_svn"`            // of the module that launched the TD
	TEETCBSVN2     string            `json:"tee_tcb_svn2,omitempty"` // of the module that runs now; module 1.5
	QuoteVersion   uint16            `json:"quote_version"`
	FMSPC          string            `json:"fmspc"`
	Platform       dcap.Platform     `json:"platform"`
	TCB            dcap.TCB          `json:"tcb"`
	Collateral     dcap.Used         `json:"collateral"`
	ReportData     string            `json:"report_data,omitempty"` // only where no manifest is bound
	HCL            *hcl.Claims       `json:"hcl,omitempty"`         // behind Azure's paravisor
	Binding        string            `json:"binding,omitempty"`     // of such a report: user-data, ak-quote, none
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// TCBStatus returns the status of the platform, the advisories it is open to, and the date of its level.
func (c *Claims) TCBStatus() (status string, advisories []string, date time.Time) {
	return c.TCB.Status, c.TCB.Advisories, c.TCB.Date
}

// DebugEnabled says whether the host may look into the trust domain.
func (c *Claims) DebugEnabled() bool { return c.Debug }

var descriptor = &rats.Descriptor{
	ID:         Format,
	Title:      "TDX quote",
	Doc:        "formats/tdx.md",
	MediaTypes: []string{MediaType, MediaTypeHCL},
	// A paravisor's report is bound to an exchange only by a quote of the TPM whose key it names (S01).
	Needs:         []rats.Format{hcl.FormatTPM},
	Hardware:      true,
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         slices.Concat(Codes, dcap.Codes, hcl.Codes, abi.Codes[:1]),
}

type verifier struct{ dcap *dcap.Verifier }

// New returns the verifier of TDX quotes. It remembers verified chains and collateral, in bounds.
func New() rats.Verifier { return verifier{dcap.NewVerifier()} }

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }

// Detect says cheaply whether b could be a TDX quote.
func Detect(b []byte) bool { return dcap.Detect(b, abi.TEETDX) }

// Parse reads a quote and its body. It checks no signature.
func Parse(b []byte) (*dcap.Quote, abi.TDBody, error) {
	if len(b) == abi.TDReportSize && !Detect(b) {
		return nil, abi.TDBody{}, CodeReport.Bad("report at byte 0", "a quote", "1024 bytes, as a TDREPORT has")
	}
	q, err := dcap.ParseQuote(b)
	if err != nil {
		return nil, abi.TDBody{}, err
	}
	if q.BodyType == dcap.BodySGX {
		return nil, abi.TDBody{}, CodeBody.Bad("TEE type at byte 4", "0x81 (TDX)", "another one")
	}
	body, err := abi.ParseTDBody(q.Body)
	return q, body, err
}

// Descriptor implements rats.Verifier.
func (verifier) Descriptor() *rats.Descriptor { return descriptor }

// Verify implements rats.Verifier. Its inputs are the binding, the time, the collateral among the endorsements
// (dcap.ParseCollateral says what is recognised) and, for tests and private roots, the anchors. It vouches for the
// registers RTMR0 to RTMR3, into which a boot log can be replayed.
//
// A report of Azure's paravisor counts only with a quote of the TDREPORT in it; the binding is then that of the report:
// of Facts the key KeyAK is taken that a TPM quote was verified with.
func (v verifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	raw, envelope, err := open(e)
	if err != nil {
		return rats.Verified{}, err
	}
	q, body, err := Parse(raw)
	if err != nil {
		return rats.Verified{}, err
	}
	if envelope != nil {
		verdict, err := v.dcap.Verify(q, moduleOf(body), in)
		if err != nil {
			return rats.Verified{}, err
		}
		return tie(envelope, q, body, verdict, in)
	}
	verdict, out, err := v.dcap.Judge(q, moduleOf(body), body.ReportData[:], in)
	if err != nil {
		return rats.Verified{}, err
	}
	describeTD(&out, claimsOf(q, body, verdict), body)
	return out, nil
}

// describeTD adds what an authentic quote says, whatever it is bound to.
func describeTD(out *rats.Verified, c *Claims, body abi.TDBody) {
	registers := rats.Registers{By: Format, Kind: "rtmr", Alg: "sha384", Values: make(map[int][]byte, len(body.RTMR))}
	for i, value := range body.RTMR {
		registers.Values[i] = bytesOf(value)
	}
	out.Facts.Registers = []rats.Registers{registers}
	if out.Claims = c; c.Debug {
		out.Marks = []string{rats.MarkDebug}
	}
}

func bytesOf(b [48]byte) []byte { return b[:] }

// moduleOf takes what the TCB info judges of the TDX module.
func moduleOf(b abi.TDBody) *dcap.ModuleOf {
	m := &dcap.ModuleOf{SVN: b.TEETCBSVN, MRSIGNER: b.MRSIGNERSEAM}
	binary.LittleEndian.PutUint64(m.Attributes[:], b.SEAMAttributes)
	if b.V15 {
		svn2 := b.TEETCBSVN2
		m.SVN2 = &svn2
	}
	return m
}

// flagNames are the names of the attributes (TDX Module ABI, TD_ATTRIBUTES).
var flagNames = []flagName{
	{abi.TDDebug, "debug"}, {tdICSSD, "icssd"}, {abi.TDLASS, "lass"}, {abi.TDSeptVEDisable, "sept-ve-disable"}, {abi.TDMigratable, "migratable"},
	{abi.TDProtectionKey, "pks"}, {abi.TDKeyLocker, "key-locker"}, {tdTPA, "tpa"}, {abi.TDPerfMon, "perfmon"},
}

// Attributes of later modules: no counting of single steps by the host, and a TDX Connect provisioning agent.
const (
	tdICSSD = 1 << 16
	tdTPA   = 1 << 62
)

type flagName struct {
	bit  uint64
	name string
}

func claimsOf(q *dcap.Quote, b abi.TDBody, v dcap.Verdict) *Claims {
	h := func(b [48]byte) string { return hex.EncodeToString(b[:]) }
	le := func(n uint64) string { return hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, n)) }
	c := &Claims{
		MRTD: h(b.MRTD), RTMR: make(map[string]string, len(b.RTMR)), MRConfigID: h(b.MRConfigID), MROwner: h(b.MROwner),
		MROwnerConfig: h(b.MROwnerConfig), Debug: b.Debug(), Attributes: le(b.Attributes), XFAM: le(b.XFAM),
		MRSEAM: h(b.MRSEAM), MRSIGNERSEAM: h(b.MRSIGNERSEAM), SEAMAttributes: le(b.SEAMAttributes),
		Module:    fmt.Sprintf("%d.%d", b.TEETCBSVN[1], b.TEETCBSVN[0]),
		TEETCBSVN: hex.EncodeToString(b.TEETCBSVN[:]), QuoteVersion: q.Header.Version,
		FMSPC: v.Platform.FMSPC, Platform: v.Platform, TCB: v.TCB, Collateral: v.Collateral, ReportData: v.ReportData,
	}
	if b.V15 {
		c.TEETCBSVN2, c.MRServiceTD = hex.EncodeToString(b.TEETCBSVN2[:]), h(b.MRServiceTD)
	}
	for i, value := range b.RTMR {
		c.RTMR[strconv.Itoa(i)] = h(value)
	}
	for _, f := range flagNames {
		if b.Attributes&f.bit != 0 {
			c.Flags = append(c.Flags, f.name)
		}
	}
	return c
}
