package abi

// The bits of TDBody.Attributes (TDX Module ABI, TD_ATTRIBUTES). The low byte holds the bits under which a TD is not in
// production.
const (
	TDDebug         = 1 << 0
	TDUnderDebug    = 0xff // TUD: any of these makes the TD untrusted
	TDLASS          = 1 << 27
	TDSeptVEDisable = 1 << 28
	TDMigratable    = 1 << 29
	TDProtectionKey = 1 << 30
	TDKeyLocker     = 1 << 31
	TDPerfMon       = 1 << 63
)

// TDBody10 is the body of a TDX quote for a TD of module 1.0 (DCAP Quote Generation TDX, A.3.2; 584 bytes).
type TDBody10 struct {
	TEETCBSVN      [16]byte
	MRSEAM         [48]byte
	MRSIGNERSEAM   [48]byte
	SEAMAttributes uint64
	Attributes     uint64
	XFAM           uint64
	MRTD           [48]byte
	MRConfigID     [48]byte
	MROwner        [48]byte
	MROwnerConfig  [48]byte
	RTMR           [4][48]byte
	ReportData     [64]byte
}

// TDBody is the body of a TDX quote. TEETCBSVN2 and MRServiceTD are of module 1.5 only.
type TDBody struct {
	TDBody10
	V15         bool     // whether it has the fields of module 1.5
	TEETCBSVN2  [16]byte // of the module that runs now
	MRServiceTD [48]byte
}

type tdBody15 struct {
	TDBody10
	TEETCBSVN2  [16]byte
	MRServiceTD [48]byte
}

// ParseTDBody reads exactly 584 bytes (module 1.0) or 648 bytes (module 1.5).
func ParseTDBody(b []byte) (TDBody, error) {
	if len(b) == TDReport15Size {
		var t tdBody15
		err := decode(b, &t, "TD report")
		return TDBody{TDBody10: t.TDBody10, V15: true, TEETCBSVN2: t.TEETCBSVN2, MRServiceTD: t.MRServiceTD}, err
	}
	var t TDBody
	return t, decode(b, &t.TDBody10, "TD report")
}

// Bytes returns the 584 or 648 bytes of the body.
func (t TDBody) Bytes() []byte {
	if t.V15 {
		return encode(&tdBody15{t.TDBody10, t.TEETCBSVN2, t.MRServiceTD})
	}
	return encode(&t.TDBody10)
}

// Debug says whether any bit is set under which the host may look into the TD.
func (t TDBody) Debug() bool { return t.Attributes&TDUnderDebug != 0 }

// TDReport is what TDG.MR.REPORT makes for a quoting enclave on the same platform (TDREPORT_STRUCT; 1024 bytes). Its
// MAC can be checked on that platform only: it proves nothing to anyone else.
type TDReport struct {
	ReportType     [4]byte // 0x81, subtype, version, reserved
	Reserved1      [12]byte
	CPUSVN         [16]byte
	TEETCBInfoHash [48]byte
	TEEInfoHash    [48]byte
	ReportData     [64]byte
	Reserved2      [32]byte
	MAC            [32]byte
	TEETCBInfo     [239]byte
	Reserved3      [17]byte
	TDInfo         TDInfo
}

// TDInfo is the TD's part of a TDReport (512 bytes).
type TDInfo struct {
	Attributes    uint64
	XFAM          uint64
	MRTD          [48]byte
	MRConfigID    [48]byte
	MROwner       [48]byte
	MROwnerConfig [48]byte
	RTMR          [4][48]byte
	Extension     [112]byte // starts with SERVTD_HASH where the TDX module has it
}

// ParseTDReport reads exactly 1024 bytes.
func ParseTDReport(b []byte) (TDReport, error) {
	var t TDReport
	return t, decode(b, &t, "TDREPORT")
}

// Bytes returns the 1024 bytes of the report.
func (t TDReport) Bytes() []byte { return encode(&t) }
