package snp

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with claims in the eyes of the section "snp" of a policy.
var (
	CodeMeasurement = rats.CodeInfo{Code: "snp.measurement.mismatch", Slot: rats.Executables,
		Title: "the guest started with another image", Hint: "if the image was changed on purpose, add its measurement"}
	CodeDebug = rats.CodeInfo{Code: "snp.policy.debug", Slot: rats.Configuration,
		Title: "the host may read and write the guest's memory", Hint: "start the guest with a policy without the debug bit; for tests name the exact measurement under debug"}
	CodeGuestPolicy = rats.CodeInfo{Code: "snp.policy.guest", Slot: rats.Configuration,
		Title: "the guest policy permits too much or demands too little", Hint: "start the guest with a stricter policy, or name the flag in guest_policy"}
	CodePlatform = rats.CodeInfo{Code: "snp.platform.mismatch", Slot: rats.Hardware,
		Title: "the platform is set up in another way than demanded", Hint: "change the host's firmware setup, or the lists under platform"}
	CodeTCBLow = rats.CodeInfo{Code: "snp.tcb.below-minimum", Slot: rats.Hardware,
		Title: "the platform's firmware is older than demanded", Hint: "update the host's firmware and microcode, commit it, and start the guest again"}
	CodeTCBOutOfDate = rats.CodeInfo{Code: "snp.tcb.out-of-date", Slot: rats.Hardware,
		Title: "the platform's firmware is out of date", Hint: "update the host's firmware and microcode; a relaxation needs an end"}
	CodeTCBUnknown = rats.CodeInfo{Code: "snp.tcb.unknown", Slot: rats.Hardware,
		Title: "nothing says whether the platform's firmware is up to date", Hint: "give minimum_tcb for this product, or collateral"}
	CodeVMPL = rats.CodeInfo{Code: "snp.vmpl.mismatch", Slot: rats.Configuration,
		Title: "the report is from another privilege level of the guest", Hint: "collect it at VMPL 0, or name the level in vmpl"}
	CodeVLEK = rats.CodeInfo{Code: "snp.vek.leased", Slot: rats.Hardware,
		Title: "the report is signed by a key leased to a cloud that is not allowed", Hint: "set vlek: true, and list the cloud in csps"}
	CodeIDKey = rats.CodeInfo{Code: "snp.id-key.mismatch", Slot: rats.Executables,
		Title: "the guest's identity block is signed by no allowed key", Hint: "start the guest with an ID block signed by one of the keys"}
	CodeOther = rats.CodeInfo{Code: "snp.value.mismatch", Slot: rats.InstanceIdentity,
		Title: "a value of the report is not one that policy allows", Hint: "if it is right, add it to the list"}
	CodeNoCRL = rats.CodeInfo{Code: "snp.crl.unusable", Slot: rats.InstanceIdentity,
		Title: "no current revocation list was at hand", Hint: "fetch the list of the product from AMD's KDS; a relaxation needs an end"}
	CodeNoClaims = rats.CodeInfo{Code: "snp.claims.none", Slot: rats.InstanceIdentity,
		Title: "there are no claims of a report to judge, or no usable rules", Hint: "mend the section snp of the policy"}
)

