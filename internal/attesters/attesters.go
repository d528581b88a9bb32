// Package attesters is the node side's list of formats: one line each. Adding a format to the agent is a line here.
//
// It opens nothing itself: what the Attesters work with is handed in.
package attesters

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"

	evlog "github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/evidence/tdx"
	evtpm "github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/attester/enclave"
	"github.com/assay-attest/assay/internal/attester/eventlog"
	"github.com/assay-attest/assay/internal/attester/ima"
	"github.com/assay-attest/assay/internal/attester/plan"
	"github.com/assay-attest/assay/internal/attester/tpm"
	"github.com/assay-attest/assay/internal/attester/tsm"
	device "github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// Runner runs orders: the native enclave of package measure, or the one of package measuring.
type Runner = plan.Enclave

// Deps is what Attesters work with.
type Deps struct {
	TPM    *device.Device
	AK     *device.AK
	Plans  Runner           // what runs orders; nil: nothing does
	Quotes enclave.Source   // an enclave in a monitor; nil: there is none
	Keeper enclave.Measured // what was measured with the monitor's key; nil with a simulated root
	Root   fs.FS            // the machine's file tree, for what the kernel measured
	TSM    tsm.Tree         // where reports of TEE guests are asked for; tsm.Dir(tsm.Root) on a machine
	Rand   io.Reader        // names of reports
}

// ByMonitor is what Deps.Keeper is where a monitor listens at a socket.
func ByMonitor(socket string) enclave.Measured { return enclave.ByMonitor(socket) }

// OnThisMachine completes d with this machine's file tree and report interface.
func OnThisMachine(d Deps) Deps {
	d.Root, d.TSM = os.DirFS("/"), tsm.Dir(tsm.Root)
	return d
}

// List returns an Attester of every format this node side knows.
func List(d Deps) []rats.Attester {
	return []rats.Attester{
		tpm.New(d.TPM, d.AK),
		eventlog.New(d.Root),
		ima.New(d.Root),
		tsm.New(tsm.Config{
			Descriptor: snp.Describe(), MediaType: snp.MediaType, Provider: tsm.ProviderSNP, AuxPart: snp.PartCerts,
			Level: snp.Level, Tree: d.TSM, Random: d.Rand,
		}),
		tsm.New(tsm.Config{
			Descriptor: tdx.Describe(), MediaType: tdx.MediaType, Provider: tsm.ProviderTDX, Tree: d.TSM, Random: d.Rand,
		}),
		enclave.New(enclave.Config{Enclave: d.Quotes, Device: d.TPM, AK: d.AK, Measured: d.Keeper, Root: d.Root, Firmware: bootEvents}),
		plan.New(d.Plans),
	}
}

// bootEvents returns the SHA-256 digests by which a boot event log extends a register.
func bootEvents(b []byte, register int) ([][32]byte, error) {
	const algSHA256, evNoAction = 0x000b, 3 // of the TCG
	log, err := evlog.Parse(b, false)
	if err != nil {
		return nil, err
	}
	var out [][32]byte
	for i := range log.Events {
		e := &log.Events[i]
		if sum := e.Sum(algSHA256); int(e.Register) == register && e.Type != evNoAction && len(sum) == 32 {
			out = append(out, [32]byte(sum))
		}
	}
	return out, nil
}

// Boot identifies the present boot as the platform's formats would. It is a claim of the agent: a server may let it lower
// trust, never raise it.
func Boot(ctx context.Context, d Deps) (rats.Digest, error) {
	c, err := d.TPM.Clock(ctx)
	if err != nil {
		return rats.Digest{}, fmt.Errorf("reading the TPM's clock: %w", err)
	}
	return evtpm.BootID(d.AK.Public, c.ResetCount, c.RestartCount), nil
}
