// Package eventlog is the evidence format "eventlog": the firmware's log of what it measured during boot (TCG PC Client
// Platform Firmware Profile, section 10; for TDX the CCEL area of the UEFI specification, section 38), and systemd's log of what it measured after that.
//
// A verified log guarantees that it replays to the registers that another format of the same collection vouches for, so
// that every digest in it, and their order within each register, is what was measured. Of an event's type and data it
// guarantees nothing unless the data hashes to the digest: each fact says by its Proof how far it holds (S32). It does
// not say that anything measured is good (rules do), in which order two registers were extended (S13), or what ran after
// boot.
package eventlog

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "eventlog"

// Media types. The body of a piece of evidence is the log as firmware or kernel give it.
const (
	MediaType     = "application/vnd.assay.tcg-eventlog"
	MediaTypeCCEL = "application/vnd.assay.ccel" // registers 1 to 4 of the log are RTMR 0 to 3
)

// The kinds of registers, as in rats.Registers.
const (
	KindPCR  = "pcr"
	KindRTMR = "rtmr"
)

// Params is what the caller may give besides the facts of other formats.
type Params struct {
	// PCRs are register values that the caller trusts, bank → index → hex; indexes as they stand in the log (of a CCEL
	// log, 1 is RTMR 0). They replace the facts of other formats, and are for offline use.
	PCRs map[string]map[string]string `json:"pcrs,omitempty"`
	// Kind is pcr or rtmr; empty: as the media type says.
	Kind string `json:"kind,omitempty"`
}

// ParseParams reads the JSON of Params; no bytes are no parameters.
func ParseParams(b []byte) (Params, error) {
	var p Params
	if len(b) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return Params{}, fmt.Errorf("reading the parameters of an event log: %w", err)
	}
	if p.Kind != "" && p.Kind != KindPCR && p.Kind != KindRTMR {
		return Params{}, fmt.Errorf("reading the parameters of an event log: kind %.20q is not pcr or rtmr", p.Kind)
	}
	return p, nil
}

// Proof says how far a fact of the log holds.
type Proof string

// The proofs, strongest first.
const (
	ProofDigest Proof = "digest" // the data hashes to the digest, which replays: what stands there was measured
	ProofValue  Proof = "value"  // only a variable's value hashes to the digest; its name is text
	ProofText   Proof = "text"   // the digest was measured; type and data say what it is of, and could lie
	ProofNone   Proof = "none"   // the register's value is not known: anyone could have written this
)

// States of a register.
const (
	StateReplayed = "replayed" // the log yields the value that is vouched for
	StateOpen     = "open"     // extended after the logs ended, by software that keeps another log: the logs' part is unproven
	StateUnknown  = "unknown"  // nobody vouches for a value
)

