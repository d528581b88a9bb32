package ima

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"

	"github.com/assay-attest/assay/rats"
)

// everyTemplate is a list with an entry of each template.
func everyTemplate() *list {
	u32 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	return booted().
		old("/sbin/init", "init").
		file("/bin/sh", "sh").
		add("ima-ngv2", data(dng("ima:", []byte("a")), []byte("/bin/a\x00"))).
		sig("/bin/signed", "signed", []byte{3, 2, 4, 0, 0, 0, 1, 0, 1, 9}).
		add("ima-sigv2", data(dng("verity:", []byte("b")), []byte("/bin/verity\x00"), []byte{6, 3, 4, 0, 0, 0, 1, 0, 1, 9})).
		buf("kexec-cmdline", "quiet").
		add("ima-modsig", data(dng("", []byte("m")), []byte("/lib/m.ko\x00"), nil, dng("", []byte("m'")), []byte("pkcs7"))).
		add("evm-sig", data(dng("", []byte("e")), []byte("/bin/e\x00"), []byte{5}, []byte("security.ima\x00"), u32(1), []byte{1}, u32(0), u32(0), []byte{0xed, 0x81})).
		add("d-ng|n-ng|sig", data(dng("", []byte("c")), []byte("/bin/c\x00"), nil)).
		violation("/usr/bin/open")
}

// R141: each template is read from the binary and the ASCII list, and replays.
func TestEveryTemplateReplays(t *testing.T) {
	l := everyTemplate()
	c, _ := mustVerify(t, evidence(l.b), l.inputs("a"))
	if c.Count != l.count || c.Violated != 1 || c.Violations[0] != (Violation{10, "/usr/bin/open"}) || c.Signed != 4 || c.Aggregate != AggregateMatch {
		t.Errorf("%+v", c)
	}
	ascii := evidence(l.ascii(t))
	ascii.MediaType = MediaTypeASCII
	a, _ := mustVerify(t, ascii, l.inputs("a"))
	if !bytes.Equal(a.Entries, c.Entries) || !slices.Equal(a.Templates, c.Templates) || len(c.Templates) != 9 {
		t.Errorf("binary %v, ASCII %v", c.Templates, a.Templates)
	}
	var paths []string
	for e := range c.All() {
		paths = append(paths, e.Text())
		if e.Flags&FlagExec != 0 != (e.Text() == "/bin/e") || e.Flags&FlagVerity != 0 != (e.Text() == "/bin/verity") {
			t.Errorf("%s has flags %b", e.Text(), e.Flags)
		}
	}
	if len(paths) != l.count || paths[1] != "/sbin/init" || paths[10] != "/usr/bin/open" {
		t.Error(paths)
	}
}

// R141: in each bank, and as kernels before 5.8 extended banks other than SHA-1's.
func TestEveryBankReplays(t *testing.T) {
	l := booted().file("/bin/sh", "sh")
	given := func(banks map[string]map[string]string) rats.Inputs {
		b, _ := json.Marshal(Params{PCRs: banks})
		return rats.Inputs{Params: b}
	}
	sha1 := map[string]string{"10": hex.EncodeToString(l.sha1[:])}
	wide := map[string]string{"10": hex.EncodeToString(l.sha256[:])}
	c, _ := mustVerify(t, evidence(l.b), given(map[string]map[string]string{"sha1": sha1, "sha256": wide}))
	if c.Bank != "sha256" || c.Extend != ExtendRehash || c.Aggregate != AggregateUnchecked {
		t.Errorf("%+v", c)
	}
	if c, _ = mustVerify(t, evidence(l.b), given(map[string]map[string]string{"sha1": sha1})); c.Bank != "sha1" {
		t.Errorf("%+v", c)
	}
	old := &list{padded: true}
	old.add("ima-ng", data(aggregateField(8), []byte("boot_aggregate\x00"))).file("/bin/sh", "sh").violation("/x")
	c, _ = mustVerify(t, evidence(old.b), old.inputs("a"))
	if c.Extend != ExtendPadded || c.Aggregate != AggregateMatch {
		t.Errorf("%+v", c)
	}
}

