package fakevendor

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/assay-attest/assay/evidence/sgx"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

// Sample is a piece of fresh, valid evidence with everything its verification takes.
type Sample struct {
	Name     string
	Evidence rats.Evidence
	Inputs   rats.Inputs
}

// World is all makers together, each with a machine of every kind.
type World struct {
	Intel    *Intel
	AMD      *AMD
	TPMMaker *softtpm.CA

	rand io.Reader
	now  func() time.Time
}

// NewWorld makes all makers.
func NewWorld(rand io.Reader, now func() time.Time) *World {
	return &World{Intel: NewIntel(rand, now), AMD: NewAMD(rand, now), TPMMaker: softtpm.NewCA(rand), rand: rand, now: now}
}

// Samples makes evidence of every kind, bound as b says, by machines made for it.
func (w *World) Samples(b rats.Binding) ([]Sample, error) {
	out := append(w.quotes(b), w.reports(b)...)
	for _, scheme := range []string{softtpm.ECDSAP256, softtpm.RSASSA} {
		e, in, err := TPMQuote(softtpm.New(w.rand, softtpm.Options{CA: w.TPMMaker, AK: scheme}), b, w.now())
		if err != nil {
			return nil, err
		}
		out = append(out, Sample{"tpm quote by " + scheme, e, in})
	}
	return out, nil
}

func (w *World) quotes(b rats.Binding) []Sample {
	p := w.Intel.Platform()
	in := rats.Inputs{Binding: b, Now: w.now(), Anchors: w.Intel.Anchors(), Endorsements: w.Intel.Collateral(p)}
	var out []Sample
	for _, version := range []uint16{3, 4, 5} {
		out = append(out, Sample{
			fmt.Sprintf("sgx quote v%d", version),
			rats.Evidence{Format: sgx.Format, MediaType: sgx.MediaType, Body: p.SGX(version, b.UserData)}, in,
		})
	}
	for _, k := range []struct {
		version uint16
		v15     bool
		module  string
	}{{4, false, "1.0"}, {5, false, "1.0"}, {5, true, "1.5"}} {
		out = append(out, Sample{
			fmt.Sprintf("tdx quote v%d of a TD of module %s", k.version, k.module),
			rats.Evidence{Format: tdx.Format, MediaType: tdx.MediaType, Body: p.TDX(k.version, k.v15, b.UserData)}, in,
		})
	}
	return out
}

func (w *World) reports(b rats.Binding) []Sample {
	var out []Sample
	for _, product := range []string{Milan, Genoa, Turin} {
		c := w.AMD.Chip(product)
		in := rats.Inputs{Binding: b, Now: w.now(), Anchors: w.AMD.Anchors(product), Endorsements: c.Collateral()}
		for _, version := range []uint32{2, 3, 5} {
			out = append(out, Sample{
				fmt.Sprintf("snp report v%d of %s", version, product),
				rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: c.Report(version, b.UserData)}, in,
			})
		}
		in.Endorsements = c.LeasedCollateral()
		out = append(out, Sample{
			fmt.Sprintf("snp report of %s by a leased key", product),
			rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: c.Report(3, b.UserData, func(r *Report) { r.Leased = true })}, in,
		})
	}
	return out
}

// TPMQuote has a TPM quote PCRs 0 to 7 for a binding, and enrols it.
func TPMQuote(t *softtpm.TPM, b rats.Binding, now time.Time) (rats.Evidence, rats.Inputs, error) {
	params := tpm.Params{Bank: "sha256", PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7}}
	e, err := t.Quote(params.Bank, params.PCRs, b.UserData)
	if err != nil {
		return rats.Evidence{}, rats.Inputs{}, err
	}
	enrolment, err := tpm.Enrol(t.EKPublic(), t.EKCert(), t.AKPublic(), now)
	if err != nil {
		return rats.Evidence{}, rats.Inputs{}, err
	}
	asked, err := json.Marshal(params)
	if err != nil {
		return rats.Evidence{}, rats.Inputs{}, err
	}
	return e, rats.Inputs{Binding: b, Now: now, Endorsements: []rats.Endorsement{enrolment.Endorsement()}, Params: asked}, nil
}