// Rules is the section "snp" of a policy. What isn't named is refused: flags, levels, leased keys, platforms below the minimum.
type Rules struct {
	// Measurements are the launch digests that may run: 96 hex digits each.
	Measurements []string `yaml:"measurements"`
	// MinimumTCB is, per product (Milan, Genoa, Turin), the least numbers of all four TCB versions of a report. A product that
	// isn't named needs collateral that says it is up to date.
	MinimumTCB map[string]MinimumTCB `yaml:"minimum_tcb"`
	// GuestPolicy is what the guest policy may permit and must demand.
	GuestPolicy GuestPolicyRules `yaml:"guest_policy"`
	// Platform is what PLATFORM_INFO must and must not say.
	Platform PlatformRules `yaml:"platform"`
	// VMPL lists the privilege levels that may report; if empty, 0 only.
	VMPL []int `yaml:"vmpl"`
	// VLEK accepts keys that are leased to a cloud, of CSPs if that is given.
	VLEK bool     `yaml:"vlek"`
	CSPs []string `yaml:"csps"`
	// Each of these lists, if given, must hold the report's value, in hex.
	IDKeyDigests     []string `yaml:"id_key_digests"`
	AuthorKeyDigests []string `yaml:"author_key_digests"`
	ChipIDs          []string `yaml:"chip_ids"`
	HostData         []string `yaml:"host_data"`
	FamilyIDs        []string `yaml:"family_ids"`
	ImageIDs         []string `yaml:"image_ids"`
	// MinimumGuestSVN is the least security version of the guest (from its ID block).
	MinimumGuestSVN int `yaml:"minimum_guest_svn"`
	// Debug names guests that may be open to debugging, for tests, each by its measurement and until a time (R105). The policy must allow
	// the mark "debug" as well.
	Debug []DebugRule `yaml:"debug"`
	// Relax accepts less than up to date, each until a time (R104).
	Relax []Relaxation `yaml:"relax"`

	// Filled by Lint; without it Check accepts nothing.
	usable  bool
	minimum map[Product]TCB
	abi     [2]byte
}

// MinimumTCB is the least security version numbers of a product; what isn't given is 0.
type MinimumTCB struct {
	FMC        int `yaml:"fmc"`
	Bootloader int `yaml:"bootloader"`
	TEE        int `yaml:"tee"`
	SNP        int `yaml:"snp"`
	Microcode  int `yaml:"microcode"`
}

// GuestPolicyRules names flags of the guest policy.
type GuestPolicyRules struct {
	Allow      []string `yaml:"allow"`       // smt, migration, cxl: what may be permitted; else it must not
	Require    []string `yaml:"require"`     // single-socket, mem-aes-256-xts, rapl-disabled, ciphertext-hiding, page-swap-disabled
	MinimumABI string   `yaml:"minimum_abi"` // least firmware interface the guest must demand, "1.51"
}

// PlatformRules names flags of the platform.
type PlatformRules struct {
	Require []string `yaml:"require"` // smt, tsme, ecc, rapl-disabled, ciphertext-hiding, alias-check-complete, tio
	Forbid  []string `yaml:"forbid"`
}

// DebugRule lets one measurement be debugged for a while.
type DebugRule struct {
	Measurement string    `yaml:"measurement"`
	Until       time.Time `yaml:"until"`
}

// Relaxation accepts one weakness for a while.
type Relaxation struct {
	Accept string    `yaml:"accept"` // tcb-unknown, tcb-out-of-date, crl-missing, crl-expired
	Until  time.Time `yaml:"until"`
}

// The relaxations.
const (
	relaxTCBUnknown = "tcb-unknown"
	relaxTCBOld     = "tcb-out-of-date"
	relaxNoCRL      = "crl-missing"
	relaxOldCRL     = "crl-expired"
)

var _ rats.Rules = (*Rules)(nil)

// Slots implements rats.Rules.
func (*Rules) Slots() []rats.Slot {
	return []rats.Slot{rats.InstanceIdentity, rats.Configuration, rats.Executables, rats.Hardware}
}

// Params is what an Attester is asked for.
type Params struct {
	VMPL int `json:"vmpl"` // the privilege level to report from
}

// ParseParams reads Params; nothing means VMPL 0.
func ParseParams(b []byte) (Params, error) {
	var p Params
	if len(b) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return Params{}, fmt.Errorf("reading what is asked of snp: %w", err)
	}
	if p.VMPL < 0 || p.VMPL > 3 {
		return Params{}, fmt.Errorf("reading what is asked of snp: VMPL %d, expected 0 to 3", p.VMPL)
	}
	return p, nil
}

// Level returns the privilege level that Params ask a report of, for the Attester.
func Level(params []byte) (int, error) {
	p, err := ParseParams(params)
	return p.VMPL, err
}

// Params implements rats.Rules.
func (r *Rules) Params() []byte {
	p := Params{}
	if len(r.VMPL) > 0 {
		p.VMPL = r.VMPL[0]
	}
	b, err := json.Marshal(p)
	if err != nil { // one integer
		return nil
	}
	return b
}

