package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

// remade returns a TPM2B_PUBLIC with a change.
func remade(t testing.TB, b []byte, change func(*tpm2.TPMTPublic)) []byte {
	t.Helper()
	outer, err := tpm2.Unmarshal[tpm2.TPM2BPublic](b)
	if err != nil {
		t.Fatal(err)
	}
	p, err := outer.Contents()
	if err != nil {
		t.Fatal(err)
	}
	change(p)
	return tpm2.Marshal(tpm2.New2B(*p))
}

func attributes(change func(*tpm2.TPMAObject)) func(*tpm2.TPMTPublic) {
	return func(p *tpm2.TPMTPublic) { change(&p.ObjectAttributes) }
}

// R144: only keys that can carry attestation are enrolled.
func TestKeysUnfitForEnrolmentAreRefused(t *testing.T) {
	s, other := softtpm.New(rand.Reader), softtpm.New(rand.Reader)
	nullScheme := func(p *tpm2.TPMTPublic) {
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
	}
	for name, c := range map[string]struct {
		ek, cert, ak []byte
		want         rats.CodeInfo
	}{
		"AK without restricted":  {ak: remade(t, s.AKPublic(), attributes(func(a *tpm2.TPMAObject) { a.Restricted = false })), want: tpm.CodeAKRestricted},
		"AK without fixedTPM":    {ak: remade(t, s.AKPublic(), attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false })), want: tpm.CodeAKFixedTPM},
		"AK without fixedParent": {ak: remade(t, s.AKPublic(), attributes(func(a *tpm2.TPMAObject) { a.FixedParent = false })), want: tpm.CodeAKFixedParent},
		"AK from outside":        {ak: remade(t, s.AKPublic(), attributes(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })), want: tpm.CodeAKOrigin},
		"AK without sign":        {ak: remade(t, s.AKPublic(), attributes(func(a *tpm2.TPMAObject) { a.SignEncrypt = false })), want: tpm.CodeAKSign},
		"AK with decrypt":        {ak: remade(t, s.AKPublic(), attributes(func(a *tpm2.TPMAObject) { a.Decrypt = true })), want: tpm.CodeAKDecrypt},
		"AK without noDA":        {ak: remade(t, s.AKPublic(), attributes(func(a *tpm2.TPMAObject) { a.NoDA = false })), want: tpm.CodeAKLockout},
		"AK without scheme":      {ak: remade(t, s.AKPublic(), nullScheme), want: tpm.CodeAKType},
		"AK is the EK":           {ak: s.EKPublic(), want: tpm.CodeAKSign},
		"AK cut":                 {ak: s.AKPublic()[:40], want: tpm.CodeAKMalformed},
		"AK with a tail":         {ak: append(s.AKPublic(), 0), want: tpm.CodeAKMalformed},
		"AK too long":            {ak: make([]byte, 4096), want: tpm.CodeAKMalformed},
		"EK empty":               {ek: []byte{}, want: tpm.CodeEKMalformed},
		"EK is the AK":           {ek: s.AKPublic(), want: tpm.CodeEKAttributes},
		"EK without restricted":  {ek: remade(t, s.EKPublic(), attributes(func(a *tpm2.TPMAObject) { a.Restricted = false })), want: tpm.CodeEKAttributes},
		"EK that can leave":      {ek: remade(t, s.EKPublic(), attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false })), want: tpm.CodeEKAttributes},
		"EK without encryption":  {ek: remade(t, s.EKPublic(), nullScheme), want: tpm.CodeEKAttributes},
		"certificate of another": {cert: other.EKCert(), want: tpm.CodeEKCertOther},
		"certificate is none":    {cert: []byte("x"), want: tpm.CodeEKCertMalformed},
		"certificate too long":   {cert: make([]byte, 9<<10), want: tpm.CodeEKCertMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			ek, cert, ak := s.EKPublic(), s.EKCert(), s.AKPublic()
			if c.ek != nil {
				ek = c.ek
			}
			if c.cert != nil {
				cert = c.cert
			}
			if c.ak != nil {
				ak = c.ak
			}
			_, err := tpm.Enrol(ek, cert, ak, now)
			wantCode(t, err, c.want, false)
		})
	}
}

func TestPointOffTheCurveIsRefused(t *testing.T) {
	s := softtpm.New(rand.Reader)
	ak := s.AKPublic()
	ak[len(ak)-1] ^= 1
	_, err := tpm.Enrol(s.EKPublic(), nil, ak, now)
	wantCode(t, err, tpm.CodeAKMalformed, false)
}

