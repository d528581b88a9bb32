package ima

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the bytes of a list.
var (
	CodeEmpty = rats.CodeInfo{Code: "ima.list.empty", Slot: rats.Executables,
		Title: "the list has no entries", Hint: "let the agent read the kernel's list: securityfs must be mounted, and IMA be in use (ima_policy=)"}
	CodeTooLarge = rats.CodeInfo{Code: "ima.list.too-large", Slot: rats.Executables,
		Title: "the list is longer than can be judged", Hint: "narrow the kernel's IMA policy, or restart the machine"}
	CodeTruncated = rats.CodeInfo{Code: "ima.list.truncated", Slot: rats.Executables,
		Title: "the list ends inside an entry, or a field claims more bytes than there are", Hint: "read the whole list again"}
	CodeMalformed = rats.CodeInfo{Code: "ima.list.malformed", Slot: rats.Executables,
		Title: "the bytes are not an IMA list", Hint: "send binary_runtime_measurements of a little-endian machine, or ascii_runtime_measurements"}
	CodeTemplate = rats.CodeInfo{Code: "ima.template.unknown", Slot: rats.Executables,
		Title: "an entry has an unknown template", Hint: "use one of the kernel's own templates (ima_template=)"}
)

var parseCodes = []rats.CodeInfo{CodeEmpty, CodeTooLarge, CodeTruncated, CodeMalformed, CodeTemplate}

// Bounds of a list.
const (
	maxList   = 256 << 20
	maxFields = 16
	maxPath   = 4096 + 1
	maxData   = 1 << 20 // of one entry
	maxPCR    = 23
)

// field says what a field of a template holds.
type field uint8

const (
	fieldDigest field = iota // "alg:" NUL digest
	fieldDigest2
	fieldName // path NUL
	fieldSig
	fieldBuf
	fieldModDigest
	fieldModsig
	fieldEVMSig
	fieldXattrNames   // joined by |, NUL
	fieldXattrLengths // 4 bytes each
	fieldXattrValues
	fieldUID
	fieldGID
	fieldMode
)

var fieldNames = map[string]field{
	"d-ng": fieldDigest, "d-ngv2": fieldDigest2, "n-ng": fieldName, "sig": fieldSig, "buf": fieldBuf, "d-modsig": fieldModDigest,
	"modsig": fieldModsig, "evmsig": fieldEVMSig, "xattrnames": fieldXattrNames, "xattrlengths": fieldXattrLengths,
	"xattrvalues": fieldXattrValues, "iuid": fieldUID, "igid": fieldGID, "imode": fieldMode,
}

// template is a known template. The oldest, "ima", has a layout of its own.
type template struct {
	name   string
	old    bool
	fields []field
}

var templates = func() map[string]*template {
	m := map[string]*template{"ima": {name: "ima", old: true}}
	for name, format := range map[string]string{
		"ima-ng": "d-ng|n-ng", "ima-ngv2": "d-ngv2|n-ng", "ima-sig": "d-ng|n-ng|sig", "ima-sigv2": "d-ngv2|n-ng|sig",
		"ima-buf": "d-ng|n-ng|buf", "ima-modsig": "d-ng|n-ng|sig|d-modsig|modsig",
		"evm-sig": "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
	} {
		t := &template{name: name}
		for _, f := range strings.Split(format, "|") {
			t.fields = append(t.fields, fieldNames[f])
		}
		m[name] = t
	}
	return m
}()

// templateOf finds a template by its name, or by its format where the kernel was given one (ima_template_fmt=).
func templateOf(name []byte) (*template, bool) {
	if t, ok := templates[string(name)]; ok {
		return t, true
	}
	if !bytes.Contains(name, []byte("|")) || len(name) > 255 {
		return nil, false
	}
	t := &template{name: string(name)}
	digest, path := 0, 0
	for _, f := range strings.Split(t.name, "|") {
		id, ok := fieldNames[f]
		if !ok || len(t.fields) == maxFields {
			return nil, false
		}
		if id == fieldDigest || id == fieldDigest2 {
			digest++
		}
		if id == fieldName {
			path++
		}
		t.fields = append(t.fields, id)
	}
	return t, digest == 1 && path == 1
}

// record is one entry as it stands in a list.
type record struct {
	Entry
	offset   int
	template *template
	sum      []byte // the template digest that the list states
	data     []byte // what the template digest is of
}

// source reads records one after another; their slices are good until the next call.
type source interface {
	// next reads a record; false at the end.
	next(*record) (bool, error)
}

// Detect says whether b could be an IMA list, binary or ASCII.
func Detect(b []byte) bool {
	if IsASCII(b) {
		return true
	}
	var r record
	ok, err := (&binarySource{b: b}).next(&r)
	return ok && err == nil
}