// Check implements rats.Rules. It uses no reference values.
func (r *Rules) Check(claims rats.Claims, _ rats.Lookup, now time.Time) []rats.Reason {
	c, ok := claims.(*Claims)
	if !ok || c == nil || !r.usable {
		return []rats.Reason{CodeNoClaims.Refuse("claims", "claims of a SEV-SNP report and linted rules", fmt.Sprintf("%T", claims))}
	}
	return slices.Concat(r.checkIdentity(c), r.checkTCB(c, now), r.checkPolicy(c, now), r.checkValues(c), r.checkCRL(c, now))
}

// checkIdentity judges what was started.
func (r *Rules) checkIdentity(c *Claims) (out []rats.Reason) {
	debug := slices.ContainsFunc(r.Debug, func(d DebugRule) bool { return c.Debug && equalHex(d.Measurement, c.Measurement) })
	if !debug && !containsHex(r.Measurements, c.Measurement) {
		out = append(out, CodeMeasurement.Refuse("measurement", oneOf(r.Measurements), c.Measurement))
	}
	if len(r.IDKeyDigests) > 0 && !containsHex(r.IDKeyDigests, c.IDKeyDigest) {
		out = append(out, CodeIDKey.Refuse("id_key_digest", oneOf(r.IDKeyDigests), c.IDKeyDigest))
	}
	if len(r.AuthorKeyDigests) > 0 && (!c.AuthorKeyEnabled || !containsHex(r.AuthorKeyDigests, c.AuthorKeyDigest)) {
		out = append(out, CodeIDKey.Refuse("author_key_digest", oneOf(r.AuthorKeyDigests), c.AuthorKeyDigest))
	}
	return out
}

// checkTCB judges the platform's firmware: the policy's minimum, and besides what collateral says.
func (r *Rules) checkTCB(c *Claims, now time.Time) (out []rats.Reason) {
	min, ok := r.minimum[c.Product]
	if ok {
		for _, v := range c.TCB.all() {
			if !v.tcb.AtLeast(min) {
				out = append(out, CodeTCBLow.Refuse("tcb."+v.name, min.String(), v.tcb.String()))
			}
		}
	}
	switch {
	case c.TCB.Status == StatusUpToDate:
	case c.TCB.Status == StatusOutOfDate:
		if !r.relaxed(relaxTCBOld, now) {
			out = append(out, CodeTCBOutOfDate.Refuse("tcb.status", StatusUpToDate, c.TCB.Status+" "+strings.Join(c.TCB.Advisories, " ")))
		}
	case !ok && !r.relaxed(relaxTCBUnknown, now):
		out = append(out, CodeTCBUnknown.At(rats.None, "tcb.status", "a minimum for "+string(c.Product)+", or collateral", clip(c.TCB.Status)))
	}
	return out
}

// checkPolicy judges how the guest is protected.
func (r *Rules) checkPolicy(c *Claims, now time.Time) (out []rats.Reason) {
	refuse := func(path, expected, seen string) {
		out = append(out, CodeGuestPolicy.Refuse(path, expected, seen))
	}
	if c.Debug && !slices.ContainsFunc(r.Debug, func(d DebugRule) bool { return equalHex(d.Measurement, c.Measurement) && now.Before(d.Until) }) {
		out = append(out, CodeDebug.Refuse("debug", "false", "true"))
	}
	for _, f := range c.GuestPolicy.Permits {
		if f != "debug" && !slices.Contains(r.GuestPolicy.Allow, f) {
			refuse("guest_policy.permits", "not "+f, f)
		}
	}
	for _, f := range r.GuestPolicy.Require {
		if !slices.Contains(c.GuestPolicy.Demands, f) {
			refuse("guest_policy.demands", f, strings.Join(c.GuestPolicy.Demands, " "))
		}
	}
	if c.GuestPolicy.Unknown {
		refuse("policy", "no bits without a known meaning", clip(c.Policy))
	}
	if c.MigrationAgent && !slices.Contains(r.GuestPolicy.Allow, "migration") {
		refuse("migration_agent", "false", "true")
	}
	if abi, ok := parseABI(c.GuestPolicy.ABI); !ok || slices.Compare(abi[:], r.abi[:]) < 0 {
		refuse("guest_policy.abi", fmt.Sprintf("at least %d.%d", r.abi[0], r.abi[1]), clip(c.GuestPolicy.ABI))
	}
	levels := r.VMPL
	if len(levels) == 0 {
		levels = []int{0}
	}
	if !slices.ContainsFunc(levels, func(n int) bool { return int64(n) == c.VMPL }) {
		out = append(out, CodeVMPL.Refuse("vmpl", strings.Trim(fmt.Sprint(levels), "[]"), strconv.FormatInt(c.VMPL, 10)))
	}
	for _, f := range r.Platform.Require {
		if !slices.Contains(c.Platform, f) {
			out = append(out, CodePlatform.Refuse("platform", f, strings.Join(c.Platform, " ")))
		}
	}
	for _, f := range r.Platform.Forbid {
		if slices.Contains(c.Platform, f) {
			out = append(out, CodePlatform.Refuse("platform", "not "+f, f))
		}
	}
	return out
}