func TestWeakRSAKeysAreRefused(t *testing.T) {
	s := softtpm.New(rand.Reader)
	good := softtpm.New(rand.Reader, softtpm.Options{AK: softtpm.RSASSA}).AKPublic()
	parms := func(bits tpm2.TPMKeyBits, exponent uint32) func(*tpm2.TPMTPublic) {
		return func(p *tpm2.TPMTPublic) {
			scheme := tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Scheme: scheme, KeyBits: bits, Exponent: exponent})
		}
	}
	modulus := func(n []byte) func(*tpm2.TPMTPublic) {
		return func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n})
		}
	}
	if _, err := tpm.Enrol(s.EKPublic(), nil, remade(t, good, parms(2048, 65537)), now); err != nil {
		t.Errorf("exponent 65537, spelt out: %v", err)
	}
	for name, ak := range map[string][]byte{
		"exponent 3":        remade(t, good, parms(2048, 3)),
		"3072 bits of 2048": remade(t, good, parms(3072, 0)),
		"1024 bits":         remade(t, remade(t, good, parms(1024, 0)), modulus(bytes.Repeat([]byte{0xff}, 128))),
		"even modulus":      remade(t, good, modulus(append(bytes.Repeat([]byte{0xff}, 255), 0))),
	} {
		_, err := tpm.Enrol(s.EKPublic(), nil, ak, now)
		t.Run(name, func(t *testing.T) { wantCode(t, err, tpm.CodeAKMalformed, false) })
	}
}

func TestCertificateThatNamesTheKeyRSAESOAEPIsRead(t *testing.T) {
	s := softtpm.New(rand.Reader, softtpm.Options{RSAEK: true})
	rsaEncryption := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01}
	oaep := append(bytes.Clone(rsaEncryption[:8]), 7)
	cert := bytes.Replace(s.EKCert(), rsaEncryption, oaep, 1) // its signature is broken by that; Enrol doesn't judge it
	if bytes.Equal(cert, s.EKCert()) {
		t.Fatal("nothing was replaced")
	}
	r, err := tpm.Enrol(s.EKPublic(), cert, s.AKPublic(), now)
	if err != nil {
		t.Fatal(err)
	}
	if r.Manufacturer != "id:46414B45" {
		t.Errorf("manufacturer is %q", r.Manufacturer)
	}
	_, err = tpm.Enrol(softtpm.New(rand.Reader, softtpm.Options{RSAEK: true}).EKPublic(), cert, s.AKPublic(), now)
	wantCode(t, err, tpm.CodeEKCertOther, false)
}

func TestEnrolmentSurvivesItsEncoding(t *testing.T) {
	for _, o := range []softtpm.Options{{}, {RSAEK: true, AK: softtpm.RSASSA}, {WithoutEKCert: true}} {
		r := enrol(t, softtpm.New(rand.Reader, o))
		e := r.Endorsement()
		back, err := tpm.ParseEnrolment(e.Body)
		if err != nil {
			t.Fatal(err)
		}
		if e.MediaType != tpm.EnrolmentMediaType || !back.EKDigest.Equal(r.EKDigest) || !bytes.Equal(back.AK, r.AK) || back.Software != r.Software || !back.At.Equal(now) {
			t.Errorf("got %+v, want %+v", back, r)
		}
		if r.Software != o.WithoutEKCert {
			t.Errorf("software is %v with options %+v", r.Software, o)
		}
	}
}

func TestRecordWithoutTheWordSoftwareIsOfASoftwareTPM(t *testing.T) {
	r := enrol(t, softtpm.New(rand.Reader))
	body := bytes.Replace(r.Endorsement().Body, []byte(`"software":false,`), nil, 1)
	back, err := tpm.ParseEnrolment(body)
	if err != nil || !back.Software {
		t.Errorf("software is %v, error %v", back.Software, err)
	}
}

func TestEKDigestIsThatOfTheCertificatesKey(t *testing.T) {
	s := softtpm.New(rand.Reader, softtpm.Options{RSAEK: true})
	cert, err := x509.ParseCertificate(s.EKCert())
	if err != nil {
		t.Fatal(err)
	}
	d, err := tpm.EKDigest(s.EKPublic())
	if err != nil {
		t.Fatal(err)
	}
	if want := rats.SHA256(cert.RawSubjectPublicKeyInfo); !d.Equal(want) {
		t.Errorf("got %s, want %s", d, want)
	}
	_, err = tpm.EKDigest([]byte{1})
	wantCode(t, err, tpm.CodeEKMalformed, false)
}

// R144: a credential opens in the TPM of the EK, and only for the AK it names. The opening side is another
// implementation (go-tpm's derivations).
func TestCredentialOpensOnlyForBothKeys(t *testing.T) {
	secret := bytes.Repeat([]byte{5}, 32)
	for _, useRSA := range []bool{false, true} {
		s := softtpm.New(rand.Reader, softtpm.Options{RSAEK: useRSA})
		other := softtpm.New(rand.Reader, softtpm.Options{RSAEK: useRSA})
		for _, secret := range [][]byte{secret, secret[:1], secret[:16]} {
			credential, enc, err := tpm.MakeCredential(rand.Reader, s.EKPublic(), s.AKPublic(), secret)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Activate(credential, enc)
			if err != nil || !bytes.Equal(got, secret) {
				t.Errorf("got %x, %v", got, err)
			}
			if _, err := other.Activate(credential, enc); err == nil {
				t.Error("another TPM opened the credential")
			}
		}
		credential, enc, err := tpm.MakeCredential(rand.Reader, s.EKPublic(), other.AKPublic(), secret)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Activate(credential, enc); err == nil {
			t.Error("the credential of another AK was opened")
		}
	}
}

