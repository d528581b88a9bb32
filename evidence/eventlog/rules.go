package eventlog

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the section "eventlog" of a policy, and with claims in its eyes.
var (
	CodeRuleValue = rats.CodeInfo{Code: "eventlog.rule.bad-value", Slot: rats.Configuration,
		Title: "a rule can't be read", Hint: "see docs/formats/eventlog.md for the fields of the section"}
	CodeRuleUntil = rats.CodeInfo{Code: "eventlog.rule.bad-date", Slot: rats.Configuration,
		Title: "a relaxation has no end", Hint: "give the day on which it ends, as 2027-01-31"}
	CodeClaims = rats.CodeInfo{Code: "eventlog.claims.missing", Slot: rats.Configuration,
		Title: "there are no claims of an event log", Hint: "ask for evidence of format eventlog"}
	CodeWeakBank = rats.CodeInfo{Code: "eventlog.bank.weak", Slot: rats.Configuration,
		Title: "the log is proven by SHA-1 only", Hint: "quote the sha256 bank; sha1_until accepts SHA-1 for a while"}
	CodeUnquoted = rats.CodeInfo{Code: "eventlog.register.unproven", Slot: rats.Configuration,
		Title: "a register that the rules need is not known to hold the log's value", Hint: "let the tpm section quote this PCR too"}
	CodeUnexplained = rats.CodeInfo{Code: "eventlog.register.unexplained", Slot: rats.Configuration,
		Title: "a register was extended with something that is in no log", Hint: "find what extends this PCR after boot; systemd before 254 keeps no log of more than its phases"}
	CodePhase = rats.CodeInfo{Code: "eventlog.phase.missing", Slot: rats.Configuration,
		Title: "the system is not known to have reached the phase that the rules demand", Hint: "boot by systemd-stub with the systemd-pcrphase services; attest again once the phase is reached"}
	CodeSection = rats.CodeInfo{Code: "eventlog.section.unknown", Slot: rats.Executables,
		Title: "PCR 11 holds something else than the sections of a unified kernel image that the rules allow", Hint: "add the section's digest to sections if the image was intended"}
	CodeSystemdEvent = rats.CodeInfo{Code: "eventlog.systemd.unknown", Slot: rats.Configuration,
		Title: "the system measured something that the rules do not allow", Hint: "add a pattern of its text to systemd, or its digest to systemd_digests"}
	CodeMismatched = rats.CodeInfo{Code: "eventlog.event.digest", Slot: rats.Configuration,
		Title: "an event's data does not hash to the digest that was measured", Hint: "the data was altered, or the firmware is at fault: nothing it says can be relied on"}
	CodeSecureBoot = rats.CodeInfo{Code: "eventlog.secure-boot.off", Slot: rats.Configuration,
		Title: "Secure Boot is not enabled", Hint: "enable Secure Boot in the firmware's setup, or say secure_boot: any"}
	CodeSecureBootUnproven = rats.CodeInfo{Code: "eventlog.secure-boot.unproven", Slot: rats.Configuration,
		Title: "the log does not prove whether Secure Boot is enabled", Hint: "quote PCR 7; for a CCEL log, list the digests of the firmware's own events in firmware"}
	CodeDebugMode = rats.CodeInfo{Code: "eventlog.firmware.debug", Slot: rats.Configuration,
		Title: "firmware was open to a debugger, or DMA protection was off", Hint: "close it in the firmware's setup; debug_until accepts it for a while"}
	CodeDatabase = rats.CodeInfo{Code: "eventlog.database.unproven", Slot: rats.Configuration,
		Title: "a signature database that rules judge is absent, malformed or unproven", Hint: "quote PCR 7; look at the firmware's Secure Boot keys"}
	CodeKey = rats.CodeInfo{Code: "eventlog.database.entry", Slot: rats.Configuration,
		Title: "a signature database holds an entry that the rules do not allow", Hint: "remove the key in the firmware's setup, or add its digest to the rule"}
	CodeForbidden = rats.CodeInfo{Code: "eventlog.database.dbx", Slot: rats.Configuration,
		Title: "the forbidden signatures (dbx) lack an entry that the rules demand", Hint: "apply the vendor's dbx update"}
	CodeAuthority = rats.CodeInfo{Code: "eventlog.authority.unknown", Slot: rats.Executables,
		Title: "an image was allowed by a key that the rules do not allow", Hint: "add the certificate's digest to authorities if the image was intended"}
	CodeMOK = rats.CodeInfo{Code: "eventlog.mok.unknown", Slot: rats.Configuration,
		Title: "shim's lists of Machine Owner Keys are not those that the rules allow", Hint: "remove the key with mokutil --delete, or add the list's digest to mok if the key was intended"}
	CodeSbat = rats.CodeInfo{Code: "eventlog.sbat.old", Slot: rats.Configuration,
		Title: "shim's revocation level is older than the rules demand, or unproven", Hint: "update shim"}
	CodeFirmware = rats.CodeInfo{Code: "eventlog.firmware.unknown", Slot: rats.Executables,
		Title: "firmware measured something that the rules do not allow", Hint: "add the digest to firmware if an update was intended"}
	CodeImage = rats.CodeInfo{Code: "eventlog.image.unknown", Slot: rats.Executables,
		Title: "a boot loader or kernel ran that the rules do not allow", Hint: "add the digest to boot_loaders or kernels if an update was intended"}
	CodeDriver = rats.CodeInfo{Code: "eventlog.driver.unknown", Slot: rats.Executables,
		Title: "a driver or option ROM ran that the rules do not allow", Hint: "add the digest to drivers if the device is meant to be there"}
	CodeOSEvent = rats.CodeInfo{Code: "eventlog.boot.unknown", Slot: rats.Executables,
		Title: "the boot loader measured something that the rules do not allow", Hint: "add it to initrds, kernels, grub_files, grub_commands or cmdlines if it was intended"}
	CodeCommandLine = rats.CodeInfo{Code: "eventlog.cmdline.missing", Slot: rats.Configuration,
		Title: "no command line that the rules allow was measured", Hint: "check the boot loader's configuration; quote PCRs 8, 9 and 12"}
)

