package eventlog

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
)

const bootID = "00112233445566778899aabbccddeeff"

// later builds systemd's log as it documents it, beside a boot log whose registers go on.
type laterLog struct {
	*builder
	b []byte
}

func (l *laterLog) record(register, kind, text string, s1, s256 []byte) *laterLog {
	var content bytes.Buffer
	for k, v := range map[string]string{"eventType": kind, "string": text} {
		if v != "" {
			q, _ := json.Marshal(v)
			fmt.Fprintf(&content, "%q:%s,", k, q)
		}
	}
	l.b = fmt.Appendf(l.b, "\x1e{%s,\"digests\":[{\"hashAlg\":\"sha1\",\"digest\":\"%s\"},{\"hashAlg\":\"sha256\",\"digest\":\"%s\"}],\"content_type\":\"systemd\",\"content\":{%s\"bootId\":\"%s\",\"timestamp\":123456}}\n",
		register, hex.EncodeToString(s1), hex.EncodeToString(s256), content.String(), bootID)
	return l
}

// measure adds a measurement of text.
func (l *laterLog) measure(pcr int, kind, text string) *laterLog {
	s1, s256 := sha1.Sum([]byte(text)), sha256.Sum256([]byte(text))
	l.extend(pcr, s256[:])
	return l.record(fmt.Sprintf(`"pcr":%d`, pcr), kind, text, s1[:], s256[:])
}

// volume adds a MAC by a volume's key: the text is not what was hashed.
func (l *laterLog) volume(name, key string) *laterLog {
	m1, m256 := hmac.New(sha1.New, []byte(key)), hmac.New(sha256.New, []byte(key))
	m1.Write([]byte("cryptsetup:" + name))
	m256.Write([]byte("cryptsetup:" + name))
	l.extend(15, m256.Sum(nil))
	return l.record(`"pcr":15`, "volume-key", "cryptsetup:"+name, m1.Sum(nil), m256.Sum(nil))
}

func volumeDigest(name, key string) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte("cryptsetup:" + name))
	return rats.Digest{Alg: "sha256", Sum: m.Sum(nil)}.String()
}

func (l *laterLog) evidence() rats.Evidence {
	e := l.builder.evidence()
	e.Parts = []rats.Part{{Name: PartSystemd, Data: slices.Clone(l.b)}}
	return e
}

// unified builds a boot of a unified kernel image.
func unified() *builder {
	l := boot()
	for _, s := range []string{".osrel", ".cmdline", ".linux", ".initrd"} {
		name := append(utf16Bytes(s), 0, 0)
		l.event(11, evIPL, name, []byte(s+"\x00")).event(11, evIPL, name, []byte("content of "+s))
	}
	return l
}

const machineID, rootFS = "machine-id:0123456789abcdef0123456789abcdef", "file-system:/:ext4:uuid:root:part-uuid:part-type:root"

// system builds what systemd measures of a whole boot.
func system() *laterLog {
	l := &laterLog{builder: unified()}
	return l.measure(11, "phase", "enter-initrd").volume("root:uuid", "key").measure(11, "phase", "leave-initrd").
		measure(15, "machine-id", machineID).measure(15, "filesystem", rootFS).measure(11, "phase", "sysinit").
		record(`"nv_index":30474752`, "product-id", "product-id:missing", make([]byte, 20), make([]byte, 32)).
		measure(9, "nvpcr-init", "nvpcr-init:hardware:0x1d10200:000b00").measure(11, "phase", "ready")
}

// R142: systemd's measurements, each with its proof.
func TestFactsOfSystemdsLogCarryTheirProof(t *testing.T) {
	l := system()
	c := mustVerify(t, l.evidence(), l.inputs())
	for _, n := range []int{9, 11, 12, 13, 15} {
		if !c.Replayed(n) {
			t.Errorf("register %d is not replayed", n)
		}
	}
	if !slices.Equal(c.Phases, []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}) {
		t.Errorf("phases %v", c.Phases)
	}
	u := c.Userspace
	if u == nil || u.Records != 9 || u.NVIndex != 1 || u.Unquoted != 0 || u.Boot != bootID || !u.Log.Equal(rats.SHA256(l.b)) || len(u.Other) != 1 {
		t.Fatalf("%+v", u)
	}
	if u.MachineID[0].Name != machineID || u.MachineID[0].Proof != ProofDigest || u.FileSystems[0].Proof != ProofDigest {
		t.Errorf("%+v %+v", u.MachineID, u.FileSystems)
	}
	if v := u.VolumeKeys[0]; v.Proof != ProofText || v.Digest.String() != volumeDigest("root:uuid", "key") {
		t.Errorf("%+v", v)
	}
	if r, _ := c.Register(15); r.Systemd != 3 || r.Events != 0 {
		t.Errorf("%+v", r)
	}
}

