// Package softenclave is a monitor with an enclave that runs nothing: its quotes have the shape and the cryptography of a
// real monitor's over a TPM made of Go, for tests of verifiers and for attack tests, which need monitors that lie.
package softenclave

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	evidence "github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

// Options of a monitor and its enclave. The zero value is a monitor launched in the initrd, its root sealed there, with an
// enclave in a process of its own, of product 7 and version 3, signed with the published test key.
type Options struct {
	TPM        *softtpm.TPM // nil: a new one
	Platform   abi.Platform // zero: initrd, initrd-sealed, process, version 5
	Root       byte         // which root key
	Module     byte         // changes the enclave's code
	Flags      uint64       // added to the attributes
	ProductID  uint16
	SVN        uint16
	PlanSigner []byte // SubjectPublicKeyInfo: becomes the launch configuration
	Unmeasured bool   // nothing is measured into the key register
}

// Enclave is a monitor and its enclave.
type Enclave struct {
	TPM      *softtpm.TPM
	Platform abi.Platform
	Identity enclave.Identity
	Events   []abi.Event // of the key register

	sigstruct abi.Sigstruct
	monitor   *enclave.MonitorKey
	rand      io.Reader
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("softenclave: %v", err))
	}
	return v
}

// The texts that a monitor launched in the initrd finds measured before its key.
const (
	KeeperText  = abi.EventKeeper + "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	MonitorText = abi.EventClient + "monitor:5:sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

// New starts monitor and enclave, and measures what they measure. It panics if rand fails.
func New(random io.Reader, o Options) *Enclave {
	if o.TPM == nil {
		o.TPM = softtpm.New(random)
	}
	if o.Platform == (abi.Platform{}) {
		o.Platform = abi.Platform{Mode: abi.ModeProcess, Launch: abi.LaunchInitrd, Root: abi.RootInitrdSealed, SVN: 5, Isolation: abi.IsolationSecretMemory | abi.IsolationOwnUser}
	}
	if o.ProductID == 0 {
		o.ProductID, o.SVN = 7, max(o.SVN, 3)
	}
	root := must(enclave.ParseRoot(bytes.Repeat([]byte{o.Root + 1}, enclave.RootSize)))
	e := &Enclave{TPM: o.TPM, Platform: o.Platform, monitor: must(root.Monitor(o.Platform.SVN)), rand: random}
	module := []byte("\x00asm\x01\x00\x00\x00" + "\x05\x03\x01\x00\x01" + "\x07\x0a\x01\x06memory\x02\x00" + "\x00\x03\x01x")
	image := must(enclave.New(append(module, o.Module), enclave.Options{Heap: enclave.WasmPage}))
	sign := image.Defaults()
	sign.ProductID, sign.SVN, sign.Date = o.ProductID, o.SVN, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	sign.Attributes.Flags |= abi.FlagKSS | o.Flags
	e.sigstruct = must(enclave.Sign(image.Measure(), sign, must(enclave.TestKey())))
	start := enclave.Start{AllowDebug: true}
	if o.PlanSigner != nil {
		copy(start.ConfigID[:], rats.SHA256(o.PlanSigner).Sum)
	}
	e.Identity = must(enclave.Init(image.Measure(), e.sigstruct, start))
	if o.Unmeasured || o.Platform.Root == abi.RootSimulated {
		return e
	}
	e.Extend(abi.Event{Digest: [32]byte{0xee}}) // the boot loader's
	if o.Platform.Launch == abi.LaunchInitrd {
		e.Extend(abi.NewEvent(KeeperText))
		e.Extend(abi.NewEvent(MonitorText))
		e.Extend(e.KeyEvent())
		e.Extend(abi.NewEvent(abi.EventCap))
	} else {
		e.Extend(e.KeyEvent())
	}
	e.Extend(abi.Event{Digest: [32]byte{0xff}}) // systemd's
	return e
}

// Extend measures an event into the key register.
func (e *Enclave) Extend(ev abi.Event) {
	e.TPM.ExtendDigest("sha256", abi.KeyPCR, ev.Digest[:])
	e.Events = append(e.Events, ev)
}

// KeyEvent is the event of this monitor's attestation key.
func (e *Enclave) KeyEvent() abi.Event {
	key := must(e.monitor.AttestationKey(e.Platform, ""))
	return abi.KeyEvent(must(enclave.AttestationPublic(&key.PublicKey)))
}

// Endorsement is the enrolment record of the TPM.
func (e *Enclave) Endorsement() rats.Endorsement {
	return must(tpm.Enrol(e.TPM.EKPublic(), e.TPM.EKCert(), e.TPM.AKPublic(), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))).Endorsement()
}

