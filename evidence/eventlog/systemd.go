package eventlog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/assay-attest/assay/rats"
)

// PartSystemd is the name of the part that holds systemd's log of what it measured after the boot loader's log ended:
// /run/log/systemd/tpm2-measure.log as it is.
const PartSystemd = "systemd"

// What can be wrong with the bytes of systemd's log.
var (
	CodeSystemdLarge = rats.CodeInfo{Code: "eventlog.systemd.too-large", Slot: rats.Configuration,
		Title: "systemd's log of measurements is larger than one boot makes it", Hint: "send the log of one boot only"}
	CodeSystemdMalformed = rats.CodeInfo{Code: "eventlog.systemd.malformed", Slot: rats.Configuration,
		Title: "the part systemd is not systemd's log of measurements", Hint: "send /run/log/systemd/tpm2-measure.log whole and as it is"}
	CodeSystemdTruncated = rats.CodeInfo{Code: "eventlog.systemd.truncated", Slot: rats.Configuration,
		Title: "systemd's log of measurements ends inside a record", Hint: "read the whole log again, under a shared lock"}
)

var systemdCodes = []rats.CodeInfo{CodeSystemdLarge, CodeSystemdMalformed, CodeSystemdTruncated}

// Bounds of systemd's log.
const (
	maxSystemdLog    = 4 << 20
	maxSystemdRecord = 64 << 10
	maxRecords       = 1 << 14
	recordSeparator  = 0x1e // RFC 7464, section 2.2
	noRegister       = -1   // of a record about an NV index
)

// Record is one record of systemd's log: a measurement, and what systemd says it is of.
type Record struct {
	Offset   int // of its separator
	Register int // -1: an NV index that is used like a PCR
	Digests  []Digest
	// Text, of the content: nothing but Digests is covered by a register.
	Type   string // phase, machine-id, volume-key, filesystem, …
	String string // of most types, what was hashed
	Boot   string // 128 bits in hex
}

// Sum returns the record's digest by an algorithm, nil if it has none.
func (r *Record) Sum(alg uint16) []byte { return (&Event{Digests: r.Digests}).Sum(alg) }

// record is the JSON of a record: the object of the TCG's Canonical Event Log (CEL-JSON) without recnum, as
// systemd-pcrextend(8) describes it.
type record struct {
	PCR     *json.Number `json:"pcr"`
	NVIndex *json.Number `json:"nv_index"`
	NVName  *string      `json:"nvindex"`
	Digests []struct {
		Alg string `json:"hashAlg"`
		Sum string `json:"digest"`
	} `json:"digests"`
	ContentType string `json:"content_type"`
	Content     struct {
		Type   string `json:"eventType"`
		String string `json:"string"`
		Boot   string `json:"bootId"`
		NVName string `json:"nvIndexName"`
	} `json:"content"`
}

// ParseSystemd decodes systemd's log: JSON texts, each after a byte 1e and before a line feed (RFC 7464). A log without
// records is valid. Errors carry the offset.
func ParseSystemd(b []byte) ([]Record, error) {
	if len(b) > maxSystemdLog {
		return nil, CodeSystemdLarge.Bad(systemdPath(0), fmt.Sprintf("at most %d bytes", maxSystemdLog), fmt.Sprintf("%d bytes", len(b)))
	}
	var out []Record
	for at := 0; at < len(b); {
		if b[at] != recordSeparator {
			return nil, CodeSystemdMalformed.Bad(systemdPath(at), "a record separator, 1e", fmt.Sprintf("%02x", b[at]))
		}
		size := bytes.IndexByte(b[at+1:], recordSeparator)
		if size < 0 {
			size = len(b) - at - 1
		}
		text := b[at+1 : at+1+size]
		switch {
		case len(out) == maxRecords:
			return nil, CodeSystemdLarge.Bad(systemdPath(at), fmt.Sprintf("at most %d records", maxRecords), "more")
		case size > maxSystemdRecord:
			return nil, CodeSystemdLarge.Bad(systemdPath(at), fmt.Sprintf("records of at most %d bytes", maxSystemdRecord), fmt.Sprintf("%d bytes", size))
		case size == 0 || text[size-1] != '\n':
			return nil, CodeSystemdTruncated.Bad(systemdPath(at), "a record that ends with a line feed", "none")
		}
		r, err := parseRecord(text, at)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
		at += 1 + size
	}
	return out, nil
}

func systemdPath(at int) string { return fmt.Sprintf("parts.%s offset %d", PartSystemd, at) }

