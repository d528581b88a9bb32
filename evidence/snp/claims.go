package snp

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/rats"
)

// How a report is bound to the exchange.
const (
	BoundReportData = "report-data" // its report data is the user data
	BoundUserData   = hcl.BoundUserData
	BoundAKQuote    = hcl.BoundAKQuote
	BoundNone       = hcl.BoundNone
)

// Claims is what a verified report says. Byte strings are lower-case hex.
type Claims struct {
	ReportVersion    int         `json:"report_version"`
	Product          Product     `json:"product"`         // Milan, Genoa, Turin
	CPUID            string      `json:"cpuid,omitempty"` // family/model/stepping in hex; version 3 and later
	SigningKey       string      `json:"signing_key"`     // VCEK, VLEK
	ChipID           string      `json:"chip_id"`
	CSP              string      `json:"csp,omitempty"` // of a VLEK: the cloud it was leased to
	Key              rats.Digest `json:"key"`           // SHA-256 of the endorsement key's certificate
	KeyUntil         time.Time   `json:"key_until"`
	TCB              TCBClaims   `json:"tcb"`
	ReportedTCBBytes string      `json:"reported_tcb_bytes"`
	Firmware         string      `json:"firmware"`           // current, major.minor.build
	Committed        string      `json:"committed_firmware"` // below which the platform can't fall back
	LaunchMit        string      `json:"launch_mitigations,omitempty"`
	CurrentMit       string      `json:"current_mitigations,omitempty"`
	CRL              CRLClaims   `json:"crl"`
	Policy           string      `json:"policy"` // the guest policy as 0x…
	GuestPolicy      GuestPolicy `json:"guest_policy"`
	Debug            bool        `json:"debug"`
	Platform         []string    `json:"platform"` // what PLATFORM_INFO says is on
	PlatformInfo     string      `json:"platform_info"`
	VMPL             int64       `json:"vmpl"`
	GuestSVN         int64       `json:"guest_svn"`
	Measurement      string      `json:"measurement"` // launch digest, SHA-384
	FamilyID         string      `json:"family_id"`
	ImageID          string      `json:"image_id"`
	HostData         string      `json:"host_data"`
	ReportData       string      `json:"report_data"`
	IDKeyDigest      string      `json:"id_key_digest"` // zeros without an ID block
	AuthorKeyEnabled bool        `json:"author_key_enabled"`
	AuthorKeyDigest  string      `json:"author_key_digest"`
	ReportID         string      `json:"report_id"`
	ReportIDMA       string      `json:"report_id_ma"`
	MigrationAgent   bool        `json:"migration_agent"` // one is associated
	Binding          string      `json:"binding"`         // report-data, user-data, ak-quote, none
	HCL              *hcl.Claims `json:"hcl,omitempty"`
}

// GuestPolicy is the guest policy in names.
type GuestPolicy struct {
	ABI     string   `json:"abi"`     // least firmware interface, major.minor
	Permits []string `json:"permits"` // smt, migration, debug, cxl
	Demands []string `json:"demands"` // single-socket, mem-aes-256-xts, rapl-disabled, ciphertext-hiding, page-swap-disabled
	Unknown bool     `json:"unknown"` // bits without a known meaning are set
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// TCBStatus returns the state of the platform's firmware.
func (c *Claims) TCBStatus() (status string, advisories []string, date time.Time) {
	return c.TCB.Status, c.TCB.Advisories, c.TCB.Date
}

// DebugEnabled says whether the host may read and write the guest's memory.
func (c *Claims) DebugEnabled() bool { return c.Debug }

func claimsOf(r *Report, ch *chain) (*Claims, error) {
	p := ch.leaf.product
	major, minor := r.Policy.ABI()
	c := &Claims{
		ReportVersion: int(r.Version), Product: p, SigningKey: map[int]string{SignerVCEK: "VCEK", SignerVLEK: "VLEK"}[r.Signer()],
		ChipID: hex.EncodeToString(r.ChipID[:]), CSP: clip(ch.leaf.csp), Key: rats.SHA256(ch.leaf.cert.Raw), KeyUntil: ch.leaf.cert.NotAfter.UTC(),
		ReportedTCBBytes: hex.EncodeToString(r.ReportedTCB[:]), Firmware: r.Current.String(), Committed: r.Committed.String(),
		Policy: r.Policy.String(), Debug: r.Policy.Debug(),
		GuestPolicy: GuestPolicy{
			ABI: fmt.Sprintf("%d.%d", major, minor), Permits: namesOf(policyPermits, uint64(r.Policy)),
			Demands: namesOf(policyDemands, uint64(r.Policy)), Unknown: r.Policy>>(policyKnown+1) != 0,
		},
		Platform: namesOf(platformFlags, r.PlatformInfo), PlatformInfo: fmt.Sprintf("0x%x", r.PlatformInfo),
		VMPL: int64(r.VMPL), GuestSVN: int64(r.GuestSVN),
		Measurement: hex.EncodeToString(r.Measurement[:]), FamilyID: hex.EncodeToString(r.FamilyID[:]), ImageID: hex.EncodeToString(r.ImageID[:]),
		HostData: hex.EncodeToString(r.HostData[:]), ReportData: hex.EncodeToString(r.ReportData[:]),
		IDKeyDigest: hex.EncodeToString(r.IDKeyDigest[:]), AuthorKeyDigest: hex.EncodeToString(r.AuthorKeyDigest[:]), AuthorKeyEnabled: r.KeyInfo&1 != 0,
		ReportID: hex.EncodeToString(r.ReportID[:]), ReportIDMA: hex.EncodeToString(r.ReportIDMA[:]),
		Binding: BoundNone,
	}
	c.MigrationAgent = strings.Trim(c.ReportIDMA, "f") != "" && strings.Trim(c.ReportIDMA, "0") != ""
	if r.hasCPUID() {
		c.CPUID = fmt.Sprintf("%02x/%02x/%02x", r.CPUFamily, r.CPUModel, r.CPUStepping)
	}
	if r.Version >= 4 {
		c.LaunchMit, c.CurrentMit = fmt.Sprintf("0x%x", r.LaunchMit), fmt.Sprintf("0x%x", r.CurrentMit)
	}
	for _, v := range []struct {
		name string
		at   int
		raw  RawTCB
		to   *TCB
	}{
		{"current", 0x38, r.CurrentTCB, &c.TCB.Current}, {"reported", 0x180, r.ReportedTCB, &c.TCB.Reported},
		{"committed", 0x1e0, r.CommittedTCB, &c.TCB.Committed}, {"launch", 0x1f0, r.LaunchTCB, &c.TCB.Launch},
	} {
		tcb, ok := v.raw.Of(p)
		if !ok {
			return nil, CodeReserved.Bad(fmt.Sprintf("report[0x%03x] (%s TCB)", v.at, v.name), "zeros in reserved bytes on "+string(p), hex.EncodeToString(v.raw[:]))
		}
		*v.to = tcb
	}
	return c, nil
}
