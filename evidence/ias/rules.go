package ias

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the section "ias" of a policy, and with claims in its eyes.
var (
	CodeRuleEmpty = rats.CodeInfo{Code: "ias.rule.no-identity", Slot: rats.Executables,
		Title: "nothing says which enclaves are trusted", Hint: "give mrenclave"}
	CodeRuleStatus = rats.CodeInfo{Code: "ias.rule.bad-status", Slot: rats.Hardware,
		Title: "a status can't be accepted", Hint: "use OK, SW_HARDENING_NEEDED, CONFIGURATION_NEEDED, CONFIGURATION_AND_SW_HARDENING_NEEDED or GROUP_OUT_OF_DATE"}
	CodeClaims = rats.CodeInfo{Code: "ias.claims.other", Slot: rats.Hardware,
		Title: "the claims are not those of an IAS report", Hint: "verify again"}
	CodeLegacy = rats.CodeInfo{Code: "ias.report.legacy", Slot: rats.Hardware,
		Title: "EPID attestation is no ground for new trust", Hint: "move the platform to DCAP; stored reports can be accepted by insecure_accept_legacy_until"}
	CodeStatus = rats.CodeInfo{Code: "ias.report.status", Slot: rats.Hardware,
		Title: "the platform was not up to date", Hint: "accept the status by accept_status, if its advisories don't matter"}
	CodeMeasurement = rats.CodeInfo{Code: "ias.enclave.measurement", Slot: rats.Executables,
		Title: "the enclave is not one that policy trusts", Hint: "add its MRENCLAVE to mrenclave"}
	CodeDebug = rats.CodeInfo{Code: "ias.enclave.debug", Slot: rats.Configuration,
		Title: "the enclave was open to a debugger", Hint: "run the production build"}
	CodeAge = rats.CodeInfo{Code: "ias.report.age", Slot: rats.Hardware,
		Title: "the report is of a later time, or older than policy allows", Hint: "raise max_age, or verify at a stated time"}
	CodeAccepted = rats.CodeInfo{Code: "ias.report.legacy-accepted", Slot: rats.Hardware,
		Title: "a legacy report is accepted by a relaxation", Hint: "move the platform to DCAP before the relaxation ends"}
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleEmpty, CodeRuleStatus, CodeClaims, CodeLegacy, CodeStatus, CodeMeasurement, CodeDebug, CodeAge, CodeAccepted,
}

// Rules is the section "ias" of a policy. Its zero value accepts nothing.
type Rules struct {
	// InsecureAcceptLegacy accepts reports at all, until this time and with a warning (R114).
	InsecureAcceptLegacy time.Time `yaml:"insecure_accept_legacy_until"`
	// MRENCLAVE lists the measurements (64 hex digits) that are trusted.
	MRENCLAVE []string `yaml:"mrenclave"`
	// AcceptStatus lists statuses that are accepted besides OK.
	AcceptStatus []string `yaml:"accept_status"`
	// MaxAge bounds the age of a report; zero leaves it open.
	MaxAge time.Duration `yaml:"max_age"`

	linted bool
}

var _ rats.Rules = (*Rules)(nil)

// DefaultRules returns the rules by which a report is judged where no policy is given: they accept none.
func DefaultRules() *Rules { return &Rules{linted: true} }

var statuses = []string{"OK", "SW_HARDENING_NEEDED", "CONFIGURATION_NEEDED", "CONFIGURATION_AND_SW_HARDENING_NEEDED", "GROUP_OUT_OF_DATE"}

// Lint implements rats.Rules.
func (r *Rules) Lint() (reasons []rats.Reason) {
	if len(r.MRENCLAVE) == 0 {
		reasons = append(reasons, CodeRuleEmpty.Refuse("mrenclave", "at least one measurement", "none"))
	}
	for i, m := range r.MRENCLAVE {
		if b, err := hex.DecodeString(m); err != nil || len(b) != 32 || strings.ToLower(m) != m {
			reasons = append(reasons, CodeRuleEmpty.Refuse(fmt.Sprintf("mrenclave[%d]", i), "64 lower-case hex digits", clip(m)))
		}
	}
	for i, s := range r.AcceptStatus {
		if !slices.Contains(statuses, s) {
			reasons = append(reasons, CodeRuleStatus.Refuse(fmt.Sprintf("accept_status[%d]", i), strings.Join(statuses, ", "), clip(s)))
		}
	}
	r.linted = len(reasons) == 0
	return reasons
}

// Slots implements rats.Rules.
func (r *Rules) Slots() []rats.Slot {
	return []rats.Slot{rats.Hardware, rats.Configuration, rats.Executables}
}

// Params implements rats.Rules.
func (r *Rules) Params() []byte { return nil }

// Check implements rats.Rules. It uses no reference values. Rules that were not linted trust nothing.
func (r *Rules) Check(claims rats.Claims, _ rats.Lookup, now time.Time) (reasons []rats.Reason) {
	c, ok := claims.(*Claims)
	if !ok || c == nil {
		return []rats.Reason{CodeClaims.Refuse("claims", "claims of an IAS report", fmt.Sprintf("%T", claims))}
	}
	if r.linted && now.Before(r.InsecureAcceptLegacy) {
		reasons = append(reasons, CodeAccepted.At(rats.Warning, "legacy", "false", "true; accepted until "+stamp(r.InsecureAcceptLegacy)))
	} else {
		reasons = append(reasons, CodeLegacy.Refuse("legacy", "evidence of today", "an EPID report of "+stamp(c.Timestamp)))
	}
	if c.Status != "OK" && !slices.Contains(r.AcceptStatus, c.Status) {
		reasons = append(reasons, CodeStatus.Refuse("status", strings.Join(append([]string{"OK"}, r.AcceptStatus...), " or "), clip(c.Status)))
	}
	if !slices.Contains(r.MRENCLAVE, c.MRENCLAVE) && len(r.MRENCLAVE) > 0 {
		reasons = append(reasons, CodeMeasurement.Refuse("mrenclave", strings.Join(r.MRENCLAVE, " or "), c.MRENCLAVE))
	}
	if c.Debug {
		reasons = append(reasons, CodeDebug.Refuse("debug", "false", "true"))
	}
	if age := now.Sub(c.Timestamp); age < 0 || r.MaxAge > 0 && age > r.MaxAge {
		reasons = append(reasons, CodeAge.Refuse("timestamp", "not after "+stamp(now)+", within max_age", stamp(c.Timestamp)))
	}
	return reasons
}
