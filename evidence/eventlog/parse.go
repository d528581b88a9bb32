package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the bytes of a log.
var (
	CodeEmpty = rats.CodeInfo{Code: "eventlog.log.empty", Slot: rats.Configuration,
		Title: "the event log is empty", Hint: "let the agent read the firmware's log: securityfs must be mounted"}
	CodeTooLarge = rats.CodeInfo{Code: "eventlog.log.too-large", Slot: rats.Configuration,
		Title: "the event log is larger than any firmware writes", Hint: "send the log of one boot only"}
	CodeTruncated = rats.CodeInfo{Code: "eventlog.log.truncated", Slot: rats.Configuration,
		Title: "the event log ends inside an event, or an event claims more bytes than there are", Hint: "read the whole log again"}
	CodeMalformed = rats.CodeInfo{Code: "eventlog.log.malformed", Slot: rats.Configuration,
		Title: "the bytes are not an event log", Hint: "send binary_bios_measurements, or the data of the CCEL area"}
	CodeTrailing = rats.CodeInfo{Code: "eventlog.log.trailing", Slot: rats.Configuration,
		Title: "other bytes than padding follow the last event", Hint: "send the log as it was read"}
)

var parseCodes = []rats.CodeInfo{CodeEmpty, CodeTooLarge, CodeTruncated, CodeMalformed, CodeTrailing}

// Bounds of a log.
const (
	maxLog      = 8 << 20
	maxEvents   = 1 << 16
	maxBanks    = 8
	maxPadding  = 8 << 10 // of a log that is not a fixed area
	maxRegister = 23
	anyRegister = 0xffffffff // where EV_NO_ACTION belongs to none
)

// algorithms are the TPM_ALG_IDs of hashes (TCG Algorithm Registry).
var algorithms = map[uint16]Bank{
	0x0004: {0x0004, "sha1", 20}, 0x000b: {0x000b, "sha256", 32}, 0x000c: {0x000c, "sha384", 48}, 0x000d: {0x000d, "sha512", 64},
	0x0012: {0x0012, "sm3_256", 32}, 0x0027: {0x0027, "sha3-256", 32}, 0x0028: {0x0028, "sha3-384", 48}, 0x0029: {0x0029, "sha3-512", 64},
}

// Bank is a hash algorithm of a log.
type Bank struct {
	ID   uint16
	Name string
	Size int
}

// Digest is one digest of an event.
type Digest struct {
	Alg uint16
	Sum []byte
}

// Event is one event of a log. Its slices are parts of the log.
type Event struct {
	Offset   int // of its first byte
	Register uint32
	Type     uint32
	Digests  []Digest
	Data     []byte
}

// Sum returns the event's digest by an algorithm, nil if it has none.
func (e *Event) Sum(alg uint16) []byte {
	for _, d := range e.Digests {
		if d.Alg == alg {
			return d.Sum
		}
	}
	return nil
}

// Log is a decoded event log.
type Log struct {
	Agile   bool // TCG_PCR_EVENT2 after a "Spec ID Event03" header; otherwise TCG_PCR_EVENT with SHA-1
	Banks   []Bank
	Events  []Event // the header is the first
	Length  int     // bytes of the events
	Padding []byte  // what follows them: bytes 00 or ff only
	vendor  []byte  // of the header's vendor information, what its size leaves out
}

// Detect says whether b could be an event log: its first record fits.
func Detect(b []byte) bool {
	if len(b) < 32 {
		return false
	}
	size := binary.LittleEndian.Uint32(b[28:])
	typ := binary.LittleEndian.Uint32(b[4:])
	known := typeName(typ) != ""
	return binary.LittleEndian.Uint32(b) <= maxRegister && known && uint64(size) <= uint64(len(b)-32)
}

