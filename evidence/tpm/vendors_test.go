package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

func clock() time.Time { return now }

func listPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// endorse wraps files as endorsements that nobody vouches for.
func endorse(files ...[]byte) (out []rats.Endorsement) {
	for _, f := range files {
		out = append(out, rats.Endorsement{MediaType: "application/octet-stream", Body: f})
	}
	return out
}

func TestBuiltInMakersAreTheirCertificatesAndDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/formats/tpm.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, r := range tpm.VendorRoots() {
		if !rats.SHA256(r.Cert.Raw).Equal(r.Digest) || !r.Cert.IsCA || r.Source == "" || seen[r.Digest.String()] {
			t.Errorf("%s: %s is not what was pinned, no CA, of no source, or stands twice", r.Vendor, r.Subject)
		}
		seen[r.Digest.String()] = true
		if !strings.Contains(string(doc), "| "+r.Vendor+" |") || !strings.Contains(string(doc), strings.TrimPrefix(r.Digest.String(), "sha256:")) {
			t.Errorf("%s: %s is not in docs/formats/tpm.md", r.Vendor, r.Subject)
		}
		if text := strings.ToLower(r.Subject); strings.Contains(text, "swtpm") || strings.Contains(text, "test") || strings.Contains(text, "example") {
			t.Errorf("%s is no maker", r.Subject)
		}
		// A root is what it says only if it signed itself; of intermediate ones the root is not at hand.
		if !r.Issuer && r.Cert.CheckSignature(r.Cert.SignatureAlgorithm, r.Cert.RawTBSCertificate, r.Cert.Signature) != nil &&
			r.Cert.SignatureAlgorithm != x509.SHA1WithRSA {
			t.Errorf("%s did not sign itself", r.Subject)
		}
	}
	if len(seen) < 30 {
		t.Errorf("only %d certificates", len(seen))
	}
}

// Genuine certificates of EKs are judged under the built-in makers: whoever hands over the certificates between adds no
// trust.
func TestRecordedEKsChainToBuiltInMakersWithoutAnyAnchor(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(recordings, "CASES.json"))
	if err != nil {
		t.Skipf("the recordings are not beside the project: %v", err)
	}
	var doc struct{ Cases []recordedCase }
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	vendors := map[string]string{
		"gce/pca": "GOOG", "gce/uca": "GOOG", "hirs/ab21ccf2": "STM", "hirs/nuc-1": "STM", "hirs/security": "IFX", "keylime/nuvoton": "NTC", "keylime/st-": "STM",
	}
	n := 0
	for _, c := range doc.Cases {
		if c.Format != "ek-cert" || strings.HasSuffix(c.ID, "-foreign-ca") || c.Expect.Genuine == nil {
			continue
		}
		want := ""
		for prefix, vendor := range vendors {
			if strings.HasPrefix(c.ID, "ek-cert/"+prefix) && *c.Expect.Genuine {
				want = vendor
			}
		}
		n++
		e, in, v, _, _ := c.prepare(t)
		for i := range in.Endorsements {
			in.Endorsements[i].MediaType = tpm.MediaTypeCertificate
		}
		got, err := v.Verify(t.Context(), e, in)
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v, expected maker %q", c.ID, err, want)
			continue
		}
		if err == nil && got.Claims.(*tpm.CertificateClaims).Vendor != want {
			t.Errorf("%s: maker %s, expected %s", c.ID, got.Claims.(*tpm.CertificateClaims).Vendor, want)
		}
	}
	t.Logf("%d cases", n)
}

// site is a TPM, enrolled, whose EK a maker certified through an issuing CA.
type site struct {
	maker *fakevendor.TPMMaker
	tpm   *softtpm.TPM
	ek    *x509.Certificate
}

func newSite(t *testing.T, changes ...func(*x509.Certificate)) *site {
	t.Helper()
	s := &site{maker: fakevendor.NewTPMMaker(rand.Reader, clock), tpm: softtpm.New(rand.Reader)}
	s.ek = s.maker.EK(ekKey(t, s.tpm), changes...)
	return s
}

