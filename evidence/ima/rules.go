package ima

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the section "ima" of a policy, and with claims in its eyes.
var (
	CodeRuleEmpty = rats.CodeInfo{Code: "ima.rule.no-trust", Slot: rats.Executables,
		Title: "nothing says which files are trusted", Hint: "give allow (reference sets) or keys (whose signatures count)"}
	CodeRuleValue = rats.CodeInfo{Code: "ima.rule.bad-value", Slot: rats.Executables,
		Title: "a rule can't be read", Hint: "see docs/formats/ima.md for the fields of the section"}
	CodeRuleAnchor = rats.CodeInfo{Code: "ima.rule.not-anchored", Slot: rats.Executables,
		Title: "a path pattern is not anchored", Hint: "write an absolute path from its first slash (/var/log/.*): a pattern is of whole paths"}
	CodeRuleUntil = rats.CodeInfo{Code: "ima.rule.bad-date", Slot: rats.Executables,
		Title: "a relaxation has no end", Hint: "give the day on which it ends, as 2027-01-31"}
	CodeClaims = rats.CodeInfo{Code: "ima.claims.missing", Slot: rats.Executables,
		Title: "there are no claims of an IMA list, or damaged ones", Hint: "ask for evidence of format ima"}
	CodeWeak = rats.CodeInfo{Code: "ima.bank.weak", Slot: rats.Executables,
		Title: "the list is proven by SHA-1 only", Hint: "quote the sha256 bank, with a kernel of at least 5.8; sha1_until accepts SHA-1 for a while"}
	CodeAggregate = rats.CodeInfo{Code: "ima.boot-aggregate.mismatch", Slot: rats.Executables,
		Title: "the list is not of a boot of this firmware", Hint: "PCRs 0 to 9 were extended after the kernel started, or the list is of another boot"}
	CodeKexec = rats.CodeInfo{Code: "ima.kexec.seen", Slot: rats.Executables,
		Title: "the kernel was replaced by kexec", Hint: "restart the machine, or allow it: allow_kexec"}
	CodeViolation = rats.CodeInfo{Code: "ima.violation.file", Slot: rats.Executables,
		Title: "a file was open for writing while it was measured", Hint: "restart the machine; if the path is one of data, list it in data"}
	CodeViolationData = rats.CodeInfo{Code: "ima.violation.data", Slot: rats.FileSystem,
		Title: "a file of data was open for writing while it was measured", Hint: "nothing to do; measure less by the kernel's IMA policy"}
	CodeChanged = rats.CodeInfo{Code: "ima.file.changed", Slot: rats.Executables,
		Title: "a file has another digest than the reference set allows", Hint: "if it was updated on purpose, add the digest to the set"}
	CodeUnknown = rats.CodeInfo{Code: "ima.file.unknown", Slot: rats.Executables,
		Title: "a file is in no reference set and has no accepted signature", Hint: "add it to a set, or sign it"}
	CodeData = rats.CodeInfo{Code: "ima.file.data", Slot: rats.FileSystem,
		Title: "a file of data is in no reference set", Hint: "nothing to do; or exclude its path"}
	CodeSignature = rats.CodeInfo{Code: "ima.file.signature", Slot: rats.Executables,
		Title: "a file's signature is not accepted", Hint: "sign it with a listed key, over a SHA-256, SHA-384 or SHA-512 digest"}
	CodeModsig = rats.CodeInfo{Code: "ima.file.modsig", Slot: rats.Executables,
		Title: "a file's appended signature is not accepted", Hint: "sign it as modules are, with a key of modsig_keys"}
	CodeEVM = rats.CodeInfo{Code: "ima.file.evm", Slot: rats.Executables,
		Title: "a file's EVM signature is not accepted", Hint: "sign it portably with a key of evm_keys, over a security.ima with its SHA-2 digest"}
	CodeUnsigned = rats.CodeInfo{Code: "ima.file.unsigned", Slot: rats.Executables,
		Title: "a file that must be signed has no signature that could be accepted", Hint: "sign it with a listed key, or take its path out of signed"}
	CodeBuffer = rats.CodeInfo{Code: "ima.buffer.unknown", Slot: rats.Configuration,
		Title: "the kernel measured a buffer that the rules do not name", Hint: "add its name to buffers, or its digest to a reference set"}
	CodeExcluded = rats.CodeInfo{Code: "ima.file.excluded", Slot: rats.FileSystem,
		Title: "files were passed over by exclude, and the list doesn't say whether they were run", Hint: "use a kernel policy that measures code only, and shows itself in the list"}
	CodeCoverage = rats.CodeInfo{Code: "ima.coverage.unproven", Slot: rats.Executables,
		Title: "the list does not show that the kernel measures all code", Hint: "load a policy without gaps in the initrd, and list its digest in coverage.policies; the built-in tcb policy leaves out tmpfs"}
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleEmpty, CodeRuleValue, CodeRuleAnchor, CodeRuleUntil, CodeClaims, CodeWeak, CodeAggregate, CodeKexec,
	CodeViolation, CodeViolationData, CodeChanged, CodeUnknown, CodeData, CodeSignature, CodeModsig, CodeEVM, CodeUnsigned, CodeBuffer, CodeExcluded, CodeCoverage,
}

