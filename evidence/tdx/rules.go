package tdx

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the section "tdx" of a policy, and with claims in its eyes.
var (
	CodeRuleEmpty = rats.CodeInfo{Code: "tdx.rule.no-identity", Slot: rats.Executables,
		Title: "nothing says which trust domains are trusted", Hint: "give mrtd, or any_measurement: true if other formats judge what runs"}
	CodeRuleHex = rats.CodeInfo{Code: "tdx.rule.bad-hex", Slot: rats.Executables,
		Title: "a value is not hex of the right length", Hint: "write lower-case hex digits, two for each byte"}
	CodeRuleRTMR = rats.CodeInfo{Code: "tdx.rule.bad-rtmr", Slot: rats.Executables,
		Title: "a register can't be judged", Hint: "use the indexes 0 to 3, each with at least one value"}
	CodeRuleUntil = rats.CodeInfo{Code: "tdx.rule.no-end", Slot: rats.Configuration,
		Title: "a relaxation has no end", Hint: "give until: a time such as 2026-12-31T00:00:00Z"}
	CodeClaims = rats.CodeInfo{Code: "tdx.claims.other", Slot: rats.Hardware,
		Title: "the claims are not those of a TDX quote", Hint: "verify again"}
	CodeMRTD = rats.CodeInfo{Code: "tdx.td.mrtd", Slot: rats.Executables,
		Title: "the trust domain started with other firmware than policy trusts", Hint: "if the firmware was updated on purpose, add its MRTD"}
	CodeRTMR = rats.CodeInfo{Code: "tdx.td.rtmr", Slot: rats.Executables,
		Title: "a run-time register holds a value that policy does not allow", Hint: "if the change was intended, add the value to rtmrs"}
	CodeOwner = rats.CodeInfo{Code: "tdx.td.configuration", Slot: rats.Configuration,
		Title: "the trust domain was started with another configuration or owner", Hint: "add the value to mr_config_id, mr_owner or mr_owner_config"}
	CodeDebug = rats.CodeInfo{Code: "tdx.td.debug", Slot: rats.Configuration,
		Title: "the trust domain is open to its host", Hint: "start it without debug attributes; insecure_allow_debug names single measurements for tests"}
	CodeAttributes = rats.CodeInfo{Code: "tdx.td.attributes", Slot: rats.Configuration,
		Title: "the attributes of the trust domain are not allowed", Hint: "start it with the attributes that policy requires, and without those it denies; list the migration TD of a migratable one"}
	CodeModule = rats.CodeInfo{Code: "tdx.module.signer", Slot: rats.Hardware,
		Title: "the TDX module is not a production module of Intel", Hint: "load a module signed by Intel"}
	CodeDebugAllowed = rats.CodeInfo{Code: "tdx.td.debug-allowed", Slot: rats.Configuration,
		Title: "the trust domain is open to its host, which policy allows for tests", Hint: "give it test secrets only"}
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleEmpty, CodeRuleHex, CodeRuleRTMR, CodeRuleUntil, CodeClaims, CodeMRTD, CodeRTMR, CodeOwner, CodeDebug,
	CodeAttributes, CodeModule, CodeDebugAllowed,
}

// Rules is the section "tdx" of a policy. Its platform part (package dcap) accepts up-to-date platforms only, and every
// relaxation ends at a time. Trust domains that their host may look into are refused.
type Rules struct {
	dcap.Rules `yaml:",inline"`

	// MRTD lists measurements of the initial contents (96 hex digits) that are trusted.
	MRTD []string `yaml:"mrtd"`
	// AnyMeasurement judges platform and attributes only; executables are not affirmed then.
	AnyMeasurement bool `yaml:"any_measurement"`
	// RTMRs maps the index of a register ("0" to "3") to its allowed values. Registers that are not named are not judged.
	RTMRs map[string][]string `yaml:"rtmrs"`
	// MRConfigID, MROwner and MROwnerConfig list allowed values; if empty, the field is not judged.
	MRConfigID    []string `yaml:"mr_config_id"`
	MROwner       []string `yaml:"mr_owner"`
	MROwnerConfig []string `yaml:"mr_owner_config"`
	// MRSEAM lists the TDX modules that are trusted; if empty, any that Intel signed.
	MRSEAM []string `yaml:"mr_seam"`
	// MRServiceTD lists the hashes of the service TDs (migration TDs) to which a trust domain may be bound; others that are
	// bound or migratable are refused.
	MRServiceTD []string `yaml:"mr_service_td"`
	// RequireAttributes names attributes that must be set, such as sept-ve-disable; DenyAttributes those that must not.
	RequireAttributes []string `yaml:"require_attributes"`
	DenyAttributes    []string `yaml:"deny_attributes"`
	// InsecureAllowDebug lists trust domains open to their host that are accepted until a time, with a warning (R105).
	// Policy must name the mark debug in its allow list too.
	InsecureAllowDebug []Debug `yaml:"insecure_allow_debug"`

	linted bool
}

