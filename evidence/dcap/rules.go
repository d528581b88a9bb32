package dcap

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the platform part of a policy section, and with a platform in its eyes.
var (
	CodeRuleStatus = rats.CodeInfo{Code: "dcap.rule.bad-status", Slot: rats.Hardware,
		Title: "a TCB status can't be accepted", Hint: "use a status that Intel gives to platforms that still work, never Revoked"}
	CodeRuleUntil = rats.CodeInfo{Code: "dcap.rule.no-end", Slot: rats.Hardware,
		Title: "a relaxation has no end", Hint: "give until: a time such as 2026-12-31T00:00:00Z"}
	CodeRuleFMSPC = rats.CodeInfo{Code: "dcap.rule.bad-fmspc", Slot: rats.Hardware,
		Title: "an FMSPC can't be read", Hint: "write 12 hex digits"}
	CodeRuleAge = rats.CodeInfo{Code: "dcap.rule.bad-age", Slot: rats.Hardware,
		Title: "an age is not positive", Hint: "write a duration such as 720h"}
	CodeStatus = rats.CodeInfo{Code: "dcap.tcb.status", Slot: rats.Hardware,
		Title: "the platform is not up to date", Hint: "update firmware, microcode and platform software, or accept the status until a date"}
	CodeStatusUnknown = rats.CodeInfo{Code: "dcap.tcb.unknown", Slot: rats.Hardware,
		Title: "the status of the platform is not known", Hint: "hand over TCB info, identity of the quoting enclave and revocation lists"}
	CodeAdvisory = rats.CodeInfo{Code: "dcap.tcb.advisory", Slot: rats.Hardware,
		Title: "the platform is open to an advisory that policy does not accept", Hint: "update the platform, or list the advisory beside the status that is accepted"}
	CodeEvaluation = rats.CodeInfo{Code: "dcap.tcb.evaluation-number", Slot: rats.Hardware,
		Title: "the status was computed under too early a TCB recovery", Hint: "fetch collateral of a later tcbEvaluationDataNumber"}
	CodeEvaluationMixed = rats.CodeInfo{Code: "dcap.tcb.evaluation-mixed", Slot: rats.Hardware,
		Title: "TCB info and identity of the quoting enclave are of different TCB recoveries", Hint: "fetch both again, from one service; the lower number is judged"}
	CodeFMSPCDenied = rats.CodeInfo{Code: "dcap.tcb.fmspc-denied", Slot: rats.Hardware,
		Title: "policy denies this kind of platform", Hint: "use another machine, or change fmspc_deny"}
	CodeRelaxed = rats.CodeInfo{Code: "dcap.tcb.relaxed", Slot: rats.Hardware,
		Title: "the platform is accepted by a relaxation", Hint: "mend what is relaxed before the relaxation ends"}
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleStatus, CodeRuleUntil, CodeRuleFMSPC, CodeRuleAge, CodeStatus, CodeStatusUnknown, CodeAdvisory, CodeEvaluation,
	CodeEvaluationMixed, CodeFMSPCDenied, CodeRelaxed,
}

// Rules is the platform part of the policy sections of SGX and TDX. Its zero value accepts an up-to-date platform
// only, judged by fresh collateral with both revocation lists (R104). Everything that relaxes ends at a time, and a
// verdict that rests on it is a warning.
type Rules struct {
	// AcceptStatus accepts other statuses until a time.
	AcceptStatus []AcceptedStatus `yaml:"accept_status"`
	// RejectAdvisories refuses platforms that are open to one of these, whatever their status.
	RejectAdvisories []string `yaml:"reject_advisories"`
	// FMSPCDeny refuses kinds of platforms.
	FMSPCDeny []string `yaml:"fmspc_deny"`
	// MinEvaluation is the least tcbEvaluationDataNumber of the collateral; zero demands none.
	MinEvaluation uint32 `yaml:"min_tcb_evaluation_number"`
	// MaxCollateralAge bounds the age of TCB info and identity since their issue; zero leaves it to their own end.
	MaxCollateralAge time.Duration `yaml:"max_collateral_age"`
	// InsecureWithoutCRLs accepts until this time that revocation could not be looked up.
	InsecureWithoutCRLs time.Time `yaml:"insecure_without_crls_until"`
	// InsecureExpired accepts collateral that has expired.
	InsecureExpired Grace `yaml:"insecure_expired_collateral"`
}

