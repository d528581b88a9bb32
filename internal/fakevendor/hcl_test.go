package fakevendor_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

// rsaAK returns the attestation key of a TPM, which a paravisor's report names.
func rsaAK(t *testing.T, s *softtpm.TPM) *rsa.PublicKey {
	t.Helper()
	outer, err := tpm2.Unmarshal[tpm2.TPM2BPublic](s.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	p, err := outer.Contents()
	if err != nil {
		t.Fatal(err)
	}
	detail, err := p.Parameters.RSADetail()
	if err != nil {
		t.Fatal(err)
	}
	unique, err := p.Unique.RSA()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.RSAPub(detail, unique)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// machine is a confidential VM of Azure: a TPM, and the hardware report that names its key.
type machine struct {
	tpm      *softtpm.TPM
	hardware rats.Evidence
	in       rats.Inputs
}

// machines makes two of each kind, in one world.
func machines(t *testing.T, w *fakevendor.World) map[rats.Format][2]machine {
	t.Helper()
	out := make(map[rats.Format][2]machine)
	for i := range 2 {
		s := softtpm.New(rand.Reader, softtpm.Options{CA: w.TPMMaker, AK: softtpm.RSASSA})
		v := &fakevendor.Paravisor{AK: rsaAK(t, s)}
		chip, platform := w.AMD.Chip(fakevendor.Milan), w.Intel.Platform()
		report, quote := v.TDX(platform)
		a, b := out[snp.Format], out[tdx.Format]
		a[i] = machine{
			s, rats.Evidence{Format: snp.Format, MediaType: snp.MediaTypeHCL, Body: v.SNP(chip)},
			rats.Inputs{Anchors: w.AMD.Anchors(fakevendor.Milan), Endorsements: chip.Collateral()},
		}
		b[i] = machine{
			s, rats.Evidence{Format: tdx.Format, MediaType: tdx.MediaTypeHCL, Body: report, Parts: []rats.Part{{Name: tdx.PartQuote, Data: quote}}},
			rats.Inputs{Anchors: w.Intel.Anchors(), Endorsements: w.Intel.Collateral(platform)},
		}
		out[snp.Format], out[tdx.Format] = a, b
	}
	return out
}

// R174, S01: a TPM's quote and a hardware report under one manifest are of one machine only if the report names the
// TPM's key; the quote of another machine's TPM, fresh and genuine, doesn't do.
func TestQuoteAndReportAreLinkedByTheKeyThatTheReportNames(t *testing.T) {
	w := fakevendor.NewWorld(rand.Reader, clock)
	engine := appraise.New(tpm.New(), snp.New(), tdx.New())
	for format, pair := range machines(t, w) {
		for name, quoter := range map[string]int{"its own TPM": 0, "another machine's": 1} {
			b := binding(t)
			q, qin, err := fakevendor.TPMQuote(pair[quoter].tpm, b, clock())
			if err != nil {
				t.Fatal(err)
			}
			inputs := func(f rats.Format) rats.Inputs {
				if f == tpm.Format {
					return qin
				}
				in := pair[0].in
				in.Now = clock()
				return in
			}
			asked := []rats.Format{tpm.Format, format}
			set, err := engine.Verify(t.Context(), rats.Collection{Binding: b, Evidence: []rats.Evidence{q, pair[0].hardware}}, asked, inputs)
			if err != nil {
				t.Fatal(err)
			}
			link := rats.Link{From: tpm.Format, To: format, Kind: rats.LinkAKInReport}
			linked := slices.Contains(set.Links, link)
			if quoter == 0 {
				if len(set.Refused) > 0 || !linked {
					t.Errorf("%s, %s: %v, links %v", format, name, set.Refused, set.Links)
				}
				continue
			}
			if len(set.Refused) != 1 || set.Refused[0].Code != hcl.CodeOtherAK.Code || linked {
				t.Errorf("%s, %s: %v, links %v", format, name, set.Refused, set.Links)
			}
			// Without any quote nothing ties the report to the exchange.
			set, err = engine.Verify(t.Context(), rats.Collection{Binding: b, Evidence: []rats.Evidence{pair[0].hardware}}, asked[1:], inputs)
			if err != nil || len(set.Refused) != 1 || set.Refused[0].Code != hcl.CodeUnlinked.Code {
				t.Errorf("%s without a quote: %v, %v", format, set.Refused, err)
			}
		}
	}
}

func TestParavisorReportOfATrustDomainIsProvedByItsQuoteOnly(t *testing.T) {
	w := fakevendor.NewWorld(rand.Reader, clock)
	pair := machines(t, w)[tdx.Format]
	good := pair[0]
	spki, err := x509.MarshalPKIXPublicKey(rsaAK(t, good.tpm))
	if err != nil {
		t.Fatal(err)
	}
	in := good.in
	in.Now, in.Binding, in.Facts.Keys = clock(), binding(t), []rats.BoundKey{{Use: rats.KeyAK, Public: spki}}
	v, err := tdx.New().Verify(t.Context(), good.hardware, in)
	if err != nil {
		t.Fatal(err)
	}
	c := v.Claims.(*tdx.Claims)
	if c.Binding != hcl.BoundAKQuote || c.HCL == nil || !c.HCL.AK.Equal(rats.SHA256(spki)) || c.TCB.Status != "UpToDate" || len(v.Facts.Registers) != 1 {
		t.Errorf("%+v", c)
	}
	if k, ok := v.Facts.Key(rats.KeyAK); !ok || !bytes.Equal(k.Public, spki) {
		t.Error("the TPM's key is not among the facts")
	}
	platform := w.Intel.Platform()
	vtpm := &fakevendor.Paravisor{AK: rsaAK(t, good.tpm)}
	_, debug := vtpm.TDX(platform, func(q *fakevendor.Quote) { q.TD.MRTD[0] ^= 1 })
	_, forged := vtpm.TDX(platform, func(q *fakevendor.Quote) { q.BodyKey = fakevendor.KeyP256(rand.Reader) })
	foreign := in
	foreign.Anchors = nil
	guest := w.AMD.Chip(fakevendor.Milan)
	for name, x := range map[string]struct {
		change func(e *rats.Evidence)
		in     rats.Inputs
		want   rats.CodeInfo
	}{
		"a TDREPORT alone":       {func(e *rats.Evidence) { e.Parts = nil }, in, tdx.CodeReport},
		"two quotes":             {func(e *rats.Evidence) { e.Parts = append(e.Parts, e.Parts[0]) }, in, tdx.CodeMediaType},
		"another part":           {func(e *rats.Evidence) { e.Parts[0].Name = "x" }, in, tdx.CodeMediaType},
		"a report as quote":      {func(e *rats.Evidence) { e.Parts[0].Data = e.Body[32 : 32+1024] }, in, tdx.CodeReport},
		"another TD's quote":     {func(e *rats.Evidence) { e.Parts[0].Data = pair[1].hardware.Parts[0].Data }, in, tdx.CodeOtherReport},
		"another measurement":    {func(e *rats.Evidence) { e.Parts[0].Data = debug }, withPlatform(in, w, platform), tdx.CodeOtherReport},
		"a forged quote":         {func(e *rats.Evidence) { e.Parts[0].Data = forged }, withPlatform(in, w, platform), dcap.CodeQuoteSignature},
		"another root":           {func(*rats.Evidence) {}, foreign, dcap.CodeChainRoot},
		"altered runtime data":   {func(e *rats.Evidence) { e.Body[1300] ^= 1 }, in, hcl.CodeUnbound},
		"altered measurements":   {func(e *rats.Evidence) { e.Body[32+512+16] ^= 1 }, in, hcl.CodeTDReport},
		"a report of SEV-SNP":    {func(e *rats.Evidence) { e.Body = vtpm.SNP(guest) }, in, hcl.CodeKind},
		"no report at all":       {func(e *rats.Evidence) { e.Body = e.Body[:100] }, in, hcl.CodeMalformed},
		"a key in the manifest":  {func(*rats.Evidence) {}, withManifestKey(t, in, spki), hcl.CodeBinding},
		"an unnamed attestation": {func(e *rats.Evidence) { e.MediaType = tdx.MediaType }, in, tdx.CodeMediaType},
	} {
		e := good.hardware
		e.Body, e.Parts = bytes.Clone(e.Body), slices.Clone(e.Parts)
		x.change(&e)
		_, err := tdx.New().Verify(t.Context(), e, x.in)
		if r, ok := rats.ReasonOf(err); !ok || r.Code != x.want.Code {
			t.Errorf("%s: %v, want %s", name, err, x.want.Code)
		}
	}
}

func withPlatform(in rats.Inputs, w *fakevendor.World, p *fakevendor.Platform) rats.Inputs {
	in.Endorsements = w.Intel.Collateral(p)
	return in
}

func withManifestKey(t *testing.T, in rats.Inputs, spki []byte) rats.Inputs {
	t.Helper()
	m, err := rats.DecodeManifest(in.Binding.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	m.Keys = []rats.BoundKey{{Use: rats.KeyAK, Public: spki}}
	if in.Binding, err = m.Bind(); err != nil {
		t.Fatal(err)
	}
	return in
}

// R116: the forms in which clouds hand reports over: AWS leases keys (VLEK) and passes them in the table of the extended
// request, with entries of its own beside; Google's hosts append a table with the chip's key.
func TestReportsAsCloudsHandThemOver(t *testing.T) {
	a := fakevendor.NewAMD(rand.Reader, clock)
	b := binding(t)
	for _, product := range []string{fakevendor.Milan, fakevendor.Genoa, fakevendor.Turin} {
		chip := a.Chip(product)
		leased := func(r *fakevendor.Report) { r.Leased = true }
		for name, e := range map[string]rats.Evidence{
			"AWS": {Body: chip.Report(3, b.UserData, leased), Parts: []rats.Part{{Name: snp.PartCerts, Data: chip.LeasedTable()}}},
			"GCP": {Body: append(chip.Report(3, b.UserData), chip.Table()...)},
		} {
			e.Format, e.MediaType = snp.Format, snp.MediaType
			v, err := snp.New().Verify(t.Context(), e, rats.Inputs{Binding: b, Now: clock(), Anchors: a.Anchors(product)})
			if err != nil {
				t.Errorf("%s on %s: %v", name, product, err)
				continue
			}
			c := v.Claims.(*snp.Claims)
			if want := map[string]string{"AWS": "VLEK", "GCP": "VCEK"}[name]; c.SigningKey != want || string(c.Product) != product || name == "AWS" && c.CSP != "fake-cloud" {
				t.Errorf("%s on %s: %s of %s, %s", name, product, c.SigningKey, c.Product, c.CSP)
			}
		}
	}
}