// Debug is one measurement that may be open to its host until a time.
type Debug struct {
	MRTD  string    `yaml:"mrtd"`
	Until time.Time `yaml:"until"`
}

var _ rats.Rules = (*Rules)(nil)

// DefaultRules returns the rules by which a quote is judged where no policy is given: platform and attributes, whatever
// the measurement.
func DefaultRules() *Rules {
	r := &Rules{AnyMeasurement: true}
	r.Lint()
	return r
}

const measurementSize = 48

// zero is a measurement of nothing.
var zero = strings.Repeat("00", measurementSize)

// Lint implements rats.Rules.
func (r *Rules) Lint() []rats.Reason {
	reasons := r.Rules.Lint()
	if len(r.MRTD) == 0 && !r.AnyMeasurement {
		reasons = append(reasons, CodeRuleEmpty.Refuse("", "mrtd or any_measurement", "neither"))
	}
	check := func(name string, values []string) {
		reasons = append(reasons, dcap.LintHex(CodeRuleHex, name, values, measurementSize)...)
	}
	check("mrtd", r.MRTD)
	check("mr_config_id", r.MRConfigID)
	check("mr_owner", r.MROwner)
	check("mr_owner_config", r.MROwnerConfig)
	check("mr_seam", r.MRSEAM)
	check("mr_service_td", r.MRServiceTD)
	for _, index := range sortedKeys(r.RTMRs) {
		check("rtmrs."+index, r.RTMRs[index])
		if len(index) != 1 || index[0] < '0' || index[0] > '3' || len(r.RTMRs[index]) == 0 {
			reasons = append(reasons, CodeRuleRTMR.Refuse("rtmrs."+index, "0 to 3, with at least one value", index))
		}
	}
	for _, a := range slices.Concat(r.RequireAttributes, r.DenyAttributes) {
		if !slices.ContainsFunc(flagNames, func(f flagName) bool { return f.name == a }) {
			reasons = append(reasons, CodeAttributes.Refuse("require_attributes", "names of attributes", a))
		}
	}
	for i, d := range r.InsecureAllowDebug {
		at := fmt.Sprintf("insecure_allow_debug[%d]", i)
		check(at+".mrtd", []string{d.MRTD})
		if d.Until.IsZero() {
			reasons = append(reasons, CodeRuleUntil.Refuse(at+".until", "a time", "none"))
		}
	}
	r.linted = len(reasons) == 0
	return reasons
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Slots implements rats.Rules.
func (r *Rules) Slots() []rats.Slot {
	slots := []rats.Slot{rats.Hardware, rats.Configuration}
	if len(r.MRTD) > 0 {
		slots = append(slots, rats.Executables)
	}
	return slots
}

// Params implements rats.Rules: nothing but the binding is asked of the Attester.
func (r *Rules) Params() []byte { return nil }

// Check implements rats.Rules. It uses no reference values. Rules that were not linted, or not without mistakes, trust
// nothing.
func (r *Rules) Check(claims rats.Claims, _ rats.Lookup, now time.Time) []rats.Reason {
	c, ok := claims.(*Claims)
	if !ok || c == nil {
		return []rats.Reason{CodeClaims.Refuse("claims", "claims of a TDX quote", fmt.Sprintf("%T", claims))}
	}
	if !r.linted {
		return []rats.Reason{CodeRuleEmpty.Refuse("", "rules without mistakes", "rules that were not linted")}
	}
	return slices.Concat(r.Rules.Check(c.Platform, c.TCB, c.Collateral, now), r.checkModule(c), r.checkMeasurements(c), r.checkAttributes(c, now))
}

// checkModule refuses modules that Intel didn't sign for production: their signer is not zero, or they have
// attributes.
func (r *Rules) checkModule(c *Claims) []rats.Reason {
	switch {
	case c.MRSIGNERSEAM != zero:
		return []rats.Reason{CodeModule.Refuse("mr_signer_seam", zero, c.MRSIGNERSEAM)}
	case c.SEAMAttributes != zero[:16]:
		return []rats.Reason{CodeModule.Refuse("seam_attributes", zero[:16], c.SEAMAttributes)}
	case len(r.MRSEAM) > 0 && !slices.Contains(r.MRSEAM, c.MRSEAM):
		return []rats.Reason{CodeModule.Refuse("mr_seam", strings.Join(r.MRSEAM, " or "), c.MRSEAM)}
	}
	return nil
}

func (r *Rules) checkMeasurements(c *Claims) (reasons []rats.Reason) {
	if len(r.MRTD) > 0 && !slices.Contains(r.MRTD, c.MRTD) {
		reasons = append(reasons, CodeMRTD.Refuse("mrtd", strings.Join(r.MRTD, " or "), c.MRTD))
	}
	for _, index := range sortedKeys(r.RTMRs) {
		if !slices.Contains(r.RTMRs[index], c.RTMR[index]) {
			reasons = append(reasons, CodeRTMR.Refuse("rtmrs."+index, strings.Join(r.RTMRs[index], " or "), c.RTMR[index]))
		}
	}
	for _, f := range []struct {
		path    string
		allowed []string
		seen    string
	}{{"mr_config_id", r.MRConfigID, c.MRConfigID}, {"mr_owner", r.MROwner, c.MROwner}, {"mr_owner_config", r.MROwnerConfig, c.MROwnerConfig}} {
		if len(f.allowed) > 0 && !slices.Contains(f.allowed, f.seen) {
			reasons = append(reasons, CodeOwner.Refuse(f.path, strings.Join(f.allowed, " or "), f.seen))
		}
	}
	return reasons
}

// checkAttributes refuses what lets the host look in or interfere.
func (r *Rules) checkAttributes(c *Claims, now time.Time) (reasons []rats.Reason) {
	raw, err := hex.DecodeString(c.Attributes)
	if err != nil || len(raw) != 8 {
		return []rats.Reason{CodeAttributes.Refuse("td_attributes", "16 hex digits", c.Attributes)}
	}
	bits := binary.LittleEndian.Uint64(raw)
	unknown := bits &^ abi.TDUnderDebug // those are refused below
	for _, f := range flagNames {
		set := bits&f.bit != 0
		unknown &^= f.bit
		if set && slices.Contains(r.DenyAttributes, f.name) {
			reasons = append(reasons, CodeAttributes.Refuse("flags", "without "+f.name, strings.Join(c.Flags, ", ")))
		}
		if !set && slices.Contains(r.RequireAttributes, f.name) {
			reasons = append(reasons, CodeAttributes.Refuse("flags", f.name, strings.Join(c.Flags, ", ")))
		}
	}
	if unknown != 0 { // what it lets the host do is not known
		reasons = append(reasons, CodeAttributes.Refuse("td_attributes", "known attributes only", fmt.Sprintf("also 0x%x", unknown)))
	}
	// A service TD may change what it is bound to, so one that is bound must be trusted, and a migratable trust domain
	// must be bound to one.
	bound := strings.Trim(c.MRServiceTD, "0") != ""
	if (bound || bits&abi.TDMigratable != 0) && !slices.Contains(r.MRServiceTD, c.MRServiceTD) {
		reasons = append(reasons, CodeAttributes.Refuse("mr_service_td", "one that policy lists, of a migratable or bound trust domain", c.MRServiceTD))
	}
	if !c.Debug && bits&abi.TDUnderDebug == 0 {
		return reasons
	}
	for _, d := range r.InsecureAllowDebug {
		if d.MRTD == c.MRTD && now.Before(d.Until) {
			return append(reasons, CodeDebugAllowed.At(rats.Warning, "debug", "false", "true; allowed until "+d.Until.UTC().Format(time.RFC3339)))
		}
	}
	return append(reasons, CodeDebug.Refuse("debug", "false", "true"))
}
