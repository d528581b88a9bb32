package tpm

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
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
		Title: "nothing says which TPMs are trusted", Hint: "give ek_cas (certificates of TPM makers) or ek_pins (digests of endorsement keys)"}
	CodeRuleCA = rats.CodeInfo{Code: "tpm.rule.bad-ca", Slot: rats.Hardware,
		Title: "a trusted certificate can't be read", Hint: "give PEM blocks of type CERTIFICATE"}
	CodeRulePin = rats.CodeInfo{Code: "tpm.rule.bad-pin", Slot: rats.Hardware,
		Title: "a pinned endorsement key is not a SHA-256 digest", Hint: "write sha256: and 64 lower-case hex digits, of the key's SubjectPublicKeyInfo"}
	CodeRuleBank = rats.CodeInfo{Code: "tpm.rule.bad-bank", Slot: rats.Configuration,
		Title: "the PCR bank is not one that counts", Hint: "use sha256, sha384 or sha512"}
	CodeRulePCR = rats.CodeInfo{Code: "tpm.rule.bad-pcr", Slot: rats.Configuration,
		Title: "a PCR is not one that can be judged", Hint: "use each index from 0 to 22, without leading zeroes, once; 16 and 23 can be reset by anyone"}
	CodeRuleValue = rats.CodeInfo{Code: "tpm.rule.bad-value", Slot: rats.Configuration,
		Title: "an allowed PCR value is not a digest of the bank", Hint: "write the value as hex, of the bank's length, at least one"}
	CodeEKUntrusted = rats.CodeInfo{Code: "tpm.ek.untrusted", Slot: rats.InstanceIdentity,
		Title: "the endorsement key is neither pinned nor certified by a trusted TPM maker", Hint: "add its maker's CA to ek_cas, or its digest to ek_pins"}
	CodeHardwareUnproven = rats.CodeInfo{Code: "tpm.ek.hardware-unproven", Slot: rats.Hardware,
		Title: "nothing proves that the key is in a genuine TPM", Hint: "add its maker's CA to ek_cas, or its digest to ek_pins"}
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
	CodeFirmware,
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
	anchors *x509.CertPool
	pins    map[string]bool
	allowed map[int][]string
	asked   Params
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
		r.anchors, r.pins, r.akPins = nil, nil, nil // a section with mistakes trusts nothing
	}
	return reasons
}

func (r *Rules) lintTrust() (reasons []rats.Reason) {
	if len(r.EKCAs) == 0 && len(r.EKPins) == 0 && len(r.AKPins) == 0 {
		reasons = append(reasons, CodeRuleEmpty.Refuse("tpm", "ek_cas or ek_pins", "neither"))
	}
	if len(r.EKCAs) > 0 {
		r.anchors = x509.NewCertPool()
	}
	for i, text := range r.EKCAs {
		if err := addAnchors(r.anchors, text); err != nil {
			reasons = append(reasons, CodeRuleCA.Refuse(fmt.Sprintf("tpm.ek_cas[%d]", i), "PEM certificates", err.Error()))
		}
	}
	r.pins = pinsOf("ek_pins", r.EKPins, &reasons)
	r.akPins = pinsOf("ak_pins", r.AKPins, &reasons)
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

func addAnchors(pool *x509.CertPool, text string) error {
	rest := []byte(text)
	n := 0
	for len(strings.TrimSpace(string(rest))) > 0 {
		block, after := pem.Decode(rest)
		if block == nil {
			return fmt.Errorf("text that is no PEM block, after %d certificates", n)
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block of type %s", clip(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", n+1, err)
		}
		if cert.BasicConstraintsValid && !cert.IsCA {
			return fmt.Errorf("certificate %d is not one of a CA", n+1)
		}
		pool.AddCert(cert)
		rest = after
		n++
	}
	if n == 0 {
		return fmt.Errorf("no certificate")
	}
	return nil
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
		reasons = r.checkRecorded(claims.Recorded, now)
	} else {
		reasons = r.checkEK(claims.EK, claims.EKCertificate, now)
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
func (r *Rules) checkRecorded(q *Recorded, now time.Time) (reasons []rats.Reason) {
	if r.recorded && q.KeyInside || !r.recorded && !r.akPins[q.Key] {
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

// Vouch implements rats.EnrolmentRules: it judges a TPM that joins as Check judges its quotes.
func (r *Rules) Vouch(e rats.Endorsement, now time.Time) []rats.Reason {
	if e.MediaType != EnrolmentMediaType {
		return r.untrusted("media_type", EnrolmentMediaType, clip(e.MediaType))
	}
	record, err := ParseEnrolment(e.Body)
	if err != nil {
		return r.untrusted("enrolment", "an enrolment record", err.Error())
	}
	return r.checkEK(record.EKDigest, record.EKCert, now)
}

// checkEK looks for the EK among the pins, then for a chain from its certificate to a trusted maker. The digest and
// the certificate are of one key: Enrol compared them.
func (r *Rules) checkEK(ek rats.Digest, der []byte, now time.Time) []rats.Reason {
	if ek.Check() == nil && r.pins[ek.String()] {
		return nil
	}
	if r.anchors == nil {
		return r.untrusted("ek", "one of the pinned keys", ek.String())
	}
	if len(der) == 0 {
		return r.untrusted("ek_certificate", "a certificate of a trusted TPM maker", "no certificate; key "+ek.String())
	}
	cert, err := parseEKCert(der)
	if err != nil {
		return r.untrusted("ek_certificate", "a certificate of a trusted TPM maker", err.Error())
	}
	if err := verifyEKCert(cert, r.anchors, now); err != nil {
		return r.untrusted("ek_certificate", "a certificate of a trusted TPM maker", clip(err.Error())+"; key "+ek.String())
	}
	return nil
}

// untrusted lowers both slots that an unknown TPM leaves unproven.
func (r *Rules) untrusted(path, expected, seen string) []rats.Reason {
	return []rats.Reason{CodeEKUntrusted.Refuse(path, expected, seen), CodeHardwareUnproven.Refuse(path, expected, seen)}
}

// verifyEKCert builds a chain as package x509 does, with what EK certificates need besides: their subject alternative
// name is critical and holds a directory name, and their key usage is tcg-kp-EKCertificate, which x509 doesn't know
// (TCG EK Credential Profile, sections 3.2.9 and 3.2.16).
func verifyEKCert(cert *x509.Certificate, anchors *x509.CertPool, now time.Time) error {
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSAN.Equal)
	if len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 && !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return fmt.Errorf("its extended key usage is not that of an endorsement key")
	}
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:         anchors,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}
