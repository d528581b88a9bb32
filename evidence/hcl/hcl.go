// Package hcl reads the reports of Azure's paravisor ("host compatibility layer"), which stand in NV index 0x01400001 of a
// confidential VM's TPM: a hardware report of SEV-SNP or TDX whose report data is the hash of runtime data, which name the
// keys of that TPM. It is no format: the formats of the two hardware reports share it.
//
// It guarantees that the hardware report vouches for exactly these runtime data, and says how such a report belongs to an
// exchange. It checks no signature: whether the hardware report is authentic is for the formats to say. A TDREPORT can be
// checked on its own platform only, so it counts for nothing without a quote of the same contents.
package hcl

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the envelope of Azure's paravisor.
var (
	CodeMalformed = rats.CodeInfo{Code: "hcl.report.malformed", Slot: rats.InstanceIdentity,
		Title: "this is not a report of Azure's paravisor", Hint: "read the report from NV index 0x01400001 of the guest's vTPM, whole"}
	CodeUnbound = rats.CodeInfo{Code: "hcl.report.unbound", Slot: rats.InstanceIdentity,
		Title: "the paravisor's data is not what the report vouches for", Hint: "the data was altered, or belongs to another report"}
	CodeKind = rats.CodeInfo{Code: "hcl.report.kind", Slot: rats.InstanceIdentity,
		Title: "the paravisor's report is of another kind of guest", Hint: "verify a report of SEV-SNP as format snp, one of TDX as format tdx"}
	CodeKey = rats.CodeInfo{Code: "hcl.key.unusable", Slot: rats.InstanceIdentity,
		Title: "the paravisor's data names no usable attestation key", Hint: "expected one RSA key with the id HCLAkPub"}
	CodeBinding = rats.CodeInfo{Code: "hcl.evidence.binding", Slot: rats.InstanceIdentity,
		Title: "the binding does not hang together", Hint: "user data is the SHA-256 of the manifest, or 1 to 64 bytes"}
	CodeUnlinked = rats.CodeInfo{Code: "hcl.report.unlinked", Slot: rats.InstanceIdentity,
		Title: "nothing ties the paravisor's report to this exchange", Hint: "collect a quote of the vTPM in the same exchange, or put the challenge into NV index 0x01400002 first"}
	CodeOtherAK = rats.CodeInfo{Code: "hcl.key.other", Slot: rats.InstanceIdentity,
		Title: "the TPM quote is by another key than the one in the report", Hint: "the quote comes from another machine, or the node's enrolled key isn't the vTPM's"}
	CodeTDReport = rats.CodeInfo{Code: "hcl.td-report.malformed", Slot: rats.Hardware,
		Title: "the TDREPORT does not hold together", Hint: "its parts must hash to what its MAC structure says; read it again"}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{CodeMalformed, CodeUnbound, CodeKind, CodeKey, CodeBinding, CodeUnlinked, CodeOtherAK, CodeTDReport}

// MediaType is the media type of the reports, whatever they hold.
const MediaType = "application/vnd.assay.azure-hcl-report"

// The kinds of hardware reports inside an HCL report.
const (
	KindSNP = "snp"
	KindTDX = "tdx"
)

// The parts of an HCL report in bytes: header, hardware report, header of the runtime data.
const (
	hclHeader     = 32
	hclReportArea = 1184 // of SEV-SNP; a TD report is padded to it
	hclData       = hclHeader + hclReportArea
	hclDataHeader = 20
	tdReportSize  = 1024
	maxRuntime    = 64 << 10
	maxPadding    = 8 << 10 // zeros behind what was declared
)

var hclMagic = []byte("HCLA")

// Detect says cheaply whether b could be such a report.
func Detect(b []byte) bool { return len(b) >= hclData && bytes.HasPrefix(b, hclMagic) }

// Report is a report of Azure's paravisor.
type Report struct {
	Version  uint32
	Kind     string // KindSNP or KindTDX
	Hardware []byte // the hardware report: 1184 bytes of SEV-SNP, or a TDREPORT of 1024
	Hash     string // of the runtime data: sha256, sha384, sha512
	Runtime  []byte // JSON, exactly as hashed
	Data     RuntimeData
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

// Parse reads a report and checks that the hardware report vouches for the runtime data. It checks no signature.
// Offsets in errors are those in b; zeros behind the declared end are passed over.
func Parse(b []byte) (*Report, error) {
	refuse := func(at int, expected, seen string) (*Report, error) {
		return nil, CodeMalformed.Bad(fmt.Sprintf("hcl[0x%x]", at), expected, seen)
	}
	switch {
	case !bytes.HasPrefix(b, hclMagic):
		return refuse(0, "HCLA", clipHex(b[:min(4, len(b))]))
	case len(b) < hclData+hclDataHeader:
		return refuse(len(b), fmt.Sprintf("at least %d bytes", hclData+hclDataHeader), "the end of the data")
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	h := &Report{Version: u32(4)}
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
	if at, ok := Padded(b, end); !ok {
		return refuse(at, "nothing but at most 8 KiB of zeros", "other data")
	}
	var kind string
	switch t := u32(hclData + 8); t {
	case 2:
		h.Kind, h.Hardware, kind = KindSNP, bytes.Clone(b[hclHeader:hclData]), "report data"
	case 4:
		h.Kind, h.Hardware, kind = KindTDX, bytes.Clone(b[hclHeader:hclHeader+tdReportSize]), "TD report data"
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
		return nil, CodeUnbound.Bad("hcl "+kind, h.Hash+" of the runtime data: "+clipHex(sum), clipHex(data[:]))
	}
	return h, h.Data.parse(h.Runtime)
}

// Padded says whether b holds nothing but a bounded number of zeros from end on, and if not, where.
func Padded(b []byte, end int) (int, bool) {
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
func (h *Report) ReportData() [64]byte {
	if h.Kind == KindTDX {
		return [64]byte(h.Hardware[128:]) // REPORTMACSTRUCT.REPORTDATA
	}
	return [64]byte(h.Hardware[0x50:])
}

// AK returns the vTPM's attestation key as SubjectPublicKeyInfo.
func (h *Report) AK() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(h.Data.AK)
	if err != nil {
		return nil, fmt.Errorf("encoding the attestation key: %w", err)
	}
	return der, nil
}

func (d *RuntimeData) parse(b []byte) error {
	if err := json.Unmarshal(b, &d.Unverified); err != nil {
		return CodeMalformed.Bad(fmt.Sprintf("hcl[0x%x]", hclData+hclDataHeader), "runtime data in JSON", clip(err.Error()))
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
		return CodeMalformed.Bad("hcl runtime data", "keys, vm-configuration and user-data", clip(err.Error()))
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
			return CodeKey.Bad("hcl keys.HCLAkPub", "one RSA key of 2048 to 4096 bits", "another key, or several")
		}
		d.AK = &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
	}
	if d.AK == nil {
		return CodeKey.Bad("hcl keys", "a key with the id HCLAkPub", "none")
	}
	return nil
}

// hasUserData says whether the guest had the paravisor include these bytes, followed by zeros only.
func (h *Report) hasUserData(want []byte) bool {
	have := h.Data.UserData
	return len(want) > 0 && len(have) >= len(want) && bytes.Equal(have[:len(want)], want) &&
		!slices.ContainsFunc(have[len(want):], func(c byte) bool { return c != 0 })
}

// hexBytes is bytes in hex.
type hexBytes []byte

// UnmarshalJSON implements json.Unmarshaler.
func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	raw, err := hex.DecodeString(text)
	*h = raw
	return err
}

// clip bounds foreign text in reasons and claims.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func clipHex(b []byte) string {
	if len(b) > 64 {
		return hex.EncodeToString(b[:64]) + "…"
	}
	return hex.EncodeToString(b)
}