// Parse decodes a log: crypto-agile if its first event is a "Spec ID Event03", else SHA-1 only. A log of a fixed area
// (CCEL) may be followed by any number of bytes 00 or of bytes ff, any other by at most 8 KiB of them. Errors carry
// the offset.
func Parse(b []byte, area bool) (*Log, error) {
	switch {
	case len(b) == 0:
		return nil, CodeEmpty.Bad("offset 0", "an event", "no bytes")
	case len(b) > maxLog:
		return nil, CodeTooLarge.Bad("log", fmt.Sprintf("at most %d bytes", maxLog), fmt.Sprintf("%d bytes", len(b)))
	}
	r := &reader{b: b}
	l := &Log{Banks: []Bank{algorithms[0x0004]}}
	if first := r.legacy(); r.err == nil {
		if err := checkEvent(&first); err != nil {
			return nil, err
		}
		l.Events = append(l.Events, first)
		if first.Type == evNoAction && bytes.HasPrefix(first.Data, []byte("Spec ID Event03\x00")) {
			l.Agile = true
			banks, beyond, err := specBanks(&first, b)
			if err != nil {
				return nil, err
			}
			l.Banks, l.vendor = banks, r.take(beyond)
		}
	}
	slab := make([]Digest, 0, 64*len(l.Banks))
	tail := paddingStart(b)
	for r.err == nil && r.n < tail {
		if len(l.Events) == maxEvents {
			return nil, CodeTooLarge.Bad(fmt.Sprintf("offset %d", r.n), fmt.Sprintf("at most %d events", maxEvents), "more")
		}
		if err := startsEvent(b, r.n); err != nil {
			return nil, err
		}
		var e Event
		if l.Agile {
			e, slab = r.agile(l.Banks, slab)
		} else {
			e = r.legacy()
		}
		l.Events = append(l.Events, e)
	}
	if r.err != nil {
		return nil, r.err
	}
	l.Length, l.Padding = r.n, b[r.n:]
	if !area && len(l.Padding) > maxPadding {
		return nil, CodeTrailing.Bad(fmt.Sprintf("offset %d", r.n), fmt.Sprintf("at most %d bytes of padding", maxPadding), fmt.Sprintf("%d bytes", len(l.Padding)))
	}
	return l, nil
}

// paddingStart returns where the bytes 00, or ff, start that b ends with.
func paddingStart(b []byte) int {
	p := b[len(b)-1]
	if p != 0 && p != 0xff {
		return len(b)
	}
	n := len(b)
	for n > 0 && b[n-1] == p {
		n--
	}
	return n
}

// startsEvent names what follows the last event if it doesn't even start like one.
func startsEvent(b []byte, at int) error {
	if len(b)-at >= 8 {
		e := Event{Offset: at, Register: binary.LittleEndian.Uint32(b[at:]), Type: binary.LittleEndian.Uint32(b[at+4:])}
		if checkEvent(&e) == nil {
			return nil
		}
	}
	return CodeTrailing.Bad(fmt.Sprintf("offset %d", at), "an event, or padding to the end", fmt.Sprintf("%x…", b[at:min(at+16, len(b))]))
}

func checkEvent(e *Event) error {
	if e.Register > maxRegister && !(e.Register == anyRegister && e.Type == evNoAction) {
		return CodeMalformed.Bad(fmt.Sprintf("offset %d", e.Offset), fmt.Sprintf("a register from 0 to %d", maxRegister), fmt.Sprint(e.Register))
	}
	return nil
}

// specBanks reads TCG_EfiSpecIDEvent (PFP section 10.4.5.1). It returns how many bytes of it stand behind the event.
func specBanks(e *Event, log []byte) ([]Bank, int, error) {
	base := e.Offset + 32
	r := &reader{b: e.Data, base: base}
	r.take(16 + 4 + 4) // signature, platformClass, version, errata, uintnSize
	n := r.u32()
	if r.err == nil && (n == 0 || n > maxBanks) {
		return nil, 0, CodeMalformed.Bad(fmt.Sprintf("offset %d", base+24), fmt.Sprintf("1 to %d algorithms", maxBanks), fmt.Sprint(n))
	}
	var banks []Bank
	for range n {
		at := base + r.n
		id, size := r.u16(), r.u16()
		if r.err != nil {
			break
		}
		bank, ok := algorithms[id]
		if !ok {
			bank = Bank{id, fmt.Sprintf("0x%04x", id), int(size)}
		}
		if int(size) != bank.Size || size == 0 || size > 64 {
			return nil, 0, CodeMalformed.Bad(fmt.Sprintf("offset %d", at), fmt.Sprintf("digests of %d bytes for %s", bank.Size, bank.Name), fmt.Sprint(size))
		}
		for _, b := range banks {
			if b.ID == id {
				return nil, 0, CodeMalformed.Bad(fmt.Sprintf("offset %d", at), "each algorithm once", bank.Name+" twice")
			}
		}
		banks = append(banks, bank)
	}
	vendor := r.take(1)
	if r.err != nil {
		return nil, 0, r.err
	}
	// Some writers leave the vendor's information out of the event's size.
	end := base + r.n + int(vendor[0])
	beyond := end - base - len(e.Data)
	switch {
	case end > len(log):
		r.take(int(vendor[0]))
		return nil, 0, r.err
	case beyond < 0, beyond > 0 && r.n != len(e.Data):
		return nil, 0, CodeMalformed.Bad(fmt.Sprintf("offset %d", base+r.n), fmt.Sprintf("%d bytes of vendor information", int(vendor[0])), fmt.Sprintf("%d bytes", len(e.Data)-r.n))
	}
	return banks, beyond, nil
}

