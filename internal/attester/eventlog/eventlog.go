// Package eventlog collects evidence of format "eventlog": the boot log as the kernel keeps it, of the TPM or of the
// CCEL area of a TD, and beside a TPM's systemd's own log of what it measured later, where there is one.
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
	"time"

	"golang.org/x/sys/unix"

	evidence "github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/rats"
)

// Where the kernel shows the logs, from the root of the file system.
const (
	PathTPM  = "sys/kernel/security/tpm0/binary_bios_measurements"
	PathCCEL = "sys/firmware/acpi/tables/data/CCEL"
	// PathSystemd is systemd's log (systemd-pcrextend(8)); systemd before 254 writes none.
	PathSystemd = "run/log/systemd/tpm2-measure.log"
)

// maxLog and maxSystemd bound what is read: no firmware, and no systemd, writes as much in one boot.
const (
	maxLog     = 8 << 20
	maxSystemd = 4 << 20
)

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
		b, err := readFile(a.root, log.path, maxLog)
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

func readFile(root fs.FS, path string, limit int64) ([]byte, error) {
	f, err := root.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the event log: %w", err)
	}
	defer f.Close()
	if path == PathSystemd {
		shareLock(f)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the event log: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading the event log: more than %d bytes", limit)
	}
	return b, nil
}

// lockTries bounds how long a writer is waited for: systemd holds its lock while it measures and writes one record.
const (
	lockTries = 40
	lockPause = 25 * time.Millisecond
)

// shareLock takes the lock under which systemd's log is consistent with the PCRs. It ends with the file. Without it, a
// record could be missing whose measurement the quote holds; then the log doesn't replay, and the next attestation tells.
func shareLock(f fs.File) {
	d, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return // of a fake tree
	}
	for range lockTries {
		if unix.Flock(int(d.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
			return
		}
		time.Sleep(lockPause)
	}
}

// parts returns systemd's log as a part, none if there is no such file. One that can't be read is an error: the log of the
// boot alone would be judged as if systemd had measured nothing.
func (a attester) parts(media string) ([]rats.Part, error) {
	if media != evidence.MediaType {
		return nil, nil
	}
	b, err := readFile(a.root, PathSystemd, maxSystemd)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("systemd's log: %w", err)
	}
	return []rats.Part{{Name: evidence.PartSystemd, Data: b}}, nil
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
	parts, err := a.parts(media)
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting the event log: %w", err)
	}
	return rats.Evidence{Format: evidence.Format, MediaType: media, Body: b, Parts: parts}, nil
}