// IsASCII says whether b starts like an ASCII list.
func IsASCII(b []byte) bool {
	line, _, _ := bytes.Cut(b[:min(len(b), 1<<10)], []byte("\n"))
	f := bytes.Split(line, []byte(" "))
	if len(f) < 4 {
		return false
	}
	_, ok := templateOf(f[2])
	return ok && len(bytes.Trim(f[1], "0123456789abcdef")) == 0
}

func open(b []byte, ascii bool) (source, error) {
	if len(b) > maxList {
		return nil, CodeTooLarge.Bad("list", fmt.Sprintf("at most %d bytes", maxList), fmt.Sprintf("%d bytes", len(b)))
	}
	if ascii {
		return &asciiSource{b: b}, nil
	}
	return &binarySource{b: b}, nil
}

// Parse yields the entries of a list without verifying anything; an error ends it.
func Parse(b []byte, ascii bool) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		s, err := open(b, ascii)
		if err != nil {
			yield(nil, err)
			return
		}
		var r record
		for i := 0; ; i++ {
			r.Index = i
			ok, err := s.next(&r)
			if err != nil {
				yield(nil, err)
				return
			}
			if !ok || !yield(&r.Entry, nil) {
				return
			}
		}
	}
}

// binarySource reads binary_runtime_measurements (ima_fs.c, ima_measurements_show).
type binarySource struct {
	b    []byte
	n    int
	last *template
	old  []byte // template data of the template "ima"
}

func (s *binarySource) truncated(at int, want string) error {
	return CodeTruncated.Bad(fmt.Sprintf("offset %d", at), want, fmt.Sprintf("%d bytes", len(s.b)-at))
}

func (s *binarySource) next(r *record) (bool, error) {
	b, n := s.b, s.n
	if n == len(b) {
		return false, nil
	}
	if len(b)-n < 28 {
		return false, s.truncated(n, "an entry's head of 28 bytes")
	}
	le := binary.LittleEndian
	r.offset = n
	pcr, nameLen := le.Uint32(b[n:]), le.Uint32(b[n+24:])
	if pcr > maxPCR {
		return false, CodeMalformed.Bad(fmt.Sprintf("offset %d", n), fmt.Sprintf("a PCR up to %d", maxPCR), fmt.Sprint(pcr))
	}
	r.PCR, r.sum = int(pcr), b[n+4:n+24]
	if nameLen > 255 {
		return false, CodeMalformed.Bad(fmt.Sprintf("offset %d", n+24), "a template name of at most 255 bytes", fmt.Sprintf("%d bytes", nameLen))
	}
	n += 28
	if int(nameLen) > len(b)-n {
		return false, s.truncated(n, fmt.Sprintf("a template name of %d bytes", nameLen))
	}
	name := b[n : n+int(nameLen)]
	if s.last == nil || s.last.name != string(name) {
		t, ok := templateOf(name)
		if !ok {
			return false, CodeTemplate.Bad(fmt.Sprintf("offset %d", n), "a known template", fmt.Sprintf("%.64q", name))
		}
		s.last = t
	}
	r.template = s.last
	n += int(nameLen)
	if r.template.old {
		return s.nextOld(r, n)
	}
	if len(b)-n < 4 {
		return false, s.truncated(n, "the length of the template data")
	}
	size := le.Uint32(b[n:])
	n += 4
	if size > maxData || int(size) > len(b)-n {
		return false, s.truncated(n-4, fmt.Sprintf("template data of at most %d bytes", min(maxData, len(b)-n))+fmt.Sprintf(", not %d", size))
	}
	r.data = b[n : n+int(size) : n+int(size)]
	s.n = n + int(size)
	return true, r.decode(n)
}

// nextOld reads the template "ima": 20 bytes of digest, length and name. Its template data pads the name to 256 bytes.
func (s *binarySource) nextOld(r *record, n int) (bool, error) {
	b := s.b
	if len(b)-n < 24 {
		return false, s.truncated(n, "digest and length of an entry of template ima")
	}
	digest := b[n : n+20]
	size := binary.LittleEndian.Uint32(b[n+20:])
	n += 24
	if size > 255 || int(size) > len(b)-n {
		return false, s.truncated(n-4, fmt.Sprintf("a name of at most %d bytes", min(255, len(b)-n))+fmt.Sprintf(", not %d", size))
	}
	s.n = n + int(size)
	s.old = r.setOld(s.old, digest, b[n:s.n])
	return true, nil
}

func (r *record) setOld(buf, digest, name []byte) []byte {
	r.Entry = Entry{Index: r.Index, PCR: r.PCR, Alg: "sha1", Digest: digest, Path: name}
	if allZero(r.sum) {
		r.Flags = FlagViolation
	}
	if buf == nil {
		buf = make([]byte, 20+256)
	}
	clear(buf[20:])
	copy(buf, digest)
	copy(buf[20:], name)
	r.data = buf
	return buf
}