// R141: entries after the quoted value are named, and never among those that are proven.
func TestUnquotedTailIsNamedAndNotCounted(t *testing.T) {
	l := booted().file("/bin/sh", "sh")
	in := l.inputs("a")
	l.file("/bin/later", "later").violation("/bin/x")
	c, _ := mustVerify(t, evidence(l.b), in)
	if c.Count != 2 || c.Unquoted != 2 || !slices.Equal(c.Tail, []string{"/bin/later", "/bin/x"}) || c.Violated != 0 {
		t.Errorf("%+v", c)
	}
	for e := range c.All() {
		if e.Text() == "/bin/later" {
			t.Error("an unquoted entry counts as proven")
		}
	}
}

func rest(l *list, from, offset int) rats.Evidence {
	return rats.Evidence{Format: Format, MediaType: MediaType, Parts: []rats.Part{{Name: PartList, Offset: int64(from), Data: l.b[offset:]}}}
}

// S32: a list is continued where the last verification got to, and yields the claims of the whole list.
func TestContinuedListYieldsTheClaimsOfTheWhole(t *testing.T) {
	l := everyTemplate()
	at, count := len(l.b), l.count
	_, resume := mustVerify(t, evidence(l.b), l.inputs("a"))
	asked, err := Continue(nil, resume)
	if err != nil || string(asked) != `{"offset":11}` {
		t.Fatalf("%s, %v", asked, err)
	}
	l.file("/bin/new", "new").violation("/bin/y").buf("ima_policy_x", "measure func=BPRM_CHECK\n")
	in := l.inputs("a")
	whole, _ := mustVerify(t, evidence(l.b), in)
	in.Resume = resume
	part, next := mustVerify(t, rest(l, count, at), in)
	a, _ := json.Marshal(whole)
	b, _ := json.Marshal(part)
	if !bytes.Equal(a, b) {
		t.Errorf("whole %s\npart  %s", a, b)
	}
	in.Resume = next
	if c, _ := mustVerify(t, rest(l, l.count, len(l.b)), in); c.Count != l.count {
		t.Error("nothing new is not continued")
	}
}

// S32: state counts for its boot only; another boot, a wrong offset or a damaged state needs the whole list.
func TestStateOfAnotherBootIsNotContinued(t *testing.T) {
	l := booted().file("/bin/sh", "sh")
	at, count := len(l.b), l.count
	_, resume := mustVerify(t, evidence(l.b), l.inputs("a"))
	l.file("/bin/new", "new")
	verify := func(boot string, resume []byte, from int) error {
		in := l.inputs(boot)
		in.Resume = resume
		_, err := New().Verify(t.Context(), rest(l, from, at), in)
		return err
	}
	if err := verify("a", resume, count); err != nil {
		t.Error(err)
	}
	wantCode(t, verify("b", resume, count), CodeOffset)
	wantCode(t, verify("a", nil, count), CodeOffset)
	wantCode(t, verify("a", resume, count+1), CodeOffset)
	damaged := bytes.Clone(resume)
	damaged[len(damaged)/2] ^= 1
	wantCode(t, verify("a", damaged, count), CodeResume)
	in := l.inputs("b")
	in.Resume = resume
	if c, _ := mustVerify(t, evidence(l.b), in); c.Count != 3 {
		t.Error("the whole list of another boot is not read from its start")
	}
	in.Resume = damaged
	if c, _ := mustVerify(t, evidence(l.b), in); c.Count != 3 {
		t.Error("a damaged state spoils a whole list")
	}
}

// S32: entries sent beyond the quote must be covered by the next quote of the boot, unchanged.
func TestVanishedTailIsRefused(t *testing.T) {
	start := func() *list { return booted().file("/bin/sh", "sh") }
	l := start()
	in := l.inputs("a")
	at, count := len(l.b), l.count
	l.file("/bin/tail", "tail")
	_, resume := mustVerify(t, evidence(l.b), in)
	again := func(l *list, e rats.Evidence) error {
		in := l.inputs("a")
		in.Resume = resume
		_, err := New().Verify(t.Context(), e, in)
		return err
	}
	if err := again(l, evidence(l.b)); err != nil {
		t.Error(err)
	}
	if err := again(l, rest(l, count, at)); err != nil {
		t.Error(err)
	}
	other := start().file("/bin/other", "other").file("/bin/tail", "tail")
	wantCode(t, again(other, evidence(other.b)), CodeTail)
	wantCode(t, again(other, rest(other, count, at)), CodeTail)
	wantCode(t, again(start(), evidence(start().b)), CodeTail)
}