func parseRecord(text []byte, at int) (Record, error) {
	var j record
	if err := json.Unmarshal(text, &j); err != nil {
		return Record{}, CodeSystemdMalformed.Bad(systemdPath(at), "a record in JSON", clip(rats.EscapePath([]byte(err.Error())), 120))
	}
	r := Record{Offset: at, Register: noRegister}
	nv := j.NVIndex != nil || j.NVName != nil || j.Content.NVName != ""
	switch {
	case j.PCR != nil && nv, j.PCR == nil && !nv:
		return Record{}, CodeSystemdMalformed.Bad(systemdPath(at), "either a PCR or an NV index", "both, or none")
	case j.PCR != nil:
		n, err := strconv.ParseUint(j.PCR.String(), 10, 8)
		if err != nil || n > maxRegister {
			return Record{}, CodeSystemdMalformed.Bad(systemdPath(at), fmt.Sprintf("a register from 0 to %d", maxRegister), clip(j.PCR.String(), 20))
		}
		r.Register = int(n)
	}
	if len(j.Digests) == 0 || len(j.Digests) > maxBanks {
		return Record{}, CodeSystemdMalformed.Bad(systemdPath(at), fmt.Sprintf("1 to %d digests", maxBanks), strconv.Itoa(len(j.Digests)))
	}
	for _, d := range j.Digests {
		bank, ok := bankNamed(d.Alg)
		if !ok {
			continue // a bank that can't be replayed is nothing a register could be compared with
		}
		sum, err := hex.DecodeString(d.Sum)
		if err != nil || len(sum) != bank.Size || r.Sum(bank.ID) != nil {
			return Record{}, CodeSystemdMalformed.Bad(systemdPath(at), "one digest of "+bank.Name+" in hex", clip(rats.EscapePath([]byte(d.Sum)), 160))
		}
		r.Digests = append(r.Digests, Digest{bank.ID, sum})
	}
	if j.ContentType == "systemd" {
		r.Type, r.String, r.Boot = j.Content.Type, j.Content.String, j.Content.Boot
	}
	return r, nil
}

func bankNamed(name string) (Bank, bool) {
	for _, b := range algorithms {
		if b.Name == name {
			return b, true
		}
	}
	return Bank{}, false
}

// later returns the digests that systemd extended a register with, in order, of one bank.
func later(records []Record, register int, alg uint16) ([][]byte, error) {
	var out [][]byte
	for i := range records {
		r := &records[i]
		if r.Register != register {
			continue
		}
		sum := r.Sum(alg)
		if sum == nil {
			return nil, CodeBank.Bad(systemdPath(r.Offset), "a digest of bank "+algorithms[alg].Name, "none")
		}
		out = append(out, sum)
	}
	return out, nil
}

// Userspace is what systemd's log adds to the boot log. Of all it says, only what has Proof digest was measured.
type Userspace struct {
	Records  int         `json:"records"`
	Log      rats.Digest `json:"log"`                // SHA-256 of the part
	Unquoted int         `json:"unquoted,omitempty"` // records about PCRs that were made after the quote
	NVIndex  int         `json:"nv_index,omitempty"` // records about NV indexes: nothing vouches for these
	Boot     string      `json:"boot,omitempty"`     // text: the kernel's boot id, if all records name one

	MachineID   []Item `json:"machine_id,omitempty"`
	VolumeKeys  []Item `json:"volume_keys,omitempty"` // a MAC of the volume's key: the name is text, the digest can be pinned
	FileSystems []Item `json:"file_systems,omitempty"`
	Other       []Item `json:"other,omitempty"`
}

// systemd adds the records of systemd's log to the claims. Their numbers continue those of the boot log's events.
func (x *extractor) systemd(records []Record, part []byte, first int, got compared) {
	u := &Userspace{Records: len(records), Log: rats.SHA256(part)}
	x.c.Userspace = u
	left := map[int]int{}
	for n, q := range got.quoted {
		left[n] = q
	}
	for i := range records {
		r := &records[i]
		if i == 0 {
			u.Boot = clip(rats.EscapePath([]byte(r.Boot)), 64)
		} else if r.Boot != records[0].Boot {
			u.Boot = ""
		}
		if r.Register == noRegister {
			u.NVIndex++
			continue
		}
		sum := r.Sum(x.alg)
		m := Measurement{
			Event: first + i, Register: r.Register, Type: systemdType + clip(rats.EscapePath([]byte(r.Type)), 32), Proof: ProofText,
			Text: printable([]byte(r.String)), Code: startsImage([]byte(r.String)), Systemd: true,
		}
		if len(r.String) > 0 && x.hashes(sum, []byte(r.String)) {
			m.Proof = ProofDigest
		}
		if len(sum) > 0 {
			m.Digest = rats.Digest{Alg: x.c.Bank, Sum: bytes.Clone(sum)}
		}
		known := slices.ContainsFunc(got.registers, func(g Register) bool {
			return g.Index == r.Register && g.State == StateReplayed && g.Bank == got.bank
		})
		switch {
		case !known:
			m.Proof = ProofNone
		case left[r.Register] == 0:
			m.Proof = ProofNone
			u.Unquoted++
			continue // not yet in the register: the next quote covers it
		default:
			left[r.Register]--
		}
		x.c.Measurements = append(x.c.Measurements, m)
		x.systemdFact(r, m)
	}
}

// systemdType begins the Type of what systemd measured.
const systemdType = "systemd:"

func (x *extractor) systemdFact(r *Record, m Measurement) {
	u, item := x.c.Userspace, Item{Event: m.Event, Name: m.Text, Digest: m.Digest, Proof: m.Proof}
	switch {
	case r.Type == "machine-id" && r.Register == 15:
		u.MachineID = append(u.MachineID, item)
	case r.Type == "volume-key" && r.Register == 15:
		u.VolumeKeys = append(u.VolumeKeys, item)
	case r.Type == "filesystem" && r.Register == 15:
		u.FileSystems = append(u.FileSystems, item)
	case m.Proof == ProofDigest && r.Register == 11 && (r.Type == "phase" || slices.Contains(systemdPhases, r.String)):
		x.c.Phases = append(x.c.Phases, m.Text)
	default:
		u.Other = append(u.Other, item)
	}
}
