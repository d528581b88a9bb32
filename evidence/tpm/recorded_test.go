package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

var challenge = rats.Binding{Profile: rats.ProfileRaw, UserData: []byte("challenge of an auditor")}

// recorded makes a quote as files: of several banks, with the key as a TPM gives it.
func recorded(t testing.TB, s *softtpm.TPM, a softtpm.Alter) rats.Evidence {
	t.Helper()
	e, err := s.QuoteAltered("sha256", []int{0, 7}, challenge.UserData, a)
	if err != nil {
		t.Fatal(err)
	}
	e.MediaType = tpm.MediaTypeRecorded
	return e
}

func judgeRecorded(t testing.TB, e rats.Evidence, b rats.Binding) (*tpm.Claims, error) {
	t.Helper()
	v, err := tpm.NewRecorded().Verify(t.Context(), e, rats.Inputs{Binding: b, Now: now})
	if err != nil {
		return nil, err
	}
	return v.Claims.(*tpm.Claims), nil
}

// R140: keys of every kind, as every tool writes them.
func TestRecordedQuotesOfEveryKeyVerify(t *testing.T) {
	for _, kind := range []string{softtpm.ECDSAP256, softtpm.ECDSAP384, softtpm.RSASSA, softtpm.RSAPSS} {
		s := softtpm.New(rand.Reader, softtpm.Options{AK: kind})
		e := recorded(t, s, softtpm.Alter{})
		key, err := tpm2.Unmarshal[tpm2.TPM2BPublic](s.AKPublic())
		if err != nil {
			t.Fatal(err)
		}
		for name, form := range map[string][]byte{"TPM2B_PUBLIC": s.AKPublic(), "TPMT_PUBLIC": key.Bytes(), "PEM": pemOf(t, s)} {
			e.Parts[2].Data = form
			c, err := judgeRecorded(t, e, challenge)
			if err != nil {
				t.Errorf("%s as %s: %v", kind, name, err)
				continue
			}
			if reasons := tpm.DefaultRules().Check(c, nil, now); len(reasons) > 0 {
				t.Errorf("%s as %s: %v", kind, name, reasons)
			}
			if (c.Recorded.Name == "") != (name == "PEM") || !slices.Equal(c.Recorded.Selection["sha256"], []int{0, 7}) {
				t.Errorf("%+v", c.Recorded)
			}
		}
	}
}

