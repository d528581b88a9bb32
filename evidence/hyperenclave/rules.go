package hyperenclave

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the section "hyperenclave" of a policy, and with claims in its eyes.
var (
	CodeRuleIdentity = rats.CodeInfo{Code: "hyperenclave.rule.no-identity", Slot: rats.Executables,
		Title: "nothing says which enclaves are trusted", Hint: "give mrenclave: 64 lower-case hex digits each"}
	CodeRuleDigest = rats.CodeInfo{Code: "hyperenclave.rule.no-baseline", Slot: rats.Configuration,
		Title: "nothing says which register values are trusted", Hint: "give pcr_digests (sm3:…): the certificate's own baseline is no policy"}
	CodeClaims = rats.CodeInfo{Code: "hyperenclave.claims.other", Slot: rats.Hardware,
		Title: "the claims are not those of a quote of HyperEnclave", Hint: "verify again"}
	CodeLegacy = rats.CodeInfo{Code: "hyperenclave.quote.legacy", Slot: rats.Hardware,
		Title: "HyperEnclave's published quote is no ground for new trust", Hint: "use the format enclave; stored quotes can be accepted by insecure_accept_legacy_until"}
	CodeAccepted = rats.CodeInfo{Code: "hyperenclave.quote.legacy-accepted", Slot: rats.Hardware,
		Title: "a legacy quote is accepted by a relaxation", Hint: "move the enclave before the relaxation ends"}
	CodeMeasurement = rats.CodeInfo{Code: "hyperenclave.enclave.measurement", Slot: rats.Executables,
		Title: "the enclave is not one that policy trusts", Hint: "add its MRENCLAVE to mrenclave"}
	CodeRegisters = rats.CodeInfo{Code: "hyperenclave.tpm.registers", Slot: rats.Configuration,
		Title: "the machine's registers are not those that policy trusts", Hint: "add the digest to pcr_digests"}
	CodeDebug = rats.CodeInfo{Code: "hyperenclave.enclave.debug", Slot: rats.Configuration,
		Title: "the enclave was open to a debugger", Hint: "run the production build"}
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleIdentity, CodeRuleDigest, CodeClaims, CodeLegacy, CodeAccepted, CodeMeasurement, CodeRegisters, CodeDebug,
}

// Rules is the section "hyperenclave" of a policy. Its zero value accepts nothing.
type Rules struct {
	// InsecureAcceptLegacy accepts quotes at all, until this time and with a warning.
	InsecureAcceptLegacy time.Time `yaml:"insecure_accept_legacy_until"`
	// MRENCLAVE lists the measurements (64 hex digits) that are trusted.
	MRENCLAVE []string `yaml:"mrenclave"`
	// PCRDigests lists the digests of the quoted registers (sm3:hex) that are trusted.
	PCRDigests []string `yaml:"pcr_digests"`

	linted   bool
	defaults bool // lists may be empty: then nothing is trusted
}

var _ rats.Rules = (*Rules)(nil)

// DefaultRules returns the rules by which a quote is judged where no policy is given: they accept none.
func DefaultRules() *Rules { return &Rules{linted: true, defaults: true} }

// Lint implements rats.Rules.
func (r *Rules) Lint() (reasons []rats.Reason) {
	if len(r.MRENCLAVE) == 0 && !r.defaults {
		reasons = append(reasons, CodeRuleIdentity.Refuse("mrenclave", "at least one measurement", "none"))
	}
	for i, m := range r.MRENCLAVE {
		if b, err := hex.DecodeString(m); err != nil || len(b) != 32 || strings.ToLower(m) != m {
			reasons = append(reasons, CodeRuleIdentity.Refuse(fmt.Sprintf("mrenclave[%d]", i), "64 lower-case hex digits", clip(m)))
		}
	}
	if len(r.PCRDigests) == 0 && !r.defaults {
		reasons = append(reasons, CodeRuleDigest.Refuse("pcr_digests", "at least one digest", "none"))
	}
	for i, text := range r.PCRDigests {
		if d, err := rats.ParseDigest(text); err != nil || d.Alg != "sm3" {
			reasons = append(reasons, CodeRuleDigest.Refuse(fmt.Sprintf("pcr_digests[%d]", i), "sm3: and 64 hex digits", clip(text)))
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
		return []rats.Reason{CodeClaims.Refuse("claims", "claims of a quote of HyperEnclave", fmt.Sprintf("%T", claims))}
	}
	if r.linted && now.Before(r.InsecureAcceptLegacy) {
		reasons = append(reasons, CodeAccepted.At(rats.Warning, "legacy", "false", "true; accepted until "+stamp(r.InsecureAcceptLegacy)))
	} else {
		reasons = append(reasons, CodeLegacy.Refuse("legacy", "evidence of today", "a quote with the certificate's own baseline"))
	}
	if !slices.Contains(r.MRENCLAVE, c.MRENCLAVE) {
		reasons = append(reasons, CodeMeasurement.Refuse("mrenclave", strings.Join(append(r.MRENCLAVE[:len(r.MRENCLAVE):len(r.MRENCLAVE)], "nothing else"), " or "), c.MRENCLAVE))
	}
	if !slices.Contains(r.PCRDigests, c.PCRDigest.String()) {
		reasons = append(reasons, CodeRegisters.Refuse("pcr_digest", "a digest of pcr_digests", c.PCRDigest.String()))
	}
	if c.Debug {
		reasons = append(reasons, CodeDebug.Refuse("debug", "false", "true"))
	}
	return reasons
}