// checkValues judges who signed, and the lists of exact values.
func (r *Rules) checkValues(c *Claims) (out []rats.Reason) {
	switch {
	case c.SigningKey == "VCEK":
	case c.SigningKey != "VLEK" || !r.VLEK:
		out = append(out, CodeVLEK.Refuse("signing_key", "VCEK", clip(c.SigningKey)))
	case len(r.CSPs) > 0 && !slices.Contains(r.CSPs, c.CSP):
		out = append(out, CodeVLEK.Refuse("csp", strings.Join(r.CSPs, " or "), clip(c.CSP)))
	}
	for _, l := range []struct {
		path  string
		allow []string
		seen  string
	}{{"chip_id", r.ChipIDs, c.ChipID}, {"host_data", r.HostData, c.HostData}, {"family_id", r.FamilyIDs, c.FamilyID}, {"image_id", r.ImageIDs, c.ImageID}} {
		if len(l.allow) > 0 && !containsHex(l.allow, l.seen) {
			out = append(out, CodeOther.Refuse(l.path, oneOf(l.allow), clip(l.seen)))
		}
	}
	if c.GuestSVN < int64(r.MinimumGuestSVN) {
		out = append(out, CodeOther.Refuse("guest_svn", fmt.Sprintf("at least %d", r.MinimumGuestSVN), strconv.FormatInt(c.GuestSVN, 10)))
	}
	return out
}

func (r *Rules) checkCRL(c *Claims, now time.Time) []rats.Reason {
	switch {
	case c.CRL.Status == CRLCurrent,
		c.CRL.Status == CRLMissing && r.relaxed(relaxNoCRL, now),
		c.CRL.Status == CRLExpired && r.relaxed(relaxOldCRL, now):
		return nil
	}
	return []rats.Reason{CodeNoCRL.At(rats.None, "crl.status", CRLCurrent, clip(c.CRL.Status))}
}

func (r *Rules) relaxed(what string, now time.Time) bool {
	return slices.ContainsFunc(r.Relax, func(x Relaxation) bool { return x.Accept == what && now.Before(x.Until) })
}

func parseABI(s string) (v [2]byte, ok bool) {
	major, minor, ok := strings.Cut(s, ".")
	a, err1 := strconv.ParseUint(major, 10, 8)
	b, err2 := strconv.ParseUint(minor, 10, 8)
	return [2]byte{byte(a), byte(b)}, ok && err1 == nil && err2 == nil
}

func equalHex(a, b string) bool {
	x, err1 := hex.DecodeString(a)
	y, err2 := hex.DecodeString(b)
	return err1 == nil && err2 == nil && len(x) > 0 && slices.Equal(x, y)
}

func containsHex(list []string, s string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return equalHex(l, s) })
}

func oneOf(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	if len(list) > 3 {
		return fmt.Sprintf("one of %d values", len(list))
	}
	return strings.Join(list, " or ")
}