// The log is read after the quote: what came between is not proven and not judged, the rest is.
func TestRecordsAfterTheQuoteAreNotProven(t *testing.T) {
	l := &laterLog{builder: unified()}
	l.measure(11, "phase", "sysinit")
	in := l.inputs()
	l.measure(11, "phase", "ready").measure(15, "machine-id", machineID)
	c := mustVerify(t, l.evidence(), in)
	if !c.Replayed(11) || !c.Replayed(15) || !slices.Equal(c.Phases, []string{"sysinit"}) || c.Userspace.Unquoted != 2 || len(c.Userspace.MachineID) != 0 {
		t.Errorf("%v %+v", c.Phases, c.Userspace)
	}
	r := &Rules{BootLoaders: []string{Any}, Phase: "ready", Systemd: []string{}}
	if got := codesOf(checked(t, r, c)); got != string(CodePhase.Code) {
		t.Error(got)
	}
}

// The refusal matrix of systemd's log: a valid one with one thing changed.
func TestChangedSystemdLogIsRefused(t *testing.T) {
	change := func(old, with string) func(*laterLog, *rats.Evidence) {
		return func(_ *laterLog, e *rats.Evidence) {
			b := bytes.Replace(e.Parts[0].Data, []byte(old), []byte(with), 1)
			if bytes.Equal(b, e.Parts[0].Data) {
				t.Errorf("%q is not in the log", old)
			}
			e.Parts[0].Data = b
		}
	}
	for name, tc := range map[string]struct {
		change func(l *laterLog, e *rats.Evidence)
		want   rats.CodeInfo
	}{
		"two parts":              {func(_ *laterLog, e *rats.Evidence) { e.Parts = append(e.Parts, e.Parts[0]) }, CodeMediaType},
		"a part of another name": {func(_ *laterLog, e *rats.Evidence) { e.Parts[0].Name = "syslog" }, CodeMediaType},
		"a part that goes on":    {func(_ *laterLog, e *rats.Evidence) { e.Parts[0].Offset = 1 }, CodeMediaType},
		"beside the log of a TD": {func(_ *laterLog, e *rats.Evidence) { e.MediaType = MediaTypeCCEL }, CodeMediaType},
		"too long":               {func(_ *laterLog, e *rats.Evidence) { e.Parts[0].Data = make([]byte, maxSystemdLog+1) }, CodeSystemdLarge},
		"a record that is too long": {func(_ *laterLog, e *rats.Evidence) {
			e.Parts[0].Data = append(append([]byte{recordSeparator}, bytes.Repeat([]byte{' '}, maxSystemdRecord)...), '\n')
		}, CodeSystemdLarge},
		"too many records": {func(_ *laterLog, e *rats.Evidence) {
			e.Parts[0].Data = bytes.Repeat([]byte("\x1e{\"pcr\":16,\"digests\":[{\"hashAlg\":\"x\"}]}\n"), maxRecords+1)
		}, CodeSystemdLarge},
		"no separator":    {func(_ *laterLog, e *rats.Evidence) { e.Parts[0].Data = e.Parts[0].Data[1:] }, CodeSystemdMalformed},
		"an empty record": {change("\x1e", "\x1e\x1e"), CodeSystemdTruncated},
		"no line feed":    {func(_ *laterLog, e *rats.Evidence) { e.Parts[0].Data = e.Parts[0].Data[:len(e.Parts[0].Data)-1] }, CodeSystemdTruncated},
		"no JSON":         {change(`{"pcr"`, `["pcr"`), CodeSystemdMalformed},
		"a list":          {func(_ *laterLog, e *rats.Evidence) { e.Parts[0].Data = []byte("\x1e[]\n") }, CodeSystemdMalformed},
		"nested without end": {func(_ *laterLog, e *rats.Evidence) {
			e.Parts[0].Data = append(append([]byte("\x1e{\"x\":"), bytes.Repeat([]byte("["), 60000)...), '\n')
		}, CodeSystemdMalformed},
		"PCR 24":                         {change(`"pcr":11`, `"pcr":24`), CodeSystemdMalformed},
		"PCR -1":                         {change(`"pcr":11`, `"pcr":-1`), CodeSystemdMalformed},
		"PCR 1e1":                        {change(`"pcr":11`, `"pcr":1e1`), CodeSystemdMalformed},
		"a PCR and an NV index":          {change(`"pcr":11`, `"pcr":11,"nv_index":1`), CodeSystemdMalformed},
		"no register":                    {change(`"pcr":11`, `"x":11`), CodeSystemdMalformed},
		"no digests":                     {change(`"digests"`, `"x"`), CodeSystemdMalformed},
		"a short digest":                 {change(`"hashAlg":"sha256","digest":"`, `"hashAlg":"sha256","digest":"","x":"`), CodeSystemdMalformed},
		"a digest twice":                 {change(`"hashAlg":"sha1"`, `"hashAlg":"sha256"`), CodeSystemdMalformed},
		"no digest of the bank":          {change(`"hashAlg":"sha256"`, `"hashAlg":"sha3"`), CodeBank},
		"PCR 9 goes on without a record": {func(l *laterLog, e *rats.Evidence) { change(`"pcr":9`, `"pcr":16`)(l, e) }, CodeReplay},
	} {
		t.Run(name, func(t *testing.T) {
			l := system()
			e, in := l.evidence(), l.inputs()
			mustVerify(t, e, in)
			tc.change(l, &e)
			_, err := New().Verify(t.Context(), e, in)
			wantCode(t, err, tc.want)
		})
	}
	l := &laterLog{builder: boot()}
	if c := mustVerify(t, l.evidence(), l.inputs()); c.Userspace == nil || c.Userspace.Records != 0 {
		t.Errorf("a log without records: %+v", c.Userspace)
	}
}

