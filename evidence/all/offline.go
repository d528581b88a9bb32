package all

import (
	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// Offline returns the formats that can be judged from files. Where two could recognise the same bytes, the one that
// looks closer comes first.
func Offline() []appraise.Offline {
	return []appraise.Offline{
		appraise.Plain{
			Verifier: tpm.NewRecorded(), Is: tpm.DetectRecorded, Decode: tpm.InspectRecorded, Default: tpm.DefaultRules,
			Adapt: recordedParts, Holds: func(b []byte) [][]byte { return some(tpm.RecordedLog(b)) },
		},
		appraise.Plain{
			Verifier: tpm.NewCertificate(), Is: tpm.DetectCertificate, Decode: tpm.InspectCertificate, Adapt: certificateAnchors,
		},
	}
}

func some(b []byte) [][]byte {
	if len(b) == 0 {
		return nil
	}
	return [][]byte{b}
}

// recordedParts puts the files beside a quote into its parts.
func recordedParts(g appraise.Given, e *rats.Evidence, in *rats.Inputs) error {
	in.Facts.Registers = nil
	for _, name := range []string{tpm.PartSignature, tpm.PartAK} {
		if b, ok := g.Beside[name]; ok {
			e.Parts = append(e.Parts, rats.Part{Name: name, Data: b})
		}
	}
	if len(g.Registers) == 0 {
		return nil
	}
	values := make(map[string]map[int][]byte)
	for _, r := range g.Registers {
		if r.Alg != "sm3" { // a bank no quote here has
			values[r.Alg] = r.Values
		}
	}
	pcrs, err := tpm.EncodeBanks(values)
	e.Parts = append(e.Parts, rats.Part{Name: tpm.PartPCRs, Data: pcrs})
	return err
}

// certificateAnchors hands over anchors and intermediate certificates, also those that package x509 can't read.
func certificateAnchors(g appraise.Given, _ *rats.Evidence, in *rats.Inputs) error {
	in.Endorsements = nil
	for _, der := range appraise.Certificates(g.CA) {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: tpm.MediaTypeAnchor, Body: der, Fetched: g.Now})
	}
	for _, der := range appraise.Certificates(g.Collateral) {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: tpm.MediaTypeCertificate, Body: der, Fetched: g.Now})
	}
	return nil
}
