package snp

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the section "snp" of a policy itself.
var (
	CodeRuleEmpty = rats.CodeInfo{Code: "snp.rule.no-measurement", Slot: rats.Executables,
		Title: "nothing says which guests are trusted", Hint: "list launch digests under measurements"}
	CodeRuleHex = rats.CodeInfo{Code: "snp.rule.bad-hex", Slot: rats.Executables,
		Title: "a value is not hex of the right length", Hint: "write the value as hex: measurements and key digests 96 digits, chip ids 128, host data 64, family and image ids 32"}
	CodeRuleTCB = rats.CodeInfo{Code: "snp.rule.bad-tcb", Slot: rats.Hardware,
		Title: "a minimum TCB is not one", Hint: "name Milan, Genoa or Turin, and numbers from 0 to 255, not all 0; fmc on Turin only"}
	CodeRuleFlag = rats.CodeInfo{Code: "snp.rule.bad-flag", Slot: rats.Configuration,
		Title: "a flag, level or version is not known", Hint: "see the page of the format for the names"}
	CodeRuleUntil = rats.CodeInfo{Code: "snp.rule.no-end", Slot: rats.Configuration,
		Title: "a relaxation has no end or is not known", Hint: "write accept: tcb-unknown, tcb-out-of-date, crl-missing or crl-expired, and until: with a time"}
)

var ruleCodes = []rats.CodeInfo{
	CodeMeasurement, CodeDebug, CodeGuestPolicy, CodePlatform, CodeTCBLow, CodeTCBOutOfDate, CodeTCBUnknown, CodeVMPL, CodeVLEK, CodeIDKey,
	CodeOther, CodeNoCRL, CodeNoClaims, CodeRuleEmpty, CodeRuleHex, CodeRuleTCB, CodeRuleFlag, CodeRuleUntil,
}

// Lint implements rats.Rules.
func (r *Rules) Lint() []rats.Reason {
	out := slices.Concat(r.lintLists(), r.lintTCB(), r.lintFlags(), r.lintRelaxed())
	r.usable = len(out) == 0
	return out
}

func (r *Rules) lintLists() (out []rats.Reason) {
	if len(r.Measurements) == 0 {
		out = append(out, CodeRuleEmpty.Refuse("snp.measurements", "at least one launch digest", "none"))
	}
	for _, l := range []struct {
		path string
		list []string
		size int
	}{
		{"measurements", r.Measurements, 48}, {"id_key_digests", r.IDKeyDigests, 48}, {"author_key_digests", r.AuthorKeyDigests, 48},
		{"chip_ids", r.ChipIDs, 64}, {"host_data", r.HostData, 32}, {"family_ids", r.FamilyIDs, 16}, {"image_ids", r.ImageIDs, 16},
	} {
		for i, s := range l.list {
			if b, err := hex.DecodeString(s); err != nil || len(b) != l.size {
				out = append(out, CodeRuleHex.Refuse(fmt.Sprintf("snp.%s[%d]", l.path, i), fmt.Sprintf("%d hex digits", 2*l.size), clip(s)))
			}
		}
	}
	return out
}

func (r *Rules) lintTCB() (out []rats.Reason) {
	r.minimum = map[Product]TCB{}
	for name, m := range r.MinimumTCB {
		p, path := Product(name), "snp.minimum_tcb."+clip(name)
		known := p == Milan || p == Genoa || p == Turin
		numbers := []int{m.FMC, m.Bootloader, m.TEE, m.SNP, m.Microcode}
		bad := slices.ContainsFunc(numbers, func(n int) bool { return n < 0 || n > 255 })
		if !known || bad || slices.Max(numbers) == 0 || m.FMC != 0 && p != Turin {
			out = append(out, CodeRuleTCB.Refuse(path, "numbers of Milan, Genoa or Turin, from 0 to 255", fmt.Sprint(numbers)))
			continue
		}
		r.minimum[p] = TCB{uint8(m.FMC), uint8(m.Bootloader), uint8(m.TEE), uint8(m.SNP), uint8(m.Microcode)}
	}
	slices.SortFunc(out, func(a, b rats.Reason) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func (r *Rules) lintFlags() (out []rats.Reason) {
	permits := slices.DeleteFunc(slices.Clone(policyPermits), func(f flag) bool { return f.name == "debug" })
	for _, l := range []struct {
		path  string
		list  []string
		known []flag
	}{
		{"guest_policy.allow", r.GuestPolicy.Allow, permits}, {"guest_policy.require", r.GuestPolicy.Require, policyDemands},
		{"platform.require", r.Platform.Require, platformFlags}, {"platform.forbid", r.Platform.Forbid, platformFlags},
	} {
		for i, s := range l.list {
			if !slices.ContainsFunc(l.known, func(f flag) bool { return f.name == s }) {
				out = append(out, CodeRuleFlag.Refuse(fmt.Sprintf("snp.%s[%d]", l.path, i), "one of "+strings.Join(namesOf(l.known, ^uint64(0)), ", "), clip(s)))
			}
		}
	}
	for i, n := range r.VMPL {
		if n < 0 || n > 3 {
			out = append(out, CodeRuleFlag.Refuse(fmt.Sprintf("snp.vmpl[%d]", i), "0 to 3", fmt.Sprint(n)))
		}
	}
	r.abi = [2]byte{}
	if s := r.GuestPolicy.MinimumABI; s != "" {
		var ok bool
		if r.abi, ok = parseABI(s); !ok {
			out = append(out, CodeRuleFlag.Refuse("snp.guest_policy.minimum_abi", "major.minor", clip(s)))
		}
	}
	if r.MinimumGuestSVN < 0 {
		out = append(out, CodeRuleFlag.Refuse("snp.minimum_guest_svn", "0 or more", fmt.Sprint(r.MinimumGuestSVN)))
	}
	if len(r.CSPs) > 0 && !r.VLEK {
		out = append(out, CodeRuleFlag.Refuse("snp.csps", "vlek: true", "no leased keys are accepted"))
	}
	return out
}

func (r *Rules) lintRelaxed() (out []rats.Reason) {
	for i, d := range r.Debug {
		path := fmt.Sprintf("snp.debug[%d]", i)
		if b, err := hex.DecodeString(d.Measurement); err != nil || len(b) != 48 {
			out = append(out, CodeRuleHex.Refuse(path+".measurement", "96 hex digits", clip(d.Measurement)))
		}
		if d.Until.IsZero() {
			out = append(out, CodeRuleUntil.Refuse(path+".until", "a time", "none"))
		}
	}
	known := []string{relaxTCBUnknown, relaxTCBOld, relaxNoCRL, relaxOldCRL}
	for i, x := range r.Relax {
		if !slices.Contains(known, x.Accept) || x.Until.IsZero() {
			out = append(out, CodeRuleUntil.Refuse(fmt.Sprintf("snp.relax[%d]", i), "one of "+strings.Join(known, ", ")+", and a time",
				clip(x.Accept)+" until "+x.Until.UTC().Format(time.RFC3339)))
		}
	}
	return out
}
