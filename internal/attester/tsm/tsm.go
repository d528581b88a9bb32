// Package tsm collects evidence of confidential guests through configfs-tsm, the kernel's interface to whatever trusted
// security module the guest runs on (Linux 6.7 and later, Documentation/ABI/testing/configfs-tsm-report): SEV-SNP reports with the
// host's certificate table, TDX quotes.
//
// It guarantees that a report was made from the user data it wrote and from nothing that another process wrote in between.
// It judges nothing: what comes out is as good as the kernel that handed it out, and its signature.
package tsm

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// Root is where the kernel has its reports.
const Root = "/sys/kernel/config/tsm/report"

// The names by which the kernel knows its providers.
const (
	ProviderSNP = "sev_guest"
	ProviderTDX = "tdx_guest"
)

// Bounds of the interface.
const (
	inblobSize = 64
	maxBlob    = 1 << 20
	maxTries   = 3
)

// Tree is the directory of reports. A report is made by making a directory in it.
type Tree interface {
	Mkdir(name string) error
	Remove(name string) error
	Read(name string) ([]byte, error) // of a file in a report, at most 1 MiB; fs.ErrNotExist where there is none
	Write(name string, b []byte) error
}

// Config is one kind of evidence that is collected through the interface.
type Config struct {
	Descriptor *rats.Descriptor
	MediaType  string
	Provider   string                           // ProviderSNP, ProviderTDX
	AuxPart    string                           // name of the part that the auxiliary blob becomes; empty: it is left out
	Level      func(params []byte) (int, error) // which privilege level is asked for; nil: the kernel's own
	Tree       Tree
	Random     io.Reader // for the names of reports
}

type attester struct{ Config }

// New returns an Attester of one provider's reports. The list of Attesters says which formats they are of: this package knows
// none by name.
func New(c Config) rats.Attester { return attester{c} }

// Descriptor implements rats.Attester.
func (a attester) Descriptor() *rats.Descriptor { return a.Config.Descriptor }

// Probe implements rats.Attester: it makes a report's directory and asks who would fill it.
func (a attester) Probe(context.Context) rats.Readiness {
	fix := "run as a guest of the hardware, with Linux 6.7 or later, configfs mounted on /sys/kernel/config and the module of the guest device (sev-guest, tdx-guest) loaded; reports need root"
	name, done, err := a.open()
	if err != nil {
		return rats.Readiness{Why: err.Error(), Fix: fix}
	}
	defer done()
	provider, err := a.text(name, "provider")
	switch {
	case err != nil:
		return rats.Readiness{Why: err.Error(), Fix: fix}
	case provider != a.Provider:
		return rats.Readiness{Why: fmt.Sprintf("this guest's reports come from %q, not %q", clip(provider), a.Provider), Fix: "collect the format of that provider"}
	}
	return rats.Readiness{OK: true}
}

// Collect implements rats.Attester. The binding's user data, at most 64 bytes, is followed by zeros.
func (a attester) Collect(ctx context.Context, ask rats.Ask) (rats.Evidence, error) {
	fail := func(err error) (rats.Evidence, error) {
		return rats.Evidence{}, fmt.Errorf("collecting a report of %s: %w", a.Provider, err)
	}
	if ask.Format != a.Config.Descriptor.ID {
		return fail(fmt.Errorf("asked for format %.40q", ask.Format))
	}
	data := ask.Binding.UserData
	if len(data) == 0 || len(data) > inblobSize {
		return fail(fmt.Errorf("user data of %d bytes, expected 1 to %d", len(data), inblobSize))
	}
	in := append(append(make([]byte, 0, inblobSize), data...), make([]byte, inblobSize-len(data))...)
	level := 0
	if a.Level != nil {
		var err error
		if level, err = a.Level(ask.Params); err != nil {
			return fail(err)
		}
	}
	name, done, err := a.open()
	if err != nil {
		return fail(err)
	}
	defer done()
	if provider, err := a.text(name, "provider"); err != nil || provider != a.Provider {
		return fail(errors.Join(err, fmt.Errorf("the provider is %q", clip(provider))))
	}
	if err := a.setLevel(name, level); err != nil {
		return fail(err)
	}
	for range maxTries {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		e, again, err := a.once(name, in)
		if err != nil {
			return fail(err)
		}
		if !again {
			return e, nil
		}
	}
	return fail(errors.New("another process keeps writing to our report"))
}

