package enclave

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the section "enclave" of a policy.
var (
	CodeRuleIdentity = code("enclave.rule.no-identity", rats.Executables, "nothing says which enclaves are trusted", "give mrenclave (exact measurements) or signers (mrsigner, product_id and min_svn)")
	CodeRuleSigner   = code("enclave.rule.bad-signer", rats.Executables, "a signer is trusted without product and version", "a signer signs many enclaves, old ones too: give mrsigner, product_id and min_svn")
	CodeRuleDigest   = code("enclave.rule.bad-digest", rats.Executables, "a value is not a SHA-256 digest", "write sha256: and 64 lower-case hex digits")
	CodeRuleDebug    = code("enclave.rule.bad-debug", rats.Executables, "a debug enclave is allowed that isn't named by its exact measurement", "list it under mrenclave too")
	CodeRuleWord     = code("enclave.rule.bad-word", rats.Hardware, "modes, launches, roots or attributes hold an unknown word, or nothing", "the words are in docs/formats/enclave.md; an empty list denies")
	CodeRulePCR      = code("enclave.rule.bad-pcr", rats.Configuration, "a register or its value is not one that can be judged", "use each index from 0 to 15 but 11 once, with values of 64 hex digits; for PCR 11 there is before_key")
	CodeRuleBaseline = code("enclave.rule.no-baseline", rats.Configuration, "a launch in the initrd is demanded and no values say which initrd", "give pcrs for 4 and 9 (or 4 and before_key): anyone can boot another initrd that measures the same constants")
)

// What claims can lack in the eyes of a policy.
var (
	CodeIdentity    = code("enclave.identity.not-allowed", rats.Executables, "the enclave is not one of those that policy names", "if it is a new release, add its measurement; if it was signed anew, that is another enclave")
	CodeSVN         = code("enclave.identity.svn", rats.Executables, "the enclave's security version is too low", "update the enclave")
	CodeDebug       = code("enclave.identity.debug", rats.Executables, "the enclave is open to a debugger", "sign and start it without DEBUG")
	CodeAttributes  = code("enclave.identity.attributes", rats.Executables, "the enclave has attributes that policy does not allow", "sign it without them, or name them under attributes")
	CodeMode        = code("enclave.platform.mode", rats.RuntimeOpaque, "the enclave runs in a mode that policy does not allow", "change the monitor's configuration, or modes")
	CodeLaunch      = code("enclave.platform.launch", rats.Hardware, "the monitor was launched in a way that policy does not allow", "install the initrd hook, or change launches")
	CodeRoot        = code("enclave.platform.root", rats.Hardware, "the root key is of a class that policy does not allow", "see docs/enclave.md on roots, or change roots")
	CodeMonitorSVN  = code("enclave.platform.monitor-svn", rats.Executables, "the monitor's security version is too low", "update the monitor")
	CodeMeasured    = code("enclave.platform.measured", rats.Executables, "something was measured before the key that policy does not list", "if keeper or monitor was updated, add the text to measured")
	CodePCRMissing  = code("enclave.pcr.missing", rats.Configuration, "a register that policy judges was not quoted", "let the node attest again: the policy was changed since")
	CodePCRMismatch = code("enclave.pcr.mismatch", rats.Configuration, "a register holds a value that policy does not allow", "if the change was intended, add the value to pcrs or before_key")
	CodeUnlinked    = code("enclave.link.missing", rats.InstanceIdentity, "the enclave's TPM is not the one of tpm evidence beside it", "demand tpm evidence in the same policy: it says whose TPM that is")
	CodeSameOS      = code("enclave.isolation.same-os", rats.Hardware, "the enclave is isolated by the operating system only", "its administrator can read it; say accept_same_os: true if that is enough")
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleIdentity, CodeRuleSigner, CodeRuleDigest, CodeRuleDebug, CodeRuleWord, CodeRulePCR, CodeRuleBaseline, CodeIdentity,
	CodeSVN, CodeDebug, CodeAttributes, CodeMode, CodeLaunch, CodeRoot, CodeMonitorSVN, CodeMeasured, CodePCRMissing,
	CodePCRMismatch, CodeUnlinked, CodeSameOS,
}

// Strings is a list of strings that may be written as a single one.
type Strings []string

// UnmarshalYAML reads a string or a list of strings.
func (s *Strings) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*s = Strings{one}
		return nil
	}
	var many []string
	if err := unmarshal(&many); err != nil {
		return err
	}
	*s = many
	return nil
}