var ruleCodes = []rats.CodeInfo{
	CodeRuleValue, CodeRuleUntil, CodeClaims, CodeWeakBank, CodeUnquoted, CodeMismatched, CodeSecureBoot,
	CodeSecureBootUnproven, CodeDebugMode, CodeDatabase, CodeKey, CodeForbidden, CodeAuthority, CodeMOK, CodeSbat, CodeFirmware,
	CodeImage, CodeDriver, CodeOSEvent, CodeCommandLine, CodeUnexplained, CodePhase, CodeSection, CodeSystemdEvent,
}

// Any in a list of digests or patterns allows everything. It must stand there: an empty list allows nothing.
const Any = "*"

// SecureBootAny as secure_boot accepts every state.
const SecureBootAny = "any"

// Rules is the section "eventlog" of a policy. Every rule is about what was measured, whatever the log calls it: a
// register that is judged must replay, and each of its events must be allowed.
//
// Digests are written alg:hex, in the bank that is quoted; those of certificates as sha256 of the DER.
type Rules struct {
	// SecureBoot is required (if empty) or any.
	SecureBoot string `yaml:"secure_boot"`
	// PK, KEK and DB list the entries a database may hold, if it is to be judged: certificates by the SHA-256 of their
	// DER, hashes as they are.
	PK  []string `yaml:"pk"`
	KEK []string `yaml:"kek"`
	DB  []string `yaml:"db"`
	// DBX lists entries that the forbidden signatures must hold.
	DBX []string `yaml:"dbx_contains"`
	// Authorities lists the certificates by which images may have been allowed to run.
	Authorities []string `yaml:"authorities"`
	// SbatLevel is the oldest date (2023012900) of shim's revocation level.
	SbatLevel string `yaml:"sbat_level"`
	// MOK lists what PCR 14 may hold, if it is to be judged: shim's lists of Machine Owner Keys, as measured.
	MOK []string `yaml:"mok"`
	// Firmware lists what PCR 0 (RTMR 0) may hold, if it is to be judged.
	Firmware []string `yaml:"firmware"`
	// Drivers lists the drivers and option ROMs of PCR 2, if they are to be judged.
	Drivers []string `yaml:"drivers"`
	// BootLoaders and Kernels list the images that may run before the system (PCR 4, RTMR 1).
	BootLoaders []string `yaml:"boot_loaders"`
	Kernels     []string `yaml:"kernels"`
	// Any of the following has PCRs 8, 9 and 12 (RTMR 2) judged: each event must be allowed by one of them.
	Initrds         []string `yaml:"initrds"`
	GrubFiles       []string `yaml:"grub_files"`
	GrubCommands    []string `yaml:"grub_commands"`    // patterns of whole commands
	CommandLines    []string `yaml:"cmdlines"`         // exact
	CommandPatterns []string `yaml:"cmdline_patterns"` // patterns of whole command lines
	// Any of the following has PCR 11 judged, Systemd and SystemdDigests have 12, 13 and 15 too: they must replay, and what
	// systemd measured into them must be a phase in its place, or be allowed by one of these two.
	Phase          string   `yaml:"phase"`           // that must be reached: enter-initrd, leave-initrd, sysinit, ready
	Systemd        []string `yaml:"systemd"`         // patterns of whole strings: machine-id:…, file-system:…, phases of one's own
	SystemdDigests []string `yaml:"systemd_digests"` // of volume keys, and of anything else whose text can't be proven
	Sections       []string `yaml:"sections"`        // what PCRs 11 and 13 may hold of images; nil: what PCR 4's image measured
	// Reference names a reference set that allows digests too, under the names boot_loader, kernel, driver, firmware,
	// initrd, grub_file, mok, section and systemd.
	Reference string `yaml:"reference"`
	// Relaxations, each until a day (2027-01-31).
	SHA1Until  string `yaml:"sha1_until"`
	DebugUntil string `yaml:"debug_until"`

	// Filled by Lint; without it Check allows nothing.
	linted   bool
	commands []*regexp.Regexp
	lines    []*regexp.Regexp
	systemd  []*regexp.Regexp
}

