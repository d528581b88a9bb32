package tsm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-attest/assay/internal/attester/tsm"
	"github.com/assay-attest/assay/rats"
)

// kernel is a fake of configfs-tsm: directories that grow files, and a generation that every write raises.
type kernel struct {
	provider   string
	floor      string // empty: the provider has no privilege levels
	certs      []byte
	report     func(in []byte, level int) []byte
	intruder   int // how many times another process writes between our write and our read
	fail       string
	open       map[string]bool
	in         []byte
	level      int
	generation int
	made       int
}

func newKernel(provider string) *kernel {
	return &kernel{provider: provider, open: map[string]bool{}, report: func(in []byte, level int) []byte {
		return append([]byte("report "+strconv.Itoa(level)+" "), in...)
	}}
}

func (k *kernel) Mkdir(name string) error {
	if k.fail == "mkdir" {
		return fs.ErrPermission
	}
	if k.open[name] {
		return fs.ErrExist
	}
	k.open[name], k.made = true, k.made+1
	return nil
}

func (k *kernel) Remove(name string) error { delete(k.open, name); return nil }

func (k *kernel) Write(name string, b []byte) error {
	switch file := path.Base(name); {
	case !k.open[path.Dir(name)] || file == k.fail:
		return fs.ErrPermission
	case file == "inblob" && len(b) <= 64:
		k.in = bytes.Clone(b)
	case file == "privlevel" && k.floor != "":
		k.level, _ = strconv.Atoi(string(b))
	default:
		return fs.ErrInvalid
	}
	k.generation++
	return nil
}

func (k *kernel) Read(name string) ([]byte, error) {
	file := path.Base(name)
	if !k.open[path.Dir(name)] || file == k.fail {
		return nil, fs.ErrPermission
	}
	switch file {
	case "provider":
		return []byte(k.provider + "\n"), nil
	case "generation":
		return []byte(strconv.Itoa(k.generation) + "\n"), nil
	case "privlevel_floor":
		if k.floor != "" {
			return []byte(k.floor + "\n"), nil
		}
	case "outblob":
		if k.intruder > 0 {
			k.intruder--
			k.generation++
			return k.report(make([]byte, 64), k.level), nil
		}
		return k.report(k.in, k.level), nil
	case "auxblob":
		if k.certs != nil {
			return k.certs, nil
		}
	}
	return nil, fs.ErrNotExist
}

const (
	format    rats.Format = "snp"
	mediaType string      = "application/x-report"
)

// guest is the Attester of a SEV-SNP guest, as the list of Attesters would make it.
func guest(tree tsm.Tree, random io.Reader) rats.Attester {
	return tsm.New(tsm.Config{
		Descriptor: &rats.Descriptor{ID: format}, MediaType: mediaType, Provider: tsm.ProviderSNP, AuxPart: "certs", Tree: tree, Random: random,
		Level: func(b []byte) (int, error) {
			var p struct {
				VMPL int `json:"vmpl"`
			}
			if len(b) == 0 {
				return 0, nil
			}
			err := json.Unmarshal(b, &p)
			return p.VMPL, err
		},
	})
}

func ask(params string) rats.Ask {
	return rats.Ask{Format: format, Binding: rats.Binding{Profile: rats.ProfileRaw, UserData: []byte("challenge")}, Params: []byte(params)}
}

// R102: an SNP guest's report and the host's certificates, from a fake tree.
func TestReportIsMadeOfTheUserDataAndTheHostsCertificates(t *testing.T) {
	k := newKernel(tsm.ProviderSNP)
	k.floor, k.certs = "0", []byte("table")
	a := guest(k, rand.Reader)
	if r := a.Probe(t.Context()); !r.OK {
		t.Fatal(r)
	}
	e, err := a.Collect(t.Context(), ask(`{"vmpl":1}`))
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte("report 1 challenge"), make([]byte, 64-len("challenge"))...)
	if p, ok := e.Part("certs"); !ok || string(p.Data) != "table" || !bytes.Equal(e.Body, want) || e.Format != format || e.MediaType != mediaType {
		t.Errorf("%+v", e)
	}
	if len(k.open) != 0 || k.made != 2 {
		t.Errorf("%d of %d reports are left behind", len(k.open), k.made)
	}
}

func TestLevelIsNeverBelowTheKernelsFloor(t *testing.T) {
	k := newKernel(tsm.ProviderSNP)
	k.floor = "2"
	e, err := guest(k, rand.Reader).Collect(t.Context(), ask(""))
	if err != nil || !strings.HasPrefix(string(e.Body), "report 2 ") || len(e.Parts) != 0 {
		t.Errorf("%v, %.20q", err, e.Body)
	}
}

// R102: a TDX guest's quote comes the same way.
func TestOtherProvidersUseTheirOwnDescriptor(t *testing.T) {
	d := &rats.Descriptor{ID: "tdx"}
	a := tsm.New(tsm.Config{Descriptor: d, MediaType: "application/x-quote", Provider: tsm.ProviderTDX, Tree: newKernel(tsm.ProviderTDX), Random: rand.Reader})
	x := ask("")
	x.Format = "tdx"
	e, err := a.Collect(t.Context(), x)
	if err != nil || e.Format != "tdx" || e.MediaType != "application/x-quote" || a.Descriptor() != d {
		t.Errorf("%v, %+v", err, e)
	}
}