// Severities.
const (
	SeverityFail    = "fail"
	SeverityWarning = "warning"
)

// defaultFunctions are the hooks that run code (S30).
var defaultFunctions = []string{"BPRM_CHECK", "MMAP_CHECK", "MODULE_CHECK", "FIRMWARE_CHECK", "KEXEC_KERNEL_CHECK", "POLICY_CHECK"}

// Rules is the section "ima" of a policy. An entry passes if a reference set holds its path with its digest, or if one of
// its signatures is by a key listed for its kind; everything else is a reason. Patterns are regular expressions of whole paths.
type Rules struct {
	// Allow names reference sets of path and digest.
	Allow []string `yaml:"allow"`
	// Keys are PEM certificates or public keys whose signatures (security.ima) accept a file under any path.
	Keys []string `yaml:"keys"`
	// ModsigKeys are PEM certificates or public keys whose appended signatures (template ima-modsig) accept a file.
	ModsigKeys []string `yaml:"modsig_keys"`
	// EVMKeys are PEM certificates or public keys whose portable EVM signatures (template evm-sig) accept a file.
	EVMKeys []string `yaml:"evm_keys"`
	// Signed are paths whose files must have an accepted signature, even where a reference set knows them.
	Signed []string `yaml:"signed"`
	// Data are paths that hold data: unknown files there, and violations, are warnings (S31).
	Data []string `yaml:"data"`
	// Exclude are paths whose files are passed over if they were only read. Never code: not where the kernel's policy
	// measures code only, not modules, not what lies where programs and libraries do.
	Exclude []string `yaml:"exclude"`
	// Buffers names buffers (kexec-cmdline, .ima, …) whose content is not judged.
	Buffers []string `yaml:"buffers"`
	// Unknown is the severity of a file that no set names: fail (if empty) or warning.
	Unknown string `yaml:"unknown"`
	// Coverage says what the kernel must measure.
	Coverage CoverageRules `yaml:"coverage"`
	// AllowKexec accepts lists that went through kexec.
	AllowKexec bool `yaml:"allow_kexec"`
	// SHA1Until accepts proofs by SHA-1 until a day (2027-01-31).
	SHA1Until string `yaml:"sha1_until"`

	// Filled by Lint; without it Check allows nothing.
	linted     bool
	keys       []key
	modsigKeys []key
	evmKeys    []key
	signed     []*regexp.Regexp
	data       []*regexp.Regexp
	exclude    []*regexp.Regexp
}

