package snp

import (
	"encoding/binary"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// Sizes of a report in bytes (ABI table ATTESTATION_REPORT).
const (
	ReportSize = 1184
	signedSize = 0x2a0 // what the signature covers
)

// The keys that can sign a report (SIGNING_KEY).
const (
	SignerVCEK = 0
	SignerVLEK = 1
	SignerNone = 7
)

const algorithmP384 = 1 // ECDSA P-384 with SHA-384 (ABI chapter 10)

// What can be wrong with a report before any key is looked at.
var (
	CodeMalformed = rats.CodeInfo{Code: "snp.report.malformed", Slot: rats.InstanceIdentity,
		Title: "this is not a SEV-SNP report", Hint: "send the 1184 bytes of the firmware's ATTESTATION_REPORT"}
	CodeVersion = rats.CodeInfo{Code: "snp.report.version", Slot: rats.InstanceIdentity,
		Title: "the report has a version that is not known", Hint: "versions 2 to 5 are read; update the verifier"}
	CodeAlgorithm = rats.CodeInfo{Code: "snp.report.algorithm", Slot: rats.InstanceIdentity,
		Title: "the report is signed by an algorithm that is not known", Hint: "only ECDSA P-384 with SHA-384 is defined"}
	CodeReserved = rats.CodeInfo{Code: "snp.report.reserved", Slot: rats.InstanceIdentity,
		Title: "a reserved field of the report has another value than it must", Hint: "the report was altered, or is of a version newer than it says"}
)

var reportCodes = []rats.CodeInfo{CodeMalformed, CodeVersion, CodeAlgorithm, CodeReserved}

// Report is a decoded ATTESTATION_REPORT. Offsets are in hex, multi-byte numbers are little-endian.
type Report struct {
	Version         uint32   // 0x000
	GuestSVN        uint32   // 0x004
	Policy          Policy   // 0x008
	FamilyID        [16]byte // 0x010
	ImageID         [16]byte // 0x020
	VMPL            uint32   // 0x030; 0xffffffff if the host asked for the report
	SigAlgo         uint32   // 0x034
	CurrentTCB      RawTCB   // 0x038
	PlatformInfo    uint64   // 0x040
	KeyInfo         uint32   // 0x048: author key (0), masked chip key (1), signing key (2 to 4)
	ReportData      [64]byte // 0x050
	Measurement     [48]byte // 0x090
	HostData        [32]byte // 0x0c0
	IDKeyDigest     [48]byte // 0x0e0
	AuthorKeyDigest [48]byte // 0x110
	ReportID        [32]byte // 0x140
	ReportIDMA      [32]byte // 0x160
	ReportedTCB     RawTCB   // 0x180
	CPUFamily       byte     // 0x188, version 3 and later
	CPUModel        byte     // 0x189
	CPUStepping     byte     // 0x18a
	ChipID          [64]byte // 0x1a0
	CommittedTCB    RawTCB   // 0x1e0
	Current         Build    // 0x1e8
	Committed       Build    // 0x1ec
	LaunchTCB       RawTCB   // 0x1f0
	LaunchMit       uint64   // 0x1f8: mitigation vector at launch, version 4 and later
	CurrentMit      uint64   // 0x200
	R, S            [72]byte // 0x2a0, little-endian
}

// Build is a version of the firmware.
type Build struct{ Build, Minor, Major byte }

// String returns "major.minor.build".
func (b Build) String() string { return fmt.Sprintf("%d.%d.%d", b.Major, b.Minor, b.Build) }

// Signer returns the kind of key that signed: SignerVCEK, SignerVLEK, SignerNone or an unknown number.
func (r *Report) Signer() int { return int(r.KeyInfo >> 2 & 7) }

// hasCPUID says whether the report names the processor itself.
func (r *Report) hasCPUID() bool { return r.Version >= 3 }

// ParseReport reads exactly the 1184 bytes of a report. It checks the version, the algorithm and that what is reserved in that
// version is zero, so that equal reports have equal bytes; it checks no signature.
func ParseReport(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, CodeMalformed.Bad("report", fmt.Sprintf("%d bytes", ReportSize), fmt.Sprintf("%d bytes", len(b)))
	}
	le := binary.LittleEndian
	r := &Report{
		Version: le.Uint32(b), GuestSVN: le.Uint32(b[4:]), Policy: Policy(le.Uint64(b[8:])),
		FamilyID: [16]byte(b[0x10:]), ImageID: [16]byte(b[0x20:]),
		VMPL: le.Uint32(b[0x30:]), SigAlgo: le.Uint32(b[0x34:]), CurrentTCB: RawTCB(b[0x38:]),
		PlatformInfo: le.Uint64(b[0x40:]), KeyInfo: le.Uint32(b[0x48:]),
		ReportData: [64]byte(b[0x50:]), Measurement: [48]byte(b[0x90:]), HostData: [32]byte(b[0xc0:]),
		IDKeyDigest: [48]byte(b[0xe0:]), AuthorKeyDigest: [48]byte(b[0x110:]),
		ReportID: [32]byte(b[0x140:]), ReportIDMA: [32]byte(b[0x160:]), ReportedTCB: RawTCB(b[0x180:]),
		ChipID: [64]byte(b[0x1a0:]), CommittedTCB: RawTCB(b[0x1e0:]),
		Current:   Build{b[0x1e8], b[0x1e9], b[0x1ea]},
		Committed: Build{b[0x1ec], b[0x1ed], b[0x1ee]},
		LaunchTCB: RawTCB(b[0x1f0:]),
		R:         [72]byte(b[0x2a0:]), S: [72]byte(b[0x2e8:]),
	}
	if r.Version < 2 || r.Version > 5 {
		return nil, CodeVersion.Bad("report[0x000]", "2 to 5", fmt.Sprint(r.Version))
	}
	if r.SigAlgo != algorithmP384 {
		return nil, CodeAlgorithm.Bad("report[0x034]", fmt.Sprint(algorithmP384), fmt.Sprint(r.SigAlgo))
	}
	if r.Policy&policyReserved1 == 0 {
		return nil, CodeReserved.Bad("report[0x00a]", "bit 17 of the guest policy set", "clear")
	}
	if r.KeyInfo>>5 != 0 {
		return nil, CodeReserved.Bad("report[0x048]", "bits 5 to 31 clear", fmt.Sprintf("0x%08x", r.KeyInfo))
	}
	if r.hasCPUID() {
		r.CPUFamily, r.CPUModel, r.CPUStepping = b[0x188], b[0x189], b[0x18a]
	}
	if r.Version >= 4 {
		r.LaunchMit, r.CurrentMit = le.Uint64(b[0x1f8:]), le.Uint64(b[0x200:])
	}
	return r, checkReserved(r, b)
}