// open makes a report's directory under a name nobody else has.
func (a attester) open() (name string, done func(), err error) {
	id := make([]byte, 8)
	if _, err := io.ReadFull(a.Random, id); err != nil {
		return "", nil, fmt.Errorf("naming a report: %w", err)
	}
	name = "assay-" + hex.EncodeToString(id)
	if err := a.Tree.Mkdir(name); err != nil {
		return "", nil, fmt.Errorf("making a report: %w", err)
	}
	return name, func() { _ = a.Tree.Remove(name) }, nil // one left behind harms nobody
}

// setLevel chooses the privilege level where the kernel offers a choice. Level 0 below the kernel's floor means the floor: a
// guest behind a paravisor can't speak for it, and the verifier sees the level in the report.
func (a attester) setLevel(name string, level int) error {
	floor, err := a.text(name, "privlevel_floor")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(floor)
	if err != nil || n < 0 || n > 3 {
		return fmt.Errorf("the kernel's lowest privilege level is %q", clip(floor))
	}
	if err := a.Tree.Write(path.Join(name, "privlevel"), []byte(strconv.Itoa(max(level, n)))); err != nil {
		return fmt.Errorf("choosing privilege level %d: %w", max(level, n), err)
	}
	return nil
}

// once writes the user data and reads what comes of it. It says to try again if the generation, which the kernel raises with
// every write, rose by more than that one.
func (a attester) once(name string, in []byte) (e rats.Evidence, again bool, err error) {
	before, err := a.generation(name)
	if err != nil {
		return e, false, err
	}
	if err := a.Tree.Write(path.Join(name, "inblob"), in); err != nil {
		return e, false, fmt.Errorf("writing user data: %w", err)
	}
	body, err := a.Tree.Read(path.Join(name, "outblob"))
	if err != nil {
		return e, false, fmt.Errorf("reading the report: %w", err)
	}
	if len(body) == 0 {
		return e, false, errors.New("the report is empty")
	}
	e = rats.Evidence{Format: a.Config.Descriptor.ID, MediaType: a.MediaType, Body: body}
	if a.AuxPart != "" {
		aux, err := a.Tree.Read(path.Join(name, "auxblob"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return e, false, fmt.Errorf("reading the host's certificates: %w", err)
		}
		if len(aux) > 0 {
			e.Parts = []rats.Part{{Name: a.AuxPart, Data: aux}}
		}
	}
	after, err := a.generation(name)
	return e, after != before+1, err
}

func (a attester) generation(name string) (uint64, error) {
	s, err := a.text(name, "generation")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading generation: %q is no number", clip(s))
	}
	return n, nil
}

func (a attester) text(name, file string) (string, error) {
	b, err := a.Tree.Read(path.Join(name, file))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func clip(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return s
}

// dir is the kernel's tree.
type dir struct{ root string }

// Dir returns the tree below a directory, Root on a real guest.
func Dir(root string) Tree { return dir{root} }

func (d dir) Mkdir(name string) error  { return os.Mkdir(filepath.Join(d.root, name), 0o700) }
func (d dir) Remove(name string) error { return os.Remove(filepath.Join(d.root, name)) }

func (d dir) Write(name string, b []byte) error {
	f, err := os.OpenFile(filepath.Join(d.root, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b) // one write: the kernel takes each as a whole
	return errors.Join(err, f.Close())
}

func (d dir) Read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(d.root, name))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxBlob+1))
	if err == nil && len(b) > maxBlob {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxBlob)
	}
	return b, errors.Join(err, f.Close())
}