func pemOf(t testing.TB, s *softtpm.TPM) []byte {
	t.Helper()
	v, err := tpm.InspectRecorded(s.AKPublic())
	if err != nil || v.(*tpm.Claims).Recorded.Key == "" {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(akOf(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
}

func akOf(t testing.TB, s *softtpm.TPM) crypto.PublicKey {
	t.Helper()
	b, err := tpm2.Unmarshal[tpm2.TPM2BPublic](s.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Contents()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*p)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// R140: the refusal matrix of recorded quotes: a good one with one thing changed.
func TestRecordedQuoteWithOneThingChangedIsRefused(t *testing.T) {
	s, other := softtpm.New(rand.Reader), softtpm.New(rand.Reader)
	part := func(i int, b []byte) func(*rats.Evidence) { return func(e *rats.Evidence) { e.Parts[i].Data = b } }
	for name, c := range map[string]struct {
		alter   softtpm.Alter
		want    rats.CodeInfo
		missing bool
	}{
		"media type":      {softtpm.Alter{}, tpm.CodeMediaType, false},
		"part unknown":    {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts[0].Name = "log" }}, tpm.CodeParts, false},
		"part doubled":    {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts = append(e.Parts, e.Parts[0]) }}, tpm.CodeParts, false},
		"no signature":    {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts = e.Parts[1:] }}, tpm.CodeRecordedNoSignature, true},
		"no key":          {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts = e.Parts[:2] }}, tpm.CodeRecordedNoKey, true},
		"only a key":      {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Body = s.AKPublic() }}, tpm.CodeRecordedKeyOnly, true},
		"another key":     {softtpm.Alter{Evidence: part(2, other.AKPublic())}, tpm.CodeSignature, false},
		"no key at all":   {softtpm.Alter{Evidence: part(2, []byte("key"))}, tpm.CodeAKMalformed, false},
		"other JSON":      {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Body = []byte(`{"tpm":1}`) }}, tpm.CodeRecordedMalformed, false},
		"body flipped":    {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Body[60] ^= 1 }}, tpm.CodeSignature, false},
		"magic":           {softtpm.Alter{Attest: func(a *tpm2.TPMSAttest) { a.Magic++ }}, tpm.CodeMagic, false},
		"certification":   {softtpm.Alter{Attest: certification}, tpm.CodeType, false},
		"body cut":        {softtpm.Alter{Bytes: func(b []byte) []byte { return b[:len(b)-1] }}, tpm.CodeAttestMalformed, false},
		"empty selection": {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{}}, tpm.CodeEmptySelection, false},
		"other nonce":     {softtpm.Alter{Attest: func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = []byte("another one") }}, tpm.CodeUserData, false},
		"nonce and more":  {softtpm.Alter{Attest: func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = append(slices.Clone(challenge.UserData), 1) }}, tpm.CodeUserData, false},
		"unknown bank":    {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA3256, PCRSelect: []byte{1, 0, 0}}}}, tpm.CodeSelection, false},
		"values no JSON":  {softtpm.Alter{Evidence: part(1, []byte("x"))}, tpm.CodePCRsMalformed, false},
		"value missing":   {softtpm.Alter{PCRs: func(m map[int][]byte) { delete(m, 7) }}, tpm.CodePCRsSelection, false},
		"value changed":   {softtpm.Alter{PCRs: func(m map[int][]byte) { m[7] = bytes.Repeat([]byte{1}, 32) }}, tpm.CodePCRDigest, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := recorded(t, s, c.alter)
			if name == "media type" {
				e.MediaType = tpm.MediaType
			}
			_, err := judgeRecorded(t, e, challenge)
			wantCode(t, err, c.want, c.missing)
		})
	}
	loose := softtpm.New(rand.Reader, softtpm.Options{AKPublic: func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }})
	_, err := judgeRecorded(t, recorded(t, loose, softtpm.Alter{}), challenge)
	wantCode(t, err, tpm.CodeAKRestricted, false)
}

// Truncation at every byte, a flip of every signed byte.
func TestRecordedQuoteThatWasCutOrFlippedAnywhereIsRefused(t *testing.T) {
	s := softtpm.New(rand.Reader)
	good := recorded(t, s, softtpm.Alter{})
	for i := range good.Body {
		e := good
		e.Body = good.Body[:i]
		if _, err := judgeRecorded(t, e, challenge); err == nil {
			t.Errorf("cut at byte %d passes", i)
		}
		e.Body = bytes.Clone(good.Body)
		e.Body[i] ^= 1
		if _, err := judgeRecorded(t, e, challenge); err == nil {
			t.Errorf("byte %d flipped passes", i)
		}
	}
}

func TestServersVerifierTakesNoRecordedQuote(t *testing.T) {
	if slices.Contains(tpm.New().Descriptor().MediaTypes, tpm.MediaTypeRecorded) {
		t.Fatal("a node could answer with a key of its own")
	}
}

func TestDefaultRulesWantKeyNonceAndValues(t *testing.T) {
	s := softtpm.New(rand.Reader)
	good, err := judgeRecorded(t, recorded(t, s, softtpm.Alter{}), challenge)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*tpm.Recorded)
		want   rats.CodeInfo
	}{
		{func(r *tpm.Recorded) { r.KeyInside = true }, tpm.CodeRecordedKeyUnvouched},
		{func(r *tpm.Recorded) { r.Bound = false }, tpm.CodeRecordedUnbound},
		{func(r *tpm.Recorded) { r.Values = false }, tpm.CodeRecordedNoValues},
		{func(r *tpm.Recorded) { r.SignatureHash = "sha1" }, tpm.CodeRecordedSHA1},
	} {
		r := *good.Recorded
		c.change(&r)
		claims := *good
		claims.Recorded = &r
		got := tpm.DefaultRules().Check(&claims, nil, now)
		if len(got) != 1 || got[0].Code != c.want.Code {
			t.Errorf("got %v, want %s", got, c.want.Code)
		}
	}
}

