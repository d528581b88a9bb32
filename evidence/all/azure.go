package all

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// formatAzure is the evidence of a confidential VM of Azure: the paravisor's report (HCL), which names the key of the
// VM's TPM, and a quote of that TPM. It is two formats and the link between them.
const formatAzure rats.Format = "azure-hcl"

type azure struct {
	ReportType string      `json:"report_type"` // snp, tdx
	Bound      bool        `json:"vardata_bound"`
	Vardata    string      `json:"vardata_sha256"`
	AKModulus  string      `json:"hcl_ak_modulus_sha256"`
	Signed     *bool       `json:"vtpm_quote_signature_ok,omitempty"` // of a file with a quote
	Values     *bool       `json:"pcr_digest_ok,omitempty"`
	ReportOnly bool        `json:"td_report_only,omitempty"` // a TDREPORT without a quote: nobody else can check it
	SNP        *snp.Claims `json:"snp,omitempty"`
	TDX        *tdx.Claims `json:"tdx,omitempty"`
	TPM        *tpm.Claims `json:"tpm,omitempty"`
}

func (*azure) ClaimsOf() rats.Format { return formatAzure }

func (a *azure) DebugEnabled() bool {
	return a.SNP != nil && a.SNP.DebugEnabled() || a.TDX != nil && a.TDX.DebugEnabled()
}

func (a *azure) TCBStatus() (string, []string, time.Time) {
	switch {
	case a.SNP != nil:
		return a.SNP.TCBStatus()
	case a.TDX != nil:
		return a.TDX.TCBStatus()
	}
	return "", nil, time.Time{}
}

// against is the sum of what the rules of both formats say.
func (a *azure) against(now time.Time) []rats.Reason {
	var out []rats.Reason
	if a.SNP != nil {
		r := snp.New().Descriptor().NewRules()
		out = append(append(out, r.Lint()...), r.Check(a.SNP, nil, now)...)
	}
	if a.TDX != nil {
		out = append(out, tdx.DefaultRules().Check(a.TDX, nil, now)...)
	}
	if a.TPM != nil {
		for _, r := range tpm.DefaultRules().Check(a.TPM, nil, now) {
			if r.Code != tpm.CodeRecordedKeyUnvouched.Code { // the report vouches for it
				out = append(out, r)
			}
		}
	}
	return out
}

type azureVerifier struct {
	snp, tdx, tpm rats.Verifier
	d             *rats.Descriptor
}

func newAzure() rats.Verifier {
	d := descriptorOf(formatAzure, "confidential VM of Azure", "evidence.md", func() rats.Claims { return new(azure) }, nil)
	return azureVerifier{snp.New(), tdx.New(), tpm.NewRecorded(), d}
}

func (v azureVerifier) Descriptor() *rats.Descriptor { return v.d }

// openAzure reads the paravisor's report alone, or an attester's JSON with it.
func openAzure(b []byte) (*snp.Azure, *hcl.Report, error) {
	a := &snp.Azure{HCL: b}
	if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '{' {
		var err error
		if a, err = snp.ParseAzure(t); err != nil {
			return nil, nil, err
		}
	}
	h, err := hcl.Parse(a.HCL)
	return a, h, err
}

func isAzure(b []byte) bool {
	_, _, err := openAzure(b)
	return err == nil
}

func inspectAzure(b []byte) (any, error) {
	a, h, err := openAzure(b)
	if err != nil {
		return nil, err
	}
	out := azureOf(h)
	out.ReportOnly = h.Kind == hcl.KindTDX && len(a.TDQuote) == 0
	return out, nil
}

func azureOf(h *hcl.Report) *azure {
	sum := sha256.Sum256(h.Runtime)
	modulus := sha256.Sum256(h.Data.AK.N.Bytes())
	return &azure{ReportType: h.Kind, Bound: true, Vardata: hex.EncodeToString(sum[:]), AKModulus: hex.EncodeToString(modulus[:])}
}

// Verify verifies the quote by the key that the report names, then the report, bound by that quote.
func (v azureVerifier) Verify(ctx context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	a, h, err := openAzure(e.Body)
	if err != nil {
		return rats.Verified{}, err
	}
	out := azureOf(h)
	inner := in
	inner.Facts = rats.Facts{}
	var all rats.Verified
	if len(a.TPMQuote.Message) > 0 {
		q, err := v.quote(ctx, a, h, in)
		if err != nil {
			return rats.Verified{}, err
		}
		yes := true
		out.TPM, _ = q.Claims.(*tpm.Claims)
		out.Signed, out.Values = &yes, &out.TPM.Recorded.Values
		all.Facts = q.Facts
		ak, err := x509.MarshalPKIXPublicKey(h.Data.AK)
		if err != nil {
			return rats.Verified{}, err
		}
		inner.Facts.Keys = []rats.BoundKey{{Use: snp.KeyAK, Public: ak}}
	}
	if h.Kind == hcl.KindSNP {
		report := rats.Evidence{Format: snp.Format, MediaType: snp.MediaTypeHCL, Body: a.HCL}
		if len(a.VCEK) > 0 {
			report.Parts = []rats.Part{{Name: snp.PartCerts, Data: a.VCEK}}
		}
		r, err := v.snp.Verify(ctx, report, inner)
		if err != nil {
			return rats.Verified{}, err
		}
		out.SNP, _ = r.Claims.(*snp.Claims)
		all.Links, all.Marks, all.Until = r.Links, r.Marks, r.Until
		return v.done(all, out)
	}
	report := rats.Evidence{Format: tdx.Format, MediaType: tdx.MediaTypeHCL, Body: a.HCL}
	if len(a.TDQuote) > 0 {
		report.Parts = []rats.Part{{Name: tdx.PartQuote, Data: a.TDQuote}}
	}
	r, err := v.tdx.Verify(ctx, report, inner)
	if err != nil {
		return rats.Verified{}, err
	}
	out.TDX, _ = r.Claims.(*tdx.Claims)
	all.Links, all.Marks, all.Until = r.Links, r.Marks, r.Until
	return v.done(all, out)
}

func (azureVerifier) done(v rats.Verified, c *azure) (rats.Verified, error) {
	v.Claims = c
	return v, nil
}

// quote verifies the TPM's quote.
func (v azureVerifier) quote(ctx context.Context, a *snp.Azure, h *hcl.Report, in rats.Inputs) (rats.Verified, error) {
	spki, err := x509.MarshalPKIXPublicKey(h.Data.AK)
	if err != nil {
		return rats.Verified{}, err
	}
	values := make(map[int][]byte)
	for i, p := range a.TPMQuote.PCRs {
		values[i] = p
	}
	pcrs, err := tpm.EncodeBanks(map[string]map[int][]byte{"sha256": values})
	if err != nil {
		return rats.Verified{}, err
	}
	q := rats.Evidence{Format: tpm.Format, MediaType: tpm.MediaTypeRecorded, Body: a.TPMQuote.Message, Parts: []rats.Part{
		{Name: tpm.PartSignature, Data: a.TPMQuote.Signature}, {Name: tpm.PartAK, Data: spki}, {Name: tpm.PartPCRs, Data: pcrs},
	}}
	return v.tpm.Verify(ctx, q, rats.Inputs{Binding: in.Binding, Now: in.Now})
}