// decode reads the template data; at is its offset in the list.
func (r *record) decode(at int) error {
	r.Entry = Entry{Index: r.Index, PCR: r.PCR}
	if allZero(r.sum) {
		r.Flags = FlagViolation
	}
	d := r.data
	for _, f := range r.template.fields {
		if len(d) < 4 {
			return CodeTruncated.Bad(fmt.Sprintf("offset %d", at), "a field's length", fmt.Sprintf("%d bytes", len(d)))
		}
		size := binary.LittleEndian.Uint32(d)
		if uint64(size) > uint64(len(d)-4) {
			return CodeTruncated.Bad(fmt.Sprintf("offset %d", at), fmt.Sprintf("a field of at most %d bytes", len(d)-4), fmt.Sprintf("%d bytes", size))
		}
		v := d[4 : 4+size : 4+size]
		if problem := r.set(f, v); problem != "" {
			return CodeMalformed.Bad(fmt.Sprintf("offset %d", at+4), problem, clipHex(v))
		}
		d = d[4+size:]
		at += 4 + int(size)
	}
	if len(d) != 0 {
		return CodeMalformed.Bad(fmt.Sprintf("offset %d", at), "the end of the template data", fmt.Sprintf("%d bytes more", len(d)))
	}
	return nil
}

// set takes over one field; it returns what would have been right, "" if all is.
func (r *record) set(f field, v []byte) string {
	switch f {
	case fieldDigest:
		var problem string
		r.Alg, r.Digest, problem = digestOf(v)
		return problem
	case fieldDigest2:
		kind, rest, ok := bytes.Cut(v, []byte(":"))
		switch {
		case ok && string(kind) == "verity":
			r.Flags |= FlagVerity
		case !ok || string(kind) != "ima":
			return "ima: or verity: before the digest"
		}
		var problem string
		r.Alg, r.Digest, problem = digestOf(rest)
		return problem
	case fieldName:
		n := len(v) - 1
		if n < 0 || n > maxPath || v[n] != 0 || bytes.IndexByte(v, 0) != n {
			return "a path that ends with its only NUL"
		}
		r.Path = v[:n]
	case fieldSig:
		if len(v) > 0 {
			r.Sig = v
			r.Flags |= FlagSig
		}
	case fieldBuf:
		r.Buf = v
		r.Flags |= FlagBuf
	case fieldModsig:
		if len(v) > 0 {
			r.Flags |= FlagModsig
			r.Mod.Sig = v
		}
	case fieldModDigest:
		if len(v) > 0 {
			r.Flags |= FlagModsig
			var problem string
			r.Mod.Alg, r.Mod.Digest, problem = digestOf(v)
			return problem
		}
	default:
		return r.setEVM(f, v)
	}
	return ""
}

// setEVM takes over one field of what an EVM signature covers. All are empty for what is no file.
func (r *record) setEVM(f field, v []byte) string {
	r.Flags |= FlagEVM
	m := &r.EVM
	switch f {
	case fieldEVMSig:
		m.Sig = v
	case fieldXattrNames:
		m.Names = v
	case fieldXattrLengths:
		m.Lengths = v
	case fieldXattrValues:
		m.Values = v
	case fieldUID, fieldGID:
		if len(v) == 0 {
			break
		}
		if len(v) != 4 {
			return "4 bytes"
		}
		if n := binary.LittleEndian.Uint32(v); f == fieldUID {
			m.UID, m.Has = n, m.Has|hasUID
		} else {
			m.GID, m.Has = n, m.Has|hasGID
		}
	case fieldMode:
		if len(v) == 0 {
			break
		}
		if len(v) != 2 {
			return "2 bytes"
		}
		m.Mode, m.Has = binary.LittleEndian.Uint16(v), m.Has|hasMode
		if m.Mode&0o111 != 0 {
			r.Flags |= FlagExec
		}
	}
	return ""
}

// digestOf reads a digest with its algorithm, and says what would have been right.
func digestOf(v []byte) (alg string, digest []byte, problem string) {
	i := bytes.IndexByte(v, ':')
	if i < 1 || i > 32 || i+1 >= len(v) || v[i+1] != 0 {
		return "", nil, "an algorithm, a colon, NUL and a digest"
	}
	switch name := v[:i]; string(name) {
	case "sha256":
		alg = "sha256"
	case "sha1":
		alg = "sha1"
	default:
		alg = string(name)
	}
	digest = v[i+2:]
	if size, ok := digestSizes[alg]; ok && size != len(digest) {
		return alg, digest, fmt.Sprintf("%d bytes of %s", size, alg)
	}
	if len(digest) == 0 || len(digest) > 64 {
		return alg, digest, "a digest of 1 to 64 bytes"
	}
	return alg, digest, ""
}

var digestSizes = map[string]int{
	"md5": 16, "sha1": 20, "rmd160": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64, "sm3": 32, "sm3-256": 32, "sm3_256": 32,
	"streebog256": 32, "streebog512": 64, "sha3-256": 32, "sha3-384": 48, "sha3-512": 64,
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