var _ rats.Rules = (*Rules)(nil)

// Lint implements rats.Rules.
func (r *Rules) Lint() []rats.Reason {
	var out []rats.Reason
	r.linted = false
	bad := func(field, expected, seen string) {
		out = append(out, CodeRuleValue.Refuse("eventlog."+field, expected, fmt.Sprintf("%q", clip(seen, 64))))
	}
	if !slices.Contains([]string{"", "required", SecureBootAny}, r.SecureBoot) {
		bad("secure_boot", "required or any", r.SecureBoot)
	}
	for _, l := range r.lists() {
		for i, text := range l.values {
			if _, err := rats.ParseDigest(text); err != nil && text != Any {
				bad(fmt.Sprintf("%s[%d]", l.field, i), `a digest, or "*"`, text)
			}
		}
	}
	if r.SbatLevel != "" && !sbatDate.MatchString(r.SbatLevel) {
		bad("sbat_level", "ten digits", r.SbatLevel)
	}
	if r.Phase != "" && !slices.Contains(systemdPhases, r.Phase) {
		bad("phase", strings.Join(systemdPhases, ", "), r.Phase)
	}
	r.commands, r.lines, r.systemd = nil, nil, nil
	for _, p := range []struct {
		field string
		from  []string
		to    *[]*regexp.Regexp
	}{{"grub_commands", r.GrubCommands, &r.commands}, {"cmdline_patterns", r.CommandPatterns, &r.lines}, {"systemd", r.Systemd, &r.systemd}} {
		for i, text := range p.from {
			if text == Any {
				text = ".*"
			}
			re, err := regexp.Compile(`(?s)\A(?:` + text + `)\z`)
			if err != nil {
				bad(fmt.Sprintf("%s[%d]", p.field, i), "a regular expression", text)
				continue
			}
			*p.to = append(*p.to, re)
		}
	}
	for field, day := range map[string]string{"sha1_until": r.SHA1Until, "debug_until": r.DebugUntil} {
		if _, err := time.Parse(time.DateOnly, day); err != nil && day != "" {
			out = append(out, CodeRuleUntil.Refuse("eventlog."+field, "a day, 2027-01-31", fmt.Sprintf("%q", clip(day, 64))))
		}
	}
	r.linted = len(out) == 0
	return out
}

