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

var monitorCodes = []rats.CodeInfo{CodePlatform, CodeEvents}

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
	RootSoftware     Root = 1 // a file: simulated
	RootOSProtected  Root = 2 // a TPM, which gives it to the system's administrator too
	RootInitrdSealed Root = 3 // a TPM, which gives it in the initrd phase only
)

var (
	modeNames   = []string{"", "inline", "process"}
	launchNames = []string{"", "userspace", "initrd"}
	rootNames   = []string{"", "software", "os-protected", "initrd-sealed"}
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

// String returns "software", "os-protected" or "initrd-sealed".
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
	case p.Root < RootSoftware || p.Root > RootInitrdSealed:
		return Platform{}, CodePlatform.Bad("cpusvn at byte 3", "a root class", seen)
	case p.Isolation >= isolationEnd:
		return Platform{}, CodePlatform.Bad("cpusvn at byte 6", "known isolation facts", seen)
	case p.Root == RootInitrdSealed && p.Launch != LaunchInitrd, p.Root == RootSoftware && p.Launch != LaunchUserspace:
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

// EventKind is the kind of an event that keeper or monitor measured into KeyPCR.
type EventKind uint8

// The kinds of events. The payload of images and keys is a SHA-256; that of a cap is one byte, the reason.
const (
	EventKeeperImage  EventKind = 1
	EventMonitorImage EventKind = 2
	EventMonitorKey   EventKind = 3 // SHA-256 of x ‖ y
	EventCap          EventKind = 4
)

// The reasons for a cap. Every way out of the initrd phase caps (S10).
const (
	CapOrderly  = 0 // the root is with the keeper
	CapNoRoot   = 1 // no monitor is configured, or it could not start
	CapUnsealed = 2 // the seal did not open
)

const tagEvent = "assay/key-register/1\x00"

// Event is one extension of KeyPCR in the SHA-256 bank: its digest and, if keeper or monitor made it, its data, of which
// it is the SHA-256. Events of others (systemd's, the boot loader's) are digests only.
type Event struct {
	Digest [32]byte
	Data   []byte
}

// NewEvent returns the event of a kind: what to extend KeyPCR with.
func NewEvent(kind EventKind, payload []byte) Event {
	data := append([]byte(tagEvent), byte(kind))
	data = append(data, payload...)
	return Event{Digest: sha256.Sum256(data), Data: data}
}

// KeyEvent returns the event for a monitor's attestation key, x ‖ y.
func KeyEvent(key [64]byte) Event {
	sum := sha256.Sum256(key[:])
	return NewEvent(EventMonitorKey, sum[:])
}

// Kind returns kind and payload of an event that keeper or monitor made; false for events of others.
func (e Event) Kind() (EventKind, []byte, bool) {
	if len(e.Data) <= len(tagEvent) || string(e.Data[:len(tagEvent)]) != tagEvent {
		return 0, nil, false
	}
	kind, payload := EventKind(e.Data[len(tagEvent)]), e.Data[len(tagEvent)+1:]
	switch kind {
	case EventKeeperImage, EventMonitorImage, EventMonitorKey:
		return kind, payload, len(payload) == sha256.Size
	case EventCap:
		return kind, payload, len(payload) == 1
	}
	return 0, nil, false
}

// Extend returns the value of KeyPCR after the event.
func (e Event) Extend(value [32]byte) [32]byte {
	return sha256.Sum256(append(value[:], e.Digest[:]...))
}

// Bounds of a log. Systemd measures about thirty events into the register.
const (
	maxEvents    = 512
	maxEventData = 255
)

// EncodeEvents writes a log: of each event the digest (32 bytes), the length of its data (1 byte) and the data.
func EncodeEvents(events []Event) []byte {
	var b []byte
	for _, e := range events {
		n := min(len(e.Data), maxEventData) // longer data is never made here; the parser refuses the digest then
		b = append(b, e.Digest[:]...)
		b = append(b, byte(n))
		b = append(b, e.Data[:n]...)
	}
	return b
}

// ParseEvents reads what EncodeEvents writes and refuses data that is not what its digest says.
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
			e.Data = slices.Clone(b[at : at+n])
			at += n
			if sum := sha256.Sum256(e.Data); sum != e.Digest {
				return nil, CodeEvents.Bad(fmt.Sprintf("events[%d]", len(out)), fmt.Sprintf("sha256:%x", e.Digest), fmt.Sprintf("data with sha256:%x", sum))
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