// Signer trusts what a signer signed for one product, from a version on. A signer alone is never trusted (R106).
type Signer struct {
	MRSIGNER  string  `yaml:"mrsigner"`
	ProductID *uint16 `yaml:"product_id"`
	MinSVN    *uint16 `yaml:"min_svn"`
}

// Rules is the section "enclave" of a policy. Empty lists deny.
type Rules struct {
	// MRENCLAVE lists exact measurements (sha256:…).
	MRENCLAVE Strings `yaml:"mrenclave"`
	// Signers lists signers with product and least version; an enclave is trusted by either list.
	Signers []Signer `yaml:"signers"`
	// Debug lists measurements, all of them in MRENCLAVE too, that may be open to a debugger (R105).
	Debug Strings `yaml:"debug"`
	// Attributes names what an enclave may have besides INIT, MODE64BIT, CET, KSS and AEXNOTIFY: provision-key,
	// einittoken-key.
	Attributes Strings `yaml:"attributes"`
	// Modes, Launches and Roots list what is allowed: inline, process; userspace, initrd; simulated, os-protected,
	// initrd-sealed.
	Modes    Strings `yaml:"modes"`
	Launches Strings `yaml:"launches"`
	Roots    Strings `yaml:"roots"`
	// MinMonitorSVN is the least security version of the monitor.
	MinMonitorSVN uint16 `yaml:"min_monitor_svn"`
	// Measured lists the texts that may stand in the key register before the key; if empty they are not judged.
	Measured Strings `yaml:"measured"`
	// PCRs maps registers of the SHA-256 bank to allowed values (R089). BeforeKey are the allowed values of PCR 11 before
	// keeper and monitor measured anything.
	PCRs      map[string]Strings `yaml:"pcrs"`
	BeforeKey Strings            `yaml:"before_key"`
	// AcceptSameOS says that isolation from other users of the system is enough (S17); otherwise the hardware slot is a
	// warning at best.
	AcceptSameOS bool `yaml:"accept_same_os"`

	// Filled by Lint; without it Check trusts nothing.
	usable     bool
	exact      map[string]bool
	debug      map[string]bool
	attributes uint64
	allowed    map[int][]string
	asked      Params
}

var _ rats.Rules = (*Rules)(nil)

// words are the known words of the lists.
var words = map[string][]string{
	"modes":      {abi.ModeInline.String(), abi.ModeProcess.String()},
	"launches":   {abi.LaunchUserspace.String(), abi.LaunchInitrd.String()},
	"roots":      {abi.RootSimulated.String(), abi.RootOSProtected.String(), abi.RootInitrdSealed.String()},
	"attributes": {"provision-key", "einittoken-key"},
}

// plainAttributes give an enclave no privilege; DEBUG has a rule of its own.
const plainAttributes = abi.FlagInit | abi.FlagMode64 | abi.FlagCET | abi.FlagKSS | abi.FlagAEXNotify

// Lint implements rats.Rules.
func (r *Rules) Lint() []rats.Reason {
	reasons := slices.Concat(r.lintIdentity(), r.lintWords(), r.lintPCRs())
	r.usable = len(reasons) == 0
	return reasons
}

func (r *Rules) lintIdentity() (reasons []rats.Reason) {
	if len(r.MRENCLAVE) == 0 && len(r.Signers) == 0 {
		reasons = append(reasons, CodeRuleIdentity.Refuse("enclave", "mrenclave or signers", "neither"))
	}
	digest := func(path, text string) (string, bool) {
		d, err := rats.ParseDigest(text)
		if err != nil || d.Alg != "sha256" {
			reasons = append(reasons, CodeRuleDigest.Refuse(path, "sha256:<hex>", clip(text)))
			return "", false
		}
		return d.String(), true
	}
	r.exact, r.debug = make(map[string]bool), make(map[string]bool)
	for i, text := range r.MRENCLAVE {
		if d, ok := digest(fmt.Sprintf("enclave.mrenclave[%d]", i), text); ok {
			r.exact[d] = true
		}
	}
	for i, s := range r.Signers {
		path := fmt.Sprintf("enclave.signers[%d]", i)
		digest(path+".mrsigner", s.MRSIGNER)
		if s.ProductID == nil || s.MinSVN == nil {
			reasons = append(reasons, CodeRuleSigner.Refuse(path, "mrsigner, product_id and min_svn", "not all of them"))
		}
	}
	for i, text := range r.Debug {
		path := fmt.Sprintf("enclave.debug[%d]", i)
		d, ok := digest(path, text)
		if ok && !r.exact[d] {
			reasons = append(reasons, CodeRuleDebug.Refuse(path, "one of mrenclave", clip(text)))
		}
		r.debug[d] = ok
	}
	return reasons
}