// Alter changes a quote while it is made: what no honest monitor would sign, signed nevertheless.
type Alter struct {
	Body     func(*abi.ReportBody)   // before the monitor signs
	Quote    func(*abi.MonitorQuote) // after the monitor signed, before the TPM quotes
	Extra    []byte                  // extraData of the TPM quote, instead of the right one
	TPM      softtpm.Alter           // what the TPM does
	Signer   *Enclave                // whose monitor signs
	Parts    func(map[string][]byte) // at the end
	Evidence func(*rats.Evidence)    // at the very end
	Bound    func(data *[64]byte)    // the report data
}

// Quote makes evidence bound to an exchange, over these registers.
func (e *Enclave) Quote(b rats.Binding, pcrs []int) rats.Evidence {
	return e.QuoteAltered(b, pcrs, Alter{})
}

// QuoteAltered is Quote with something wrong.
func (e *Enclave) QuoteAltered(b rats.Binding, pcrs []int, a Alter) rats.Evidence {
	var data [64]byte
	copy(data[:], b.UserData)
	if a.Bound != nil {
		a.Bound(&data)
	}
	body := e.Identity.Body(e.Platform, data)
	if a.Body != nil {
		a.Body(&body)
	}
	signer := e
	if a.Signer != nil {
		signer = a.Signer
	}
	q := must(enclave.Quote(e.rand, body, must(signer.monitor.AttestationKey(signer.Platform, ""))))
	if a.Quote != nil {
		a.Quote(&q)
	}
	parts := map[string][]byte{evidence.PartSigstruct: e.sigstruct.Bytes()}
	if e.Platform.Root != abi.RootSimulated {
		extra := q.Extra()
		if a.Extra == nil {
			a.Extra = extra[:]
		}
		pcrs = slices.Sorted(slices.Values(pcrs))
		var values []byte
		for _, n := range pcrs {
			values = append(values, e.TPM.PCR("sha256", n)...)
		}
		t := must(e.TPM.QuoteAltered("sha256", pcrs, a.Extra, a.TPM))
		part := func(name string) []byte {
			p, _ := t.Part(name)
			return p.Data
		}
		parts[evidence.PartAttest], parts[evidence.PartPCRs] = t.Body, values
		parts[evidence.PartSignature], parts[evidence.PartAK] = part(tpm.PartSignature), part(tpm.PartAK)
		parts[evidence.PartEvents] = abi.EncodeEvents(e.Events)
	}
	if a.Parts != nil {
		a.Parts(parts)
	}
	ev := rats.Evidence{Format: evidence.Format, MediaType: evidence.MediaType, Body: q.Bytes()}
	for _, name := range []string{evidence.PartSigstruct, evidence.PartAttest, evidence.PartSignature, evidence.PartPCRs, evidence.PartAK, evidence.PartEvents} {
		if b, ok := parts[name]; ok {
			ev.Parts = append(ev.Parts, rats.Part{Name: name, Data: b})
		}
	}
	if a.Evidence != nil {
		a.Evidence(&ev)
	}
	return ev
}

// Boot is the boot that tpm evidence of this machine would vouch for.
func (e *Enclave) Boot() rats.Facts {
	return rats.Facts{Boots: []rats.Boot{{By: tpm.Format, ID: e.TPM.BootID()}}}
}