// The refusal matrix: a valid list with one thing changed.
func TestChangedListIsRefused(t *testing.T) {
	good := func() *list { return booted().file("/bin/a", "a").file("/bin/b", "b") }
	for name, c := range map[string]struct {
		change func(l *list, e *rats.Evidence, in *rats.Inputs)
		want   rats.CodeInfo
	}{
		"another format":     {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.Format = "tpm" }, CodeMediaType},
		"another media type": {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.MediaType = "text/plain" }, CodeMediaType},
		"body and part":      {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.Parts = []rats.Part{{Name: PartList, Offset: 1}} }, CodeMediaType},
		"a part at offset 0": {func(l *list, e *rats.Evidence, _ *rats.Inputs) {
			e.Body, e.Parts = nil, []rats.Part{{Name: PartList, Data: l.b}}
		}, CodeMediaType},
		"two parts": {func(l *list, e *rats.Evidence, _ *rats.Inputs) {
			e.Body, e.Parts = nil, []rats.Part{{Name: PartList, Offset: 1}, {Name: PartList, Offset: 1}}
		}, CodeMediaType},
		"no bytes":          {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.Body = nil }, CodeEmpty},
		"no entries":        {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.Body, e.MediaType = []byte("\n\n"), MediaTypeASCII }, CodeEmpty},
		"too long":          {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.Body = make([]byte, maxList+1) }, CodeTooLarge},
		"text":              {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.Body = bytes.Repeat([]byte("no list at all "), 9) }, CodeMalformed},
		"no registers":      {func(_ *list, _ *rats.Evidence, in *rats.Inputs) { in.Facts = rats.Facts{} }, CodeNoRegisters},
		"PCR 10 not quoted": {func(_ *list, _ *rats.Evidence, in *rats.Inputs) { delete(in.Facts.Registers[0].Values, 10) }, CodeNoRegisters},
		"registers disagree": {func(_ *list, _ *rats.Evidence, in *rats.Inputs) {
			r := in.Facts.Registers[0]
			r.Values = map[int][]byte{10: make([]byte, 32)}
			in.Facts.Registers = append(in.Facts.Registers, r)
		}, CodeConflict},
		"RTMRs only":         {func(_ *list, _ *rats.Evidence, in *rats.Inputs) { in.Facts.Registers[0].Kind = "rtmr" }, CodeNoRegisters},
		"an entry taken out": {func(l *list, e *rats.Evidence, _ *rats.Inputs) { e.Body = booted().file("/bin/b", "b").b }, CodeReplay},
		"entries swapped": {func(l *list, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = booted().file("/bin/b", "b").file("/bin/a", "a").b
		}, CodeReplay},
		"a spliced prefix": {func(l *list, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = append(booted().file("/x", "x").b, e.Body...)
		}, CodeReplay},
		"cut before the end": {func(l *list, e *rats.Evidence, _ *rats.Inputs) { e.Body = booted().file("/bin/a", "a").b }, CodeReplay},
		"another path": {func(_ *list, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = bytes.Replace(e.Body, []byte("/bin/a"), []byte("/bin/z"), 1)
		}, CodeTemplateDigest},
		"made a violation": {func(l *list, e *rats.Evidence, _ *rats.Inputs) { n := len(booted().b); clear(e.Body[n+4 : n+24]) }, CodeReplay},
		"another PCR":      {func(l *list, e *rats.Evidence, _ *rats.Inputs) { e.Body[len(booted().b)] = 11 }, CodePCR},
		"PCR 2 billion":    {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.Body[3] = 0x80 }, CodeMalformed},
		"an unknown template": {func(_ *list, e *rats.Evidence, _ *rats.Inputs) {
			e.Body = bytes.Replace(e.Body, []byte("ima-ng"), []byte("ima-xx"), 1)
		}, CodeTemplate},
		"2 GB of data":     {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { binary.LittleEndian.PutUint32(e.Body[34:], 1<<31) }, CodeTruncated},
		"a huge name":      {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { binary.LittleEndian.PutUint32(e.Body[24:], 1<<31) }, CodeMalformed},
		"a field too long": {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { binary.LittleEndian.PutUint32(e.Body[38:], 1<<31) }, CodeTruncated},
		"a byte cut off":   {func(_ *list, e *rats.Evidence, _ *rats.Inputs) { e.Body = e.Body[:len(e.Body)-1] }, CodeTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			l := good()
			e, in := evidence(bytes.Clone(l.b)), l.inputs("a")
			if _, err := New().Verify(t.Context(), e, in); err != nil {
				t.Fatal("the unchanged list:", err)
			}
			c.change(l, &e, &in)
			_, err := New().Verify(t.Context(), e, in)
			wantCode(t, err, c.want)
		})
	}
}

