package abi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with what a monitor of software enclaves wrote.
var (
	CodePlatform = rats.CodeInfo{Code: "abi.platform.malformed", Slot: rats.Hardware,
		Title: "the platform statement of the report is not one of this monitor's", Hint: "the report was made by other hardware, or by a monitor of another version"}
	CodeEvents = rats.CodeInfo{Code: "abi.events.malformed", Slot: rats.Hardware,
		Title: "the log of the key register is not well-formed", Hint: "send the log as the root keeper wrote it"}
)

// Mode says where an enclave's code runs.
type Mode uint8

// The operation modes.
const (
	ModeInline  Mode = 1 // inside the monitor's process
	ModeProcess Mode = 2 // in a process of its own
)

// Launch says when the monitor's key came to be measured.
type Launch uint8

// The launch classes.
const (
	LaunchUserspace Launch = 1 // by the running system, whose administrator could have done the same
	LaunchInitrd    Launch = 2 // in the initrd phase, capped before user space
)

// Root says where the monitor's root key is when the machine is off, and who can get it while it runs.
type Root uint8

// The root classes.
const (
	RootSimulated    Root = 1 // a file: simulated
	RootOSProtected  Root = 2 // a TPM, which gives it to the system's administrator too
	RootInitrdSealed Root = 3 // a TPM, which gives it in the initrd phase only
)

var (
	modeNames   = []string{"", "inline", "process"}
	launchNames = []string{"", "userspace", "initrd"}
	rootNames   = []string{"", "simulated", "os-protected", "initrd-sealed"}
)

func nameOf(names []string, i uint8) string {
	if int(i) < len(names) && names[i] != "" {
		return names[i]
	}
	return fmt.Sprintf("unknown(%d)", i)
}

// String returns "inline" or "process".
func (m Mode) String() string { return nameOf(modeNames, uint8(m)) }

// String returns "userspace" or "initrd".
func (l Launch) String() string { return nameOf(launchNames, uint8(l)) }

// String returns "simulated", "os-protected" or "initrd-sealed".
func (r Root) String() string { return nameOf(rootNames, uint8(r)) }

// Isolation are facts the monitor states about an enclave's memory and process. They are the monitor's word.
type Isolation uint16

// The bits of Isolation.
const (
	IsolationSecretMemory Isolation = 1 << iota // linear memory is memfd_secret
	IsolationLockedMemory                       // linear memory is never swapped
	IsolationSeccomp
	IsolationLandlock
	IsolationNoNewPrivs
	IsolationOwnUser // the monitor runs under another user than the agent
	isolationEnd
)

// Platform is what a monitor says of itself and of how it runs an enclave. It stands in the CPUSVN field of a report,
// where hardware states its own security version: so local reports, quotes and derived keys all cover it.
//
//	0  1  1: layout of this field
//	1  1  Mode
//	2  1  Launch
//	3  1  Root
//	4  2  security version of the monitor
//	6  2  Isolation
//	8  8  zero
type Platform struct {
	Mode      Mode
	Launch    Launch
	Root      Root
	SVN       uint16
	Isolation Isolation
}

const platformLayout = 1

// CPUSVN returns the 16 bytes of the field.
func (p Platform) CPUSVN() [16]byte {
	b := [16]byte{platformLayout, byte(p.Mode), byte(p.Launch), byte(p.Root)}
	binary.LittleEndian.PutUint16(b[4:], p.SVN)
	binary.LittleEndian.PutUint16(b[6:], uint16(p.Isolation))
	return b
}

// ParsePlatform reads the field and refuses unknown values and classes that contradict one another: a root that only
// the initrd phase gets needs that launch, and a root in a file proves no launch.
func ParsePlatform(b [16]byte) (Platform, error) {
	p := Platform{
		Mode: Mode(b[1]), Launch: Launch(b[2]), Root: Root(b[3]),
		SVN: binary.LittleEndian.Uint16(b[4:]), Isolation: Isolation(binary.LittleEndian.Uint16(b[6:])),
	}
	seen := fmt.Sprintf("%x", b)
	switch {
	case b[0] != platformLayout || [8]byte(b[8:]) != [8]byte{}:
		return Platform{}, CodePlatform.Bad("cpusvn at byte 0", "layout 1 and eight zero bytes at the end", seen)
	case p.Mode < ModeInline || p.Mode > ModeProcess:
		return Platform{}, CodePlatform.Bad("cpusvn at byte 1", "a mode", seen)
	case p.Launch < LaunchUserspace || p.Launch > LaunchInitrd:
		return Platform{}, CodePlatform.Bad("cpusvn at byte 2", "a launch class", seen)
	case p.Root < RootSimulated || p.Root > RootInitrdSealed:
		return Platform{}, CodePlatform.Bad("cpusvn at byte 3", "a root class", seen)
	case p.Isolation >= isolationEnd:
		return Platform{}, CodePlatform.Bad("cpusvn at byte 6", "known isolation facts", seen)
	case p.Root == RootInitrdSealed && p.Launch != LaunchInitrd, p.Root == RootSimulated && p.Launch != LaunchUserspace:
		return Platform{}, CodePlatform.Bad("cpusvn at byte 2", "a launch class that the root class allows", p.Launch.String()+" with "+p.Root.String())
	}
	return p, nil
}

// What a monitor and its TPM sign begins with these tags, so that neither signature can be taken for another.
const (
	tagMonitorReport = "assay/enclave-report/1"
	tagMonitorQuote  = "assay/enclave-quote/1"
)

// MonitorQuoteSize is the length of a MonitorQuote.
const MonitorQuoteSize = ReportBodySize + 128

