// Package eventlog collects evidence of format "eventlog": the boot log as the kernel keeps it, of the TPM or of the
// CCEL area of a TD.
//
// It guarantees that what it sends is what the kernel gave, whole and bounded. It judges nothing and binds nothing: the
// log is proven by its replay into registers that another format quotes, so it must be read after the quote (S03).
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	evidence "github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/rats"
)

// Where the kernel shows the logs, from the root of the file system.
const (
	PathTPM  = "sys/kernel/security/tpm0/binary_bios_measurements"
	PathCCEL = "sys/firmware/acpi/tables/data/CCEL"
)

// maxLog bounds what is read: no firmware writes as much.
const maxLog = 8 << 20

type attester struct{ root fs.FS }

// New returns the Attester that reads below root ("/" in service, a fake tree in tests).
func New(root fs.FS) rats.Attester { return attester{root} }

var errNone = errors.New("the kernel shows no boot event log")

// Descriptor implements rats.Attester.
func (attester) Descriptor() *rats.Descriptor { return evidence.Describe() }

// Probe implements rats.Attester: it says whether there is a log and whether it can be read.
func (a attester) Probe(context.Context) rats.Readiness {
	_, _, err := a.read()
	switch {
	case err == nil:
		return rats.Readiness{OK: true}
	case errors.Is(err, fs.ErrPermission):
		return rats.Readiness{Why: err.Error(), Fix: "let the agent's user read /" + PathTPM + " (it is root's; give the service CAP_DAC_READ_SEARCH)"}
	default:
		return rats.Readiness{
			Why: err.Error(),
			Fix: "mount securityfs (mount -t securityfs none /sys/kernel/security); boot by UEFI with a TPM that the firmware uses",
		}
	}
}

// read returns the log and its media type. A TD has a CCEL area; a TPM's log is preferred where there are both, since
// then the quote is a TPM's.
func (a attester) read() ([]byte, string, error) {
	var denied error
	for _, log := range []struct{ path, media string }{{PathTPM, evidence.MediaType}, {PathCCEL, evidence.MediaTypeCCEL}} {
		b, err := readFile(a.root, log.path)
		switch {
		case err == nil && len(b) > 0:
			return b, log.media, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			denied = err
		}
	}
	if denied != nil {
		return nil, "", denied
	}
	return nil, "", errNone
}

func readFile(root fs.FS, path string) ([]byte, error) {
	f, err := root.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the event log: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLog+1))
	if err != nil {
		return nil, fmt.Errorf("reading the event log: %w", err)
	}
	if len(b) > maxLog {
		return nil, fmt.Errorf("reading the event log: more than %d bytes", maxLog)
	}
	return b, nil
}

// Collect implements rats.Attester. The log is not bound to the ask: it is as fresh as the quoted registers.
func (a attester) Collect(ctx context.Context, ask rats.Ask) (rats.Evidence, error) {
	if ask.Format != evidence.Format {
		return rats.Evidence{}, fmt.Errorf("collecting the event log: asked for format %.40q", ask.Format)
	}
	if _, err := evidence.ParseParams(ask.Params); err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting the event log: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return rats.Evidence{}, err
	}
	b, media, err := a.read()
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting the event log: %w", err)
	}
	return rats.Evidence{Format: evidence.Format, MediaType: media, Body: b}, nil
}