// Every prefix and every changed byte is refused; nothing panics.
func TestEveryTruncationAndFlipIsRefused(t *testing.T) {
	l := everyTemplate()
	in := l.inputs("a")
	for n := range l.b {
		if _, err := New().Verify(t.Context(), evidence(l.b[:n]), in); err == nil {
			t.Fatalf("cut to %d bytes", n)
		}
	}
	// Nothing covers the name of a template, and the data of a violation: what they say is text.
	text := map[int]bool{}
	s := &binarySource{b: l.b}
	var r record
	for {
		ok, err := s.next(&r)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		for i := r.offset + 24; i < r.offset+28+len(r.template.name); i++ {
			text[i] = true
		}
		for i := r.offset; r.Flags&FlagViolation != 0 && i < s.n; i++ {
			text[i] = true
		}
	}
	accepted := 0
	for n := range l.b {
		b := bytes.Clone(l.b)
		b[n] ^= 1
		if _, err := New().Verify(t.Context(), evidence(b), in); err == nil {
			if accepted++; !text[n] {
				t.Errorf("changed byte %d is accepted", n)
			}
		}
	}
	t.Logf("%d changed bytes of text are accepted", accepted)
}

func FuzzVerify(f *testing.F) {
	l := everyTemplate()
	in := l.inputs("a")
	_, resume := mustVerify(f, evidence(l.b), in)
	f.Add(l.b, false, resume)
	f.Add(l.ascii(f), true, resume)
	f.Add(booted().b, false, []byte{})
	f.Fuzz(func(t *testing.T, b []byte, ascii bool, resume []byte) {
		e := evidence(b)
		if ascii {
			e.MediaType = MediaTypeASCII
		}
		in := in
		in.Resume = resume
		v, err := New().Verify(t.Context(), e, in)
		if _, ok := rats.ReasonOf(err); err != nil && !ok {
			t.Errorf("malfunction: %v", err)
		}
		if err == nil && v.Claims.(*Claims).Count > 0 {
			r := &Rules{Allow: []string{"files"}}
			r.Lint()
			r.Check(v.Claims, lookup{}, noon)
		}
		if c, err := Inspect(b, ascii); err == nil {
			n := 0
			for range c.All() {
				n++
			}
			if n != c.Unquoted {
				t.Errorf("%d entries, %d packed", c.Unquoted, n)
			}
		}
		Detect(b)
		_, _ = parseState(b)
	})
}

func FuzzPackedEntries(f *testing.F) {
	l := everyTemplate()
	c, _ := mustVerify(f, evidence(l.b), l.inputs("a"))
	f.Add(c.Entries, c.Count)
	f.Fuzz(func(_ *testing.T, b []byte, n int) {
		c := &Claims{Entries: b, Count: n, Bank: "sha256", Extend: ExtendRehash}
		r := &Rules{Allow: []string{"files"}, Exclude: []string{"/var/.*"}}
		r.Lint()
		r.Check(c, lookup{}, noon)
	})
}