// Two quoted banks hold the same measurements.
func TestBanksThatHoldDifferentlyManyRecordsAreRefused(t *testing.T) {
	l := system()
	e, in := l.evidence(), l.inputs()
	log, err := Parse(e.Body, false)
	if err != nil {
		t.Fatal(err)
	}
	values, err := log.Replay("sha1", KindPCR)
	if err != nil {
		t.Fatal(err)
	}
	in.Facts.Registers = append(in.Facts.Registers, rats.Registers{By: "tpm", Kind: KindPCR, Alg: "sha1", Values: map[int][]byte{11: values[11]}})
	_, err = New().Verify(t.Context(), e, in)
	wantCode(t, err, CodeReplay)
}

// Whatever is cut off or changed, no rule accepts a phase, a machine id or a key that isn't so.
func TestEveryTruncationAndFlipOfSystemdsLogIsRefused(t *testing.T) {
	l := system()
	in := l.inputs()
	r := systemRules()
	judge := func(b []byte) (*Claims, []rats.Reason) {
		e := l.evidence()
		e.Parts[0].Data = b
		v, err := New().Verify(t.Context(), e, in)
		if err != nil {
			return nil, []rats.Reason{{}}
		}
		return v.Claims.(*Claims), checked(t, r, v.Claims.(*Claims))
	}
	if _, got := judge(l.b); len(got) > 0 {
		t.Fatal(got)
	}
	for n := range l.b {
		if _, got := judge(l.b[:n]); len(got) == 0 {
			t.Fatalf("cut to %d bytes", n)
		}
		b := slices.Clone(l.b)
		b[n] ^= 1
		c, got := judge(b)
		if len(got) > 0 {
			continue
		}
		id := c.Userspace.MachineID
		if !slices.Equal(c.Phases, []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}) || len(id) > 0 && id[0].Proof == ProofDigest && id[0].Name != machineID {
			t.Errorf("with byte %d changed: %v %+v", n, c.Phases, id)
		}
	}
}

func systemRules() *Rules {
	return &Rules{
		BootLoaders: []string{Any}, Phase: "ready", Systemd: []string{"machine-id:[0-9a-f]{32}", "file-system:/:ext4:.*"},
		SystemdDigests: []string{volumeDigest("root:uuid", "key")},
	}
}

