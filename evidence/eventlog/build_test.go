package eventlog

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
)

// builder makes crypto-agile logs of SHA-1 and SHA-256, and keeps the registers as a TPM would.
type builder struct {
	b      []byte
	values map[int][]byte // sha256
	events int
	kind   string
}

func le32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }

func newLog(kind string) *builder {
	spec := []byte("Spec ID Event03\x00\x00\x00\x00\x00\x00\x02\x00\x02")
	spec = le32(spec, 2)
	spec = append(spec, 4, 0, 20, 0, 0x0b, 0, 32, 0, 0)
	b := append(le32(le32(nil, 0), evNoAction), make([]byte, 20)...)
	l := &builder{b: append(le32(b, uint32(len(spec))), spec...), values: map[int][]byte{}, kind: kind, events: 1}
	for n := range maxRegister + 1 {
		l.values[n] = make([]byte, 32)
		if kind == KindPCR && n >= 17 && n <= 22 {
			for i := range l.values[n] {
				l.values[n][i] = 0xff
			}
		}
	}
	return l
}

// event adds an event whose digest is of measured.
func (l *builder) event(register int, typ uint32, data, measured []byte) *builder {
	s1, s256 := sha1.Sum(measured), sha256.Sum256(measured)
	l.b = le32(le32(le32(l.b, uint32(register)), typ), 2)
	l.b = append(append(l.b, 4, 0), s1[:]...)
	l.b = append(append(l.b, 0x0b, 0), s256[:]...)
	l.b = append(le32(l.b, uint32(len(data))), data...)
	l.events++
	if typ != evNoAction {
		l.extend(register, s256[:])
	}
	return l
}

func (l *builder) extend(register int, sum []byte) {
	v := sha256.Sum256(append(slices.Clone(l.values[register]), sum...))
	l.values[register] = v[:]
}

// reg maps a PCR to the register of this log.
func (l *builder) reg(pcr int) int {
	if l.kind == KindPCR {
		return pcr
	}
	return (&checker{c: &Claims{Kind: KindRTMR}}).registers(pcr)[0]
}

func (l *builder) text(pcr int, typ uint32, s string) *builder {
	return l.event(l.reg(pcr), typ, []byte(s), []byte(s))
}

