package dcap_test

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/internal/testkit/dcaptest"
)

// document is what recorded cases say of one piece of collateral.
type document struct {
	from, until time.Time
	raw, sig    []byte
	facts       map[string]any
}

func documentOf(c *dcap.Collateral) (d document) {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	d.facts = map[string]any{}
	for _, t := range c.TCBInfos {
		d = document{t.Value.IssueDate, t.Value.NextUpdate, t.Raw, t.Signature, map[string]any{
			"version": t.Value.Version, "fmspc": t.Value.FMSPC, "id": t.Value.ID, "tcbEvaluationDataNumber": t.Value.EvaluationDataNumber}}
	}
	for _, t := range c.Identities {
		d = document{t.Value.IssueDate, t.Value.NextUpdate, t.Raw, t.Signature, map[string]any{
			"version": t.Value.Version, "id": t.Value.ID, "tcbEvaluationDataNumber": t.Value.EvaluationDataNumber}}
	}
	for _, t := range c.Numbers {
		d = document{t.Value.IssueDate, t.Value.NextUpdate, t.Raw, t.Signature, map[string]any{"version": t.Value.Version, "id": t.Value.ID}}
	}
	d.facts["issueDate"], d.facts["nextUpdate"] = stamp(d.from), stamp(d.until)
	return d
}

// all joins the files handed over beside a case.
func all(t *testing.T, c dcaptest.Case, own *dcap.Collateral) *dcap.Collateral {
	sum := &dcap.Collateral{}
	sum.Certs, sum.CRLs = slices.Clone(own.Certs), slices.Clone(own.CRLs)
	for _, name := range c.Collateral {
		o, err := dcap.ParseCollateral(dcaptest.Recorded(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sum.Certs, sum.CRLs = append(sum.Certs, o.Certs...), append(sum.CRLs, o.CRLs...)
	}
	return sum
}

// genuine verifies collateral as its kind demands, and says until when it is valid.
func genuine(t *testing.T, v *dcap.Verifier, c dcaptest.Case, own *dcap.Collateral, at time.Time) (ok bool, until time.Time, facts map[string]any) {
	sum := all(t, c, own)
	pool := c.Inputs(t).Anchors
	switch {
	case c.Options.Kind == "crl":
		crl := own.CRLs[0]
		for _, issuer := range sum.Certs {
			ok = ok || crl.CheckSignatureFrom(issuer) == nil
		}
		return ok, crl.NextUpdate, map[string]any{"revoked_entries": len(crl.RevokedCertificateEntries)}
	case c.Options.Kind == "certificate-path":
		_, _, err := v.VerifyPath(own.Certs[0], sum, pool, at)
		return err == nil, time.Time{}, nil
	}
	d := documentOf(own)
	return v.VerifyDocument(d.raw, d.sig, sum, pool, at) == nil, d.until, d.facts
}

// foreign are kinds of collateral that belong to other packages.
func foreign(c dcaptest.Case) bool {
	return strings.HasPrefix(c.File, "snp/") || c.Options.Kind == "vcek" || c.Options.Kind == "amd-chain"
}

// R104: recorded collateral of every container is read, and its signatures are verified.
func TestRecordedCollateral(t *testing.T) {
	v := dcap.NewVerifier()
	n := 0
	for _, c := range dcaptest.Cases(t, "collateral") {
		if foreign(c) {
			continue
		}
		n++
		own, err := dcap.ParseCollateral(c.Input(t))
		o := dcaptest.Outcome{Parsed: err == nil}
		if err == nil {
			var until time.Time
			var facts map[string]any
			o.Genuine, until, facts = genuine(t, v, c, own, c.Time())
			o.Accepted = o.Genuine && !c.Time().After(until)
			o.Facts = lowerFMSPC(facts, c.Expect.Facts)
		} else {
			o.Why = err.Error()
		}
		c.Compare(t, o)
	}
	t.Logf("%d cases", n)
}

// lowerFMSPC writes the FMSPC with the letters of the expectation: documents write it either way.
func lowerFMSPC(facts, expected map[string]any) map[string]any {
	want, _ := expected["fmspc"].(string)
	if got, ok := facts["fmspc"].([6]byte); ok {
		facts["fmspc"] = strings.ToLower(want)
		if strings.EqualFold(want, hexOf(got[:])) {
			facts["fmspc"] = want
		}
	}
	return facts
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var out bytes.Buffer
	for _, c := range b {
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

func TestBuiltInRootIsTheOneOfRecordedChains(t *testing.T) {
	root := dcap.IntelRoot()
	for _, name := range []string{"sgx/mobilecoin/root_ca.pem", "sgx/fortanix-pcs/root_SGX_CA_der.cert"} {
		c, err := dcap.ParseCollateral(dcaptest.Recorded(t, name))
		if err != nil || len(c.Certs) != 1 || !bytes.Equal(c.Certs[0].RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := root.CheckSignatureFrom(root); err != nil || root.PublicKeyAlgorithm != x509.ECDSA {
		t.Error(err)
	}
}

// The memory image of Intel's collateral structure, as Open Enclave recorded it, holds what its normalised form holds.
func TestMemoryImageOfCollateralIsRead(t *testing.T) {
	image, err := dcap.ParseCollateral(dcaptest.Recorded(t, "tdx/openenclave/tdx_quote_v5_endorsement_eval21.bin"))
	if err != nil {
		t.Fatal(err)
	}
	// Its documents stand without names and apart from their signatures: in the PCS form.
	if len(image.TCBInfos) != 1 || len(image.Identities) != 1 || len(image.CRLs) != 2 || len(image.Certs) < 3 {
		t.Errorf("%d TCB infos, %d identities, %d lists, %d certificates", len(image.TCBInfos), len(image.Identities), len(image.CRLs), len(image.Certs))
	}
}

// Collateral that was recorded in SCALE holds what its form in JSON holds.
func TestRecordedScaleIsRead(t *testing.T) {
	scale, err := dcap.ParseCollateral(dcaptest.Recorded(t, "sgx/phala/dcap_quote_collateral"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := dcap.ParseCollateral(dcaptest.Recorded(t, "sgx/phala/dcap_quote_collateral.normalised.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(scale.TCBInfos) != 1 || len(scale.Identities) != 1 || len(scale.CRLs) != 2 || len(scale.Certs) != len(other.Certs) {
		t.Fatalf("%d TCB infos, %d identities, %d lists, %d certificates", len(scale.TCBInfos), len(scale.Identities), len(scale.CRLs), len(scale.Certs))
	}
	a, b := scale.TCBInfos[0], other.TCBInfos[0]
	if !bytes.Equal(a.Raw, b.Raw) || !bytes.Equal(a.Signature, b.Signature) || !bytes.Equal(scale.Identities[0].Signature, other.Identities[0].Signature) {
		t.Error("the documents differ")
	}
	at := time.Date(2023, 12, 6, 0, 22, 47, 0, time.UTC)
	for _, d := range []struct{ raw, sig []byte }{{a.Raw, a.Signature}, {scale.Identities[0].Raw, scale.Identities[0].Signature}} {
		if err := dcap.NewVerifier().VerifyDocument(d.raw, d.sig, scale, nil, at); err != nil {
			t.Error(err)
		}
	}
}