// What rules make of what the system measured.
func TestSystemsMeasurementsAreJudged(t *testing.T) {
	code := func(cs ...rats.CodeInfo) string {
		var s []string
		for _, c := range cs {
			s = append(s, string(c.Code))
		}
		return strings.Join(s, " ")
	}
	plain := func() *laterLog { return &laterLog{builder: unified()} }
	for name, tc := range map[string]struct {
		l      *laterLog
		change func(*Rules)
		want   string
	}{
		"good":                        {system(), nil, ""},
		"not judged":                  {system().measure(15, "x", "y"), func(r *Rules) { *r = Rules{BootLoaders: []string{Any}} }, ""},
		"a phase not reached":         {plain().measure(11, "phase", "sysinit"), nil, code(CodePhase)},
		"phases without a stub":       {(&laterLog{builder: boot()}).measure(11, "phase", "sysinit").measure(11, "phase", "ready"), nil, code(CodePhase)},
		"another volume key":          {system().volume("root:uuid", "other"), nil, code(CodeSystemdEvent)},
		"any volume key":              {system().volume("root:uuid", "other"), func(r *Rules) { r.SystemdDigests = []string{Any} }, ""},
		"a phase of one's own":        {system().measure(11, "phase", "own"), nil, code(CodeSystemdEvent)},
		"a phase of one's own, known": {system().measure(11, "phase", "own"), func(r *Rules) { r.Systemd = append(r.Systemd, "own") }, ""},
		"a phase again":               {system().measure(11, "phase", "enter-initrd"), nil, code(CodeSystemdEvent)},
		"only the phase matters":      {system().measure(15, "x", "y"), func(r *Rules) { *r = Rules{BootLoaders: []string{Any}, Phase: "ready"} }, ""},
		"a phase, then anything":      {system().measure(11, "x", "y"), func(r *Rules) { *r = Rules{BootLoaders: []string{Any}, Phase: "ready"} }, code(CodeSystemdEvent)},
		"nothing allowed":             {system(), func(r *Rules) { r.Systemd, r.SystemdDigests = []string{}, nil }, code(CodeSystemdEvent)},
		"sections listed": {system(), func(r *Rules) {
			r.Sections = []string{shaText("content of .osrel"), shaText("content of .cmdline")}
			r.Kernels, r.Initrds = []string{shaText("content of .linux"), Any}, nil
			r.Sections = append(r.Sections, shaText("content of .initrd"))
		}, ""},
		"a section unlisted":  {system(), func(r *Rules) { r.Sections = []string{shaText("content of .osrel")} }, code(CodeSection)},
		"no sections":         {system(), func(r *Rules) { r.Sections = []string{} }, code(CodeSection)},
		"a system extension":  {(&laterLog{builder: unified().event(13, evIPL, []byte("x"), []byte("sysext"))}).measure(11, "phase", "ready"), nil, code(CodeSection)},
		"a listed extension":  {(&laterLog{builder: unified().event(13, evIPL, []byte("x"), []byte("sysext"))}).measure(11, "phase", "ready"), func(r *Rules) { r.Initrds = []string{Any}; r.CommandLines = []string{cmdline} }, ""},
		"the loader's PCR 15": {(&laterLog{builder: unified().text(15, evIPL, "x")}).measure(11, "phase", "ready"), nil, code(CodeSection)},
		// PCRs 8, 9 and 12 are judged as one: what systemd adds there must be allowed too.
		"an NV index's name": {system(), func(r *Rules) { r.CommandLines, r.Initrds = []string{cmdline}, []string{Any} }, code(CodeSystemdEvent)},
		"an NV index's name, allowed": {system(), func(r *Rules) {
			r.CommandLines, r.Initrds, r.Systemd = []string{cmdline}, []string{Any}, append(r.Systemd, "nvpcr-init:hardware:.*")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := systemRules()
			if tc.change != nil {
				tc.change(r)
			}
			if got := codesOf(checked(t, r, mustVerify(t, tc.l.evidence(), tc.l.inputs()))); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// S13, S32: root extends PCR 11 after the phases and shows them as part of the boot loader's log, to have later ones stand first.
func TestPhasesShownAsSectionsAreNotBelieved(t *testing.T) {
	for name, forged := range map[string]func(l *builder){
		"a phase": func(l *builder) { l.text(11, evIPL, "enter-initrd") },
		"a name twice": func(l *builder) {
			l.event(11, evIPL, append(utf16Bytes(".linux"), 0, 0), []byte(".linux\x00")).text(11, evIPL, "sysinit")
		},
		"a name at the end": func(l *builder) { l.event(11, evIPL, append(utf16Bytes(".x"), 0, 0), []byte(".x\x00")) },
		"an unproven name": func(l *builder) {
			l.event(11, evIPL, append(utf16Bytes(".x"), 0, 0), []byte("y")).text(11, evIPL, "sysinit")
		},
		"a name without dot": func(l *builder) { l.text(11, evIPL, "x").text(11, evIPL, "sysinit") },
	} {
		l := &laterLog{builder: unified()}
		forged(l.builder)
		l.measure(11, "phase", "ready")
		if got := codesOf(checked(t, &Rules{BootLoaders: []string{Any}, Phase: "ready"}, mustVerify(t, l.evidence(), l.inputs()))); got != string(CodeSection.Code) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A register that went on without a record is explained by nothing, and nothing in it is believed.
func TestUnexplainedExtendIsNamed(t *testing.T) {
	for _, pcr := range []int{11, 12, 13, 15} {
		l := system()
		l.extend(pcr, make([]byte, 32))
		c := mustVerify(t, l.evidence(), l.inputs())
		got := checked(t, systemRules(), c)
		if codesOf(got) != string(CodeUnexplained.Code) || got[0].Path != fmt.Sprintf("registers.%d", pcr) {
			t.Errorf("PCR %d: %v", pcr, got)
		}
		if pcr == 11 && len(c.Phases) > 0 || pcr == 15 && c.Userspace.MachineID[0].Proof != ProofNone {
			t.Errorf("PCR %d: %v %+v", pcr, c.Phases, c.Userspace)
		}
	}
	td := bootWith(KindRTMR, 1)
	if got := codesOf(checked(t, &Rules{BootLoaders: []string{Any}, Firmware: []string{Any}, Drivers: []string{Any}, Phase: "ready"}, mustVerify(t, td.evidence(), td.inputs()))); got != string(CodePhase.Code) {
		t.Error("a TD:", got)
	}
}

func TestMistakesInSystemRulesAreNamed(t *testing.T) {
	for name, r := range map[string]Rules{
		"a phase": {Phase: "up"}, "a pattern": {Systemd: []string{"("}}, "a digest": {SystemdDigests: []string{"x"}},
		"a section": {Sections: []string{"x"}}, "a MOK": {MOK: []string{"x"}},
	} {
		if reasons := r.Lint(); len(reasons) != 1 || reasons[0].Code != CodeRuleValue.Code {
			t.Errorf("%s: %v", name, reasons)
		}
	}
}

func TestListsOfMachineOwnerKeysAreJudged(t *testing.T) {
	l := boot()
	c := mustVerify(t, l.evidence(), l.inputs())
	for want, list := range map[string][]string{"": {shaText("mok")}, string(CodeMOK.Code): {}} {
		if got := codesOf(checked(t, &Rules{BootLoaders: []string{Any}, MOK: list}, c)); got != want {
			t.Errorf("%v: %q", list, got)
		}
	}
}

func FuzzSystemd(f *testing.F) {
	l := system()
	f.Add(l.b)
	f.Add([]byte("\x1e{}\n"))
	in := l.inputs()
	r := systemRules()
	r.Lint()
	f.Fuzz(func(t *testing.T, b []byte) {
		e := l.evidence()
		e.Parts[0].Data = b
		v, err := New().Verify(t.Context(), e, in)
		if _, ok := rats.ReasonOf(err); err != nil && !ok {
			t.Errorf("malfunction: %v", err)
		}
		if err != nil {
			return
		}
		c := v.Claims.(*Claims)
		if _, err := json.Marshal(c); err != nil {
			t.Error(err)
		}
		if len(r.Check(c, nil, noon)) == 0 && !slices.Equal(c.Phases, []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}) {
			t.Errorf("accepted with phases %v", c.Phases)
		}
	})
}

// BenchmarkSystemd is what systemd's log adds to a boot log.
func BenchmarkSystemd(b *testing.B) {
	l := system()
	e, in := l.evidence(), l.inputs()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := New().Verify(b.Context(), e, in); err != nil {
			b.Fatal(err)
		}
	}
}
