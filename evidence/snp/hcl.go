package snp

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the envelope of Azure's paravisor.
var (
	CodeHCLMalformed = rats.CodeInfo{Code: "snp.hcl.malformed", Slot: rats.InstanceIdentity,
		Title: "this is not a report of Azure's paravisor", Hint: "read the report from NV index 0x01400001 of the guest's vTPM, whole"}
	CodeHCLUnbound = rats.CodeInfo{Code: "snp.hcl.unbound", Slot: rats.InstanceIdentity,
		Title: "the paravisor's data is not what the report vouches for", Hint: "the data was altered, or belongs to another report"}
	CodeHCLKind = rats.CodeInfo{Code: "snp.hcl.kind", Slot: rats.InstanceIdentity,
		Title: "the paravisor's report is not of a SEV-SNP guest", Hint: "a TDX guest's report is proved by its TD quote: verify that as format tdx"}
	CodeHCLKey = rats.CodeInfo{Code: "snp.hcl.key", Slot: rats.InstanceIdentity,
		Title: "the paravisor's data names no usable attestation key", Hint: "expected one RSA key with the id HCLAkPub"}
	CodeHCLUnlinked = rats.CodeInfo{Code: "snp.hcl.unlinked", Slot: rats.InstanceIdentity,
		Title: "nothing ties the paravisor's report to this exchange", Hint: "collect a quote of the vTPM in the same exchange, or put the challenge into NV index 0x01400002 first"}
	CodeHCLOtherAK = rats.CodeInfo{Code: "snp.hcl.other-ak", Slot: rats.InstanceIdentity,
		Title: "the TPM quote is by another key than the one in the report", Hint: "the quote comes from another machine, or the node's enrolled key isn't the vTPM's"}
)

var hclCodes = []rats.CodeInfo{CodeHCLMalformed, CodeHCLUnbound, CodeHCLKind, CodeHCLKey, CodeHCLUnlinked, CodeHCLOtherAK}

// The kinds of hardware reports inside an HCL report.
const (
	KindSNP = "snp"
	KindTDX = "tdx"
)

// The parts of an HCL report in bytes: header, hardware report, header of the runtime data.
const (
	hclHeader     = 32
	hclReportArea = ReportSize // a TD report is padded to it
	hclData       = hclHeader + hclReportArea
	hclDataHeader = 20
	tdReportSize  = 1024
	maxRuntime    = 64 << 10
	maxPadding    = 8 << 10 // zeros behind what was declared
)

var hclMagic = []byte("HCLA")

func isHCL(b []byte) bool { return len(b) >= hclData && bytes.HasPrefix(b, hclMagic) }

// HCL is a report of Azure's paravisor ("host compatibility layer"): a hardware report whose report data is the hash of runtime
// data, which names the keys of the guest's vTPM.
type HCL struct {
	Version uint32
	Kind    string // KindSNP or KindTDX
	Report  []byte // the hardware report: 1184 bytes of SEV-SNP, or a TDREPORT of 1024
	Hash    string // of the runtime data: sha256, sha384, sha512
	Runtime []byte // JSON, exactly as hashed
	Data    RuntimeData
}

// RuntimeData is what the runtime data says.
type RuntimeData struct {
	AK         *rsa.PublicKey // of the vTPM's attestation key
	UserData   []byte         // what the guest put into NV index 0x01400002 before it read the report
	VM         VMConfiguration
	Unverified map[string]json.RawMessage // every other field
}

// VMConfiguration is how the paravisor set up the guest.
type VMConfiguration struct {
	ConsoleEnabled     bool   `json:"console-enabled"`
	SecureBoot         bool   `json:"secure-boot"`
	TPMEnabled         bool   `json:"tpm-enabled"`
	TPMPersisted       bool   `json:"tpm-persisted"`
	VMID               string `json:"vmUniqueId"`
	RootCertThumbprint string `json:"root-cert-thumbprint"`
}

