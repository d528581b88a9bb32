package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
)

// R142: facts of a boot, each with its proof.
func TestFactsOfABootCarryTheirProof(t *testing.T) {
	for _, kind := range []string{KindPCR, KindRTMR} {
		l := bootWith(kind, 1)
		c := mustVerify(t, l.evidence(), l.inputs())
		if c.Events != l.events || c.Bank != "sha256" || !c.CryptoAgile || c.Kind != kind {
			t.Errorf("%+v", c)
		}
		if s := c.SecureBoot; !s.Logged || !s.Enabled || !s.Proven {
			t.Errorf("%s: %+v", kind, s)
		}
		if len(c.KEK.Certificates) != 2 || c.KEK.Proof != ProofDigest || c.DB.Certificates[0].Digest.String() != shaText("db") || c.DBX.Hashes[0].String() != shaText("revoked") {
			t.Errorf("%s: %+v %+v", kind, c.KEK, c.DBX)
		}
		if len(c.Images) != 2 || c.Images[1].Name != `\EFI\linux.efi` || c.Images[1].Proof != ProofText || c.Images[1].Digest.String() != shaText("kernel") {
			t.Errorf("%s: %+v", kind, c.Images)
		}
		if len(c.Initrds) != 1 || len(c.CommandLines) != 1 || len(c.Drivers) != 1 || len(c.MOK) != 1 || !c.ExitBootServices || c.Separators != 8 {
			t.Errorf("%s: %+v", kind, c)
		}
		if !strings.HasPrefix(c.SbatLevel, "sbat,1,2023012900") || c.FirmwareVersion != "v1" || len(c.Authorities) != 2 || len(c.Mismatched) != 0 {
			t.Errorf("%s: %+v", kind, c)
		}
	}
}

// The refusal matrix: a valid log with one thing changed.
func TestChangedLogIsRefused(t *testing.T) {
	reg := func(in *rats.Inputs) map[int][]byte { return in.Facts.Registers[0].Values }
	for name, tc := range map[string]struct {
		change func(l *builder, e *rats.Evidence, in *rats.Inputs)
		want   rats.CodeInfo
	}{
		"another format":     {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Format = "ima" }, CodeMediaType},
		"another media type": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.MediaType = "text/plain" }, CodeMediaType},
		"a part":             {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Parts = []rats.Part{{Name: "x"}} }, CodeMediaType},
		"no bytes":           {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body = nil }, CodeEmpty},
		"too long":           {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body = make([]byte, maxLog+1) }, CodeTooLarge},
		"too many events": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = bytes.Repeat(append([]byte{1, 0, 0, 0, 1}, make([]byte, 27)...), maxEvents+1)
		}, CodeTooLarge},
		"no registers":      {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { in.Facts = rats.Facts{} }, CodeNoRegisters},
		"registers of a TD": {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { in.Facts.Registers[0].Kind = KindRTMR }, CodeNoRegisters},
		"registers disagree": {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) {
			in.Facts.Registers = append(in.Facts.Registers, rats.Registers{Kind: KindPCR, Alg: "sha256", Values: map[int][]byte{4: {1}}})
		}, CodeConflict},
		"another bank":   {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { in.Facts.Registers[0].Alg = "sha384" }, CodeBank},
		"SM3":            {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { in.Facts.Registers[0].Alg = "sm3" }, CodeBank},
		"PCR 0 differs":  {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { reg(in)[0][5] ^= 1 }, CodeReplayZero},
		"PCR 4 differs":  {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { reg(in)[4][5] ^= 1 }, CodeReplay},
		"PCR 14 differs": {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { reg(in)[14][5] ^= 1 }, CodeReplay},
		"a short PCR":    {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { reg(in)[4] = reg(in)[4][:20] }, CodeReplay},
		"PCR 99":         {func(_ *builder, _ *rats.Evidence, in *rats.Inputs) { reg(in)[99] = make([]byte, 32) }, CodeReplay},
		"locality missing": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = bytes.Replace(e.Body, []byte("StartupL"), []byte("StartupX"), 1)
		}, CodeReplayZero},
		"locality 1": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = bytes.Replace(e.Body, []byte("Locality\x00\x03"), []byte("Locality\x00\x01"), 1)
		}, CodeLocality},
		"locality twice": {func(l *builder, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = l.event(0, evNoAction, []byte("StartupLocality\x00\x03"), nil).b
		}, CodeLocality},
		"an event appended": {func(l *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body = l.text(5, evEFIAction, "x").b }, CodeReplay},
		"an event not counted": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) {
			binary.LittleEndian.PutUint32(e.Body[eventOffset(t, e.Body, 5)+4:], evNoAction)
		}, CodeReplay},
		"2 GB of data": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) {
			binary.LittleEndian.PutUint32(e.Body[eventOffset(t, e.Body, 2)+12+22+34:], 1<<31)
		}, CodeTruncated},
		"a billion digests": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) {
			binary.LittleEndian.PutUint32(e.Body[eventOffset(t, e.Body, 2)+8:], 1<<30)
		}, CodeMalformed},
		"an unknown algorithm": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body[eventOffset(t, e.Body, 2)+12] = 9 }, CodeMalformed},
		"a digest twice":       {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body[eventOffset(t, e.Body, 2)+12+22] = 4 }, CodeMalformed},
		"no algorithms":        {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body[32+24] = 0 }, CodeMalformed},
		"a wrong digest size":  {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body[32+30] = 21 }, CodeMalformed},
		"an algorithm twice":   {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { copy(e.Body[32+32:], e.Body[32+28:32+32]) }, CodeMalformed},
		"register 24":          {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body[0] = 24 }, CodeMalformed},
		"trailing bytes":       {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body = append(e.Body, "trailing bytes"...) }, CodeTrailing},
		"one trailing byte":    {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) { e.Body = append(e.Body, 1) }, CodeTrailing},
		"too much padding": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = append(e.Body, make([]byte, maxPadding+4)...)
		}, CodeTrailing},
		"padding, then bytes": {func(_ *builder, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = append(append(e.Body, make([]byte, 64)...), 1)
		}, CodeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			l := boot()
			e, in := l.evidence(), l.inputs()
			mustVerify(t, e, in)
			tc.change(l, &e, &in)
			_, err := New().Verify(t.Context(), e, in)
			wantCode(t, err, tc.want)
		})
	}
}