// checkReserved checks that everything ParseReport didn't read is zero. The tail of the signature field is not signed:
// there, a change would otherwise go unseen.
func checkReserved(r *Report, b []byte) error {
	gaps := [][2]int{{0x4c, 0x50}, {0x188, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x1f8, signedSize}, {0x330, ReportSize}}
	if r.hasCPUID() {
		gaps[1][0] = 0x18b
	}
	if r.Version >= 4 {
		gaps[4][0] = 0x208
	}
	for _, g := range gaps {
		for i := g[0]; i < g[1]; i++ {
			if b[i] != 0 {
				return CodeReserved.Bad(fmt.Sprintf("report[0x%03x]", i), "00", fmt.Sprintf("%02x", b[i]))
			}
		}
	}
	return nil
}

// Bytes returns the 1184 bytes that ParseReport reads.
func (r *Report) Bytes() []byte {
	b := make([]byte, ReportSize)
	le := binary.LittleEndian
	le.PutUint32(b, r.Version)
	le.PutUint32(b[4:], r.GuestSVN)
	le.PutUint64(b[8:], uint64(r.Policy))
	copy(b[0x10:], r.FamilyID[:])
	copy(b[0x20:], r.ImageID[:])
	le.PutUint32(b[0x30:], r.VMPL)
	le.PutUint32(b[0x34:], r.SigAlgo)
	copy(b[0x38:], r.CurrentTCB[:])
	le.PutUint64(b[0x40:], r.PlatformInfo)
	le.PutUint32(b[0x48:], r.KeyInfo)
	copy(b[0x50:], r.ReportData[:])
	copy(b[0x90:], r.Measurement[:])
	copy(b[0xc0:], r.HostData[:])
	copy(b[0xe0:], r.IDKeyDigest[:])
	copy(b[0x110:], r.AuthorKeyDigest[:])
	copy(b[0x140:], r.ReportID[:])
	copy(b[0x160:], r.ReportIDMA[:])
	copy(b[0x180:], r.ReportedTCB[:])
	if r.hasCPUID() {
		b[0x188], b[0x189], b[0x18a] = r.CPUFamily, r.CPUModel, r.CPUStepping
	}
	copy(b[0x1a0:], r.ChipID[:])
	copy(b[0x1e0:], r.CommittedTCB[:])
	copy(b[0x1e8:], []byte{r.Current.Build, r.Current.Minor, r.Current.Major})
	copy(b[0x1ec:], []byte{r.Committed.Build, r.Committed.Minor, r.Committed.Major})
	copy(b[0x1f0:], r.LaunchTCB[:])
	if r.Version >= 4 {
		le.PutUint64(b[0x1f8:], r.LaunchMit)
		le.PutUint64(b[0x200:], r.CurrentMit)
	}
	copy(b[0x2a0:], r.R[:])
	copy(b[0x2e8:], r.S[:])
	return b
}

// RawTCB is a TCB_VERSION as it stands in a report; what its bytes mean depends on the product.
type RawTCB [8]byte

// TCB is the security version numbers of a platform's parts. FMC is known on Turin only and zero elsewhere.
type TCB struct {
	FMC        uint8 `json:"fmc"`
	Bootloader uint8 `json:"bootloader"`
	TEE        uint8 `json:"tee"`
	SNP        uint8 `json:"snp"`
	Microcode  uint8 `json:"microcode"`
}

// Of returns the numbers as the product orders them, and whether the bytes reserved there are zero.
func (t RawTCB) Of(p Product) (TCB, bool) {
	if p == Turin {
		return TCB{FMC: t[0], Bootloader: t[1], TEE: t[2], SNP: t[3], Microcode: t[7]}, t[4]|t[5]|t[6] == 0
	}
	return TCB{Bootloader: t[0], TEE: t[1], SNP: t[6], Microcode: t[7]}, t[2]|t[3]|t[4]|t[5] == 0
}

// Raw returns the bytes that Of reads.
func (t TCB) Raw(p Product) RawTCB {
	if p == Turin {
		return RawTCB{t.FMC, t.Bootloader, t.TEE, t.SNP, 0, 0, 0, t.Microcode}
	}
	return RawTCB{t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode}
}

// AtLeast says whether every single number is at least that of min.
func (t TCB) AtLeast(min TCB) bool {
	return t.FMC >= min.FMC && t.Bootloader >= min.Bootloader && t.TEE >= min.TEE && t.SNP >= min.SNP && t.Microcode >= min.Microcode
}

// String returns the numbers with their names.
func (t TCB) String() string {
	return fmt.Sprintf("fmc %d, bootloader %d, tee %d, snp %d, microcode %d", t.FMC, t.Bootloader, t.TEE, t.SNP, t.Microcode)
}
