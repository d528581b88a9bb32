package eventlog

import (
	"bytes"
	"encoding/hex"
	"hash"
	"slices"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// maxText bounds the text of names and paths in claims, maxLine that of what was hashed: longer data has no text, so that
// no rule judges a part of it.
const (
	maxText = 1024
	maxLine = 8192
)

// Strings that GRUB puts before what it measures; the digest is of what follows (grub-core/kern/verifiers.c).
var grubPrefixes = []string{"grub_cmd: ", "grub_cmd ", "kernel_cmdline: ", "kernel_cmdline ", "module_cmdline: ", "module_cmdline "}

// extractor turns events into claims.
type extractor struct {
	c    *Claims
	h    hash.Hash // nil: of an algorithm that can't be computed
	alg  uint16
	sum  []byte
	vars int  // variables register: PCR 7, RTMR 0
	end  bool // the variables register's separator was seen
	sb   []int
}

func claimsOf(log *Log, b []byte, kind string, got compared, records []Record, part []byte) *Claims {
	c := &Claims{
		Kind: kind, CryptoAgile: log.Agile, Banks: log.bankNames(), Bank: got.bank, Events: len(log.Events),
		Log: rats.SHA256(b[:log.Length]), Padding: len(log.Padding), Registers: got.registers, Phases: got.phases,
	}
	if l, err := log.Locality(); err == nil {
		c.StartupLocality = int(l)
	}
	x := &extractor{c: c, h: hashOf(got.bank), vars: 7}
	if kind == KindRTMR {
		x.vars = 1
	}
	for _, bank := range log.Banks {
		if bank.Name == got.bank {
			x.alg = bank.ID
		}
	}
	replayed := map[uint32]bool{}
	for _, r := range got.registers {
		replayed[uint32(r.Index)] = r.State == StateReplayed && r.Bank == got.bank
	}
	c.Measurements = make([]Measurement, 0, len(log.Events))
	for i := range log.Events {
		if e := &log.Events[i]; e.extended() {
			x.event(i, e, replayed[e.Register])
		}
	}
	x.secureBoot()
	if part != nil {
		x.systemd(records, part, len(log.Events), got)
	}
	return c
}

func (x *extractor) hashes(sum []byte, parts ...[]byte) bool {
	if x.h == nil {
		return false
	}
	x.h.Reset()
	for _, p := range parts {
		x.h.Write(p)
	}
	x.sum = x.h.Sum(x.sum[:0])
	return bytes.Equal(x.sum, sum)
}

// event adds one event to the claims.
func (x *extractor) event(i int, e *Event, replayed bool) {
	sum := e.Sum(x.alg)
	text, proof := x.describe(e, sum)
	m := Measurement{
		Event: i, Register: int(e.Register), Type: typeName(e.Type), Text: text, Proof: proof,
		Code: startsImage(e.Data),
	}
	if m.Type == "" {
		m.Type = hex.EncodeToString([]byte{byte(e.Type >> 24), byte(e.Type >> 16), byte(e.Type >> 8), byte(e.Type)})
	}
	if len(sum) > 0 {
		m.Digest = rats.Digest{Alg: x.c.Bank, Sum: bytes.Clone(sum)}
	}
	matches := proof == ProofDigest
	if mustMatch(e.Type) && !matches {
		x.c.Mismatched = append(x.c.Mismatched, i)
	}
	if !replayed {
		m.Proof = ProofNone
	}
	x.c.Measurements = append(x.c.Measurements, m)
	x.fact(e, m, text, matches)
}

// startsImage says whether data, or what GRUB's labels leave of it, starts like an image. The preimage of an image's
// Authenticode hash is the image, so such data explains nothing.
func startsImage(data []byte) bool {
	for _, p := range grubPrefixes {
		data = bytes.TrimPrefix(data, []byte(p))
	}
	return bytes.HasPrefix(data, []byte("MZ")) || bytes.HasPrefix(data, []byte("PE\x00\x00")) || bytes.HasPrefix(data, []byte("VZ"))
}

// mustMatch says of which types the data always hashes to the digest (PFP section 10.4.1).
func mustMatch(t uint32) bool {
	return t == evVariable || t == evAuthority || t == evSeparator
}

// describe returns what the data says and how far it is proven. The text of a proven event is what was hashed.
func (x *extractor) describe(e *Event, sum []byte) (string, Proof) {
	whole := x.hashes(sum, e.Data)
	proof := ProofText
	if whole {
		proof = ProofDigest
	}
	switch e.Type {
	case evVariable, evVariableBoot, evVariableBoot2, evAuthority:
		v, ok := parseVariable(e.Data)
		if ok && !whole && x.hashes(sum, v.value) {
			proof = ProofValue
		}
		return clip(v.name, maxText), proof
	case evApplication, evBootDriver, evRuntimeDriver:
		return imagePath(e.Data), proof
	case evSeparator:
		return hex.EncodeToString(e.Data[:min(len(e.Data), 8)]), proof
	case evEventTag:
		if _, data, ok := tagged(e.Data); ok {
			return rats.EscapePath(bytes.TrimRight(data[:min(len(data), maxText)], "\x00")), proof
		}
		return "", proof
	case evIPL:
		return x.describeIPL(e.Data, sum, proof)
	case evCRTMVersion:
		if looksUTF16(e.Data) {
			return clip(utf16Text(e.Data), maxText), proof
		}
	}
	return printable(e.Data), proof
}

// describeIPL decodes what boot loaders measure: GRUB's commands and files, systemd's command lines and section names,
// shim's lists.
func (x *extractor) describeIPL(data, sum []byte, proof Proof) (string, Proof) {
	text := bytes.TrimRight(data, "\x00")
	if looksUTF16(data) {
		s := utf16Text(data)
		if len(data) > 2*maxLine || goesOn(data) {
			return hex.EncodeToString(data[:min(len(data), 32)]), proof
		}
		if proof != ProofDigest && strings.HasPrefix(s, ".") && x.hashes(sum, []byte(s), []byte{0}) {
			proof = ProofDigest // the name of a section, in ASCII (systemd-stub)
		}
		return s, proof
	}
	if proof == ProofDigest || x.hashes(sum, text) || strings.HasPrefix(string(text), ".") && x.hashes(sum, text, []byte{0}) {
		return printable(text), ProofDigest
	}
	for _, p := range grubPrefixes {
		if rest, ok := bytes.CutPrefix(text, []byte(p)); ok && (x.hashes(sum, rest) || x.hashes(sum, rest, []byte{0})) {
			return printable(text), ProofDigest
		}
	}
	return printable(text), proof
}

// printable returns text bytes in the canonical text form, and the first bytes of others in hex.
func printable(b []byte) string {
	t := bytes.TrimRight(b, "\x00")
	if len(t) > maxLine || bytes.ContainsFunc(t, func(r rune) bool { return r < 0x20 && r != '\n' && r != '\t' || r == 0xfffd }) {
		return hex.EncodeToString(b[:min(len(b), 32)])
	}
	return rats.EscapePath(t)
}

// fact adds what an event says to the typed facts. The type is text, so every fact carries the event's proof.
func (x *extractor) fact(e *Event, m Measurement, text string, matches bool) {
	c := x.c
	item := Item{Event: m.Event, Name: m.Text, Digest: m.Digest, Proof: m.Proof}
	switch e.Type {
	case evVariable, evAuthority:
		x.variable(e, m, matches)
	case evApplication:
		c.Images = append(c.Images, item)
	case evBootDriver, evRuntimeDriver:
		c.Drivers = append(c.Drivers, item)
	case evCRTMVersion:
		c.FirmwareVersion = m.Text
	case evSeparator:
		c.Separators++
		if m.Register == x.vars && matches {
			x.end = true
		}
	case evEFIAction, evAction:
		c.ExitBootServices = c.ExitBootServices || matches && text == "Exit Boot Services Returned with Success"
		c.DebugMode = c.DebugMode || text == "UEFI Debug Mode" || text == "DMA Protection Disabled"
	case evEventTag:
		switch id, _, _ := tagged(e.Data); id {
		case tagInitrd:
			c.Initrds = append(c.Initrds, item)
		case tagLoadOptions:
			item.Name = ""
			c.CommandLines = append(c.CommandLines, item)
		}
	case evIPL:
		x.ipl(item, text)
	}
	if m.Register == x.vars && !x.end && !(matches && notSecureBoot(e)) {
		c.SecureBoot.Unproven = append(c.SecureBoot.Unproven, m.Event)
	}
}

// notSecureBoot says whether an event whose data is proven is surely not the Secure Boot variable under another type.
// Of EV_IPL only a part of the data may be proven.
func notSecureBoot(e *Event) bool {
	v, ok := parseVariable(e.Data)
	return e.Type == evVariable || e.Type != evIPL && !(ok && v.name == "SecureBoot")
}

func (x *extractor) ipl(item Item, text string) {
	c := x.c
	pcr := c.Measurements[len(c.Measurements)-1].Register
	for _, p := range grubPrefixes {
		rest, ok := strings.CutPrefix(text, p)
		if !ok {
			continue
		}
		item.Name = rest
		if strings.HasPrefix(p, "grub_cmd") {
			c.GrubCommands = append(c.GrubCommands, item)
		} else {
			c.CommandLines = append(c.CommandLines, item)
		}
		return
	}
	mr := c.Kind == KindRTMR
	switch {
	case strings.HasPrefix(text, "Mok"):
		c.MOK = append(c.MOK, item)
	case strings.HasPrefix(text, ".") && (pcr == 11 || mr):
		c.Sections = append(c.Sections, item)
	case pcr == 9 || mr && strings.HasPrefix(text, "grub_file"), mr && strings.HasPrefix(text, "("), mr && strings.HasPrefix(text, "/"):
		c.GrubFiles = append(c.GrubFiles, item)
	case pcr == 8 || pcr == 12:
		c.CommandLines = append(c.CommandLines, item)
	}
}

// variable adds what the variables of Secure Boot say. Names count only with their GUID.
func (x *extractor) variable(e *Event, m Measurement, matches bool) {
	v, ok := parseVariable(e.Data)
	if !ok {
		return
	}
	c := x.c
	if e.Type == evAuthority {
		a := Authority{Event: m.Event, Variable: v.name, Proof: m.Proof, Digest: m.Digest}
		if len(v.value) > 16 && (v.guid == guidSecurity || v.guid == guidShim && v.name != "SbatLevel" || v.name == "Shim") {
			a.Certificate = certificate(v.value[:16], v.value[16:])
		}
		if v.name == "SbatLevel" && matches {
			c.SbatLevel = clip(printable(v.value), maxText)
		}
		c.Authorities = append(c.Authorities, a)
		return
	}
	if m.Register != x.vars || x.end {
		return // after the separator it is not the firmware that measures
	}
	var db *Database
	switch {
	case v.guid == guidGlobal && v.name == "SecureBoot":
		if len(v.value) == 1 {
			c.SecureBoot.Logged, c.SecureBoot.Enabled, c.SecureBoot.Event = true, v.value[0] == 1, m.Event
		}
		x.sb = append(x.sb, m.Event)
		c.SecureBoot.Proven = len(v.value) == 1 && m.Proof == ProofDigest
		return
	case v.guid == guidGlobal && v.name == "PK":
		db = &c.PK
	case v.guid == guidGlobal && v.name == "KEK":
		db = &c.KEK
	case v.guid == guidSecurity && v.name == "db":
		db = &c.DB
	case v.guid == guidSecurity && v.name == "dbx":
		db = &c.DBX
	default:
		return
	}
	if db.Present {
		db.Malformed = true // twice: which one firmware used is not known
		return
	}
	*db = parseDatabase(v.value)
	db.Proof, db.Event = m.Proof, m.Event
}

// secureBoot settles whether the state is proven: exactly one variable, closed by a separator that replays.
func (x *extractor) secureBoot() {
	s := &x.c.SecureBoot
	r := slices.IndexFunc(x.c.Registers, func(r Register) bool { return r.Index == x.vars && r.State == StateReplayed })
	if len(x.sb) != 1 || !x.end || r < 0 {
		s.Proven = false
	}
}
