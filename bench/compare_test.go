package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	planformat "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
	"github.com/assay-attest/assay/sealed"
)

// R180: the comparing alone, without signatures, database and network: a box with the outcomes of 50 files is opened, its
// report and outcomes are read, and each is looked up among 500,000 reference values.
func BenchmarkCompare(b *testing.B) {
	const files, references = 50, 500_000
	var outcomes []plan.Outcome
	var entries []refvalue.Entry
	claims := &planformat.Claims{Tests: []planformat.Test{{ID: 1, Kind: plan.KindDir, Alg: "sha256", Path: "/srv/fleet"}}}
	for i := range references {
		name, d := fmt.Sprintf("/srv/other/f%06d", i), rats.SHA256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		if i < files {
			name = fmt.Sprintf("/srv/fleet/f%06d", i)
			outcomes = append(outcomes, plan.Outcome{Test: 1, Name: []byte(name), Digest: d.Sum, Size: 100, Nanos: 5})
			claims.Measurements = append(claims.Measurements, planformat.Measurement{Test: 1, Name: name, Digest: d, Size: 100})
		}
		entries = append(entries, refvalue.Entry{Name: name, Digests: []rats.Digest{d}, Size: 100})
	}
	set, err := refvalue.New(refvalue.Header{Name: "s", Created: time.Now()}, entries)
	if err != nil {
		b.Fatal(err)
	}
	index := refvalue.NewIndex(map[string]refvalue.Versioned{"s": {Set: set, Ref: rats.Ref{Name: "s", Version: 1}}})
	rules := &planformat.Rules{List: []planformat.TestRule{{Name: "files", Dir: "/srv/fleet", Reference: "s"}}}
	bulk, timings, err := plan.EncodeOutcomes([]uint32{1}, outcomes, nil)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	evidence, err := plan.Report{
		Nonce: make([]byte, 32), Manifest: make([]byte, 32), Plan: rats.SHA256(), Sequence: 1, Backend: plan.BackendNative, Simulated: true,
	}.Sign(signer, bulk, timings)
	if err != nil {
		b.Fatal(err)
	}
	key, err := sealed.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	var senders sealed.Senders
	box, err := plan.SealEvidence(&senders, key.Public(), evidence)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			e, err := plan.OpenEvidence(key, box)
			if err != nil {
				b.Error(err)
				return
			}
			o, _ := e.Part(plan.PartOutcomes)
			t, _ := e.Part(plan.PartTimings)
			if _, got, err := plan.DecodeOutcomes(o.Data, t.Data); err != nil || len(got) != files {
				b.Error(err)
				return
			}
			if reasons := rules.Check(claims, index, now); len(reasons) > 0 {
				b.Error(reasons)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Minutes(), "compared/min")
}