// R140: clock, resetCount, restartCount, firmware; and which recorded keys policy names.
func TestRulesBoundCountersClockAndFirmware(t *testing.T) {
	s := softtpm.New(rand.Reader)
	s.SetCounters(5, 3)
	s.SetClockSafe(false)
	c, err := judgeRecorded(t, recorded(t, s, softtpm.Alter{}), challenge)
	if err != nil {
		t.Fatal(err)
	}
	pin := "ak_pins: " + c.Recorded.Key + "\n"
	for text, want := range map[string]rats.Code{
		pin: "", "ak_pins: sha256:" + string(bytes.Repeat([]byte("0"), 64)): tpm.CodeRecordedKeyUnvouched.Code,
		pin + "max_resets: 5\nmax_restarts: 3\nfirmware: \"0001000200030004\"": "",
		pin + "max_resets: 4":                  tpm.CodeResets.Code,
		pin + "max_restarts: 2":                tpm.CodeRestarts.Code,
		pin + "clock_safe: true":               tpm.CodeClockUnsafe.Code,
		pin + "firmware: \"0001000200030005\"": tpm.CodeFirmware.Code,
	} {
		r := section(t, text)
		if reasons := r.Lint(); len(reasons) > 0 {
			t.Fatalf("%s: %v", text, reasons)
		}
		got := r.Check(c, nil, now)
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || got[0].Code != want) {
			t.Errorf("%q: got %v, want %s", text, got, want)
		}
	}
	if reasons := section(t, pin+"firmware: [new]").Lint(); len(reasons) != 1 || reasons[0].Code != tpm.CodeRuleFirmware.Code {
		t.Errorf("got %v", reasons)
	}
	// What vouches for a recording vouches for no node.
	x := altered(t, s, softtpm.Alter{})
	v, err := verify(t, x)
	if err != nil {
		t.Fatal(err)
	}
	r := section(t, pin)
	r.Lint()
	if got := r.Check(v.Claims, nil, now); len(got) == 0 || got[0].Code != tpm.CodeEKUntrusted.Code {
		t.Errorf("a node is trusted by ak_pins: %v", got)
	}
}

// pki issues certificates of TPM keys.
type pki struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newPKI(t *testing.T, change func(*x509.Certificate)) pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(ca)
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pki{key, cert}
}

func (p pki) issue(t *testing.T, pub crypto.PublicKey, change func(*x509.Certificate)) []byte {
	t.Helper()
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "key"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
	}
	if change != nil {
		change(leaf)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, p.cert, pub, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func judgeCertificate(t testing.TB, der []byte, at time.Time, anchors ...[]byte) (*tpm.CertificateClaims, error) {
	t.Helper()
	in := rats.Inputs{Now: at}
	for _, a := range anchors {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: tpm.MediaTypeAnchor, Body: a})
	}
	v, err := tpm.NewCertificate().Verify(t.Context(), rats.Evidence{Format: tpm.FormatCertificate, MediaType: tpm.MediaTypeCertificate, Body: der}, in)
	if err != nil {
		return nil, err
	}
	return v.Claims.(*tpm.CertificateClaims), nil
}

