package sgx

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

// What can be wrong with the section "sgx" of a policy, and with claims in its eyes.
var (
	CodeRuleEmpty = rats.CodeInfo{Code: "sgx.rule.no-identity", Slot: rats.Executables,
		Title: "nothing says which enclaves are trusted", Hint: "give mrenclave, or signers with product id and least version, or any_measurement: true"}
	CodeRuleHex = rats.CodeInfo{Code: "sgx.rule.bad-hex", Slot: rats.Executables,
		Title: "a value is not hex of the right length", Hint: "write lower-case hex digits, two for each byte"}
	CodeRuleSigner = rats.CodeInfo{Code: "sgx.rule.bad-signer", Slot: rats.Executables,
		Title: "a signer is named without product id and least version", Hint: "give mrsigner, isv_prod_id and min_isv_svn: a signer alone stands for everything it ever signed"}
	CodeRuleUntil = rats.CodeInfo{Code: "sgx.rule.no-end", Slot: rats.Configuration,
		Title: "a relaxation has no end", Hint: "give until: a time such as 2026-12-31T00:00:00Z"}
	CodeClaims = rats.CodeInfo{Code: "sgx.claims.other", Slot: rats.Hardware,
		Title: "the claims are not those of an SGX quote", Hint: "verify again"}
	CodeMeasurement = rats.CodeInfo{Code: "sgx.enclave.measurement", Slot: rats.Executables,
		Title: "the enclave is not one that policy trusts", Hint: "if the enclave was updated on purpose, add its MRENCLAVE or raise the signer's versions"}
	CodeVersion = rats.CodeInfo{Code: "sgx.enclave.isv-svn", Slot: rats.Executables,
		Title: "the enclave is older than policy allows", Hint: "update the enclave"}
	CodeDebug = rats.CodeInfo{Code: "sgx.enclave.debug", Slot: rats.Configuration,
		Title: "the enclave is open to a debugger", Hint: "run the production build; insecure_allow_debug names single measurements for tests"}
	CodeAttributes = rats.CodeInfo{Code: "sgx.enclave.attributes", Slot: rats.Configuration,
		Title: "the attributes of the enclave are not those of an application", Hint: "sign the enclave with other attributes"}
	CodeConfig = rats.CodeInfo{Code: "sgx.enclave.config-id", Slot: rats.Configuration,
		Title: "the enclave was started with another configuration", Hint: "add its CONFIGID to config_id"}
	CodeDebugAllowed = rats.CodeInfo{Code: "sgx.enclave.debug-allowed", Slot: rats.Configuration,
		Title: "the enclave is open to a debugger, which policy allows for tests", Hint: "give it test secrets only"}
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleEmpty, CodeRuleHex, CodeRuleSigner, CodeRuleUntil, CodeClaims, CodeMeasurement, CodeVersion, CodeDebug,
	CodeAttributes, CodeConfig, CodeDebugAllowed,
}

// Rules is the section "sgx" of a policy. Its platform part (package dcap) accepts up-to-date platforms only, and every
// relaxation ends at a time. Debug enclaves are refused.
type Rules struct {
	dcap.Rules `yaml:",inline"`

	// MRENCLAVE lists measurements (64 hex digits) that are trusted.
	MRENCLAVE []string `yaml:"mrenclave"`
	// Signers lists products of signers that are trusted from a version on (R106).
	Signers []Signer `yaml:"signers"`
	// AnyMeasurement judges platform and attributes only; executables are not affirmed then.
	AnyMeasurement bool `yaml:"any_measurement"`
	// ConfigID lists the configuration ids (128 hex digits) that are trusted; if empty, none is judged.
	ConfigID []string `yaml:"config_id"`
	// InsecureAllowDebug lists debug enclaves that are accepted until a time, with a warning (R105). Policy must name
	// the mark debug in its allow list too.
	InsecureAllowDebug []Debug `yaml:"insecure_allow_debug"`

	linted bool
}

// Signer is a product of a signer.
type Signer struct {
	MRSIGNER  string  `yaml:"mrsigner"`
	ISVProdID *uint16 `yaml:"isv_prod_id"`
	MinISVSVN *uint16 `yaml:"min_isv_svn"`
}

// Debug is one measurement that may be open to a debugger until a time.
type Debug struct {
	MRENCLAVE string    `yaml:"mrenclave"`
	Until     time.Time `yaml:"until"`
}

var _ rats.Rules = (*Rules)(nil)

// DefaultRules returns the rules by which a quote is judged where no policy is given: platform and attributes, whatever
// the measurement.
func DefaultRules() *Rules {
	r := &Rules{AnyMeasurement: true}
	r.Lint()
	return r
}

