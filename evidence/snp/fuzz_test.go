package snp_test

import (
	"bytes"
	"testing"

	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/rats"
)

func FuzzParseReport(f *testing.F) {
	for _, version := range []uint32{2, 3, 5} {
		e, _ := newGuest(f, snp.Turin, version).make()
		f.Add(e.Body)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := snp.ParseReport(b); err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Error("the bytes don't survive")
		}
	})
}

func FuzzParseCertTable(f *testing.F) {
	f.Add(table(f, snp.CertEntry{GUID: snp.GUIDVCEK, Data: []byte("abc")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := snp.ParseCertTable(b)
		for _, e := range entries {
			if err == nil && len(e.Data) > len(b) {
				t.Error("an entry larger than its table")
			}
		}
	})
}

func FuzzImport(f *testing.F) {
	e, _ := newGuest(f, snp.Milan, 2).make()
	f.Add(e.Body)
	f.Add([]byte(`{"attestation_report":{"version":2,"family_id":[0]},"cert_chain":[{"cert_type":"VCEK","data":[48]}]}`))
	f.Add([]byte(`{"hcl_report":"SENMQQ","vcek":"","tpm_quote":{"message":"","pcrs":[]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := snp.Import(b); err == nil && len(e.Body) < snp.ReportSize {
			t.Error("evidence without a report")
		}
		snp.Detect(b)
	})
}

// FuzzVerify changes body, certificates and endorsements of evidence that is good.
func FuzzVerify(f *testing.F) {
	g := newGuest(f, snp.Milan, 2)
	e, in := g.make()
	v := snp.New()
	if _, err := v.Verify(f.Context(), e, in); err != nil {
		f.Fatal(err)
	}
	f.Add(e.Body, []byte(nil), in.Endorsements[0].Body)
	f.Add(e.Body, table(f, snp.CertEntry{GUID: snp.GUIDVCEK, Data: in.Endorsements[0].Body}), []byte("{}"))
	f.Fuzz(func(t *testing.T, body, part, doc []byte) {
		x := rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: body}
		if len(part) > 0 {
			x.Parts = []rats.Part{{Name: snp.PartCerts, Data: part}}
		}
		in := in
		in.Endorsements = append([]rats.Endorsement{{Body: doc}}, in.Endorsements...)
		_, err := v.Verify(t.Context(), x, in)
		if err == nil && !bytes.Equal(body[:0x2a0], e.Body[:0x2a0]) {
			t.Error("another report verifies")
		}
		if err != nil {
			if _, ok := rats.ReasonOf(err); !ok {
				t.Errorf("bad input is a malfunction: %v", err)
			}
		}
	})
}

// BenchmarkVerify measures a genuine chain's shape: RSA-2048 in place of AMD's RSA-4096 unless the recordings are at hand.
func BenchmarkVerify(b *testing.B) {
	g := newGuest(b, snp.Milan, 2)
	e, in := g.make()
	b.Run("warm", func(b *testing.B) {
		v := snp.New()
		for b.Loop() {
			if _, err := v.Verify(b.Context(), e, in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			if _, err := snp.New().Verify(b.Context(), e, in); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkVerifyGenuine is the same on a recorded report under AMD's own chain.
func BenchmarkVerifyGenuine(b *testing.B) {
	e := rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: recording(b, "snp/trustee/test-report.bin")}
	in := rats.Inputs{Binding: rats.Binding{Profile: rats.ProfileNone}, Now: now.AddDate(-1, 0, 0), Endorsements: []rats.Endorsement{
		{Body: recording(b, "snp/trustee/test-vcek.der")}, {Body: recording(b, "snp/roots/ask_ark_milan.pem")},
	}}
	warm := snp.New()
	for name, v := range map[string]func() rats.Verifier{"warm": func() rats.Verifier { return warm }, "cold": snp.New} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := v().Verify(b.Context(), e, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