// The refusal matrix of certificates.
func TestCertificateWithOneThingChangedIsRefused(t *testing.T) {
	maker := newPKI(t, nil)
	namesake := newPKI(t, nil)
	noCA := newPKI(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	ek := akOf(t, softtpm.New(rand.Reader))
	good := maker.issue(t, ek, nil)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	strange := maker.issue(t, ek, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	})
	for name, c := range map[string]struct {
		der     []byte
		at      time.Time
		anchors [][]byte
		want    rats.CodeInfo
		missing bool
	}{
		"built-in only":  {good, now, nil, tpm.CodeCertUntrusted, false},
		"anchor is none": {good, now, [][]byte{[]byte("x")}, tpm.CodeCertNoAnchor, true},
		"other maker":    {good, now, [][]byte{softtpm.NewCA(rand.Reader).DER()}, tpm.CodeCertUntrusted, false},
		"same name":      {good, now, [][]byte{namesake.cert.Raw}, tpm.CodeCertSignature, false},
		"flipped":        {flipped, now, [][]byte{maker.cert.Raw}, tpm.CodeCertSignature, false},
		"expired":        {good, now.Add(time.Minute + time.Second), [][]byte{maker.cert.Raw}, tpm.CodeCertExpired, false},
		"too early":      {good, now.Add(-time.Minute - time.Second), [][]byte{maker.cert.Raw}, tpm.CodeCertEarly, false},
		"no issuer":      {noCA.issue(t, ek, nil), now, [][]byte{noCA.cert.Raw}, tpm.CodeCertIssuer, false},
		"critical":       {strange, now, [][]byte{maker.cert.Raw}, tpm.CodeCertCritical, false},
		"tail":           {append(bytes.Clone(good), 1), now, [][]byte{maker.cert.Raw}, tpm.CodeCertMalformed, false},
		"mixed padding":  {append(bytes.Clone(good), 0, 0xff), now, [][]byte{maker.cert.Raw}, tpm.CodeCertMalformed, false},
		"cut":            {good[:len(good)-1], now, [][]byte{maker.cert.Raw}, tpm.CodeCertMalformed, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := judgeCertificate(t, c.der, c.at, c.anchors...)
			wantCode(t, err, c.want, c.missing)
		})
	}
	for name, der := range map[string][]byte{
		"plain": good, "padded": append(bytes.Clone(good), bytes.Repeat([]byte{0xff}, 500)...), "PEM": []byte(certPEM(good)),
		"header": append([]byte{0x10, 0x01, 0, byte((len(good) + 2) >> 8), byte(len(good) + 2), 0x10, 0x02}, good...),
	} {
		c, err := judgeCertificate(t, der, now, maker.cert.Raw)
		if err != nil || c.Kind != tpm.KindEK || len(c.Chain) != 1 {
			t.Errorf("%s: %+v, %v", name, c, err)
			continue
		}
		// It names no maker, so it proves no hardware.
		if got := new(tpm.CertificateRules).Check(c, nil, now); len(got) != 1 || got[0].Code != tpm.CodeCertSoftware.Code {
			t.Errorf("%s: %v", name, got)
		}
		c.Software, c.SignatureHash = false, "sha1"
		if got := new(tpm.CertificateRules).Check(c, nil, now); len(got) != 1 || got[0].Code != tpm.CodeCertSHA1.Code {
			t.Errorf("%s: %v", name, got)
		}
		c.Kind, c.SignatureHash = tpm.KindUnknown, "sha256"
		if got := new(tpm.CertificateRules).Check(c, nil, now); len(got) != 1 || got[0].Code != tpm.CodeCertUse.Code {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Some makers' serial numbers are negative, which package x509 refuses to read.
func TestCertificateWithANegativeSerialNumberVerifies(t *testing.T) {
	maker := newPKI(t, nil)
	ek := akOf(t, softtpm.New(rand.Reader))
	der := maker.issue(t, ek, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0x7f01) })
	i := bytes.Index(der, []byte{2, 2, 0x7f, 0x01})
	der[i+2] = 0x80
	cert, err := x509.ParseCertificate(der)
	if err == nil {
		t.Fatalf("package x509 reads it now: %v", cert.SerialNumber)
	}
	var outer struct {
		TBS asn1.RawValue
		Alg asn1.RawValue
		Sig asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatal(err)
	}
	h := crypto.SHA256.New()
	h.Write(outer.TBS.FullBytes)
	if outer.Sig.Bytes, err = ecdsa.SignASN1(rand.Reader, maker.key, h.Sum(nil)); err != nil {
		t.Fatal(err)
	}
	outer.Sig.BitLength = 8 * len(outer.Sig.Bytes)
	if der, err = asn1.Marshal(outer); err != nil {
		t.Fatal(err)
	}
	c, err := judgeCertificate(t, der, now, maker.cert.Raw)
	if err != nil || !slices.Contains(c.Quirks, "serial-not-positive") {
		t.Errorf("%+v, %v", c, err)
	}
}
