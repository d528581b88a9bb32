package fakevendor_test

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/evidence/sgx"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/rats"
)

func clock() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

func binding(t testing.TB) rats.Binding {
	t.Helper()
	b, err := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("verifier")),
		Nonce: make([]byte, 32), Instance: make([]byte, 16), Formats: []rats.Format{"a"},
	}.Bind()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func verifiers() map[rats.Format]rats.Verifier {
	out := make(map[rats.Format]rats.Verifier)
	for _, v := range append(all.Verifiers(), sgx.New(), tdx.New(), snp.New()) {
		out[v.Descriptor().ID] = v
	}
	return out
}

func TestEvidenceOfEveryKindIsGenuineUpToDateAndForItsOwnAnchorsOnly(t *testing.T) {
	w := fakevendor.NewWorld(rand.Reader, clock)
	samples, err := w.Samples(binding(t))
	if err != nil {
		t.Fatal(err)
	}
	vs := verifiers()
	for _, s := range samples {
		v := vs[s.Evidence.Format]
		got, err := v.Verify(t.Context(), s.Evidence, s.Inputs)
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		if c, ok := got.Claims.(interface {
			TCBStatus() (string, []string, time.Time)
		}); ok && s.Evidence.Format != snp.Format {
			if status, advisories, _ := c.TCBStatus(); status != "UpToDate" || len(advisories) > 0 {
				b, _ := json.Marshal(got.Claims)
				t.Errorf("%s: status %s, %v: %s", s.Name, status, advisories, b)
			}
		}
		if s.Inputs.Anchors == nil {
			continue
		}
		s.Inputs.Anchors = nil
		if _, err := v.Verify(t.Context(), s.Evidence, s.Inputs); err == nil {
			t.Errorf("%s: accepted under the built-in roots", s.Name)
		}
	}
}

// TestOneThingWrongIsRefused shows that the switches for faults reach the checks they are for.
func TestOneThingWrongIsRefused(t *testing.T) {
	w := fakevendor.NewWorld(rand.Reader, clock)
	b, vs := binding(t), verifiers()
	p, chip := w.Intel.Platform(), w.AMD.Chip(fakevendor.Genoa)
	other := fakevendor.NewIntel(rand.Reader, clock)
	intel := rats.Inputs{Binding: b, Now: clock(), Anchors: w.Intel.Anchors(), Endorsements: w.Intel.Collateral(p)}
	amd := rats.Inputs{Binding: b, Now: clock(), Anchors: w.AMD.Anchors(fakevendor.Genoa), Endorsements: chip.Collateral()}
	key := fakevendor.KeyP256(rand.Reader)
	quote := func(change func(*fakevendor.Quote)) []byte { return p.SGX(3, b.UserData, change) }
	report := func(change func(*fakevendor.Report)) []byte { return chip.Report(3, b.UserData, change) }
	for name, c := range map[string]struct {
		format rats.Format
		body   []byte
		in     rats.Inputs
		code   rats.Code
	}{
		"body by another key":         {sgx.Format, quote(func(q *fakevendor.Quote) { q.BodyKey = key }), intel, "dcap.quote.signature"},
		"report by another platform":  {sgx.Format, quote(func(q *fakevendor.Quote) { q.QEKey = key }), intel, "dcap.qe.signature"},
		"unbound attestation key":     {sgx.Format, quote(func(q *fakevendor.Quote) { q.QEData = new([64]byte) }), intel, "dcap.qe.key-unbound"},
		"quoting enclave with debug":  {sgx.Format, quote(func(q *fakevendor.Quote) { q.QE.Attributes.Flags |= 2 }), intel, "dcap.qe.debug"},
		"other quoting enclave":       {sgx.Format, quote(func(q *fakevendor.Quote) { q.QE.MRSIGNER[0] ^= 1 }), intel, "dcap.qe.identity"},
		"a root of the same name":     {sgx.Format, other.Platform().SGX(3, b.UserData), intel, "dcap.chain.root"},
		"report data":                 {sgx.Format, p.SGX(3, make([]byte, 32)), intel, "dcap.binding.report-data"},
		"report by another chip":      {snp.Format, report(func(r *fakevendor.Report) { r.Key = w.AMD.Chip(fakevendor.Genoa).VCEK(r.TCB).Key }), amd, "snp.report.signature"},
		"report that names another":   {snp.Format, report(func(r *fakevendor.Report) { r.ChipID[0] ^= 1 }), amd, "snp.vek.chip-id"},
		"report of another processor": {snp.Format, report(func(r *fakevendor.Report) { r.Model = 1 }), amd, "snp.report.product"},
		"report with a reserved byte": {snp.Format, report(func(r *fakevendor.Report) { r.Raw = func(b []byte) { b[0x4c] = 1 } }), amd, "snp.report.reserved"},
	} {
		kind := map[rats.Format]string{sgx.Format: sgx.MediaType, snp.Format: snp.MediaType}[c.format]
		_, err := vs[c.format].Verify(t.Context(), rats.Evidence{Format: c.format, MediaType: kind, Body: c.body}, c.in)
		if r, ok := rats.ReasonOf(err); !ok || r.Code != c.code {
			t.Errorf("%s: %v, expected %s", name, err, c.code)
		}
	}
}