// ParseHCL reads an HCL report and checks that the hardware report vouches for the runtime data. It checks no signature.
// Offsets in errors are those in b; zeros behind the declared end are passed over.
func ParseHCL(b []byte) (*HCL, error) {
	refuse := func(at int, expected, seen string) (*HCL, error) {
		return nil, CodeHCLMalformed.Bad(fmt.Sprintf("hcl[0x%x]", at), expected, seen)
	}
	switch {
	case !bytes.HasPrefix(b, hclMagic):
		return refuse(0, "HCLA", clipHex(b[:min(4, len(b))]))
	case len(b) < hclData+hclDataHeader:
		return refuse(len(b), fmt.Sprintf("at least %d bytes", hclData+hclDataHeader), "the end of the data")
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	h := &HCL{Version: u32(4)}
	if h.Version < 1 || h.Version > 2 {
		return refuse(4, "version 1 or 2", fmt.Sprint(h.Version))
	}
	size, n := u32(hclData), u32(hclData+16)
	switch {
	case n > maxRuntime || uint64(size) != uint64(n)+hclDataHeader:
		return refuse(hclData, "the size of at most 64 KiB of runtime data and its header", fmt.Sprintf("%d, and %d bytes of data", size, n))
	case uint64(u32(8)) != uint64(hclData)+uint64(size):
		return refuse(8, fmt.Sprintf("the size %d", uint64(hclData)+uint64(size)), fmt.Sprint(u32(8)))
	case uint64(len(b)) < uint64(hclData+hclDataHeader)+uint64(n):
		return refuse(len(b), fmt.Sprintf("%d bytes of runtime data", n), "the end of the data")
	}
	end := hclData + hclDataHeader + int(n)
	if at, ok := padded(b, end); !ok {
		return refuse(at, "nothing but at most 8 KiB of zeros", "other data")
	}
	var kind string
	switch t := u32(hclData + 8); t {
	case 2:
		h.Kind, h.Report, kind = KindSNP, bytes.Clone(b[hclHeader:hclData]), "report data"
	case 4:
		h.Kind, h.Report, kind = KindTDX, bytes.Clone(b[hclHeader:hclHeader+tdReportSize]), "TD report data"
	default:
		return refuse(hclData+8, "report type 2 (SEV-SNP) or 4 (TDX)", fmt.Sprint(t))
	}
	h.Runtime = bytes.Clone(b[hclData+hclDataHeader : end])
	var sum []byte
	switch t := u32(hclData + 12); t {
	case 1:
		s := sha256.Sum256(h.Runtime)
		h.Hash, sum = "sha256", s[:]
	case 2:
		s := sha512.Sum384(h.Runtime)
		h.Hash, sum = "sha384", s[:]
	case 3:
		s := sha512.Sum512(h.Runtime)
		h.Hash, sum = "sha512", s[:]
	default:
		return refuse(hclData+12, "hash type 1, 2 or 3", fmt.Sprint(t))
	}
	if data := h.ReportData(); !bytes.Equal(data[:], append(sum, make([]byte, 64-len(sum))...)) {
		return nil, CodeHCLUnbound.Bad("hcl "+kind, h.Hash+" of the runtime data: "+clipHex(sum), clipHex(data[:]))
	}
	return h, h.Data.parse(h.Runtime)
}

// padded says whether b holds nothing but a bounded number of zeros from end on, and if not, where.
func padded(b []byte, end int) (int, bool) {
	if len(b)-end > maxPadding {
		return end + maxPadding, false
	}
	for i := end; i < len(b); i++ {
		if b[i] != 0 {
			return i, false
		}
	}
	return 0, true
}

// ReportData returns the report data of the hardware report.
func (h *HCL) ReportData() [64]byte {
	if h.Kind == KindTDX {
		return [64]byte(h.Report[128:]) // REPORTMACSTRUCT.REPORTDATA
	}
	return [64]byte(h.Report[0x50:])
}

// AK returns the vTPM's attestation key as SubjectPublicKeyInfo.
func (h *HCL) AK() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(h.Data.AK)
	if err != nil {
		return nil, fmt.Errorf("encoding the attestation key: %w", err)
	}
	return der, nil
}