var sbatDate = regexp.MustCompile(`\A[0-9]{10}\z`)

type list struct {
	field  string
	values []string
}

func (r *Rules) lists() []list {
	return []list{
		{"pk", r.PK}, {"kek", r.KEK}, {"db", r.DB}, {"dbx_contains", r.DBX}, {"authorities", r.Authorities}, {"mok", r.MOK},
		{"firmware", r.Firmware}, {"drivers", r.Drivers}, {"boot_loaders", r.BootLoaders}, {"kernels", r.Kernels},
		{"initrds", r.Initrds}, {"grub_files", r.GrubFiles}, {"sections", r.Sections}, {"systemd_digests", r.SystemdDigests},
	}
}

// Slots implements rats.Rules: what ran before the system, and how it was configured.
func (r *Rules) Slots() []rats.Slot { return []rats.Slot{rats.Configuration, rats.Executables} }

// Params implements rats.Rules.
func (r *Rules) Params() []byte {
	b, err := json.Marshal(Params{})
	if err != nil { // no fields that could fail
		return nil
	}
	return b
}

// Check implements rats.Rules.
func (r *Rules) Check(claims rats.Claims, l rats.Lookup, now time.Time) []rats.Reason {
	c, ok := claims.(*Claims)
	if !ok || c == nil || !r.linted {
		return []rats.Reason{CodeClaims.Refuse("claims", "claims of an event log, and rules without mistakes", fmt.Sprintf("%T", claims))}
	}
	k := &checker{r: r, c: c, l: l, count: map[rats.Code]int{}}
	if c.Bank == "sha1" && !until(r.SHA1Until, now) {
		k.add(CodeWeakBank.Refuse("bank", "sha256 or stronger", c.Bank))
	}
	if c.DebugMode && !until(r.DebugUntil, now) {
		k.add(CodeDebugMode.Refuse("debug_mode", "false", "true"))
	}
	for _, n := range c.Mismatched {
		k.add(CodeMismatched.Refuse(fmt.Sprintf("events[%d]", n), "data that hashes to the digest", "other data"))
	}
	k.secureBoot()
	k.databases()
	k.authorities()
	k.images()
	k.boot()
	k.system()
	return k.out
}

// until says whether now is before the end of a day; no day is past.
func until(day string, now time.Time) bool {
	end, err := time.Parse(time.DateOnly, day)
	return err == nil && now.Before(end.AddDate(0, 0, 1))
}

// commandDigests are the digests that an exact command line has when it is measured: by GRUB as it is, by systemd and
// Linux' EFI stub in UTF-16 with its terminator.
func commandDigests(line, bank string) [][]byte {
	h := hashOf(bank)
	if h == nil {
		return nil
	}
	wide := utf16Bytes(line)
	var out [][]byte
	for _, b := range [][]byte{[]byte(line), append([]byte(line), 0), wide, append(slices.Clone(wide), 0, 0)} {
		h.Reset()
		h.Write(b)
		out = append(out, h.Sum(make([]byte, 0, sha256.Size)))
	}
	return out
}

func allows(list []string, d rats.Digest) bool {
	return slices.ContainsFunc(list, func(s string) bool { return s == Any || !d.IsZero() && strings.EqualFold(s, d.String()) })
}