func TestRevokedPlatformIsRefused(t *testing.T) {
	w := fakevendor.NewWorld(rand.Reader, clock)
	b := binding(t)
	p := w.Intel.Platform(func(s *fakevendor.PlatformSpec) { s.CA = fakevendor.ProcessorCA })
	w.Intel.Processors.Revoke(p.PCK.Cert, clock())
	in := rats.Inputs{Binding: b, Now: clock(), Anchors: w.Intel.Anchors(), Endorsements: w.Intel.Collateral(p)}
	_, err := sgx.New().Verify(t.Context(), rats.Evidence{Format: sgx.Format, MediaType: sgx.MediaType, Body: p.SGX(4, b.UserData)}, in)
	if r, ok := rats.ReasonOf(err); !ok || r.Code != "dcap.chain.revoked" {
		t.Errorf("revoked PCK: %v", err)
	}
	chip := w.AMD.Chip(fakevendor.Turin)
	line := w.AMD.Line(fakevendor.Turin)
	line.ARK.Revoke(line.ASK.Cert, clock())
	in = rats.Inputs{Binding: b, Now: clock(), Anchors: w.AMD.Anchors(fakevendor.Turin), Endorsements: chip.Collateral()}
	_, err = snp.New().Verify(t.Context(), rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: chip.Report(5, b.UserData)}, in)
	if r, ok := rats.ReasonOf(err); !ok || r.Code != snp.CodeRevoked.Code {
		t.Errorf("revoked ASK: %v", err)
	}
}

func TestACertificateTableServesAsCollateral(t *testing.T) {
	a := fakevendor.NewAMD(rand.Reader, clock)
	b, chip := binding(t), a.Chip(fakevendor.Milan)
	body := append(chip.Report(2, b.UserData), chip.Table()...)
	in := rats.Inputs{Binding: b, Now: clock(), Anchors: a.Anchors(fakevendor.Milan)}
	if _, err := snp.New().Verify(t.Context(), rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: body}, in); err != nil {
		t.Error(err)
	}
	altered := chip.AlteredVCEK(nil, nil)
	in.Endorsements = []rats.Endorsement{{Body: altered.Cert.Raw}, {Body: fakevendor.PEM(a.Line(fakevendor.Milan).ASK.Cert)}}
	body = chip.Report(2, b.UserData, func(r *fakevendor.Report) { r.Key = altered.Key })
	if _, err := snp.New().Verify(t.Context(), rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: body}, in); err != nil {
		t.Error(err)
	}
}

func TestTheServicesAnswerAsTheVendorsDo(t *testing.T) {
	w := fakevendor.NewWorld(rand.Reader, clock)
	pcs, kds := httptest.NewServer(w.Intel.PCS()), httptest.NewServer(w.AMD.KDS())
	defer pcs.Close()
	defer kds.Close()
	p := w.Intel.Platform()
	fmspc := strings.ToUpper(rats.Digest{Sum: p.FMSPC[:], Alg: "x"}.String()[2:])
	for url, want := range map[string]int{
		pcs.URL + "/sgx/certification/v4/tcb?fmspc=" + fmspc:         200,
		pcs.URL + "/tdx/certification/v4/tcb?fmspc=" + fmspc:         200,
		pcs.URL + "/sgx/certification/v4/tcb?fmspc=000000000000":     404,
		pcs.URL + "/sgx/certification/v4/tcb?fmspc=00":               400,
		pcs.URL + "/sgx/certification/v4/tcbevaluationdatanumbers":   200,
		pcs.URL + "/sgx/certification/v4/pckcrl?ca=none":             400,
		pcs.URL + "/sgx/certification/v4/pckcrl?ca=processor":        200,
		kds.URL + "/vcek/v1/Milan/cert_chain":                        200,
		kds.URL + "/vlek/v1/Rome/crl":                                404,
		kds.URL + "/vcek/v1/Milan/00?blSPL=0":                        404,
		kds.URL + "/vcek/v1/Milan/" + strings.Repeat("0", 128) + "?": 404,
	} {
		r, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != want || want == 200 && len(body) < 100 {
			t.Errorf("%s: %d, %d bytes", url, r.StatusCode, len(body))
		}
	}
}
