package eventlog

import (
	"encoding/binary"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

type lookup map[string]string // role → content

func (l lookup) Find(set, name string, d rats.Digest) (rats.RefHit, error) {
	if set != "boot" {
		return rats.RefHit{}, rats.CodeInfo{Code: "refvalue.set.missing"}.Missing(set, "a set", "none")
	}
	c, ok := l[name]
	return rats.RefHit{Known: ok && rats.SHA256([]byte(c)).Equal(d)}, nil
}

func (l lookup) Names(string, string) (iter.Seq[string], error) {
	return slices.Values([]string(nil)), nil
}
func (l lookup) Ref(string) (rats.Ref, error) { return rats.Ref{}, nil }

// What rules make of boots.
func TestBootsAreJudged(t *testing.T) {
	base := Rules{BootLoaders: []string{shaText("shim")}, Kernels: []string{shaText("kernel")}}
	os := func(r *Rules) { r.CommandLines, r.Initrds = []string{cmdline}, []string{shaText("initrd")} }
	code := func(cs ...rats.CodeInfo) string {
		var s []string
		for _, c := range cs {
			s = append(s, string(c.Code))
		}
		return strings.Join(s, " ")
	}
	grubbed := func(commands ...string) *builder {
		l := newLog(KindPCR).variable(guidGlobal, "SecureBoot", []byte{1}).separator(7).image(4, evApplication, "shim", "shim")
		return l.grub(commands...)
	}
	for name, tc := range map[string]struct {
		l      *builder
		change func(*Rules)
		want   string
	}{
		"good":                            {boot(), nil, ""},
		"nothing allowed":                 {boot(), func(r *Rules) { r.BootLoaders, r.Kernels = nil, nil }, code(CodeImage)},
		"anything allowed":                {boot(), func(r *Rules) { r.BootLoaders, r.Kernels = []string{Any}, nil }, ""},
		"Secure Boot off":                 {bootWith(KindPCR, 0), nil, code(CodeSecureBoot)},
		"Secure Boot off, any":            {bootWith(KindPCR, 0), func(r *Rules) { r.SecureBoot = SecureBootAny }, ""},
		"no Secure Boot variable":         {newLog(KindPCR).separator(7), nil, code(CodeSecureBoot)},
		"no separator":                    {newLog(KindPCR).variable(guidGlobal, "SecureBoot", []byte{1}), nil, code(CodeSecureBootUnproven)},
		"the variable twice":              {newLog(KindPCR).variable(guidGlobal, "SecureBoot", []byte{0}).variable(guidGlobal, "SecureBoot", []byte{1}).separator(7), nil, code(CodeSecureBootUnproven)},
		"another loader":                  {boot().image(4, evApplication, `\EFI\shimx64.efi`, "evil"), nil, code(CodeImage)},
		"a loader called an action":       {boot().event(4, evEFIAction, []byte("Calling EFI Application from Boot Option"), []byte("evil")), nil, code(CodeImage)},
		"a loader's bytes as data":        {boot().event(4, evEFIAction, []byte("MZ evil"), []byte("MZ evil")), nil, code(CodeImage)},
		"a loader's bytes behind a label": {boot().event(4, evIPL, []byte("grub_cmd: MZ evil"), []byte("MZ evil")), nil, code(CodeImage)},
		"keys": {boot(), func(r *Rules) {
			r.PK, r.KEK, r.DB = []string{shaText("pk")}, []string{shaText("kek1"), shaText("kek2")}, []string{shaText("db")}
		}, ""},
		"an unlisted KEK":         {boot(), func(r *Rules) { r.KEK = []string{shaText("kek1")} }, code(CodeKey)},
		"no db entry allowed":     {boot(), func(r *Rules) { r.DB = []string{} }, code(CodeKey)},
		"db measured twice":       {newLog(KindPCR).variable(guidGlobal, "SecureBoot", []byte{1}).variable(guidSecurity, "db", nil).variable(guidSecurity, "db", nil).separator(7), func(r *Rules) { r.DB = []string{Any} }, code(CodeDatabase)},
		"db malformed":            {newLog(KindPCR).variable(guidGlobal, "SecureBoot", []byte{1}).variable(guidSecurity, "db", []byte("x")).separator(7), func(r *Rules) { r.DB = []string{Any} }, code(CodeDatabase)},
		"dbx holds it":            {boot(), func(r *Rules) { r.DBX = []string{shaText("revoked")} }, ""},
		"dbx lacks it":            {boot(), func(r *Rules) { r.DBX = []string{shaText("boothole")} }, code(CodeForbidden)},
		"authority":               {boot(), func(r *Rules) { r.Authorities = []string{shaText("db")} }, ""},
		"another authority":       {boot(), func(r *Rules) { r.Authorities = []string{shaText("pk")} }, code(CodeAuthority)},
		"SBAT":                    {boot(), func(r *Rules) { r.SbatLevel = "2023012900" }, ""},
		"SBAT too old":            {boot(), func(r *Rules) { r.SbatLevel = "2024010100" }, code(CodeSbat)},
		"firmware":                {boot(), func(r *Rules) { r.Firmware = []string{shaText("firmware")} }, ""},
		"other firmware":          {boot(), func(r *Rules) { r.Firmware = []string{shaText("old")} }, code(CodeFirmware)},
		"option ROM":              {boot(), func(r *Rules) { r.Drivers = []string{shaText("rom")} }, ""},
		"another option ROM":      {boot(), func(r *Rules) { r.Drivers = []string{shaText("old")} }, code(CodeDriver)},
		"command line and initrd": {boot(), os, ""},
		"another command line":    {boot(), func(r *Rules) { os(r); r.CommandLines = []string{cmdline + " x"} }, code(CodeOSEvent, CodeCommandLine)},
		"another initrd":          {boot(), func(r *Rules) { os(r); r.Initrds = []string{shaText("old")} }, code(CodeOSEvent)},
		"no command line":         {newLog(KindPCR).variable(guidGlobal, "SecureBoot", []byte{1}).separator(7), os, code(CodeCommandLine)},
		"a pattern needs text":    {boot(), func(r *Rules) { os(r); r.CommandLines, r.CommandPatterns = nil, []string{".*"} }, code(CodeOSEvent, CodeCommandLine)},
		"GRUB": {grubbed("grub_cmd: insmod tpm", "kernel_cmdline: /vmlinuz "+cmdline), func(r *Rules) {
			os(r)
			r.CommandLines, r.GrubCommands = []string{"/vmlinuz " + cmdline}, []string{"insmod [a-z]+"}
		}, ""},
		"GRUB, by pattern": {grubbed("kernel_cmdline: /vmlinuz " + cmdline), func(r *Rules) {
			os(r)
			r.CommandLines, r.CommandPatterns = nil, []string{"/vmlinuz root=/dev/[a-z]+ ro quiet"}
		}, ""},
		"a pattern is of whole lines": {grubbed("kernel_cmdline: /vmlinuz " + cmdline + " init=/x"), func(r *Rules) {
			os(r)
			r.CommandLines, r.CommandPatterns = nil, []string{"/vmlinuz root=/dev/[a-z]+ ro quiet"}
		}, code(CodeOSEvent, CodeCommandLine)},
		"another GRUB command": {grubbed("grub_cmd: set check_signatures=no", "kernel_cmdline: /vmlinuz "+cmdline), func(r *Rules) {
			os(r)
			r.CommandLines, r.GrubCommands = []string{"/vmlinuz " + cmdline}, []string{"insmod [a-z]+"}
		}, code(CodeOSEvent)},
		"a command line as a command": {grubbed("grub_cmd: /vmlinuz init=/evil", "kernel_cmdline: good"), func(r *Rules) { os(r); r.CommandLines, r.GrubCommands = []string{"good"}, []string{"insmod .*"} }, code(CodeOSEvent)},
		"debug mode":                  {newLog(KindPCR).text(7, evEFIAction, "UEFI Debug Mode").variable(guidGlobal, "SecureBoot", []byte{1}).separator(7), nil, code(CodeDebugMode)},
		"debug mode for a while":      {newLog(KindPCR).text(7, evEFIAction, "UEFI Debug Mode").variable(guidGlobal, "SecureBoot", []byte{1}).separator(7), func(r *Rules) { r.DebugUntil = "2026-06-01" }, ""},
		"debug mode for too long":     {newLog(KindPCR).text(7, evEFIAction, "UEFI Debug Mode").variable(guidGlobal, "SecureBoot", []byte{1}).separator(7), func(r *Rules) { r.DebugUntil = "2026-05-31" }, code(CodeDebugMode)},
		"a TD":                        {bootWith(KindRTMR, 1), func(r *Rules) { r.Firmware, r.Drivers = []string{shaText("firmware")}, []string{shaText("rom")} }, ""},
		"a TD with unlisted firmware": {bootWith(KindRTMR, 1), func(r *Rules) { r.Drivers = []string{shaText("rom")} }, code(CodeSecureBootUnproven)},
		"from a set":                  {boot(), func(r *Rules) { r.BootLoaders, r.Kernels, r.Reference = nil, nil, "boot" }, ""},
		"from a missing set":          {boot(), func(r *Rules) { r.Kernels, r.Reference = nil, "gone" }, "refvalue.set.missing " + code(CodeImage)},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustVerify(t, tc.l.evidence(), tc.l.inputs())
			r := base
			if tc.change != nil {
				tc.change(&r)
			}
			if reasons := r.Lint(); len(reasons) > 0 {
				t.Fatal(reasons)
			}
			if got := codesOf(r.Check(c, lookup{"boot_loader": "shim", "kernel": "kernel"}, noon)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// A pattern judges all of what was measured, or nothing.
func TestPatternsNeverMatchAPartOfALine(t *testing.T) {
	for name, line := range map[string]string{
		"too long":                 strings.Repeat("x", maxLine) + " init=/evil",
		"NUL inside":               "x\x00 init=/evil",
		"UTF-16 with a NUL inside": string(utf16Bytes("x\x00 init=/evil")),
		"UTF-16, escapes":          string(utf16Bytes("x%%%%%%%%\x00 init=/e")),
		"UTF-16, too long":         string(utf16Bytes(strings.Repeat("x", maxLine) + " init=/evil")),
	} {
		l := newLog(KindPCR).text(8, evIPL, line)
		c := mustVerify(t, l.evidence(), l.inputs())
		r := &Rules{SecureBoot: SecureBootAny, CommandPatterns: []string{"x+%*…?"}}
		if got := codesOf(checked(t, r, c)); !strings.Contains(got, string(CodeOSEvent.Code)) {
			t.Errorf("%s: %q", name, got)
		}
	}
	l := newLog(KindPCR).text(8, evIPL, string(utf16Bytes("xx\x00")))
	if got := codesOf(checked(t, &Rules{SecureBoot: SecureBootAny, CommandPatterns: []string{"x+"}}, mustVerify(t, l.evidence(), l.inputs()))); got != "" {
		t.Error(got)
	}
}

func TestUnquotedRegistersThatRulesNeedAreNamed(t *testing.T) {
	l := boot()
	in := l.inputs()
	delete(in.Facts.Registers[0].Values, 4)
	c := mustVerify(t, l.evidence(), in)
	if got := codesOf(checked(t, &Rules{BootLoaders: []string{Any}}, c)); got != string(CodeUnquoted.Code) {
		t.Error(got)
	}
}

func TestEventWhoseDataWasChangedIsNamed(t *testing.T) {
	l := boot()
	e := l.evidence()
	at := eventOffset(t, e.Body, 5)
	size := int(binary.LittleEndian.Uint32(e.Body[at+12+22+34:]))
	e.Body[at+12+22+34+4+size-1] ^= 1
	c := mustVerify(t, e, l.inputs())
	if len(c.Mismatched) != 1 || c.Mismatched[0] != 5 {
		t.Errorf("%v", c.Mismatched)
	}
	if got := codesOf(checked(t, &Rules{BootLoaders: []string{Any}}, c)); !strings.Contains(got, string(CodeMismatched.Code)) {
		t.Error(got)
	}
}

func TestSHA1IsRefusedUntilADay(t *testing.T) {
	// A log without header has SHA-1 only.
	data := []byte{0, 0, 0, 0}
	legacy := append(le32(le32(nil, 7), evSeparator), make([]byte, 20)...)
	legacy = append(le32(legacy, 4), data...)
	log, err := Parse(legacy, false)
	if err != nil {
		t.Fatal(err)
	}
	values, err := log.Replay("sha1", KindPCR)
	if err != nil {
		t.Fatal(err)
	}
	in := rats.Inputs{Facts: rats.Facts{Registers: []rats.Registers{{Kind: KindPCR, Alg: "sha1", Values: values}}}}
	c := mustVerify(t, rats.Evidence{Format: Format, MediaType: MediaType, Body: legacy}, in)
	for day, refused := range map[string]bool{"": true, "2026-05-31": true, "2026-06-01": false} {
		r := &Rules{SHA1Until: day, BootLoaders: []string{Any}, SecureBoot: SecureBootAny}
		r.Lint()
		if got := codesOf(r.Check(c, nil, noon)); strings.Contains(got, string(CodeWeakBank.Code)) != refused {
			t.Errorf("until %q: %s", day, got)
		}
	}
}

func TestMistakesInRulesAreNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		r    Rules
		want rats.CodeInfo
	}{
		"secure_boot":      {Rules{SecureBoot: "off"}, CodeRuleValue},
		"a digest":         {Rules{Kernels: []string{"x"}}, CodeRuleValue},
		"a SBAT level":     {Rules{SbatLevel: "2023"}, CodeRuleValue},
		"a pattern":        {Rules{CommandPatterns: []string{"("}}, CodeRuleValue},
		"an endless SHA-1": {Rules{SHA1Until: "ever"}, CodeRuleUntil},
		"an endless debug": {Rules{DebugUntil: "ever"}, CodeRuleUntil},
	} {
		if reasons := tc.r.Lint(); len(reasons) != 1 || reasons[0].Code != tc.want.Code {
			t.Errorf("%s: %v", name, reasons)
		}
		if got := codesOf(tc.r.Check(&Claims{}, nil, noon)); got != string(CodeClaims.Code) {
			t.Errorf("%s: rules with mistakes judge: %s", name, got)
		}
	}
	r := &Rules{}
	r.Lint()
	var none *Claims
	if got := codesOf(r.Check(none, nil, noon)); got != string(CodeClaims.Code) {
		t.Error(got)
	}
	if got := r.Check(&Claims{}, nil, noon); len(got) == 0 {
		t.Error("empty claims are accepted")
	}
}