func (d *RuntimeData) parse(b []byte) error {
	if err := json.Unmarshal(b, &d.Unverified); err != nil {
		return CodeHCLMalformed.Bad(fmt.Sprintf("hcl[0x%x]", hclData+hclDataHeader), "runtime data in JSON", clip(err.Error()))
	}
	var known struct {
		Keys []struct {
			Kid string `json:"kid"`
			Kty string `json:"kty"`
			E   string `json:"e"`
			N   string `json:"n"`
		} `json:"keys"`
		VM       VMConfiguration `json:"vm-configuration"`
		UserData hexBytes        `json:"user-data"`
	}
	if err := json.Unmarshal(b, &known); err != nil {
		return CodeHCLMalformed.Bad("hcl runtime data", "keys, vm-configuration and user-data", clip(err.Error()))
	}
	d.VM, d.UserData = known.VM, known.UserData
	for _, name := range []string{"keys", "vm-configuration", "user-data"} {
		delete(d.Unverified, name)
	}
	for _, k := range known.Keys {
		if k.Kid != "HCLAkPub" {
			continue
		}
		n, err1 := base64.RawURLEncoding.DecodeString(k.N)
		e, err2 := base64.RawURLEncoding.DecodeString(k.E)
		modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
		usable := err1 == nil && err2 == nil && k.Kty == "RSA" && modulus.BitLen() >= 2048 && modulus.BitLen() <= 4096 &&
			exponent.BitLen() <= 31 && exponent.Cmp(big.NewInt(3)) >= 0 && exponent.Bit(0) == 1
		if !usable || d.AK != nil {
			return CodeHCLKey.Bad("hcl keys.HCLAkPub", "one RSA key of 2048 to 4096 bits", "another key, or several")
		}
		d.AK = &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
	}
	if d.AK == nil {
		return CodeHCLKey.Bad("hcl keys", "a key with the id HCLAkPub", "none")
	}
	return nil
}

// TDReport is what a TDREPORT_STRUCT says (Intel TDX module ABI). It is authentic only together with a TD quote of the same report
// data; nothing here checks its MAC.
type TDReport struct {
	ReportData  [64]byte
	TEETCBSVN   [16]byte
	MRSeam      [48]byte
	MRSignerSM  [48]byte
	Attributes  [8]byte
	XFAM        [8]byte
	MRTD        [48]byte
	MRConfigID  [48]byte
	MROwner     [48]byte
	MROwnerConf [48]byte
	RTMR        [4][48]byte
}

// ParseTDReport reads the 1024 bytes of a TDREPORT and checks that its parts hash to what its MAC structure says.
func ParseTDReport(b []byte) (*TDReport, error) {
	if len(b) != tdReportSize || b[0] != 0x81 {
		return nil, CodeHCLMalformed.Bad("tdreport", "1024 bytes of type 0x81", fmt.Sprintf("%d bytes, %s", len(b), clipHex(b[:min(1, len(b))])))
	}
	info, tcb := b[512:], b[256:256+239]
	if s := sha512.Sum384(info); !bytes.Equal(s[:], b[80:128]) {
		return nil, CodeHCLMalformed.Bad("tdreport[0x050]", clipHex(s[:]), clipHex(b[80:128]))
	}
	if s := sha512.Sum384(tcb); !bytes.Equal(s[:], b[32:80]) {
		return nil, CodeHCLMalformed.Bad("tdreport[0x020]", clipHex(s[:]), clipHex(b[32:80]))
	}
	r := &TDReport{
		ReportData: [64]byte(b[128:]), TEETCBSVN: [16]byte(tcb[8:]), MRSeam: [48]byte(tcb[24:]), MRSignerSM: [48]byte(tcb[72:]),
		Attributes: [8]byte(info), XFAM: [8]byte(info[8:]), MRTD: [48]byte(info[16:]), MRConfigID: [48]byte(info[64:]),
		MROwner: [48]byte(info[112:]), MROwnerConf: [48]byte(info[160:]),
	}
	for i := range r.RTMR {
		r.RTMR[i] = [48]byte(info[208+48*i:])
	}
	return r, nil
}

// hasUserData says whether the guest had the paravisor include these bytes, followed by zeros only.
func (h *HCL) hasUserData(want []byte) bool {
	have := h.Data.UserData
	return len(want) > 0 && len(have) >= len(want) && bytes.Equal(have[:len(want)], want) &&
		!slices.ContainsFunc(have[len(want):], func(c byte) bool { return c != 0 })
}