func (s *site) enrol(t *testing.T, behind ...[]byte) tpm.Enrolment {
	t.Helper()
	r, err := tpm.Enrol(s.tpm.EKPublic(), slices.Concat(append([][]byte{s.ek.Raw}, behind...)...), s.tpm.AKPublic(), now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func linted(t *testing.T, doc string) *tpm.Rules {
	t.Helper()
	r := section(t, doc)
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatal(reasons)
	}
	return r
}

// S07: a node whose EK chains to a built-in maker needs no CA in the policy, and nobody else gets in by that.
func TestEKOfABuiltInMakerIsVouchedForWherePolicyNamesTheMaker(t *testing.T) {
	s, other := newSite(t), newSite(t)
	tpm.PinForTest(t, "FAKE", s.maker.Root.Cert.Raw, false)
	whole, gap := s.enrol(t, s.maker.Issuer.Cert.Raw), s.enrol(t)
	strange := other.enrol(t, other.maker.Issuer.Cert.Raw, other.maker.Root.Cert.Raw)
	untrusted := []rats.Code{tpm.CodeEKUntrusted.Code, tpm.CodeHardwareUnproven.Code}
	for name, c := range map[string]struct {
		doc    string
		record tpm.Enrolment
		want   []rats.Code
	}{
		"named":                 {"ek_vendors: FAKE", whole, nil},
		"all":                   {"ek_vendors: [all]", whole, nil},
		"another maker":         {"ek_vendors: STM", whole, untrusted},
		"no maker, a pin":       {"ek_pins: " + pin, whole, untrusted},
		"a gap":                 {"ek_vendors: FAKE", gap, untrusted},
		"a gap, filled":         {"ek_vendors: FAKE\nek_issuers: |" + indent(certPEM(s.maker.Issuer.Cert.Raw)), gap, nil},
		"issuers are no anchor": {"ek_vendors: STM\nek_issuers: |" + indent(certPEM(s.maker.Root.Cert.Raw)), whole, untrusted},
		"a root brought along":  {"ek_vendors: all", strange, untrusted},
		"software TPM's own CA": {"ek_vendors: all", softEnrolment(t), untrusted},
		"given by server":       {"ek_vendors: FAKE", gap.WithIssuers([][]byte{[]byte("x"), other.maker.Issuer.Cert.Raw, s.maker.Issuer.Cert.Raw}), nil},
	} {
		if got := codesOf(linted(t, c.doc).Vouch(c.record.Endorsement(), now)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := codesOf(linted(t, "ek_vendors: FAKE").Vouch(whole.Endorsement(), time.Time{})); len(got) == 0 {
		t.Error("vouched for without a clock")
	}
	if got := codesOf(linted(t, "ek_vendors: FAKE").Vouch(whole.Endorsement(), now.AddDate(30, 0, 0))); len(got) == 0 {
		t.Error("vouched for after the certificates' end")
	}
}

func softEnrolment(t *testing.T) tpm.Enrolment {
	t.Helper()
	s := softtpm.New(rand.Reader, softtpm.Options{Software: true})
	r, err := tpm.Enrol(s.EKPublic(), append(s.EKCert(), s.CA().DER()...), s.AKPublic(), now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKeysOfAnotherUseUnderABuiltInMakerAreNoEKs(t *testing.T) {
	s := newSite(t, func(c *x509.Certificate) { c.UnknownExtKeyUsage, c.ExtraExtensions = nil, nil })
	tpm.PinForTest(t, "FAKE", s.maker.Root.Cert.Raw, false)
	r := s.enrol(t, s.maker.Issuer.Cert.Raw)
	if got := linted(t, "ek_vendors: FAKE").Vouch(r.Endorsement(), now); len(got) == 0 {
		t.Error("a key of which nothing says that it is an EK")
	}
	if got := linted(t, "ek_cas: |"+indent(certPEM(s.maker.Root.Cert.Raw))).Vouch(r.Endorsement(), now); len(got) != 0 {
		t.Errorf("the operator's own CA: %v", got)
	}
}

func TestTPMsOfACloudMustBeNamedAndAreSoftware(t *testing.T) {
	s := newSite(t)
	tpm.PinForTest(t, "CLOUD", s.maker.Root.Cert.Raw, true)
	r := s.enrol(t, s.maker.Issuer.Cert.Raw)
	if got := linted(t, "ek_vendors: all").Vouch(r.Endorsement(), now); len(got) == 0 {
		t.Error("a cloud is among all makers")
	}
	if got := linted(t, "ek_vendors: CLOUD").Vouch(r.Endorsement(), now); len(got) != 0 {
		t.Error(got)
	}
	v, err := certificate(t, s.ek.Raw, endorse(s.maker.Issuer.Cert.Raw)...)
	if err != nil || !v.Claims.(*tpm.CertificateClaims).Virtual || !slices.Equal(v.Marks, []string{rats.MarkSoftwareTPM}) {
		t.Errorf("%+v, %v", v, err)
	}
}

func certificate(t *testing.T, der []byte, endorsements ...rats.Endorsement) (rats.Verified, error) {
	t.Helper()
	e := rats.Evidence{Format: tpm.FormatCertificate, MediaType: tpm.MediaTypeCertificate, Body: der}
	return tpm.NewCertificate().Verify(t.Context(), e, rats.Inputs{Now: now, Endorsements: endorsements})
}

// quote has the site's TPM make a quote, with more endorsements and parts.
func (s *site) quote(t *testing.T, r tpm.Enrolment, parts []rats.Part, endorsements ...rats.Endorsement) (rats.Verified, error) {
	t.Helper()
	x := altered(t, s.tpm, softtpm.Alter{})
	x.evidence.Parts = append(x.evidence.Parts, parts...)
	x.inputs.Endorsements = append([]rats.Endorsement{r.Endorsement()}, endorsements...)
	return verify(t, x)
}

func TestRevocationListsOfTPMMakersAreRead(t *testing.T) {
	s := newSite(t)
	tpm.PinForTest(t, "FAKE", s.maker.Root.Cert.Raw, false)
	m := s.maker
	issuer, root, at := m.Issuer.Cert.Raw, m.Root.Cert.Raw, now.AddDate(0, 0, -1)
	ofIssuer, ofRoot := m.Issuer.CRL(at), m.Root.CRL(at)
	old := m.Issuer.CRL(now.AddDate(-1, 0, 0))
	future := m.Issuer.CRL(now.AddDate(0, 0, 1))
	partial := m.Issuer.CRL(at, func(c *fakevendor.CRL) {
		c.List.ExtraExtensions = append(c.List.ExtraExtensions, pkixCritical(asn1.ObjectIdentifier{2, 5, 29, 28}, []byte{0x30, 0}))
	})
	namesake := fakevendor.NewTPMMaker(rand.Reader, clock)
	forged := m.Issuer.CRL(at, func(c *fakevendor.CRL) { c.List.AuthorityKeyId = nil; c.Signer = renamed(namesake.Issuer, m.Issuer) })
	m.Issuer.Revoke(s.ek, now)
	revokesEK := m.Issuer.CRL(now.AddDate(-1, 0, 0)) // long out of its time, and revokes nevertheless
	m.Root.Revoke(m.Issuer.Cert, now)
	revokesIssuer := m.Root.CRL(at)

	record := s.enrol(t, issuer)
	require := linted(t, "ek_vendors: FAKE\nrequire_crl: true")
	plain := linted(t, "ek_vendors: FAKE")
	for name, c := range map[string]struct {
		lists [][]byte
		state string
		plain []rats.Code // without require_crl
		with  []rats.Code
	}{
		"none":          {nil, tpm.CRLUnchecked, nil, []rats.Code{tpm.CodeCRLMissing.Code}},
		"both":          {[][]byte{ofIssuer, ofRoot}, tpm.CRLCurrent, nil, nil},
		"both, one PEM": {[][]byte{[]byte(listPEM(ofIssuer)), ofRoot}, tpm.CRLCurrent, nil, nil},
		"one of two":    {[][]byte{ofIssuer}, tpm.CRLUnchecked, nil, []rats.Code{tpm.CodeCRLMissing.Code}},
		"expired":       {[][]byte{old, ofRoot}, tpm.CRLExpired, []rats.Code{tpm.CodeCRLExpired.Code}, []rats.Code{tpm.CodeCRLExpired.Code}},
		"future":        {[][]byte{future, ofRoot}, tpm.CRLNotYetValid, []rats.Code{tpm.CodeCRLExpired.Code}, []rats.Code{tpm.CodeCRLExpired.Code}},
		"a part":        {[][]byte{partial, ofRoot}, tpm.CRLUnchecked, nil, []rats.Code{tpm.CodeCRLMissing.Code}},
		"old and new":   {[][]byte{old, ofIssuer, ofRoot}, tpm.CRLCurrent, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := certificate(t, s.ek.Raw, endorse(append(c.lists, issuer)...)...)
			if err != nil {
				t.Fatal(err)
			}
			claims := v.Claims.(*tpm.CertificateClaims)
			if claims.CRL != c.state {
				t.Errorf("state %s", claims.CRL)
			}
			if got := codesOf((&tpm.CertificateRules{RequireCRL: true}).Check(claims, nil, now)); !slices.Equal(got, c.with) {
				t.Errorf("in a file: %v", got)
			}
			q, err := s.quote(t, record, nil, endorse(c.lists...)...)
			if err != nil {
				t.Fatal(err)
			}
			if got := codesOf(plain.Check(q.Claims, nil, now)); !slices.Equal(got, c.plain) {
				t.Errorf("of a node: %v", got)
			}
			if got := codesOf(require.Check(q.Claims, nil, now)); !slices.Equal(got, c.with) {
				t.Errorf("of a node, required: %v", got)
			}
			doc := "ek_vendors: FAKE\nrequire_crl: true\nek_crls:"
			for _, l := range c.lists {
				if block, _ := pem.Decode(l); block != nil {
					l = block.Bytes
				}
				doc += "\n  - |" + strings.ReplaceAll(indent(listPEM(l)), "\n", "\n  ")
			}
			if got := codesOf(linted(t, doc).Vouch(record.Endorsement(), now)); !slices.Equal(got, c.with) {
				t.Errorf("at joining, by policy: %v", got)
			}
		})
	}
	for name, c := range map[string]struct {
		list []byte
		want rats.CodeInfo
	}{"EK": {revokesEK, tpm.CodeCertRevoked}, "issuer": {revokesIssuer, tpm.CodeCertRevoked}, "forged": {forged, tpm.CodeCRLSignature}} {
		_, err := certificate(t, s.ek.Raw, endorse(issuer, c.list)...)
		wantCode(t, err, c.want, false)
		_, err = s.quote(t, record, nil, endorse(c.list)...)
		wantCode(t, err, c.want, false)
		_, err = certificate(t, s.ek.Raw, append(endorse(issuer, c.list), rats.Endorsement{MediaType: tpm.MediaTypeAnchor, Body: root})...)
		wantCode(t, err, c.want, false)
		r := linted(t, "ek_vendors: FAKE\nek_crls: |"+indent(listPEM(c.list)))
		if got := codesOf(r.Vouch(record.Endorsement(), now)); len(got) == 0 || got[0] != c.want.Code {
			t.Errorf("%s, at joining: %v", name, got)
		}
	}
}

func TestTrustThatCannotBeReadIsRefused(t *testing.T) {
	for doc, want := range map[string]rats.CodeInfo{
		"ek_vendors: NOBODY":                               tpm.CodeRuleVendor,
		"ek_vendors: all\nek_crls: x":                      tpm.CodeRuleCRL,
		"ek_vendors: all\nek_issuers: x":                   tpm.CodeRuleCA,
		"ek_vendors: all\niak_cas: x":                      tpm.CodeRuleCA,
		"ek_vendors: all\nak_sources: hearsay":             tpm.CodeRuleSource,
		"ek_pins: " + pin + "\nak_sources: iak":            tpm.CodeRuleSource,
		"ek_pins: []\nek_issuers: []\nek_vendors: []":      tpm.CodeRuleEmpty,
		"ek_vendors: all\nak_sources: [credential, given]": tpm.CodeRuleSource,
	} {
		if got := codesOf(section(t, doc).Lint()); !slices.Contains(got, want.Code) {
			t.Errorf("%s: %v", doc, got)
		}
	}
}

// An initial attestation key that a machine's maker certified is a stronger tie than an enrolment, and rules can demand it.
func TestCertifiedAttestationKeyIsAClaimThatRulesCanDemand(t *testing.T) {
	s, maker := newSite(t), fakevendor.NewTPMMaker(rand.Reader, clock)
	record := s.enrol(t)
	ak := akOf(t, s.tpm)
	iak := maker.IAK(ak, "TSTM:1:2")
	loose := maker.IAK(ak, "TSTM:1:2", func(c *x509.Certificate) { c.Policies = nil })
	anchor := rats.Endorsement{MediaType: tpm.MediaTypeAnchor, Body: maker.Root.Cert.Raw}
	part := func(certs ...*x509.Certificate) []rats.Part {
		var b []byte
		for _, c := range certs {
			b = append(b, c.Raw...)
		}
		return []rats.Part{{Name: tpm.PartAKCert, Data: b}}
	}
	base := "ek_pins: " + record.EKDigest.String()
	demand := linted(t, base+"\nak_sources: iak\niak_cas: |"+indent(certPEM(maker.Root.Cert.Raw)))
	other := linted(t, base+"\nak_sources: iak\niak_cas: |"+indent(certPEM(s.maker.Root.Cert.Raw)))
	old := linted(t, base+"\nak_sources: [iak, credential]\niak_cas: |"+indent(certPEM(s.maker.Root.Cert.Raw)))
	for name, c := range map[string]struct {
		parts  []rats.Part
		with   []rats.Endorsement
		source string
		met    bool
	}{
		"none":                {nil, nil, tpm.SourceCredential, false},
		"IAK":                 {part(iak, maker.Issuer.Cert), []rats.Endorsement{anchor}, tpm.SourceIAK, true},
		"IAK, PEM":            {[]rats.Part{{Name: tpm.PartAKCert, Data: fakevendor.PEM(iak, maker.Issuer.Cert)}}, []rats.Endorsement{anchor}, tpm.SourceIAK, true},
		"IAK, for rules only": {part(iak, maker.Issuer.Cert), nil, tpm.SourceCredential, true},
		"without a role":      {part(loose, maker.Issuer.Cert), []rats.Endorsement{anchor}, tpm.SourceIAK, true},
		"a gap":               {part(iak), []rats.Endorsement{anchor}, tpm.SourceCredential, false},
	} {
		v, err := s.quote(t, record, c.parts, c.with...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		claims := v.Claims.(*tpm.Claims)
		if claims.AKSource != c.source || c.parts != nil && (claims.Device == nil || claims.Device.HWSerial != "TSTM:1:2") {
			t.Errorf("%s: %s, %+v", name, claims.AKSource, claims.Device)
		}
		var want []rats.Code
		if !c.met {
			want = []rats.Code{tpm.CodeAKSource.Code}
		}
		if got := codesOf(demand.Check(claims, nil, now)); !slices.Equal(got, want) {
			t.Errorf("%s: %v", name, got)
		}
		if got := codesOf(other.Check(claims, nil, now)); len(got) != 1 {
			t.Errorf("%s, for another maker: %v", name, got)
		}
		if got := codesOf(demand.Check(claims, nil, now.AddDate(30, 0, 0))); len(got) != 1 {
			t.Errorf("%s, after its end: %v", name, got)
		}
		if got := codesOf(old.Check(claims, nil, now)); len(got) != 0 {
			t.Errorf("%s, where an enrolment is enough: %v", name, got)
		}
	}
	for name, c := range map[string]struct {
		data []byte
		want rats.CodeInfo
	}{
		"no certificate":     {[]byte("x"), tpm.CodeAKCertMalformed},
		"of another key":     {maker.IAK(akOf(t, softtpm.New(rand.Reader)), "x").Raw, tpm.CodeAKCertOther},
		"an IDevID":          {maker.IDevID(ak, "x").Raw, tpm.CodeAKCertUse},
		"of another kind":    {maker.EK(ak).Raw, tpm.CodeAKCertUse},
		"too long":           {make([]byte, 25<<10), tpm.CodeParts},
		"nothing":            {nil, tpm.CodeParts},
		"another device":     {maker.IAK(ak, "x", func(c *x509.Certificate) { c.Policies, c.ExtraExtensions = nil, nil }).Raw, tpm.CodeAKCertUse},
		"an issuer is a bad": {append(iak.Raw[:len(iak.Raw):len(iak.Raw)], 0x30, 1, 0), tpm.CodeAKCertMalformed},
	} {
		_, err := s.quote(t, record, []rats.Part{{Name: tpm.PartAKCert, Data: c.data}}, anchor)
		r, _ := rats.ReasonOf(err)
		if r.Code != c.want.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
	maker.Issuer.Revoke(iak, now)
	_, err := s.quote(t, record, part(iak, maker.Issuer.Cert), append(endorse(maker.Issuer.CRL(now)), anchor)...)
	wantCode(t, err, tpm.CodeCertRevoked, false)
}

// A recorded quote's key may be given as the certificate of an IAK.
func TestRecordedQuoteByACertifiedKey(t *testing.T) {
	s, maker := newSite(t), fakevendor.NewTPMMaker(rand.Reader, clock)
	x := altered(t, s.tpm, softtpm.Alter{})
	ak := akOf(t, s.tpm)
	judge := func(cert *x509.Certificate, with ...rats.Endorsement) (*tpm.Claims, error) {
		e := rats.Evidence{Format: tpm.Format, MediaType: tpm.MediaTypeRecorded, Body: x.evidence.Body, Parts: []rats.Part{
			x.evidence.Parts[0], {Name: tpm.PartAK, Data: fakevendor.PEM(cert)},
		}}
		v, err := tpm.NewRecorded().Verify(t.Context(), e, rats.Inputs{Binding: rats.Binding{Profile: rats.ProfileNone}, Now: now, Endorsements: with})
		if err != nil {
			return nil, err
		}
		return v.Claims.(*tpm.Claims), nil
	}
	anchors := []rats.Endorsement{{MediaType: tpm.MediaTypeAnchor, Body: maker.Root.Cert.Raw}, endorse(maker.Issuer.Cert.Raw)[0]}
	iak, idevid := maker.IAK(ak, "1"), maker.IDevID(ak, "1")
	if c, err := judge(iak, anchors...); err != nil || c.AKSource != tpm.SourceIAK || c.Device.Role != tpm.RoleIAK {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := judge(iak); err != nil || c.AKSource != tpm.SourceGiven {
		t.Errorf("without an anchor: %+v, %v", c, err)
	}
	_, err := judge(iak, anchors[0])
	wantCode(t, err, tpm.CodeCertUntrusted, false)
	_, err = judge(idevid)
	wantCode(t, err, tpm.CodeAKCertUse, false)
	v, err := certificate(t, idevid.Raw, anchors...)
	if err != nil {
		t.Fatal(err)
	}
	c := v.Claims.(*tpm.CertificateClaims)
	if d := c.Device; c.Kind != tpm.KindDevice || d.Role != tpm.RoleIDevID || d.HWType != "2.23.133.1.2" || d.HWSerial != "1" || !d.Residency || !d.Fixed || d.Restricted {
		t.Errorf("%+v, %+v", c, c.Device)
	}
	if got := codesOf((&tpm.CertificateRules{Roles: tpm.Strings{tpm.RoleIAK}}).Check(c, nil, now)); !slices.Equal(got, []rats.Code{tpm.CodeCertUse.Code}) {
		t.Errorf("an IDevID where an IAK is demanded: %v", got)
	}
}

// S01: whoever writes a manifest can't name the TPM's key.
func TestManifestThatNamesTheAKIsRefused(t *testing.T) {
	s := softtpm.New(rand.Reader)
	x := altered(t, s, softtpm.Alter{})
	m, err := rats.DecodeManifest(x.inputs.Binding.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	m.Keys = append([]rats.BoundKey{{Use: rats.KeyAK, Public: []byte("x")}}, m.Keys...)
	if x.inputs.Binding, err = m.Bind(); err != nil {
		t.Fatal(err)
	}
	_, err = verify(t, x)
	wantCode(t, err, tpm.CodeBinding, false)
}

func TestSHA1ChainOfAnEKIsRefusedUntilPolicySaysOtherwise(t *testing.T) {
	s := softtpm.New(rand.Reader)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old maker"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, ekKey(t, s), key)
	if err != nil {
		t.Fatal(err)
	}
	// Package x509 signs with SHA-1 no more: the algorithm's id is changed, and the certificate signed again.
	id := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11}
	der = bytes.ReplaceAll(der, id, append(id[:8:8], 5))
	var outer struct {
		TBS asn1.RawValue
		Alg asn1.RawValue
		Sig asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(outer.TBS.FullBytes)
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA1, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	copy(der[len(der)-len(sig):], sig)
	record, err := tpm.Enrol(s.EKPublic(), der, s.AKPublic(), now)
	if err != nil {
		t.Fatal(err)
	}
	doc := "ek_cas: |" + indent(certPEM(caDER))
	if got := codesOf(linted(t, doc).Vouch(record.Endorsement(), now)); !slices.Contains(got, tpm.CodeEKSHA1.Code) {
		t.Errorf("got %v", got)
	}
	if got := codesOf(linted(t, doc+"sha1_until: 2027-01-01T00:00:00Z").Vouch(record.Endorsement(), now)); len(got) != 0 {
		t.Errorf("relaxed: %v", got)
	}
}

func pkixCritical(id asn1.ObjectIdentifier, value []byte) pkix.Extension {
	return pkix.Extension{Id: id, Critical: true, Value: value}
}

// renamed is an authority's key under the certificate of another.
func renamed(key, name *fakevendor.Authority) *fakevendor.Authority {
	cert := *name.Cert
	cert.PublicKey = key.Cert.PublicKey
	return &fakevendor.Authority{Cert: &cert, Key: key.Key}
}