// Claims are what a verified log says about the boot.
type Claims struct {
	Kind            string      `json:"kind"` // pcr, rtmr
	CryptoAgile     bool        `json:"crypto_agile"`
	Banks           []string    `json:"banks"` // in the log
	Bank            string      `json:"bank"`  // the strongest bank that replays; digests below are of it
	Events          int         `json:"events"`
	Log             rats.Digest `json:"log"` // SHA-256 of the log without padding
	Padding         int         `json:"padding,omitempty"`
	StartupLocality int         `json:"startup_locality,omitempty"`

	Registers    []Register    `json:"registers"`
	Measurements []Measurement `json:"measurements"` // every event that was extended, in order

	SecureBoot       SecureBoot  `json:"secure_boot"`
	PK               Database    `json:"pk"`
	KEK              Database    `json:"kek"`
	DB               Database    `json:"db"`
	DBX              Database    `json:"dbx"`
	Authorities      []Authority `json:"authorities,omitempty"` // what verified the images that ran
	SbatLevel        string      `json:"sbat_level,omitempty"`
	MOK              []Item      `json:"mok,omitempty"` // shim's lists
	FirmwareVersion  string      `json:"firmware_version,omitempty"`
	Images           []Item      `json:"images,omitempty"` // boot services applications: boot loaders and kernels
	Drivers          []Item      `json:"drivers,omitempty"`
	GrubCommands     []Item      `json:"grub_commands,omitempty"`
	GrubFiles        []Item      `json:"grub_files,omitempty"`
	CommandLines     []Item      `json:"command_lines,omitempty"`
	Initrds          []Item      `json:"initrds,omitempty"`
	Sections         []Item      `json:"sections,omitempty"`  // of a unified kernel image
	Phases           []string    `json:"phases,omitempty"`    // of systemd, proven: extended into PCR 11 after the log ended
	Userspace        *Userspace  `json:"userspace,omitempty"` // systemd's own log; absent without one
	Separators       int         `json:"separators"`
	ExitBootServices bool        `json:"exit_boot_services"`
	DebugMode        bool        `json:"debug_mode"`           // firmware or DMA protection was open to a debugger
	Mismatched       []int       `json:"mismatched,omitempty"` // events whose data must hash to the digest and doesn't
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// DebugEnabled says whether firmware said that it was open to a debugger.
func (c *Claims) DebugEnabled() bool { return c.DebugMode }

// Register is one register and what became of it.
type Register struct {
	Index   int    `json:"index"`
	State   string `json:"state"`
	Bank    string `json:"bank,omitempty"`
	Value   string `json:"value,omitempty"`   // as vouched for, hex
	Events  int    `json:"events"`            // of the log
	Systemd int    `json:"systemd,omitempty"` // records of systemd's log that the value holds
	Capped  int    `json:"capped,omitempty"`  // how often a root keeper capped it after the log
}

// Measurement is one event that extended a register.
type Measurement struct {
	Event    int         `json:"event"` // number in the log, from 0; systemd's records follow
	Register int         `json:"register"`
	Type     string      `json:"type"` // text: not covered by the digest
	Digest   rats.Digest `json:"digest"`
	Proof    Proof       `json:"proof"`
	Text     string      `json:"text,omitempty"`    // what the data says; of proven data that is text, all of it
	Code     bool        `json:"code,omitempty"`    // the data, where proven, could be an image that was run
	Systemd  bool        `json:"systemd,omitempty"` // from systemd's log
}

// Item is a fact about one event.
type Item struct {
	Event  int         `json:"event"`
	Name   string      `json:"name,omitempty"`
	Digest rats.Digest `json:"digest"`
	Proof  Proof       `json:"proof"`
}

// SecureBoot is the state of UEFI Secure Boot at boot.
type SecureBoot struct {
	Logged  bool `json:"logged"`  // the log holds the variable with a value
	Enabled bool `json:"enabled"` // as logged
	Proven  bool `json:"proven"`  // the variable's event is proven, the only one, and stands before the separator
	Event   int  `json:"event,omitempty"`
	// Unproven are the events of the register before its separator whose content is not proven: one of them could be
	// the true variable. Rules accept the state only if each of their digests is known.
	Unproven []int `json:"unproven,omitempty"`
}

// Database is one of Secure Boot's signature databases.
type Database struct {
	Present      bool          `json:"present"`
	Proof        Proof         `json:"proof,omitempty"`
	Event        int           `json:"event,omitempty"`
	Digest       rats.Digest   `json:"digest,omitzero"` // SHA-256 of the variable's value
	Certificates []Certificate `json:"certificates,omitempty"`
	Hashes       []rats.Digest `json:"hashes,omitempty"`
	Other        int           `json:"other,omitempty"` // entries of kinds that aren't listed
	Malformed    bool          `json:"malformed,omitempty"`
}

// Certificate is an X.509 entry of a database.
type Certificate struct {
	Digest  rats.Digest `json:"digest"` // SHA-256 of the DER
	Subject string      `json:"subject,omitempty"`
	Owner   string      `json:"owner,omitempty"`
}

// Authority is a database entry by which an image was allowed to run.
type Authority struct {
	Event       int         `json:"event"`
	Variable    string      `json:"variable"`
	Proof       Proof       `json:"proof"`
	Certificate Certificate `json:"certificate,omitzero"`
	Digest      rats.Digest `json:"digest"` // as measured
}

// Register returns the register of an index.
func (c *Claims) Register(index int) (Register, bool) {
	i := slices.IndexFunc(c.Registers, func(r Register) bool { return r.Index == index })
	if i < 0 {
		return Register{}, false
	}
	return c.Registers[i], true
}

// Replayed says whether the log yields the vouched value of a register.
func (c *Claims) Replayed(index int) bool {
	r, ok := c.Register(index)
	return ok && r.State == StateReplayed
}

// Codes are all reasons that this package gives.
var Codes = slices.Concat(parseCodes, systemdCodes, verifyCodes, ruleCodes)

var descriptor = &rats.Descriptor{
	ID:            Format,
	Title:         "boot event log",
	Doc:           "formats/eventlog.md",
	MediaTypes:    []string{MediaType, MediaTypeCCEL},
	Needs:         []rats.Format{"tpm", "tdx"},
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         Codes,
}

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }
