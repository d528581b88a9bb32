// Package enclave is the evidence format "enclave": the quote of an enclave that a monitor of ours runs, rooted in a TPM.
//
// A verified quote guarantees that an enclave's report is bound to this exchange, that the monitor whose key stands in
// the report's company signed it, that a TPM quote by the node's enrolled attestation key covers exactly this report and
// signature, and that the register in which that key was measured is among the quoted ones (R088). It does not say
// whether enclave, mode, launch, root or register values are acceptable: rules do, by values of policy alone (R089).
//
// It proves no hardware isolation: enclave and monitor share an operating system with their administrator, and the claims
// say so (S17). A key measured from user space could have been measured by that administrator (S10): only the launch
// class initrd, together with register values that policy names, makes it more, and only then there is a link.
package enclave

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "enclave"

// MediaType is the media type of its evidence.
const MediaType = "application/vnd.assay.enclave-quote"

// MarkTestKey is the mark of an enclave signed with the published test key: anyone can sign so.
const MarkTestKey = rats.MarkTestKey

// Names of the parts of a piece of evidence. The body is an abi.MonitorQuote. With a simulated root, sigstruct is the only
// part: no TPM takes part.
const (
	PartSigstruct = "sigstruct"     // 1808 bytes
	PartAttest    = "tpm-attest"    // TPMS_ATTEST
	PartSignature = "tpm-signature" // TPMT_SIGNATURE over it, ECDSA P-256 with SHA-256
	PartPCRs      = "tpm-pcrs"      // the quoted values of the SHA-256 bank, in ascending order of the register
	PartAK        = "tpm-ak"        // TPM2B_PUBLIC
	PartEvents    = "tpm-events"    // abi.EncodeEvents of abi.KeyPCR
)

// The format whose evidence the TPM quote can be compared with, and its enrolment records.
const (
	tpmFormat          rats.Format = "tpm"
	enrolmentMediaType string      = "application/vnd.assay.tpm-enrolment+json"
)

// Params is what is asked of the Attester: which registers of the SHA-256 bank, abi.KeyPCR among them.
type Params struct {
	PCRs []int `json:"pcrs"` // 0 to 23, ascending, none twice
}

// ParseParams reads the JSON of Params and refuses registers that can't be asked for.
func ParseParams(b []byte) (Params, error) {
	var p Params
	if err := json.Unmarshal(b, &p); err != nil {
		return Params{}, fmt.Errorf("reading the parameters of an enclave's quote: %w", err)
	}
	for i, n := range p.PCRs {
		if n < 0 || n > lastPCR || i > 0 && p.PCRs[i-1] >= n {
			return Params{}, fmt.Errorf("reading the parameters of an enclave's quote: PCR %d is not from 0 to %d, or not in ascending order", n, lastPCR)
		}
	}
	if !slices.Contains(p.PCRs, abi.KeyPCR) {
		return Params{}, fmt.Errorf("reading the parameters of an enclave's quote: PCR %d is not among them", abi.KeyPCR)
	}
	return p, nil
}

// lastPCR is the highest register of a PC client TPM.
const lastPCR = 23

// Claims are what a verified quote says. They hold no clock and no nonce: equal enclaves on equal machines have equal
// claims.
type Claims struct {
	MRENCLAVE  rats.Digest `json:"mrenclave"`
	MRSIGNER   rats.Digest `json:"mrsigner"`
	ProductID  uint16      `json:"product_id"`
	SVN        uint16      `json:"svn"`
	ConfigID   string      `json:"config_id,omitempty"` // hex, 64 bytes; absent: none
	ConfigSVN  uint16      `json:"config_svn"`
	Attributes string      `json:"attributes"` // flags, 16 hex digits
	XFRM       string      `json:"xfrm"`       // 16 hex digits
	MiscSelect uint32      `json:"misc_select"`
	Debug      bool        `json:"debug"`
	TestKey    bool        `json:"test_key"` // signed with the published test key

	Mode       string      `json:"mode"`   // inline, process
	Launch     string      `json:"launch"` // userspace, initrd
	Root       string      `json:"root"`   // simulated, os-protected, initrd-sealed
	MonitorSVN uint16      `json:"monitor_svn"`
	MonitorKey rats.Digest `json:"monitor_key"` // SHA-256 of x ‖ y

	MeasuredBy string    `json:"measured_by"` // tpm, or nothing
	IsolatedBy string    `json:"isolated_by"` // os: from other users of the system, not from its administrator
	Isolation  Isolation `json:"isolation"`

	TPM  TPM       `json:"tpm"`
	Log  LaunchLog `json:"log"`
	Link string    `json:"link"` // to the tpm evidence of the same collection: pcr-holds-key or none
}

