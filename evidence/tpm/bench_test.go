package tpm_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

// BenchmarkVerify is a quote of eleven PCRs verified from bytes to claims, per kind of attestation key. For comparison: a
// well-known Python verifier takes 345 µs on this kind of machine.
func BenchmarkVerify(b *testing.B) {
	for _, scheme := range []string{softtpm.ECDSAP256, softtpm.ECDSAP384, softtpm.RSASSA, softtpm.RSAPSS} {
		b.Run(scheme, func(b *testing.B) {
			t := softtpm.New(rand.Reader, softtpm.Options{AK: scheme})
			now := time.Now()
			enrolled, err := tpm.Enrol(t.EKPublic(), t.EKCert(), t.AKPublic(), now)
			if err != nil {
				b.Fatal(err)
			}
			manifest := rats.Manifest{
				Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("v")),
				Nonce: make([]byte, 32), Instance: make([]byte, 32), Formats: []rats.Format{tpm.Format},
			}
			binding, err := manifest.Bind()
			if err != nil {
				b.Fatal(err)
			}
			pcrs := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
			e, err := t.Quote("sha256", pcrs, binding.UserData)
			if err != nil {
				b.Fatal(err)
			}
			in := rats.Inputs{
				Binding: binding, Now: now, Endorsements: []rats.Endorsement{enrolled.Endorsement()},
				Params: []byte(`{"bank":"sha256","pcrs":[0,1,2,3,4,5,6,7,8,9,10]}`),
			}
			v := tpm.New()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), e, in); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "quotes/s")
		})
	}
}
