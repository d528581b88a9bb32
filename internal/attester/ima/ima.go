// Package ima collects evidence of format "ima": the kernel's list of measured files, whole or from an entry on.
//
// It guarantees that what it sends is the kernel's own bytes, bounded, cut between entries where the verifier asked for
// the rest of a list. It judges nothing and binds nothing: the list is proven by its replay into the quoted PCR, so it
// must be read after the quote (S03).
package ima

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	evidence "github.com/assay-attest/assay/evidence/ima"
	"github.com/assay-attest/assay/rats"
)

// Path is where the kernel shows the list, from the root of the file system.
const Path = "sys/kernel/security/ima/binary_runtime_measurements"

// maxList bounds what is sent.
const maxList = 64 << 20

type attester struct{ root fs.FS }

// New returns the Attester that reads below root ("/" in service, a fake tree in tests).
func New(root fs.FS) rats.Attester { return attester{root} }

// Descriptor implements rats.Attester.
func (attester) Descriptor() *rats.Descriptor { return evidence.Describe() }

// Probe implements rats.Attester: it says whether there is a list and whether it can be read.
func (a attester) Probe(context.Context) rats.Readiness {
	f, err := a.root.Open(Path)
	if err == nil {
		defer f.Close()
		if _, err = f.Read(make([]byte, 1)); err == nil {
			return rats.Readiness{OK: true}
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return rats.Readiness{Why: err.Error(), Fix: "let the agent's user read /" + Path + " (it is root's; give the service CAP_DAC_READ_SEARCH)"}
	case errors.Is(err, io.EOF):
		return rats.Readiness{Why: "IMA measures nothing", Fix: "load an IMA policy, or boot with ima_policy=tcb"}
	default:
		return rats.Readiness{
			Why: err.Error(),
			Fix: "mount securityfs (mount -t securityfs none /sys/kernel/security); use a kernel with CONFIG_IMA",
		}
	}
}

// Collect implements rats.Attester. The ask's Params are those of package evidence/ima: with an offset, the list is sent
// from that entry on, as a part. A list that has fewer entries is sent whole: the machine restarted.
func (a attester) Collect(ctx context.Context, ask rats.Ask) (rats.Evidence, error) {
	if ask.Format != evidence.Format {
		return rats.Evidence{}, fmt.Errorf("collecting the IMA list: asked for format %.40q", ask.Format)
	}
	p, err := evidence.ParseParams(ask.Params)
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting the IMA list: %w", err)
	}
	list, skipped, err := a.read(ctx, p.Offset)
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("collecting the IMA list: %w", err)
	}
	if skipped < p.Offset {
		if list, skipped, err = a.read(ctx, 0); err != nil {
			return rats.Evidence{}, fmt.Errorf("collecting the IMA list: %w", err)
		}
	}
	e := rats.Evidence{Format: evidence.Format, MediaType: evidence.MediaType}
	if skipped == 0 {
		e.Body = list
	} else {
		e.Parts = []rats.Part{{Name: evidence.PartList, Offset: skipped, Data: list}}
	}
	return e, nil
}

// read returns the list after so many entries, and how many were left out.
func (a attester) read(ctx context.Context, offset int64) (list []byte, skipped int64, err error) {
	f, err := a.root.Open(Path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	for ; skipped < offset; skipped++ {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		if err := skip(r); errors.Is(err, io.EOF) {
			return nil, skipped, nil
		} else if err != nil {
			return nil, 0, err
		}
	}
	list, err = io.ReadAll(io.LimitReader(r, maxList+1))
	if err == nil && len(list) > maxList {
		err = fmt.Errorf("more than %d bytes", maxList)
	}
	return list, skipped, err
}

// skip reads over one entry (ima_fs.c, ima_measurements_show). Its error is io.EOF between entries only.
func skip(r *bufio.Reader) error {
	var head [28]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[24:])
	if n > 255 {
		return fmt.Errorf("a template name of %d bytes", n)
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(r, name); err != nil {
		return fmt.Errorf("reading a template name: %w", noEOF(err))
	}
	if string(name) == "ima" { // its digest has no length
		if _, err := r.Discard(20); err != nil {
			return fmt.Errorf("reading a digest: %w", noEOF(err))
		}
	}
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return fmt.Errorf("reading a length: %w", noEOF(err))
	}
	if _, err := io.CopyN(io.Discard, r, int64(binary.LittleEndian.Uint32(size[:]))); err != nil {
		return fmt.Errorf("reading an entry: %w", noEOF(err))
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