// reader reads little-endian fields; after the first error it yields nothing.
type reader struct {
	b    []byte
	n    int
	base int // offset of b in the log
	err  error
}

func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b)-r.n {
		r.err = CodeTruncated.Bad(fmt.Sprintf("offset %d", r.base+r.n), fmt.Sprintf("%d bytes", n), fmt.Sprintf("%d bytes", len(r.b)-r.n))
		return nil
	}
	p := r.b[r.n : r.n+n : r.n+n]
	r.n += n
	return p
}

func (r *reader) u16() uint16 {
	if p := r.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// data reads a 32-bit length and so many bytes.
func (r *reader) data() []byte {
	n := r.u32()
	if r.err == nil && uint64(n) > uint64(len(r.b)-r.n) {
		r.err = CodeTruncated.Bad(fmt.Sprintf("offset %d", r.base+r.n-4), fmt.Sprintf("event data of at most %d bytes", len(r.b)-r.n), fmt.Sprintf("%d bytes", n))
		return nil
	}
	return r.take(int(n))
}

// legacy reads TCG_PCR_EVENT (PFP section 10.2.1).
func (r *reader) legacy() Event {
	e := Event{Offset: r.n}
	e.Register, e.Type = r.u32(), r.u32()
	e.Digests = []Digest{{Alg: 0x0004, Sum: r.take(20)}}
	e.Data = r.data()
	return e
}

// agile reads TCG_PCR_EVENT2 (PFP section 10.2.2): digests by the log's algorithms, none twice, in any order.
// Some firmware leaves out the banks that are not in use.
func (r *reader) agile(banks []Bank, slab []Digest) (Event, []Digest) {
	e := Event{Offset: r.n}
	e.Register, e.Type = r.u32(), r.u32()
	at := r.n
	count := r.u32()
	if r.err == nil && (count == 0 || count > uint32(len(banks))) {
		r.err = CodeMalformed.Bad(fmt.Sprintf("offset %d", at), fmt.Sprintf("1 to %d digests, by the log's algorithms", len(banks)), fmt.Sprint(count))
		return e, slab
	}
	start := len(slab)
	for range count {
		at := r.n
		id := r.u16()
		size := 0
		for _, b := range banks {
			if b.ID == id {
				size = b.Size
			}
		}
		for _, d := range slab[start:] {
			if d.Alg == id {
				size = 0
			}
		}
		if r.err == nil && size == 0 {
			r.err = CodeMalformed.Bad(fmt.Sprintf("offset %d", at), "each of the log's algorithms once", fmt.Sprintf("algorithm 0x%04x", id))
		}
		slab = append(slab, Digest{id, r.take(size)})
		if r.err != nil {
			return e, slab
		}
	}
	e.Digests = slab[start:len(slab):len(slab)]
	e.Data = r.data()
	return e, slab
}

// Encode returns the bytes that Parse read.
func (l *Log) Encode() []byte {
	out := make([]byte, 0, l.Length+len(l.Padding))
	le := binary.LittleEndian
	for i, e := range l.Events {
		out = le.AppendUint32(le.AppendUint32(out, e.Register), e.Type)
		if l.Agile && i > 0 {
			out = le.AppendUint32(out, uint32(len(e.Digests)))
			for _, d := range e.Digests {
				out = append(le.AppendUint16(out, d.Alg), d.Sum...)
			}
		} else {
			out = append(out, e.Digests[0].Sum...)
		}
		out = append(le.AppendUint32(out, uint32(len(e.Data))), e.Data...)
		if i == 0 {
			out = append(out, l.vendor...)
		}
	}
	return append(out, l.Padding...)
}
