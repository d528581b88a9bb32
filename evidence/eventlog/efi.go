package eventlog

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/assay-attest/assay/rats"
)

// GUIDs in their byte order (UEFI specification, appendix A, and section 32.4).
var (
	guidGlobal   = guid("8be4df61-93ca-11d2-aa0d-00e098032b8c") // PK, KEK, SecureBoot
	guidSecurity = guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f") // db, dbx
	guidShim     = guid("605dab50-e046-4300-abb6-3dd810dd8b23") // what shim checks by: MokList, MokListRT, Shim, vendor_db; and SbatLevel
	guidX509     = guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
	guidSHA256   = guid("c1c41626-504c-4092-aca9-41f936934328")
)

func guid(text string) [16]byte {
	var p [5]uint64
	_, err := fmt.Sscanf(text, "%08x-%04x-%04x-%04x-%012x", &p[0], &p[1], &p[2], &p[3], &p[4])
	if err != nil {
		panic("eventlog: bad GUID " + text)
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(p[0]))
	b = binary.LittleEndian.AppendUint16(b, uint16(p[1]))
	b = binary.LittleEndian.AppendUint16(b, uint16(p[2]))
	b = binary.BigEndian.AppendUint64(b, p[3]<<48|p[4])
	return [16]byte(b)
}

func guidText(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// variable is UEFI_VARIABLE_DATA (PFP section 10.4.4).
type variable struct {
	guid  [16]byte
	name  string
	value []byte
}

func parseVariable(b []byte) (variable, bool) {
	r := &reader{b: b}
	g := r.take(16)
	names, size := r.u64(), r.u64()
	if r.err != nil || names > 1<<10 || size > uint64(len(b)) {
		return variable{}, false
	}
	name, value := r.take(2*int(names)), r.take(int(size))
	if r.err != nil || r.n != len(b) {
		return variable{}, false
	}
	return variable{[16]byte(g), utf16Text(name), value}, true
}

// utf16Text decodes UTF-16LE up to the first NUL into the canonical text form of paths.
func utf16Text(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return rats.EscapePath([]byte(string(utf16.Decode(u))))
}

// utf16Bytes encodes text as UTF-16LE.
func utf16Bytes(s string) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// looksUTF16 says whether b is text of ASCII characters in UTF-16LE.
func looksUTF16(b []byte) bool {
	if len(b) < 2 || len(b)%2 != 0 {
		return false
	}
	for i := 1; i < len(b); i += 2 {
		if b[i] != 0 {
			return false
		}
	}
	return b[0] != 0
}

// goesOn says whether more than NULs follow the terminator of text in UTF-16LE.
func goesOn(b []byte) bool {
	end := false
	for i := 0; i < len(b); i += 2 {
		if b[i] == 0 {
			end = true
		} else if end {
			return true
		}
	}
	return false
}

// maxEntries bounds the entries of a database that are listed; further ones are counted.
const maxEntries = 4096

// parseDatabase reads EFI_SIGNATURE_LISTs (UEFI specification, section 32.4.1).
func parseDatabase(b []byte) Database {
	d := Database{Present: true, Digest: rats.SHA256(b)}
	r := &reader{b: b}
	for r.n < len(b) {
		kind := r.take(16)
		list, header, size := r.u32(), r.u32(), r.u32()
		if r.err != nil || uint64(list) < 28+uint64(header) || size < 16 || int64(list)-28 > int64(len(b)-r.n) {
			d.Malformed = true
			return d
		}
		body := r.take(int(list) - 28)[header:]
		if len(body)%int(size) != 0 {
			d.Malformed = true
			return d
		}
		for ; len(body) > 0; body = body[size:] {
			d.add([16]byte(kind), body[:16], body[16:size])
		}
	}
	return d
}

func (d *Database) add(kind [16]byte, owner, data []byte) {
	switch {
	case len(d.Certificates)+len(d.Hashes) >= maxEntries:
		d.Other++
	case kind == guidX509:
		d.Certificates = append(d.Certificates, certificate(owner, data))
	case kind == guidSHA256 && len(data) == 32:
		d.Hashes = append(d.Hashes, rats.Digest{Alg: "sha256", Sum: bytes.Clone(data)})
	default:
		d.Other++
	}
}

func certificate(owner, der []byte) Certificate {
	c := Certificate{Digest: rats.SHA256(der), Owner: guidText(owner)}
	if cert, err := x509.ParseCertificate(der); err == nil {
		c.Subject = clip(rats.EscapePath([]byte(cert.Subject.String())), 256)
	}
	return c
}

// devicePath returns a readable text of EFI_DEVICE_PATH nodes (UEFI specification, section 10).
func devicePath(b []byte) string {
	var nodes []string
	for len(b) >= 4 && len(nodes) < 64 {
		n := int(binary.LittleEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) || b[0] == 0x7f {
			break
		}
		nodes = append(nodes, deviceNode(b[0], b[1], b[4:n]))
		b = b[n:]
	}
	return clip(strings.Join(nodes, "/"), maxText)
}

func deviceNode(kind, sub byte, data []byte) string {
	switch {
	case kind == 1 && sub == 1 && len(data) == 2:
		return fmt.Sprintf("Pci(0x%x,0x%x)", data[1], data[0])
	case kind == 2 && sub == 1 && len(data) == 8:
		return fmt.Sprintf("Acpi(0x%x,0x%x)", binary.LittleEndian.Uint32(data), binary.LittleEndian.Uint32(data[4:]))
	case kind == 4 && sub == 1 && len(data) == 38:
		return fmt.Sprintf("HD(%d,%s)", binary.LittleEndian.Uint32(data), guidText(data[20:36]))
	case kind == 4 && sub == 4:
		return utf16Text(data)
	case kind == 4 && sub == 3 && len(data) >= 16:
		return "VenMedia(" + guidText(data) + ")"
	case kind == 4 && (sub == 6 || sub == 7) && len(data) == 16:
		return [...]string{"FvFile", "Fv"}[sub-6] + "(" + guidText(data) + ")"
	}
	return fmt.Sprintf("Path(%d,%d)", kind, sub)
}

// imagePath returns the device path of UEFI_IMAGE_LOAD_EVENT (PFP section 10.4.3).
func imagePath(b []byte) string {
	r := &reader{b: b}
	r.take(24)
	n := r.u64()
	if r.err != nil || n > uint64(len(b)-r.n) {
		return ""
	}
	return devicePath(r.take(int(n)))
}

// tagged returns the text of TCG_PCClientTaggedEvent (PFP section 10.4.2.1).
func tagged(b []byte) (id uint32, data []byte, ok bool) {
	r := &reader{b: b}
	id = r.u32()
	data = r.data()
	return id, data, r.err == nil && r.n == len(b)
}

// The ids of the events of Linux' EFI stub (drivers/firmware/efi/libstub/efistub.h).
const (
	tagInitrd      = 0x8f3b22ec
	tagLoadOptions = 0x8f3b22ed
)

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

func sortedKeys[K ~int | ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