// CoverageRules says what the kernel must measure.
type CoverageRules struct {
	// Policies are digests of policy files that measure what they should; one must be in the list. That the file was
	// loaded, not only read, follows from the initrd, which the section eventlog judges.
	Policies []string `yaml:"policies"`
	// CodeOnly says that these policies measure code only, no files that are merely read.
	CodeOnly bool `yaml:"code_only"`
	// Functions are the hooks that a policy whose text is in the list must measure; if empty, those that run code.
	Functions []string `yaml:"functions"`
	// Missing is the severity where coverage is not shown: warning (if empty) or fail.
	Missing string `yaml:"missing"`
}

var _ rats.Rules = (*Rules)(nil)

// Lint implements rats.Rules.
func (r *Rules) Lint() []rats.Reason {
	var out []rats.Reason
	r.linted, r.signed, r.data, r.exclude = false, nil, nil, nil
	bad := func(field, expected, seen string) {
		out = append(out, CodeRuleValue.Refuse("ima."+field, expected, fmt.Sprintf("%q", clip(seen, 64))))
	}
	if len(r.Allow)+len(r.Keys)+len(r.ModsigKeys)+len(r.EVMKeys) == 0 {
		out = append(out, CodeRuleEmpty.Refuse("ima", "allow or keys", "neither"))
	}
	for i, set := range r.Allow {
		if set == "" {
			bad(fmt.Sprintf("allow[%d]", i), "the name of a reference set", set)
		}
	}
	for _, p := range []struct {
		field string
		from  []string
		to    *[]key
	}{{"keys", r.Keys, &r.keys}, {"modsig_keys", r.ModsigKeys, &r.modsigKeys}, {"evm_keys", r.EVMKeys, &r.evmKeys}} {
		*p.to = nil
		for i, text := range p.from {
			keys, err := parseKeys(text)
			if err != nil {
				bad(fmt.Sprintf("%s[%d]", p.field, i), "PEM certificates or public keys, RSA or ECDSA", err.Error())
			}
			*p.to = append(*p.to, keys...)
		}
	}
	for _, p := range []struct {
		field string
		from  []string
		to    *[]*regexp.Regexp
	}{{"signed", r.Signed, &r.signed}, {"data", r.Data, &r.data}, {"exclude", r.Exclude, &r.exclude}} {
		for i, text := range p.from {
			field := fmt.Sprintf("%s[%d]", p.field, i)
			if !strings.HasPrefix(strings.TrimPrefix(text, "^"), "/") {
				out = append(out, CodeRuleAnchor.Refuse("ima."+field, "a pattern that starts with /", fmt.Sprintf("%q", clip(text, 64))))
				continue
			}
			re, err := regexp.Compile(`(?s)\A(?:` + text + `)\z`)
			if err != nil {
				bad(field, "a regular expression", text)
				continue
			}
			*p.to = append(*p.to, re)
		}
	}
	for field, s := range map[string]string{"unknown": r.Unknown, "coverage.missing": r.Coverage.Missing} {
		if !slices.Contains([]string{"", SeverityFail, SeverityWarning}, s) {
			bad(field, "fail or warning", s)
		}
	}
	for i, text := range r.Coverage.Policies {
		if _, err := rats.ParseDigest(text); err != nil {
			bad(fmt.Sprintf("coverage.policies[%d]", i), "a digest", text)
		}
	}
	if _, err := time.Parse(time.DateOnly, r.SHA1Until); err != nil && r.SHA1Until != "" {
		out = append(out, CodeRuleUntil.Refuse("ima.sha1_until", "a day, 2027-01-31", fmt.Sprintf("%q", clip(r.SHA1Until, 64))))
	}
	r.linted = len(out) == 0
	return out
}

// Slots implements rats.Rules: what was run, and the files it came from.
func (r *Rules) Slots() []rats.Slot { return []rats.Slot{rats.Executables, rats.FileSystem} }

// Params implements rats.Rules: the whole list. Continue makes parameters for the rest of it.
func (r *Rules) Params() []byte {
	b, err := json.Marshal(Params{})
	if err != nil { // no fields that could fail
		return nil
	}
	return b
}