// Lint implements rats.Rules.
func (r *Rules) Lint() []rats.Reason {
	reasons := r.Rules.Lint()
	if len(r.MRENCLAVE) == 0 && len(r.Signers) == 0 && !r.AnyMeasurement {
		reasons = append(reasons, CodeRuleEmpty.Refuse("", "mrenclave, signers or any_measurement", "none of them"))
	}
	check := func(name string, size int, values ...string) {
		reasons = append(reasons, dcap.LintHex(CodeRuleHex, name, values, size)...)
	}
	check("mrenclave", 32, r.MRENCLAVE...)
	check("config_id", 64, r.ConfigID...)
	for i, s := range r.Signers {
		at := fmt.Sprintf("signers[%d]", i)
		check(at+".mrsigner", 32, s.MRSIGNER)
		if s.ISVProdID == nil || s.MinISVSVN == nil {
			reasons = append(reasons, CodeRuleSigner.Refuse(at, "isv_prod_id and min_isv_svn", "not both"))
		}
	}
	for i, d := range r.InsecureAllowDebug {
		at := fmt.Sprintf("insecure_allow_debug[%d]", i)
		check(at+".mrenclave", 32, d.MRENCLAVE)
		if d.Until.IsZero() {
			reasons = append(reasons, CodeRuleUntil.Refuse(at+".until", "a time", "none"))
		}
	}
	r.linted = len(reasons) == 0
	return reasons
}

// Slots implements rats.Rules.
func (r *Rules) Slots() []rats.Slot {
	slots := []rats.Slot{rats.Hardware, rats.Configuration}
	if len(r.MRENCLAVE) > 0 || len(r.Signers) > 0 {
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
		return []rats.Reason{CodeClaims.Refuse("claims", "claims of an SGX quote", fmt.Sprintf("%T", claims))}
	}
	if !r.linted {
		return []rats.Reason{CodeRuleEmpty.Refuse("", "rules without mistakes", "rules that were not linted")}
	}
	return slices.Concat(r.Rules.Check(c.Platform, c.TCB, c.Collateral, now), r.checkEnclave(c), r.checkAttributes(c, now))
}

func (r *Rules) checkEnclave(c *Claims) []rats.Reason {
	if r.AnyMeasurement && len(r.MRENCLAVE) == 0 && len(r.Signers) == 0 || slices.Contains(r.MRENCLAVE, c.MRENCLAVE) {
		return nil
	}
	for _, s := range r.Signers {
		if s.MRSIGNER != c.MRSIGNER || *s.ISVProdID != c.ISVProdID {
			continue
		}
		if c.ISVSVN < *s.MinISVSVN {
			return []rats.Reason{CodeVersion.Refuse("isv_svn", fmt.Sprintf("at least %d", *s.MinISVSVN), fmt.Sprint(c.ISVSVN))}
		}
		return nil
	}
	seen := fmt.Sprintf("MRENCLAVE %s, MRSIGNER %s, product %d", c.MRENCLAVE, c.MRSIGNER, c.ISVProdID)
	return []rats.Reason{CodeMeasurement.Refuse("mrenclave", "one that policy lists", seen)}
}

// checkAttributes refuses what an application enclave in production never has (R106).
func (r *Rules) checkAttributes(c *Claims, now time.Time) (reasons []rats.Reason) {
	raw, err := hex.DecodeString(c.Attributes)
	if err != nil || len(raw) != 16 {
		return []rats.Reason{CodeAttributes.Refuse("attributes", "32 hex digits", c.Attributes)}
	}
	flags := binary.LittleEndian.Uint64(raw)
	const special = abi.FlagProvisionKey | abi.FlagEInitToken
	if flags&abi.FlagInit == 0 || flags&special != 0 {
		reasons = append(reasons, CodeAttributes.Refuse("flags", "init, without provision-key and einittoken-key", strings.Join(c.Flags, ", ")))
	}
	for _, f := range flagNames {
		flags &^= f.bit
	}
	if flags != 0 { // what it lets others do to the enclave is not known
		reasons = append(reasons, CodeAttributes.Refuse("attributes", "known flags only", fmt.Sprintf("also 0x%x", flags)))
	}
	if len(r.ConfigID) > 0 && !slices.Contains(r.ConfigID, c.ConfigID) {
		reasons = append(reasons, CodeConfig.Refuse("config_id", strings.Join(r.ConfigID, " or "), c.ConfigID))
	}
	if !c.Debug && raw[0]&abi.FlagDebug == 0 {
		return reasons
	}
	for _, d := range r.InsecureAllowDebug {
		if d.MRENCLAVE == c.MRENCLAVE && now.Before(d.Until) {
			return append(reasons, CodeDebugAllowed.At(rats.Warning, "debug", "false", "true; allowed until "+d.Until.UTC().Format(time.RFC3339)))
		}
	}
	return append(reasons, CodeDebug.Refuse("debug", "false", "true"))
}
