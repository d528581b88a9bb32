package abi

// The bits of Attributes.Flags (SDM 3D, 34.7.1).
const (
	FlagInit         = 1 << 0
	FlagDebug        = 1 << 1
	FlagMode64       = 1 << 2
	FlagProvisionKey = 1 << 4
	FlagEInitToken   = 1 << 5
	FlagCET          = 1 << 6
	FlagKSS          = 1 << 7
	FlagAEXNotify    = 1 << 10
)

// Attributes of an enclave: flags and the XSAVE features it may use (XFRM).
type Attributes struct {
	Flags uint64
	XFRM  uint64
}

// Debug says whether a debugger may read and write the enclave.
func (a Attributes) Debug() bool { return a.Flags&FlagDebug != 0 }

// Bytes returns the 16 bytes of the attributes.
func (a Attributes) Bytes() []byte { return encode(&a) }

// ReportBody is the signed part of a REPORT and the body of an SGX quote (SDM 3D, 34.15; 384 bytes).
type ReportBody struct {
	CPUSVN       [16]byte
	MiscSelect   uint32
	Reserved1    [12]byte
	ISVExtProdID [16]byte
	Attributes   Attributes
	MRENCLAVE    [32]byte
	Reserved2    [32]byte
	MRSIGNER     [32]byte
	Reserved3    [32]byte
	ConfigID     [64]byte
	ISVProdID    uint16
	ISVSVN       uint16
	ConfigSVN    uint16
	Reserved4    [42]byte
	ISVFamilyID  [16]byte
	ReportData   [64]byte
}

// ParseReportBody reads exactly 384 bytes.
func ParseReportBody(b []byte) (ReportBody, error) {
	var r ReportBody
	return r, decode(b, &r, "report body")
}

// Bytes returns the 384 bytes of the body.
func (r ReportBody) Bytes() []byte { return encode(&r) }

// Report is what EREPORT makes for an enclave on the same platform: the body, authenticated by the target's report key
// (432 bytes).
type Report struct {
	Body  ReportBody
	KeyID [32]byte
	MAC   [16]byte // AES-128-CMAC over the body
}

// ParseReport reads exactly 432 bytes.
func ParseReport(b []byte) (Report, error) {
	var r Report
	return r, decode(b, &r, "report")
}

// Bytes returns the 432 bytes of the report.
func (r Report) Bytes() []byte { return encode(&r) }

// TargetInfo names the enclave that shall verify a REPORT (SDM 3D, 34.16; 512 bytes).
type TargetInfo struct {
	Measurement   [32]byte
	Attributes    Attributes
	CETAttributes uint8
	Reserved1     uint8
	ConfigSVN     uint16
	MiscSelect    uint32
	Reserved2     [8]byte
	ConfigID      [64]byte
	Reserved3     [384]byte
}

// ParseTargetInfo reads exactly 512 bytes.
func ParseTargetInfo(b []byte) (TargetInfo, error) {
	var t TargetInfo
	return t, decode(b, &t, "target info")
}

// Bytes returns the 512 bytes of the target info.
func (t TargetInfo) Bytes() []byte { return encode(&t) }

// TargetOf returns the target info by which another enclave makes a report for the one that made r.
func TargetOf(r ReportBody) TargetInfo {
	return TargetInfo{Measurement: r.MRENCLAVE, Attributes: r.Attributes, ConfigSVN: r.ConfigSVN, MiscSelect: r.MiscSelect, ConfigID: r.ConfigID}
}

// The names of keys (SDM 3D, 34.18.1).
const (
	KeyEInitToken    = 0
	KeyProvision     = 1
	KeyProvisionSeal = 2
	KeyReport        = 3
	KeySeal          = 4
)

// The bits of a key policy (SDM 3D, 34.18.2).
const (
	PolicyMRENCLAVE    = 1 << 0
	PolicyMRSIGNER     = 1 << 1
	PolicyNoISVProdID  = 1 << 2
	PolicyConfigID     = 1 << 3
	PolicyISVFamilyID  = 1 << 4
	PolicyISVExtProdID = 1 << 5
)

// KeyRequest selects the key that EGETKEY derives (SDM 3D, 34.18; 512 bytes).
type KeyRequest struct {
	KeyName       uint16
	KeyPolicy     uint16
	ISVSVN        uint16
	CETAttributes uint8 // mask
	Reserved1     uint8
	CPUSVN        [16]byte
	AttributeMask Attributes
	KeyID         [32]byte
	MiscMask      uint32
	ConfigSVN     uint16
	Reserved2     [434]byte
}

// ParseKeyRequest reads exactly 512 bytes.
func ParseKeyRequest(b []byte) (KeyRequest, error) {
	var k KeyRequest
	return k, decode(b, &k, "key request")
}

// Bytes returns the 512 bytes of the key request.
func (k KeyRequest) Bytes() []byte { return encode(&k) }

// QuoteHeader starts every ECDSA quote (DCAP Quote Generation, appendix A; 48 bytes). In version 3 TEEType is reserved.
type QuoteHeader struct {
	Version  uint16
	KeyType  uint16 // 2: ECDSA-256 with P-256, 3: ECDSA-384
	TEEType  uint32
	QESVN    uint16 // reserved from version 4 on
	PCESVN   uint16 // reserved from version 4 on
	VendorID [16]byte
	UserData [20]byte
}

// The values of QuoteHeader.TEEType.
const (
	TEESGX = 0x00
	TEETDX = 0x81
)

// IntelQE is the vendor id of Intel's quoting enclaves.
var IntelQE = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// ParseQuoteHeader reads exactly 48 bytes.
func ParseQuoteHeader(b []byte) (QuoteHeader, error) {
	var h QuoteHeader
	return h, decode(b, &h, "quote header")
}

// Bytes returns the 48 bytes of the header.
func (h QuoteHeader) Bytes() []byte { return encode(&h) }

// EPIDQuote is the head of an EPID quote, version 1 or 2, without its signature: what an IAS report carries
// (sgx_quote_t; 436 bytes with the signature's length, 432 without).
type EPIDQuote struct {
	Version  uint16
	SignType uint16 // 0: unlinkable, 1: linkable
	GroupID  [4]byte
	QESVN    uint16
	PCESVN   uint16
	XEID     uint32
	Basename [32]byte
	Body     ReportBody
}

// ParseEPIDQuote reads the 432 bytes of a quote's head.
func ParseEPIDQuote(b []byte) (EPIDQuote, error) {
	var q EPIDQuote
	return q, decode(b, &q, "EPID quote")
}

// Bytes returns the 432 bytes of the head.
func (q EPIDQuote) Bytes() []byte { return encode(&q) }