// AcceptedStatus is a status that is accepted until a time, provided that all the platform's advisories are listed.
type AcceptedStatus struct {
	Status     string    `yaml:"status"`
	Advisories []string  `yaml:"advisories"`
	Until      time.Time `yaml:"until"`
}

// Grace accepts collateral for some time after its end.
type Grace struct {
	For   time.Duration `yaml:"for"`
	Until time.Time     `yaml:"until"`
}

// relaxable are the statuses that policy may accept.
var relaxable = []string{
	SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded,
	TDRelaunchAdvised, TDRelaunchAdvisedConfigurationNeeded,
}

// Lint says what is wrong with the rules.
func (r *Rules) Lint() (reasons []rats.Reason) {
	for i, a := range r.AcceptStatus {
		at := fmt.Sprintf("accept_status[%d]", i)
		if !slices.Contains(relaxable, a.Status) {
			reasons = append(reasons, CodeRuleStatus.Refuse(at+".status", strings.Join(relaxable, ", "), clip(a.Status)))
		}
		if a.Until.IsZero() {
			reasons = append(reasons, CodeRuleUntil.Refuse(at+".until", "a time", "none"))
		}
	}
	for i, f := range r.FMSPCDeny {
		if b, err := hex.DecodeString(f); err != nil || len(b) != 6 {
			reasons = append(reasons, CodeRuleFMSPC.Refuse(fmt.Sprintf("fmspc_deny[%d]", i), "12 hex digits", clip(f)))
		}
	}
	if r.MaxCollateralAge < 0 || r.InsecureExpired.For < 0 {
		reasons = append(reasons, CodeRuleAge.Refuse("max_collateral_age", "a positive duration", "a negative one"))
	}
	if r.InsecureExpired.For > 0 && r.InsecureExpired.Until.IsZero() {
		reasons = append(reasons, CodeRuleUntil.Refuse("insecure_expired_collateral.until", "a time", "none"))
	}
	return reasons
}

// LintHex says which values of a list aren't lower-case hex of a size in bytes, with the code of the format.
func LintHex(code rats.CodeInfo, name string, values []string, size int) (reasons []rats.Reason) {
	for i, v := range values {
		if b, err := hex.DecodeString(v); err != nil || len(b) != size || strings.ToLower(v) != v {
			reasons = append(reasons, code.Refuse(fmt.Sprintf("%s[%d]", name, i), fmt.Sprintf("%d hex digits", 2*size), clip(v)))
		}
	}
	return reasons
}

// Check compares a platform with the rules at a time. Reasons of tier warning say which relaxation was used.
func (r *Rules) Check(p Platform, t TCB, c Used, now time.Time) (reasons []rats.Reason) {
	for _, problem := range c.Problems {
		info, ok := infoOf(problem.Code)
		if !ok {
			info = CodeCollateralMalformed
		}
		reasons = append(reasons, info.At(tierOf(info), problem.Path, problem.Expected, problem.Seen))
	}
	if slices.ContainsFunc(r.FMSPCDeny, func(f string) bool { return strings.EqualFold(f, p.FMSPC) }) {
		reasons = append(reasons, CodeFMSPCDenied.Refuse("platform.fmspc", "another kind of platform", p.FMSPC))
	}
	reasons = append(reasons, r.checkCRLs(c, now)...)
	if t.Status == Unknown || t.Status == "" {
		return append(reasons, CodeStatusUnknown.At(rats.None, "tcb.status", UpToDate, Unknown))
	}
	reasons = append(reasons, r.checkFreshness(t, c, now)...)
	return append(reasons, r.checkStatus(t, now)...)
}

