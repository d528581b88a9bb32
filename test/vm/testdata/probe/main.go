// Command probe is what a test runs in a guest besides the project's own programs: an application of the monitor's that keeps a
// sealed secret and collects evidence, by the parts an agent has.
//
//	probe attest REQUEST FILE    evidence for {"binding", "asks"}, as JSON, and what the enclave opens of a sealed file
//	probe seal FILE TEXT         has the enclave seal a text
//	probe open FILE              has the enclave open it
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/attester/enclave"
	"github.com/assay-attest/assay/internal/attesters"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/internal/monitor/daemon"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// Files of the enclave.
const (
	imageFile = "/usr/lib/assay/enclave.image"
	sigFile   = "/usr/lib/assay/enclave.sig"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 3 && args[0] == "attest":
		return attest(ctx, args[1], args[2])
	case len(args) == 3 && args[0] == "seal":
		return seal(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == "open":
		return open(ctx, args[1])
	}
	return errors.New("expected attest, seal or open")
}

// source is the running enclave.
type source struct {
	monitor.Running
	sig []byte
}

func (s source) Sigstruct() []byte { return s.sig }

func (s source) Quote(ctx context.Context, manifest []byte) ([]byte, error) {
	var data [64]byte
	copy(data[:], rats.SHA256(manifest).Sum)
	return monitor.Call[[64]byte, []byte](ctx, s, "quote", data)
}

func start(ctx context.Context) (source, error) {
	image, err := os.ReadFile(imageFile)
	if err != nil {
		return source{}, err
	}
	sig, err := os.ReadFile(sigFile)
	if err != nil {
		return source{}, err
	}
	c, err := daemon.Dial(ctx, daemon.DefaultSocket)
	if err != nil {
		return source{}, err
	}
	e, err := c.Load(ctx, image, sig, monitor.Options{Mode: abi.ModeProcess})
	return source{e, sig}, err
}

// sealing are the parameters of the enclave's calls seal and unseal.
type sealing struct {
	Policy     uint16
	Extra, Box []byte
}

const toMRENCLAVE = 1

func seal(ctx context.Context, file, text string) error {
	s, err := start(ctx)
	if err != nil {
		return err
	}
	box, err := monitor.Call[sealing, []byte](ctx, s, "seal", sealing{Policy: toMRENCLAVE, Box: []byte(text)})
	if err != nil {
		return err
	}
	return os.WriteFile(file, box, 0o600)
}

func open(ctx context.Context, file string) error {
	s, err := start(ctx)
	if err != nil {
		return err
	}
	text, err := opened(ctx, s, file)
	if err == nil {
		fmt.Println(text)
	}
	return err
}

func opened(ctx context.Context, s source, file string) (string, error) {
	box, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	text, err := monitor.Call[sealing, []byte](ctx, s, "unseal", sealing{Box: box})
	return string(text), err
}

// Request and Answer are the JSON of attest.
type (
	Request struct {
		Binding rats.Binding `json:"binding"`
		Asks    []rats.Ask   `json:"asks"`
	}
	Answer struct {
		Evidence []rats.Evidence `json:"evidence"`
		EK       []byte          `json:"ek"`
		EKCert   []byte          `json:"ek_cert"`
		AK       []byte          `json:"ak"`
		Opened   string          `json:"opened,omitempty"`
	}
)

func attest(ctx context.Context, file, secret string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var req Request
	if err := json.Unmarshal(text, &req); err != nil {
		return err
	}
	dev, err := tpm.Open(ctx, "")
	if err != nil {
		return err
	}
	defer dev.Close()
	ak, err := dev.AK(ctx, bytes.Repeat([]byte{7}, tpm.UniqueSize))
	if err != nil {
		return err
	}
	ek, err := dev.EK(ctx)
	if err != nil {
		return err
	}
	s, err := start(ctx)
	if err != nil {
		return err
	}
	list := attesters.List(attesters.OnThisMachine(attesters.Deps{
		TPM: dev, AK: ak, Quotes: s, Keeper: enclave.ByMonitor(daemon.DefaultSocket), Rand: rand.Reader,
	}))
	out := Answer{EK: ek.Public, EKCert: ek.CertDER, AK: ak.Public}
	for _, ask := range req.Asks {
		ask.Binding = req.Binding
		for _, a := range list {
			if a.Descriptor().ID != ask.Format {
				continue
			}
			e, err := a.Collect(ctx, ask)
			if err != nil {
				return err
			}
			out.Evidence = append(out.Evidence, e)
		}
	}
	if out.Opened, err = opened(ctx, s, secret); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err) // the test sees that nothing was opened
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