func TestCredentialForUnfitKeysIsNotMade(t *testing.T) {
	s := softtpm.New(rand.Reader)
	_, _, err := tpm.MakeCredential(rand.Reader, s.AKPublic(), s.AKPublic(), []byte("x"))
	wantCode(t, err, tpm.CodeEKAttributes, false)
	_, _, err = tpm.MakeCredential(rand.Reader, nil, s.AKPublic(), []byte("x"))
	wantCode(t, err, tpm.CodeEKMalformed, false)
	_, _, err = tpm.MakeCredential(rand.Reader, s.EKPublic(), nil, []byte("x"))
	wantCode(t, err, tpm.CodeAKMalformed, false)
	for _, n := range []int{0, 33} {
		if _, _, err := tpm.MakeCredential(rand.Reader, s.EKPublic(), s.AKPublic(), make([]byte, n)); err == nil {
			t.Errorf("a secret of %d bytes was taken", n)
		}
	}
	rsa := softtpm.New(rand.Reader, softtpm.Options{RSAEK: true})
	if _, _, err := tpm.MakeCredential(strings.NewReader(""), rsa.EKPublic(), s.AKPublic(), []byte("x")); err == nil {
		t.Error("a credential was made without randomness")
	}
}

// R144: the refusal matrix of certifications.
func TestCertificationWithOneThingChangedIsRefused(t *testing.T) {
	nonce := bytes.Repeat([]byte{3}, 32)
	s, other := softtpm.New(rand.Reader), softtpm.New(rand.Reader)
	type in struct{ ak, key, nonce, info, sig []byte }
	valid := func(s *softtpm.TPM, alter func(*tpm2.TPMSAttest)) in {
		info, sig, err := s.CertifyAltered(nonce, alter)
		if err != nil {
			t.Fatal(err)
		}
		return in{s.AKPublic(), s.TLSPublic(), nonce, info, sig}
	}
	with := func(change func(*tpm2.TPMAObject)) in {
		return valid(softtpm.New(rand.Reader, softtpm.Options{TLSPublic: attributes(change)}), nil)
	}
	plain := valid(s, nil)
	for name, c := range map[string]struct {
		in   in
		want rats.CodeInfo
	}{
		"other AK":       {in{other.AKPublic(), plain.key, nonce, plain.info, plain.sig}, tpm.CodeCertifySignature},
		"no AK":          {in{nil, plain.key, nonce, plain.info, plain.sig}, tpm.CodeAKMalformed},
		"other key":      {in{plain.ak, other.TLSPublic(), nonce, plain.info, plain.sig}, tpm.CodeCertifyName},
		"no key":         {in{plain.ak, nil, nonce, plain.info, plain.sig}, tpm.CodeCertifyMalformed},
		"other nonce":    {in{plain.ak, plain.key, nonce[:31], plain.info, plain.sig}, tpm.CodeCertifyNonce},
		"signature":      {in{plain.ak, plain.key, nonce, plain.info, plain.sig[1:]}, tpm.CodeCertifySignature},
		"magic":          {valid(s, func(a *tpm2.TPMSAttest) { a.Magic++ }), tpm.CodeCertifyMalformed},
		"a quote":        {valid(s, quote), tpm.CodeCertifyMalformed},
		"can leave TPM":  {with(func(a *tpm2.TPMAObject) { a.FixedTPM = false }), tpm.CodeCertifyAttributes},
		"has new parent": {with(func(a *tpm2.TPMAObject) { a.FixedParent = false }), tpm.CodeCertifyAttributes},
		"from outside":   {with(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false }), tpm.CodeCertifyAttributes},
		"can't sign":     {with(func(a *tpm2.TPMAObject) { a.SignEncrypt = false }), tpm.CodeCertifyAttributes},
		"restricted":     {with(func(a *tpm2.TPMAObject) { a.Restricted = true }), tpm.CodeCertifyAttributes},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tpm.VerifyCertify(c.in.ak, c.in.key, c.in.nonce, c.in.info, c.in.sig)
			wantCode(t, err, c.want, false)
		})
	}
	if _, err := tpm.VerifyCertify(plain.ak, plain.key, nonce[:8], plain.info, plain.sig); err == nil {
		t.Error("a nonce of 8 bytes was taken")
	}
	spki, err := tpm.VerifyCertify(plain.ak, plain.key, nonce, plain.info, plain.sig)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil || !key.(*ecdsa.PublicKey).Equal(s.TLSKey().Public()) {
		t.Errorf("another key was certified (%v)", err)
	}
}

func quote(a *tpm2.TPMSAttest) {
	a.Type = tpm2.TPMSTAttestQuote
	a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{})
}