// tierOf tells what is missing from what is wrong.
func tierOf(c rats.CodeInfo) rats.Tier {
	switch c.Code {
	case CodeTCBInfoMissing.Code, CodeIdentityMissing.Code, CodeCRLMissing.Code, CodeTCBInfoOther.Code:
		return rats.None
	}
	return rats.Contraindicated
}

func (r *Rules) checkCRLs(c Used, now time.Time) []rats.Reason {
	for _, list := range []struct {
		path   string
		listed bool
	}{{"collateral.root_crl", c.RootCRL}, {"collateral.pck_crl", c.PCKCRL}} {
		if list.listed {
			continue
		}
		if now.Before(r.InsecureWithoutCRLs) {
			return []rats.Reason{CodeRelaxed.At(rats.Warning, "collateral", "both revocation lists", "not both; waived until "+stamp(r.InsecureWithoutCRLs))}
		}
		return []rats.Reason{CodeCRLMissing.At(rats.None, list.path, "the revocation list", "none")}
	}
	return nil
}

func (r *Rules) checkFreshness(t TCB, c Used, now time.Time) (reasons []rats.Reason) {
	if now.Before(c.From) {
		reasons = append(reasons, CodeCollateralEarly.Refuse("collateral.from", "at or before "+stamp(now), stamp(c.From)))
	}
	if g := r.InsecureExpired; now.After(c.Until) {
		if now.Before(g.Until) && !now.After(c.Until.Add(g.For)) {
			reasons = append(reasons, CodeRelaxed.At(rats.Warning, "collateral.until", "at or after "+stamp(now), stamp(c.Until)+"; waived until "+stamp(g.Until)))
		} else {
			reasons = append(reasons, CodeCollateralExpired.At(rats.None, "collateral.until", "at or after "+stamp(now), stamp(c.Until)))
		}
	}
	if r.MaxCollateralAge > 0 && now.After(c.Issued.Add(r.MaxCollateralAge)) {
		reasons = append(reasons, CodeCollateralAge.At(rats.None, "collateral.issued", "at or after "+stamp(now.Add(-r.MaxCollateralAge)), stamp(c.Issued)))
	}
	if t.EvaluationNumber < r.MinEvaluation {
		reasons = append(reasons, CodeEvaluation.Refuse("tcb.evaluation_data_number", fmt.Sprintf("at least %d", r.MinEvaluation), fmt.Sprint(t.EvaluationNumber)))
	}
	if t.InfoNumber != t.IdentityNumber {
		reasons = append(reasons, CodeEvaluationMixed.At(rats.Warning, "tcb.identity_evaluation_data_number", fmt.Sprint(t.InfoNumber), fmt.Sprint(t.IdentityNumber)))
	}
	return reasons
}

func (r *Rules) checkStatus(t TCB, now time.Time) (reasons []rats.Reason) {
	for _, a := range t.Advisories {
		if slices.Contains(r.RejectAdvisories, a) {
			reasons = append(reasons, CodeAdvisory.Refuse("tcb.advisories", "none that policy rejects", clip(a)))
		}
	}
	if t.Status == UpToDate {
		return reasons
	}
	expected := UpToDate
	for _, a := range r.AcceptStatus {
		if a.Status != t.Status || !slices.Contains(relaxable, a.Status) {
			continue
		}
		if !now.Before(a.Until) {
			expected += "; the relaxation for " + a.Status + " ended " + stamp(a.Until)
			continue
		}
		for _, adv := range t.Advisories {
			if !slices.Contains(a.Advisories, adv) {
				reasons = append(reasons, CodeAdvisory.Refuse("tcb.advisories", strings.Join(a.Advisories, ", "), clip(adv)))
			}
		}
		return append(reasons, CodeRelaxed.At(rats.Warning, "tcb.status", UpToDate, t.Status+"; accepted until "+stamp(a.Until)))
	}
	return append(reasons, CodeStatus.Refuse("tcb.status", expected, t.Status))
}