func TestReportThatAnotherProcessWroteToIsTakenAgain(t *testing.T) {
	k := newKernel(tsm.ProviderSNP)
	k.intruder = 2
	e, err := guest(k, rand.Reader).Collect(t.Context(), ask(""))
	if err != nil || !bytes.Contains(e.Body, []byte("challenge")) {
		t.Errorf("%v, %.20q", err, e.Body)
	}
	k.intruder = 3
	if _, err := guest(k, rand.Reader).Collect(t.Context(), ask("")); err == nil {
		t.Error("somebody else's report is taken")
	}
}

func TestTroubleIsToldAndLeavesNothingBehind(t *testing.T) {
	for name, c := range map[string]struct {
		change func(k *kernel, a *rats.Ask)
		why    string
	}{
		"not permitted":   {func(k *kernel, _ *rats.Ask) { k.fail = "mkdir" }, "making a report"},
		"no provider":     {func(k *kernel, _ *rats.Ask) { k.fail = "provider" }, "reading provider"},
		"other provider":  {func(k *kernel, _ *rats.Ask) { k.provider = "arm_cca_guest" }, "arm_cca_guest"},
		"odd floor":       {func(k *kernel, _ *rats.Ask) { k.floor = "7" }, "lowest privilege level"},
		"floor unread":    {func(k *kernel, _ *rats.Ask) { k.fail = "privlevel_floor" }, "reading privlevel_floor"},
		"level refused":   {func(k *kernel, _ *rats.Ask) { k.floor, k.fail = "0", "privlevel" }, "choosing privilege level"},
		"write refused":   {func(k *kernel, _ *rats.Ask) { k.fail = "inblob" }, "writing user data"},
		"no generation":   {func(k *kernel, _ *rats.Ask) { k.fail = "generation" }, "reading generation"},
		"no report":       {func(k *kernel, _ *rats.Ask) { k.fail = "outblob" }, "reading the report"},
		"empty report":    {func(k *kernel, _ *rats.Ask) { k.report = func([]byte, int) []byte { return nil } }, "empty"},
		"no certificates": {func(k *kernel, _ *rats.Ask) { k.fail = "auxblob" }, "certificates"},
		"other format":    {func(_ *kernel, a *rats.Ask) { a.Format = "tpm" }, "asked for format"},
		"no user data":    {func(_ *kernel, a *rats.Ask) { a.Binding.UserData = nil }, "user data of 0 bytes"},
		"long user data":  {func(_ *kernel, a *rats.Ask) { a.Binding.UserData = make([]byte, 65) }, "user data of 65 bytes"},
		"odd parameters":  {func(_ *kernel, a *rats.Ask) { a.Params = []byte("{") }, "unexpected end of JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			k, x := newKernel(tsm.ProviderSNP), ask("")
			c.change(k, &x)
			_, err := guest(k, rand.Reader).Collect(t.Context(), x)
			if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v, want %q", err, c.why)
			}
			if len(k.open) != 0 {
				t.Error("a report is left behind")
			}
		})
	}
}

func TestProbeSaysWhyAndHowToMend(t *testing.T) {
	for _, change := range []func(k *kernel){
		func(k *kernel) { k.fail = "mkdir" }, func(k *kernel) { k.fail = "provider" }, func(k *kernel) { k.provider = tsm.ProviderTDX },
	} {
		k := newKernel(tsm.ProviderSNP)
		change(k)
		if r := guest(k, rand.Reader).Probe(t.Context()); r.OK || r.Why == "" || r.Fix == "" {
			t.Errorf("%+v", r)
		}
	}
	if r := guest(newKernel(tsm.ProviderSNP), bytes.NewReader(nil)).Probe(t.Context()); r.OK {
		t.Error("ready without randomness")
	}
}

func TestCollectionStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := guest(newKernel(tsm.ProviderSNP), rand.Reader).Collect(ctx, ask("")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// R102: the same over files, of a directory that stands for the kernel's.
func TestTreeOfFilesIsReadAndWritten(t *testing.T) {
	root := t.TempDir()
	tree := tsm.Dir(root)
	if err := tree.Mkdir("r"); err != nil {
		t.Fatal(err)
	}
	if err := tree.Write("r/inblob", []byte("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file is made that the kernel didn't make: %v", err)
	}
	for name, size := range map[string]int{"inblob": 0, "outblob": 1184, "auxblob": 2 << 20} {
		if err := os.WriteFile(filepath.Join(root, "r", name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Write("r/inblob", []byte("x")); err != nil {
		t.Error(err)
	}
	if b, err := tree.Read("r/outblob"); err != nil || len(b) != 1184 {
		t.Error(err)
	}
	if _, err := tree.Read("r/auxblob"); err == nil {
		t.Error("2 MiB are read")
	}
	if _, err := tree.Read("r/provider"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := tree.Remove("r"); err == nil {
		t.Error("a directory with files is removed")
	}
	if r := guest(tsm.Dir(filepath.Join(root, "none")), rand.Reader).Probe(t.Context()); r.OK || !strings.Contains(fmt.Sprint(r), "making a report") {
		t.Errorf("%+v", r)
	}
}
