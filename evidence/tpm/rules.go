package tpm

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the section "tpm" of a policy, and with claims in its eyes.
var (
	CodeRuleEmpty = rats.CodeInfo{Code: "tpm.rule.no-trust", Slot: rats.Hardware,
		Title: "nothing says which TPMs are trusted", Hint: "give ek_vendors (built-in makers), ek_cas (certificates of TPM makers) or ek_pins (digests of endorsement keys)"}
	CodeRuleCA = rats.CodeInfo{Code: "tpm.rule.bad-ca", Slot: rats.Hardware,
		Title: "a trusted certificate can't be read", Hint: "give PEM blocks of type CERTIFICATE"}
	CodeRulePin = rats.CodeInfo{Code: "tpm.rule.bad-pin", Slot: rats.Hardware,
		Title: "a pinned endorsement key is not a SHA-256 digest", Hint: "write sha256: and 64 lower-case hex digits, of the key's SubjectPublicKeyInfo"}
	CodeRuleVendor = rats.CodeInfo{Code: "tpm.rule.bad-vendor", Slot: rats.Hardware,
		Title: "a maker is not one of the built-in set", Hint: "use all, or an id of the table in docs/formats/tpm.md; give other makers' CAs in ek_cas"}
	CodeRuleCRL = rats.CodeInfo{Code: "tpm.rule.bad-crl", Slot: rats.Hardware,
		Title: "a revocation list can't be read", Hint: "give one PEM block of type X509 CRL in each entry"}
	CodeRuleSource = rats.CodeInfo{Code: "tpm.rule.bad-ak-source", Slot: rats.InstanceIdentity,
		Title: "what is demanded of the attestation key can't be met", Hint: "use credential, iak and ak-certificate; for the last two give iak_cas or ek_vendors"}
	CodeAKSource = rats.CodeInfo{Code: "tpm.ak.source", Slot: rats.InstanceIdentity,
		Title: "the attestation key is not certified as policy demands", Hint: "let the agent send the certificate of the machine's IAK, and name its maker's CA in iak_cas"}
	CodeEKSHA1 = rats.CodeInfo{Code: "tpm.ek.sha1", Slot: rats.Hardware,
		Title: "the endorsement key's certificate chain is signed with SHA-1", Hint: "pin the key in ek_pins instead, or give sha1_until for a while"}
	CodeRuleBank = rats.CodeInfo{Code: "tpm.rule.bad-bank", Slot: rats.Configuration,
		Title: "the PCR bank is not one that counts", Hint: "use sha256, sha384 or sha512"}
	CodeRulePCR = rats.CodeInfo{Code: "tpm.rule.bad-pcr", Slot: rats.Configuration,
		Title: "a PCR is not one that can be judged", Hint: "use each index from 0 to 22, without leading zeroes, once; 16 and 23 can be reset by anyone"}
	CodeRuleValue = rats.CodeInfo{Code: "tpm.rule.bad-value", Slot: rats.Configuration,
		Title: "an allowed PCR value is not a digest of the bank", Hint: "write the value as hex, of the bank's length, at least one"}
	CodeEKUntrusted = rats.CodeInfo{Code: "tpm.ek.untrusted", Slot: rats.InstanceIdentity,
		Title: "the endorsement key is neither pinned nor certified by a trusted TPM maker", Hint: "add its maker to ek_vendors, its maker's CA to ek_cas, or its digest to ek_pins; ek_issuers may fill gaps in the chain"}
	CodeHardwareUnproven = rats.CodeInfo{Code: "tpm.ek.hardware-unproven", Slot: rats.Hardware,
		Title: "nothing proves that the key is in a genuine TPM", Hint: "add its maker to ek_vendors, its maker's CA to ek_cas, or its digest to ek_pins; ek_issuers may fill gaps in the chain"}
	CodePCRMissing = rats.CodeInfo{Code: "tpm.pcr.missing", Slot: rats.Configuration,
		Title: "a PCR that policy judges was not quoted", Hint: "let the node attest again: the policy was changed since"}
	CodeRuleFirmware = rats.CodeInfo{Code: "tpm.rule.bad-firmware", Slot: rats.Hardware,
		Title: "an allowed firmware version can't be read", Hint: "write the 16 hex digits of the claim firmware"}
	CodeResets = rats.CodeInfo{Code: "tpm.clock.resets", Slot: rats.Configuration,
		Title: "the TPM was reset more often than policy allows", Hint: "the machine was restarted; raise max_resets if that was meant"}
	CodeRestarts = rats.CodeInfo{Code: "tpm.clock.restarts", Slot: rats.Configuration,
		Title: "the TPM was resumed more often than policy allows", Hint: "reset the machine instead of resuming it, or raise max_restarts"}
	CodeClockUnsafe = rats.CodeInfo{Code: "tpm.clock.unsafe", Slot: rats.Configuration,
		Title: "the TPM's clock may have gone backwards", Hint: "it lost power without a shutdown; it recovers by itself within hours"}
	CodeFirmware = rats.CodeInfo{Code: "tpm.firmware.not-allowed", Slot: rats.Hardware,
		Title: "the TPM runs a firmware that policy does not allow", Hint: "update the TPM, or add the version to firmware"}
	CodeRecordedKeyUnvouched = rats.CodeInfo{Code: "tpm.recorded.key-unvouched", Slot: rats.InstanceIdentity,
		Title: "nobody vouches for the key that signed the quote", Hint: "give the key with --ak, or its digest in ak_pins"}
	CodeRecordedUnbound = rats.CodeInfo{Code: "tpm.recorded.unbound", Slot: rats.InstanceIdentity,
		Title: "the quote was not compared with a nonce", Hint: "give the nonce of the challenge; without it the quote may be of any age"}
	CodeRecordedNoValues = rats.CodeInfo{Code: "tpm.recorded.no-values", Slot: rats.Configuration,
		Title: "the PCR values are not at hand", Hint: "give them with --pcrs"}
	CodeRecordedSHA1 = rats.CodeInfo{Code: "tpm.recorded.sha1", Slot: rats.InstanceIdentity,
		Title: "the quote is signed with SHA-1", Hint: "SHA-1 can be forged; make a new quote with SHA-256, or give sha1_until for a while"}
	CodePCRMismatch = rats.CodeInfo{Code: "tpm.pcr.mismatch", Slot: rats.Configuration,
		Title: "a PCR holds a value that policy does not allow", Hint: "if the change was intended, add the value to pcrs"}
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleEmpty, CodeRuleCA, CodeRulePin, CodeRuleBank, CodeRulePCR, CodeRuleValue, CodeEKUntrusted,
	CodeHardwareUnproven, CodePCRMissing, CodePCRMismatch, CodeRuleFirmware, CodeResets, CodeRestarts, CodeClockUnsafe,
	CodeFirmware, CodeRuleVendor, CodeRuleCRL, CodeRuleSource, CodeAKSource, CodeEKSHA1,
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

// Rules is the section "tpm" of a policy.
type Rules struct {
	// EKCAs are PEM certificates of TPM makers, each a trust anchor, intermediate ones too.
	EKCAs Strings `yaml:"ek_cas"`
	// EKVendors are makers of the built-in set (VendorRoots) by their ids, or "all": those whose TPMs are hardware.
	EKVendors Strings `yaml:"ek_vendors"`
	// EKIssuers are PEM certificates that may fill the gap between an EK certificate and an anchor. They are not trusted.
	EKIssuers Strings `yaml:"ek_issuers"`
	// EKCRLs are revocation lists of TPM makers, PEM.
	EKCRLs Strings `yaml:"ek_crls"`
	// RequireCRL refuses chains of which not every certificate was looked up in a list that is in its time. Pinned keys
	// have no chain.
	RequireCRL bool `yaml:"require_crl"`
	// AKSources lists what must tie the attestation key to its TPM, any of: credential, iak, ak-certificate. If empty,
	// the enrolment is enough. IAKCAs are the PEM anchors of its certificate, of machines' makers; if empty, EKVendors count.
	AKSources Strings `yaml:"ak_sources"`
	IAKCAs    Strings `yaml:"iak_cas"`
	// EKPins are the digests (sha256:…) of single endorsement keys that are trusted without a certificate (EKDigest).
	EKPins Strings `yaml:"ek_pins"`
	// Bank is the PCR bank: sha256 (if empty), sha384 or sha512.
	Bank string `yaml:"bank"`
	// PCRs maps the index of a PCR to its allowed values in hex. PCRs that are not named are not judged.
	PCRs map[string]Strings `yaml:"pcrs"`
	// Quote lists the PCRs to quote besides those, for other formats to replay; if empty, 0 to 7 and 10.
	Quote []int `yaml:"quote"`

	// MaxResets and MaxRestarts bound reset_count and restart_count.
	MaxResets   *uint32 `yaml:"max_resets"`
	MaxRestarts *uint32 `yaml:"max_restarts"`
	// ClockSafe refuses clock_safe: false.
	ClockSafe bool `yaml:"clock_safe"`
	// Firmware lists the firmware versions that are allowed (16 hex digits); if empty, all.
	Firmware Strings `yaml:"firmware"`
	// AKPins are the digests (sha256:…, of the SubjectPublicKeyInfo) of keys whose recorded quotes are trusted. They
	// say nothing about nodes, which enrol.
	AKPins Strings `yaml:"ak_pins"`
	// SHA1Until accepts recorded quotes and certificates that are signed with SHA-1, until then.
	SHA1Until time.Time `yaml:"sha1_until"`

	recorded bool // DefaultRules

	// Filled by Lint; without it Check trusts nothing.
	bank    string
	cas     []*x509.Certificate // of EKCAs
	anchors []*x509.Certificate // and of EKVendors
	issuers []*x509.Certificate
	lists   []*x509.RevocationList
	iaks    []*x509.Certificate
	pins    map[string]bool
	allowed map[int][]string
	asked   Params
	known   *chains
	akPins  map[string]bool
}

var (
	_ rats.Rules          = (*Rules)(nil)
	_ rats.EnrolmentRules = (*Rules)(nil)
)

// defaultQuote covers firmware, boot loader and Secure Boot state, and IMA's list.
var defaultQuote = []int{0, 1, 2, 3, 4, 5, 6, 7, 10}

// Lint implements rats.Rules.
func (r *Rules) Lint() []rats.Reason {
	if r.recorded {
		return nil // the caller vouches by --ak or --ca
	}
	reasons := slices.Concat(r.lintTrust(), r.lintPCRs(), r.lintFirmware())
	if len(reasons) > 0 {
		r.anchors, r.cas, r.iaks, r.pins, r.akPins = nil, nil, nil, nil, nil // a section with mistakes trusts nothing
	}
	return reasons
}

func pinsOf(field string, pins Strings, reasons *[]rats.Reason) map[string]bool {
	out := make(map[string]bool, len(pins))
	for i, text := range pins {
		d, err := rats.ParseDigest(text)
		if err != nil || d.Alg != "sha256" {
			*reasons = append(*reasons, CodeRulePin.Refuse(fmt.Sprintf("tpm.%s[%d]", field, i), "sha256:<hex>", clip(text)))
			continue
		}
		out[d.String()] = true
	}
	return out
}

func (r *Rules) lintFirmware() (reasons []rats.Reason) {
	for i, v := range r.Firmware {
		if b, err := hex.DecodeString(v); err != nil || len(b) != 8 || strings.ToLower(v) != v {
			reasons = append(reasons, CodeRuleFirmware.Refuse(fmt.Sprintf("tpm.firmware[%d]", i), "16 lower-case hex digits", clip(v)))
		}
	}
	return reasons
}

func (r *Rules) lintPCRs() (reasons []rats.Reason) {
	r.bank = cmp.Or(r.Bank, "sha256")
	size, ok := bankSizes[r.bank]
	if !ok {
		return []rats.Reason{CodeRuleBank.Refuse("tpm.bank", "sha256, sha384 or sha512", clip(r.Bank))}
	}
	quote := r.Quote
	if len(quote) == 0 {
		quote = defaultQuote
	}
	selected := map[int]bool{}
	for i, n := range quote {
		if !quotable(n) || selected[n] {
			reasons = append(reasons, CodeRulePCR.Refuse(fmt.Sprintf("tpm.quote[%d]", i), "an index from 0 to 22 but 16, once", strconv.Itoa(n)))
		}
		selected[n] = true
	}
	r.allowed = make(map[int][]string, len(r.PCRs))
	for _, index := range sortedKeys(r.PCRs) {
		path := "tpm.pcrs." + clip(index)
		n, err := strconv.Atoi(index)
		if err != nil || strconv.Itoa(n) != index || !quotable(n) {
			reasons = append(reasons, CodeRulePCR.Refuse(path, "an index from 0 to 22 but 16, without leading zeroes", clip(index)))
			continue
		}
		selected[n] = true
		if len(r.PCRs[index]) == 0 {
			reasons = append(reasons, CodeRuleValue.Refuse(path, "at least one allowed value", "none"))
		}
		for _, text := range r.PCRs[index] {
			value, err := hex.DecodeString(strings.TrimPrefix(text, r.bank+":"))
			if err != nil || len(value) != size {
				reasons = append(reasons, CodeRuleValue.Refuse(path, fmt.Sprintf("%d hex digits", 2*size), clip(text)))
				continue
			}
			r.allowed[n] = append(r.allowed[n], hex.EncodeToString(value))
		}
	}
	r.asked = Params{Bank: r.bank, PCRs: sortedKeys(selected)}
	return reasons
}

// quotable leaves out the PCRs that an unprivileged program can reset (S13).
func quotable(n int) bool { return n >= 0 && n <= lastPCR && n != 16 && n != 23 }

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Slots implements rats.Rules: identity and hardware always, configuration if PCR values are judged.
func (r *Rules) Slots() []rats.Slot {
	slots := []rats.Slot{rats.InstanceIdentity, rats.Hardware}
	if len(r.PCRs) > 0 || r.MaxResets != nil || r.MaxRestarts != nil || r.ClockSafe {
		slots = append(slots, rats.Configuration)
	}
	return slots
}

// Params implements rats.Rules.
func (r *Rules) Params() []byte {
	b, err := json.Marshal(r.asked)
	if err != nil { // a string and integers
		return nil
	}
	return b
}

// Check implements rats.Rules. It uses no reference values.
func (r *Rules) Check(c rats.Claims, _ rats.Lookup, now time.Time) []rats.Reason {
	claims, ok := c.(*Claims)
	if !ok || claims == nil {
		return []rats.Reason{CodeEKUntrusted.Refuse("claims", "claims of a TPM quote", fmt.Sprintf("%T", c))}
	}
	var reasons []rats.Reason
	if claims.Recorded != nil {
		reasons = r.checkRecorded(claims.Recorded, claims.AKSource, now)
	} else {
		var state string
		reasons, state = r.checkEK(claims.EK, claims.EKCertificate, claims.EKChain, claims.EKRevocation, now)
		reasons = append(reasons, crlReasons(state, r.RequireCRL)...)
		reasons = append(reasons, r.checkAK(claims, now)...)
	}
	reasons = append(reasons, r.checkCounters(claims)...)
	values := claims.PCRs[r.bank]
	for _, n := range sortedKeys(r.allowed) {
		path := fmt.Sprintf("pcrs.%s.%d", r.bank, n)
		expected := strings.Join(r.allowed[n], " or ")
		switch seen, ok := values[strconv.Itoa(n)]; {
		case !ok:
			reasons = append(reasons, CodePCRMissing.Refuse(path, expected, "nothing"))
		case !slices.Contains(r.allowed[n], seen):
			reasons = append(reasons, CodePCRMismatch.Refuse(path, expected, clip(seen)))
		}
	}
	return reasons
}

// checkRecorded judges what an enrolment would prove of a node's quotes.
func (r *Rules) checkRecorded(q *Recorded, source string, now time.Time) (reasons []rats.Reason) {
	certified := source == SourceIAK || source == SourceAKCertificate
	if r.recorded && q.KeyInside && !certified || !r.recorded && !r.akPins[q.Key] {
		reasons = append(reasons, CodeRecordedKeyUnvouched.Refuse("ak", "a key that the caller or ak_pins names", q.Key))
	}
	if !q.Bound {
		reasons = append(reasons, CodeRecordedUnbound.At(rats.None, "binding", "a nonce", "none"))
	}
	if !q.Values {
		reasons = append(reasons, CodeRecordedNoValues.At(rats.None, PartPCRs, "the values of "+fmt.Sprint(q.Selection), "none"))
	}
	if q.SignatureHash == "sha1" && !now.Before(r.SHA1Until) {
		reasons = append(reasons, CodeRecordedSHA1.Refuse("signature.hash", "sha256 or longer", q.SignatureHash))
	}
	return reasons
}

// R140: clock, resetCount, restartCount and firmware.
func (r *Rules) checkCounters(c *Claims) (reasons []rats.Reason) {
	if r.MaxResets != nil && c.ResetCount > *r.MaxResets {
		reasons = append(reasons, CodeResets.Refuse("reset_count", fmt.Sprintf("at most %d", *r.MaxResets), fmt.Sprint(c.ResetCount)))
	}
	if r.MaxRestarts != nil && c.RestartCount > *r.MaxRestarts {
		reasons = append(reasons, CodeRestarts.Refuse("restart_count", fmt.Sprintf("at most %d", *r.MaxRestarts), fmt.Sprint(c.RestartCount)))
	}
	if r.ClockSafe && !c.ClockSafe {
		reasons = append(reasons, CodeClockUnsafe.Refuse("clock_safe", "true", "false"))
	}
	if len(r.Firmware) > 0 && !slices.Contains(r.Firmware, c.Firmware) {
		reasons = append(reasons, CodeFirmware.Refuse("firmware", strings.Join(r.Firmware, " or "), clip(c.Firmware)))
	}
	return reasons
}