func eventOffset(t *testing.T, b []byte, n int) int {
	t.Helper()
	l, err := Parse(b, false)
	if err != nil {
		t.Fatal(err)
	}
	return l.Events[n].Offset
}

func TestPaddingIsAcceptedAndKept(t *testing.T) {
	for name, pad := range map[string][]byte{"zeros": make([]byte, maxPadding), "ones": bytes.Repeat([]byte{0xff}, 4096)} {
		l := boot()
		e := l.evidence()
		e.Body = append(e.Body, pad...)
		c := mustVerify(t, e, l.inputs())
		if c.Padding != len(pad) || !c.Log.Equal(rats.SHA256(l.b)) {
			t.Errorf("%s: %d bytes", name, c.Padding)
		}
		if log, err := Parse(e.Body, false); err != nil || !bytes.Equal(log.Encode(), e.Body) {
			t.Errorf("%s: encodes to other bytes, %v", name, err)
		}
	}
	td := bootWith(KindRTMR, 1)
	e := td.evidence()
	e.Body = append(e.Body, bytes.Repeat([]byte{0xff}, 1<<20)...)
	mustVerify(t, e, td.inputs())
}

// Every prefix is refused, every changed digest too; no changed byte makes a fact that is not so.
func TestEveryTruncationAndFlipIsRefused(t *testing.T) {
	l := boot()
	in := l.inputs()
	for n := range l.b {
		e := l.evidence()
		e.Body = e.Body[:n]
		if _, err := New().Verify(t.Context(), e, in); err == nil {
			t.Fatalf("cut to %d bytes", n)
		}
	}
	r := &Rules{BootLoaders: []string{shaText("shim")}, Kernels: []string{shaText("kernel")}, CommandLines: []string{cmdline}, Initrds: []string{shaText("initrd")}}
	if got := checked(t, r, mustVerify(t, l.evidence(), in)); len(got) > 0 {
		t.Fatal(got)
	}
	for n := range l.b {
		e := l.evidence()
		e.Body[n] ^= 1
		v, err := New().Verify(t.Context(), e, in)
		if err != nil {
			continue
		}
		c := v.Claims.(*Claims)
		if !c.SecureBoot.Enabled && len(checked(t, r, c)) == 0 {
			t.Errorf("with byte %d changed Secure Boot is off, and accepted", n)
		}
	}
}