func (r *Rules) lintWords() (reasons []rats.Reason) {
	for _, list := range []struct {
		name   string
		words  Strings
		needed bool
	}{{"modes", r.Modes, true}, {"launches", r.Launches, true}, {"roots", r.Roots, true}, {"attributes", r.Attributes, false}} {
		path, known := "enclave."+list.name, words[list.name]
		if list.needed && len(list.words) == 0 {
			reasons = append(reasons, CodeRuleWord.Refuse(path, strings.Join(known, ", "), "nothing"))
		}
		for i, w := range list.words {
			if !slices.Contains(known, w) {
				reasons = append(reasons, CodeRuleWord.Refuse(fmt.Sprintf("%s[%d]", path, i), strings.Join(known, ", "), clip(w)))
			}
		}
	}
	r.attributes = plainAttributes
	if slices.Contains(r.Attributes, "provision-key") {
		r.attributes |= abi.FlagProvisionKey
	}
	if slices.Contains(r.Attributes, "einittoken-key") {
		r.attributes |= abi.FlagEInitToken
	}
	return reasons
}

func (r *Rules) lintPCRs() (reasons []rats.Reason) {
	r.allowed = make(map[int][]string)
	values := func(path string, texts Strings) (out []string) {
		if len(texts) == 0 {
			reasons = append(reasons, CodeRulePCR.Refuse(path, "at least one allowed value", "none"))
		}
		for _, text := range texts {
			b, err := hex.DecodeString(strings.TrimPrefix(text, "sha256:"))
			if err != nil || len(b) != 32 {
				reasons = append(reasons, CodeRulePCR.Refuse(path, "64 hex digits", clip(text)))
				continue
			}
			out = append(out, hex.EncodeToString(b))
		}
		return out
	}
	for _, index := range slices.Sorted(maps.Keys(r.PCRs)) {
		path := "enclave.pcrs." + clip(index)
		n, err := strconv.Atoi(index)
		if err != nil || strconv.Itoa(n) != index || n < 0 || n > 15 || n == abi.KeyPCR {
			reasons = append(reasons, CodeRulePCR.Refuse(path, "an index from 0 to 15 but 11, without leading zeroes", clip(index)))
			continue
		}
		r.allowed[n] = values(path, r.PCRs[index])
	}
	if len(r.BeforeKey) > 0 {
		r.allowed[abi.KeyPCR] = values("enclave.before_key", r.BeforeKey)
	}
	if slices.Contains(r.Launches, abi.LaunchInitrd.String()) {
		_, boot := r.allowed[4]
		_, initrd := r.allowed[9]
		_, stub := r.allowed[abi.KeyPCR]
		if !boot || !initrd && !stub {
			reasons = append(reasons, CodeRuleBaseline.Refuse("enclave.pcrs", "values of 4, and of 9 or before_key", "not all of them"))
		}
	}
	r.asked = Params{PCRs: []int{abi.KeyPCR}}
	for n := range r.allowed {
		if n != abi.KeyPCR {
			r.asked.PCRs = append(r.asked.PCRs, n)
		}
	}
	slices.Sort(r.asked.PCRs)
	return reasons
}

// Slots implements rats.Rules: whose TPM it is, the tpm evidence says, which Check demands beside it.
func (r *Rules) Slots() []rats.Slot {
	slots := []rats.Slot{rats.Executables, rats.Hardware, rats.RuntimeOpaque}
	if len(r.allowed) > 0 {
		slots = append(slots, rats.Configuration)
	}
	return slots
}

// Params implements rats.Rules.
func (r *Rules) Params() []byte {
	b, err := json.Marshal(r.asked)
	if err != nil { // integers
		return nil
	}
	return b
}

// Timeless says that Check depends on no clock.
func (*Rules) Timeless() bool { return true }

// Check implements rats.Rules. It uses no reference values.
func (r *Rules) Check(c rats.Claims, _ rats.Lookup, _ time.Time) []rats.Reason {
	claims, ok := c.(*Claims)
	if !ok || claims == nil || !r.usable {
		return []rats.Reason{CodeIdentity.Refuse("claims", "claims of an enclave and a section without mistakes", fmt.Sprintf("%T", c))}
	}
	return slices.Concat(r.checkIdentity(claims), r.checkPlatform(claims), r.checkPCRs(claims))
}

func (r *Rules) checkIdentity(c *Claims) (reasons []rats.Reason) {
	if !r.exact[c.MRENCLAVE.String()] {
		if reason := r.checkSigner(c); reason != nil {
			reasons = append(reasons, *reason)
		}
	}
	if c.Debug && !r.debug[c.MRENCLAVE.String()] {
		reasons = append(reasons, CodeDebug.Refuse("debug", "false", "true"))
	}
	flags, err := strconv.ParseUint(c.Attributes, 16, 64)
	if extra := flags &^ (r.attributes | abi.FlagDebug); err != nil || extra != 0 || flags&abi.FlagInit == 0 {
		reasons = append(reasons, CodeAttributes.Refuse("attributes", fmt.Sprintf("INIT, and others of %016x", r.attributes), clip(c.Attributes)))
	}
	return reasons
}

func (r *Rules) checkSigner(c *Claims) *rats.Reason {
	reason := CodeIdentity.Refuse("mrenclave", "an enclave that policy names", fmt.Sprintf("%s by %s, product %d, version %d", c.MRENCLAVE, c.MRSIGNER, c.ProductID, c.SVN))
	for _, s := range r.Signers {
		switch {
		case s.MRSIGNER != c.MRSIGNER.String() || c.MRSIGNER.IsZero() || *s.ProductID != c.ProductID:
		case c.SVN >= *s.MinSVN:
			return nil
		default:
			reason = CodeSVN.Refuse("svn", fmt.Sprintf("at least %d", *s.MinSVN), fmt.Sprint(c.SVN))
		}
	}
	return &reason
}

func (r *Rules) checkPlatform(c *Claims) (reasons []rats.Reason) {
	for _, w := range []struct {
		code       rats.CodeInfo
		path, seen string
		allowed    Strings
	}{{CodeMode, "mode", c.Mode, r.Modes}, {CodeLaunch, "launch", c.Launch, r.Launches}, {CodeRoot, "root", c.Root, r.Roots}} {
		if !slices.Contains(w.allowed, w.seen) {
			reasons = append(reasons, w.code.Refuse(w.path, strings.Join(w.allowed, " or "), clip(w.seen)))
		}
	}
	if c.MonitorSVN < r.MinMonitorSVN {
		reasons = append(reasons, CodeMonitorSVN.Refuse("monitor_svn", fmt.Sprintf("at least %d", r.MinMonitorSVN), fmt.Sprint(c.MonitorSVN)))
	}
	for i, text := range c.Log.Measured {
		if len(r.Measured) > 0 && !slices.Contains(r.Measured, text) {
			reasons = append(reasons, CodeMeasured.Refuse(fmt.Sprintf("log.measured[%d]", i), "a text of measured", text))
		}
	}
	if c.Root != abi.RootSimulated.String() && !c.TPM.Same {
		reasons = append(reasons, CodeUnlinked.At(rats.None, "tpm.same", "tpm evidence by the same key in the same boot", "none"))
	}
	if !r.AcceptSameOS {
		reasons = append(reasons, CodeSameOS.At(rats.Warning, "isolated_by", "accept_same_os: true, or hardware", c.IsolatedBy))
	}
	return reasons
}

func (r *Rules) checkPCRs(c *Claims) (reasons []rats.Reason) {
	for _, n := range slices.Sorted(maps.Keys(r.allowed)) {
		path, seen := "tpm.pcrs."+strconv.Itoa(n), c.TPM.PCRs[strconv.Itoa(n)]
		if n == abi.KeyPCR {
			path, seen = "log.before_key", c.Log.BeforeKey
		}
		expected := strings.Join(r.allowed[n], " or ")
		switch {
		case seen == "":
			reasons = append(reasons, CodePCRMissing.Refuse(path, expected, "nothing"))
		case !slices.Contains(r.allowed[n], seen):
			reasons = append(reasons, CodePCRMismatch.Refuse(path, expected, clip(seen)))
		}
	}
	return reasons
}