// Isolation are the facts about an enclave's memory and process: the monitor's word, no stronger than true (S17).
type Isolation struct {
	Source       string   `json:"source"`        // who says so: monitor
	ReadableBy   []string `json:"readable_by"`   // who can read the enclave's memory while it runs
	SecretMemory bool     `json:"secret_memory"` // linear memory is memfd_secret: not readable by way of another process
	LockedMemory bool     `json:"locked_memory"` // never swapped
	Seccomp      bool     `json:"seccomp"`
	Landlock     bool     `json:"landlock"`
	NoNewPrivs   bool     `json:"no_new_privs"`
	OwnUser      bool     `json:"own_user"`   // the monitor runs under another user than the agent
	DMA          string   `json:"dma"`        // protection from devices: unknown
	Encryption   string   `json:"encryption"` // of memory: unknown
}

// TPM is what the TPM quote inside says. All of it is empty with a simulated root.
type TPM struct {
	AK       rats.Digest       `json:"ak,omitzero"` // SHA-256 of the AK's TPM2B_PUBLIC
	EK       rats.Digest       `json:"ek,omitzero"` // of the enrolled EK
	Software bool              `json:"software"`    // a software TPM, or one nobody vouches for
	Same     bool              `json:"same"`        // the tpm evidence of this collection is by this AK in this boot
	PCRs     map[string]string `json:"pcrs"`        // index (decimal) → value (hex) of the SHA-256 bank
}

// LaunchLog is what the log of the key register shows.
type LaunchLog struct {
	BeforeKey string   `json:"before_key,omitempty"` // value of the register before keeper and monitor measured anything, hex
	Measured  []string `json:"measured"`             // texts that keeper and monitor measured before the key
	Capped    bool     `json:"capped"`               // the cap stands after the key
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// Highlights implements rats.Highlighter: what the enclave is and what holds it, in every verdict.
func (c *Claims) Highlights() []rats.Highlight {
	return []rats.Highlight{
		{Name: "root", Value: c.Root}, {Name: "launch", Value: c.Launch}, {Name: "mode", Value: c.Mode}, {Name: "mrenclave", Value: c.MRENCLAVE.String()},
	}
}

// DebugEnabled says whether a debugger may read the enclave.
func (c *Claims) DebugEnabled() bool { return c.Debug }

// Detect says cheaply whether b could be the body of this format's evidence.
func Detect(b []byte) bool {
	q, err := abi.ParseMonitorQuote(b)
	if err != nil {
		return false
	}
	_, err = abi.ParsePlatform(q.Body.CPUSVN)
	return err == nil
}

// bootID identifies a boot as the tpm format does, so that both quotes can be compared.
func bootID(akPub []byte, reset, restart uint32) rats.Digest {
	b := append([]byte("assay/tpm-boot/1"), byte(len(akPub)>>8), byte(len(akPub)))
	b = append(b, akPub...)
	b = binary.BigEndian.AppendUint32(b, reset)
	return rats.SHA256(binary.BigEndian.AppendUint32(b, restart))
}

// Codes are all reasons that this package gives.
var Codes = slices.Concat(verifyCodes, tpmCodes, ruleCodes)