// S32: a type proves nothing. Without Secure Boot, root extends PCR 7 by a variable that says it is on, and relabels the
// log; the true variable is then an event that nothing explains.
func TestRelabelledSecureBootVariableIsNotBelieved(t *testing.T) {
	l := bootWith(KindPCR, 0).variable(guidGlobal, "SecureBoot", []byte{1}).separator(7)
	e, in := l.evidence(), l.inputs()
	r := &Rules{BootLoaders: []string{Any}}
	if got := codesOf(checked(t, r, mustVerify(t, e, in))); got != string(CodeSecureBoot.Code) {
		t.Error("as it is:", got)
	}
	log, err := Parse(e.Body, false)
	if err != nil {
		t.Fatal(err)
	}
	separators := 0
	for i := range log.Events {
		ev := &log.Events[i]
		v, _ := parseVariable(ev.Data)
		first := v.name == "SecureBoot" && v.value[0] == 0
		if ev.Register == 7 && ev.Type == evSeparator {
			separators++
			first = separators == 1
		}
		if first {
			ev.Type, ev.Data = evEventTag, []byte("nothing to see")
		}
	}
	e.Body = log.Encode()
	c := mustVerify(t, e, in)
	if !c.SecureBoot.Enabled || len(c.SecureBoot.Unproven) < 2 {
		t.Fatalf("%+v", c.SecureBoot)
	}
	if got := codesOf(checked(t, r, c)); got != string(CodeSecureBootUnproven.Code) {
		t.Error("relabelled:", got)
	}
}

// A register that nobody vouches for, or that was extended later, proves nothing of the log's part of it.
func TestUnquotedRegistersProveNothing(t *testing.T) {
	l := boot()
	in := l.inputs()
	delete(in.Facts.Registers[0].Values, 7)
	in.Facts.Registers[0].Values[12] = make([]byte, 32)
	in.Facts.Registers[0].Values[10] = bytes.Repeat([]byte{1}, 32)
	c := mustVerify(t, l.evidence(), in)
	if c.SecureBoot.Proven || c.DB.Proof != ProofNone || c.Replayed(7) || !c.Replayed(12) || c.Replayed(10) {
		t.Errorf("%+v %+v", c.SecureBoot, c.DB)
	}
	if got := codesOf(checked(t, &Rules{BootLoaders: []string{Any}}, c)); got != string(CodeSecureBootUnproven.Code) {
		t.Error(got)
	}
}

// S13: systemd extends PCR 11 by its phases after the log ended; the log's part is proven through them.
func TestSystemdPhasesCloseRegister11(t *testing.T) {
	l := boot()
	l.event(11, evIPL, append(utf16Bytes(".linux"), 0, 0), []byte(".linux\x00")).
		event(11, evIPL, append(utf16Bytes(".linux"), 0, 0), []byte("kernel"))
	for _, p := range []string{"enter-initrd", "leave-initrd", "sysinit"} {
		d := sha256.Sum256([]byte(p))
		l.extend(11, d[:])
	}
	c := mustVerify(t, l.evidence(), l.inputs())
	if !c.Replayed(11) || !slices.Equal(c.Phases, []string{"enter-initrd", "leave-initrd", "sysinit"}) || len(c.Sections) != 2 || c.Sections[0].Proof != ProofDigest || c.Sections[1].Proof != ProofText {
		t.Errorf("%v %+v", c.Phases, c.Sections)
	}
	l.extend(11, make([]byte, 32))
	if c = mustVerify(t, l.evidence(), l.inputs()); c.Replayed(11) || c.Sections[0].Proof != ProofNone {
		t.Errorf("%+v", c.Sections)
	}
}

// R142: logs of real boots replay to the quoted PCRs; command line and initrd are those the VM was started with.
func TestLogsOfRealBootsReplay(t *testing.T) {
	dir := shared(t, filepath.Join("vm", "fixtures"))
	for name, want := range map[string]struct {
		uefi, exit bool
		images     int
		line       bool
	}{"clean": {true, true, 1, true}, "tampered-runtime": {true, true, 1, true}, "uki": {true, true, 2, true}, "seabios": {false, false, 0, false}} {
		t.Run(name, func(t *testing.T) {
			var file map[string]map[string]string
			if err := json.Unmarshal(readFile(t, dir, name, "pcrs.json"), &file); err != nil {
				t.Fatal(err)
			}
			params, _ := json.Marshal(Params{PCRs: file})
			b := readFile(t, dir, name, "binary_bios_measurements")
			if !Detect(b) {
				t.Error("not detected")
			}
			c := mustVerify(t, rats.Evidence{Format: Format, MediaType: MediaType, Body: b}, rats.Inputs{Params: params})
			if c.ExitBootServices != want.exit || len(c.Images) != want.images || c.SecureBoot.Enabled || c.SecureBoot.Proven != want.uefi {
				t.Errorf("%+v", c)
			}
			line := strings.TrimSpace(string(readFile(t, dir, name, "cmdline")))
			r := &Rules{SecureBoot: SecureBootAny, BootLoaders: []string{Any}, CommandLines: []string{line}, Initrds: []string{Any}}
			got := codesOf(checked(t, r, c))
			if (got == "") != want.line {
				t.Errorf("%q: %s", line, got)
			}
			r = &Rules{SecureBoot: SecureBootAny, BootLoaders: []string{Any}, CommandLines: []string{line + " init=/bin/sh"}, Initrds: []string{}}
			if got := codesOf(checked(t, r, c)); got == "" {
				t.Error("another command line is accepted")
			}
		})
	}
}