// MonitorQuote is a report with the monitor's signature and key: the part of an enclave's quote that the monitor makes
// (512 bytes). A TPM quote whose extraData is Extra, over the register that holds the key, completes it (R088).
type MonitorQuote struct {
	Body      ReportBody
	Signature [64]byte // ECDSA P-256 over SHA-256 of MonitorSigned, r ‖ s, big-endian
	Key       [64]byte // the monitor's attestation key, x ‖ y, big-endian
}

// ParseMonitorQuote reads exactly 512 bytes. It checks no signature.
func ParseMonitorQuote(b []byte) (MonitorQuote, error) {
	var q MonitorQuote
	return q, decode(b, &q, "enclave quote")
}

// Bytes returns the 512 bytes of the quote.
func (q MonitorQuote) Bytes() []byte { return encode(&q) }

// MonitorSigned returns what the monitor's signature covers: a tag and the 384 bytes of the report's body.
func MonitorSigned(body ReportBody) []byte { return append([]byte(tagMonitorReport), body.Bytes()...) }

// Verify says whether the key in the quote signed its report. It says nothing about whose key that is.
func (q MonitorQuote) Verify() bool {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.Key[:]...))
	if err != nil {
		return false
	}
	sum := sha256.Sum256(MonitorSigned(q.Body))
	return ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(q.Signature[:32]), new(big.Int).SetBytes(q.Signature[32:]))
}

// Extra returns the extraData of the TPM quote that belongs to this report: SHA-256(tag ‖ report ‖ monitor signature).
func (q MonitorQuote) Extra() [32]byte {
	return sha256.Sum256(slices.Concat([]byte(tagMonitorQuote), q.Body.Bytes(), q.Signature[:]))
}

// KeyPCR is the register that holds the monitor's key and the cap. It is one register because the order of events is
// proven in one register only (S13); it is 11 because a TPM's user can't reset it and systemd measures its phases there.
const KeyPCR = 11

// What root keeper and monitor measure into KeyPCR: texts, in the order of this list. Cap is a constant, extended on every
// way out of the initrd phase (S10); what comes after it, user space may have written.
const (
	EventKeeper = "assay:keeper:"      // and the digest of the keeper's image, sha256:hex
	EventClient = "assay:client:"      // and name, security version and image of a program the keeper serves, with colons
	EventKey    = "assay:monitor-key:" // and the digest of x ‖ y of a monitor's attestation key
	EventCap    = "assay:cap:1"
)

// Event is one extension of KeyPCR in the SHA-256 bank: its digest and, if keeper or monitor made it, its text, of which
// it is the SHA-256. Events of others (systemd's, the boot loader's) are digests only.
type Event struct {
	Digest [32]byte
	Text   string
}

// NewEvent returns the event of a text: what to extend KeyPCR with.
func NewEvent(text string) Event { return Event{Digest: sha256.Sum256([]byte(text)), Text: text} }

// KeyEvent returns the event for a monitor's attestation key, x ‖ y.
func KeyEvent(key [64]byte) Event { return NewEvent(EventKey + rats.SHA256(key[:]).String()) }

// Extend returns the value of KeyPCR after the event.
func (e Event) Extend(value [32]byte) [32]byte {
	return sha256.Sum256(append(value[:], e.Digest[:]...))
}

// Bounds of a log. Systemd measures about thirty events into the register.
const (
	maxEvents    = 512
	maxEventText = 255
)

// EncodeEvents writes a log: of each event the digest (32 bytes), the length of its text (1 byte) and the text.
func EncodeEvents(events []Event) []byte {
	var b []byte
	for _, e := range events {
		n := min(len(e.Text), maxEventText) // longer texts are never made; the parser refuses the digest then
		b = append(b, e.Digest[:]...)
		b = append(b, byte(n))
		b = append(b, e.Text[:n]...)
	}
	return b
}

// ParseEvents reads what EncodeEvents writes and refuses texts that are not what their digests say.
func ParseEvents(b []byte) ([]Event, error) {
	var out []Event
	for at := 0; at < len(b); {
		if len(out) == maxEvents {
			return nil, CodeEvents.Bad(fmt.Sprintf("events at byte %d", at), fmt.Sprintf("at most %d events", maxEvents), "more")
		}
		if len(b)-at < sha256.Size+1 || len(b)-at-sha256.Size-1 < int(b[at+sha256.Size]) {
			return nil, CodeEvents.Bad(fmt.Sprintf("events at byte %d", at), "an event", "its beginning")
		}
		e := Event{Digest: [32]byte(b[at:])}
		at += sha256.Size + 1
		if n := int(b[at-1]); n > 0 {
			e.Text = string(b[at : at+n])
			at += n
			if sum := sha256.Sum256([]byte(e.Text)); sum != e.Digest {
				return nil, CodeEvents.Bad(fmt.Sprintf("events[%d]", len(out)), fmt.Sprintf("sha256:%x", e.Digest), fmt.Sprintf("a text with sha256:%x", sum))
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// TestMRSIGNER is the signer of enclaves that were signed with the published test key: anyone can sign so.
var TestMRSIGNER = [32]byte{
	0xc1, 0x1f, 0x94, 0xe9, 0xbe, 0x90, 0xad, 0x49, 0xef, 0x7e, 0xe9, 0xdf, 0x33, 0x99, 0x4c, 0xa8,
	0xd6, 0x26, 0x80, 0x4b, 0x7c, 0x59, 0xca, 0x44, 0x6a, 0xe7, 0xc4, 0x8b, 0x88, 0xf6, 0x49, 0x3d,
}