func varData(guid [16]byte, name string, value []byte) []byte {
	b := binary.LittleEndian.AppendUint64(slices.Clone(guid[:]), uint64(len(name)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	return append(append(b, utf16Bytes(name)...), value...)
}

func (l *builder) variable(guid [16]byte, name string, value []byte) *builder {
	v := varData(guid, name, value)
	return l.event(l.reg(7), evVariable, v, v)
}

func (l *builder) separator(pcrs ...int) *builder {
	for _, p := range pcrs {
		l.event(l.reg(p), evSeparator, make([]byte, 4), make([]byte, 4))
	}
	return l
}

// image adds an image load: data is a device path, the digest is of the image.
func (l *builder) image(pcr int, typ uint32, path, content string) *builder {
	node := append([]byte{4, 4, 0, 0}, append(utf16Bytes(path), 0, 0)...)
	binary.LittleEndian.PutUint16(node[2:], uint16(len(node)))
	node = append(node, 0x7f, 0xff, 4, 0)
	b := binary.LittleEndian.AppendUint64(make([]byte, 24), uint64(len(node)))
	return l.event(l.reg(pcr), typ, append(b, node...), []byte(content))
}

func (l *builder) tag(id uint32, text string, measured []byte) *builder {
	b := le32(le32(nil, id), uint32(len(text)+1))
	return l.event(l.reg(9), evEventTag, append(append(b, text...), 0), measured)
}

func sigList(kind [16]byte, entries ...string) []byte {
	var b []byte
	for _, e := range entries {
		b = append(b, kind[:]...)
		b = le32(le32(le32(b, uint32(28+16+len(e))), 0), uint32(16+len(e)))
		b = append(append(b, make([]byte, 16)...), e...)
	}
	return b
}

func shaText(s string) string { return rats.SHA256([]byte(s)).String() }

const cmdline = "root=/dev/vda ro quiet"

// bootWith builds a boot: Secure Boot, shim, kernel, command line and initrd measured by Linux' EFI stub.
func bootWith(kind string, secureBoot byte) *builder {
	l := newLog(kind)
	if kind == KindPCR {
		l.event(0, evNoAction, []byte("StartupLocality\x00\x03"), nil)
		l.values[0][31] = 3
	}
	hash32 := sha256.Sum256([]byte("revoked"))
	l.event(l.reg(0), evCRTMVersion, append(utf16Bytes("v1"), 0, 0), append(utf16Bytes("v1"), 0, 0)).
		event(l.reg(0), 0x80000008, make([]byte, 16), []byte("firmware")).
		variable(guidGlobal, "SecureBoot", []byte{secureBoot}).
		variable(guidGlobal, "PK", sigList(guidX509, "pk")).
		variable(guidGlobal, "KEK", sigList(guidX509, "kek1", "kek2")).
		variable(guidSecurity, "db", sigList(guidX509, "db")).
		variable(guidSecurity, "dbx", sigList(guidSHA256, string(hash32[:]))).
		separator(7).
		image(2, evBootDriver, "rom", "rom").
		text(4, evEFIAction, "Calling EFI Application from Boot Option").
		separator(0, 1, 2, 3, 4, 5, 6)
	authority := varData(guidSecurity, "db", append(make([]byte, 16), "db"...))
	l.event(l.reg(7), evAuthority, authority, authority)
	sbat := varData([16]byte{1}, "SbatLevel", []byte("sbat,1,2023012900\nshim,2\n"))
	return l.event(l.reg(7), evAuthority, sbat, sbat).
		image(4, evApplication, `\EFI\shimx64.efi`, "shim").
		event(l.reg(14), evIPL, []byte("MokList\x00"), []byte("mok")).
		image(4, evApplication, `\EFI\linux.efi`, "kernel").
		tag(tagLoadOptions, "LOADED_IMAGE::LoadOptions", append(utf16Bytes(cmdline), 0, 0)).
		tag(tagInitrd, "Linux initrd", []byte("initrd")).
		text(5, evEFIAction, "Exit Boot Services Invocation").
		text(5, evEFIAction, "Exit Boot Services Returned with Success")
}

func boot() *builder { return bootWith(KindPCR, 1) }

// grub builds what GRUB measures after shim.
func (l *builder) grub(commands ...string) *builder {
	for _, c := range commands {
		label, _, _ := strings.Cut(c, ": ")
		l.event(l.reg(8), evIPL, append([]byte(c), 0), []byte(c[len(label)+2:]))
	}
	return l.event(l.reg(9), evIPL, []byte("(hd0,gpt2)/vmlinuz\x00"), []byte("kernel")).
		event(l.reg(9), evIPL, []byte("(hd0,gpt2)/initrd\x00"), []byte("initrd"))
}

func (l *builder) evidence() rats.Evidence {
	e := rats.Evidence{Format: Format, MediaType: MediaType, Body: slices.Clone(l.b)}
	if l.kind == KindRTMR {
		e.MediaType = MediaTypeCCEL
	}
	return e
}

// inputs vouch for all registers but those a running system extends.
func (l *builder) inputs() rats.Inputs {
	r := rats.Registers{By: "tpm", Kind: l.kind, Alg: "sha256", Values: map[int][]byte{}}
	for n, v := range l.values {
		switch {
		case l.kind == KindRTMR && n >= 1 && n <= 4:
			r.Values[n-1] = slices.Clone(v)
		case l.kind == KindPCR:
			r.Values[n] = slices.Clone(v)
		}
	}
	return rats.Inputs{Facts: rats.Facts{Registers: []rats.Registers{r}}}
}

func mustVerify(t testing.TB, e rats.Evidence, in rats.Inputs) *Claims {
	t.Helper()
	v, err := New().Verify(t.Context(), e, in)
	if err != nil {
		t.Fatal(err)
	}
	// Claims survive JSON: dry-runs judge what was stored.
	b, err := json.Marshal(v.Claims)
	if err != nil {
		t.Fatal(err)
	}
	c := new(Claims)
	if err := json.Unmarshal(b, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func wantCode(t testing.TB, err error, code rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != code.Code {
		t.Errorf("got %v, want %s", err, code.Code)
	}
}

func codesOf(reasons []rats.Reason) string {
	var s []string
	for _, r := range reasons {
		if c := fmt.Sprint(r.Code); !slices.Contains(s, c) {
			s = append(s, c)
		}
	}
	return strings.Join(s, " ")
}