func TestParametersThatAreNoneAreMalfunctions(t *testing.T) {
	l := boot()
	for _, p := range []string{`{`, `{"kind":"x"}`, `{"pcrs":{"sha256":{"x":"00"}}}`, `{"pcrs":{"sha256":{"1":"zz"}}}`} {
		in := l.inputs()
		in.Params = []byte(p)
		_, err := New().Verify(t.Context(), l.evidence(), in)
		if _, ok := rats.ReasonOf(err); err == nil || ok {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	l, td := boot(), bootWith(KindRTMR, 1)
	l.grub("grub_cmd: insmod tpm", "kernel_cmdline: /vmlinuz "+cmdline)
	f.Add(l.b, false)
	f.Add(td.b, true)
	f.Add(append(make([]byte, 28), 0, 0, 0, 0), false)
	in := l.inputs()
	in.Facts = in.Facts.Merge(td.inputs().Facts)
	r := &Rules{BootLoaders: []string{shaText("shim")}, DB: []string{shaText("db")}, CommandLines: []string{cmdline}}
	r.Lint()
	f.Fuzz(func(t *testing.T, b []byte, ccel bool) {
		media := MediaType
		if ccel {
			media = MediaTypeCCEL
		}
		v, err := New().Verify(t.Context(), rats.Evidence{Format: Format, MediaType: media, Body: b}, in)
		if _, ok := rats.ReasonOf(err); err != nil && !ok {
			t.Errorf("malfunction: %v", err)
		}
		if err == nil {
			r.Check(v.Claims, nil, noon)
		}
		if log, err := Parse(b, ccel); err == nil && !bytes.Equal(log.Encode(), b) {
			t.Errorf("%x encodes to %x", b, log.Encode())
		}
		if c, err := Inspect(b, media); err == nil {
			if _, err := json.Marshal(c); err != nil {
				t.Error(err)
			}
			r.Check(c, nil, noon)
		}
		Detect(b)
	})
}

func FuzzEFI(f *testing.F) {
	f.Add(sigList(guidX509, "pk"))
	f.Add(varData(guidGlobal, "PK", []byte{1}))
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseDatabase(b)
		parseVariable(b)
		devicePath(b)
		imagePath(b)
		tagged(b)
	})
}

// BenchmarkVerify is the figure of a boot log: parsed, replayed and turned into claims.
func BenchmarkVerify(b *testing.B) {
	run := func(name string, e rats.Evidence, in rats.Inputs) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := New().Verify(b.Context(), e, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	l := boot()
	for i := range 60 {
		l.grub("grub_cmd: echo " + strconv.Itoa(i))
	}
	run("made", l.evidence(), l.inputs())
	dir := shared(b, "evidence")
	var p Params
	if err := json.Unmarshal(readFile(b, dir, "tpm-eventlog/google/rhel8-uefi.bin.pcrs.json"), &p.PCRs); err != nil {
		b.Fatal(err)
	}
	params, _ := json.Marshal(p)
	body := readFile(b, dir, "tpm-eventlog/google/rhel8-uefi.bin")
	run("rhel8", rats.Evidence{Format: Format, MediaType: MediaType, Body: body}, rats.Inputs{Params: params})
}

// R084: a register that the root keeper capped is the log's, and then the public constant, once or twice; nothing else explains it.
func TestCapOfTheRootKeeperIsReplayed(t *testing.T) {
	sum := rats.SHA256([]byte("assay:cap:1")).Sum
	for times := range 4 {
		l := boot()
		in := func() rats.Inputs {
			for range times {
				for _, n := range []int{0, 4, 9} {
					l.extend(n, sum)
				}
			}
			return l.inputs()
		}()
		v, err := New().Verify(t.Context(), l.evidence(), in)
		if times > 2 {
			wantCode(t, err, CodeReplayZero)
			continue
		}
		if err != nil {
			t.Fatalf("capped %d times: %v", times, err)
		}
		for _, r := range v.Claims.(*Claims).Registers {
			want := 0
			if r.Index == 0 || r.Index == 4 || r.Index == 9 {
				want = times
			}
			if r.Capped != want {
				t.Errorf("PCR %d: capped %d times, want %d", r.Index, r.Capped, want)
			}
		}
	}
	l := boot()
	l.extend(4, rats.SHA256([]byte("assay:cap:2")).Sum)
	_, err := New().Verify(t.Context(), l.evidence(), l.inputs())
	wantCode(t, err, CodeReplay)
}
