package tpm_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

var (
	now   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	asked = tpm.Params{Bank: "sha256", PCRs: []int{0, 7, 10}}
)

// exchange is one attestation by a software TPM, to be changed by tests.
type exchange struct {
	tpm      *softtpm.TPM
	evidence rats.Evidence
	inputs   rats.Inputs
}

func manifest(t testing.TB) rats.Binding {
	t.Helper()
	b, err := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("verifier")),
		Nonce: bytes.Repeat([]byte{1}, 32), Instance: bytes.Repeat([]byte{2}, 16),
		Keys:    []rats.BoundKey{{Use: rats.KeyTLS, Public: []byte("spki")}},
		Formats: []rats.Format{tpm.Format},
	}.Bind()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func enrol(t testing.TB, s *softtpm.TPM) tpm.Enrolment {
	t.Helper()
	r, err := tpm.Enrol(s.EKPublic(), s.EKCert(), s.AKPublic(), now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// altered makes an exchange of the TPM with the given alteration.
func altered(t testing.TB, s *softtpm.TPM, a softtpm.Alter) exchange {
	t.Helper()
	b := manifest(t)
	e, err := s.QuoteAltered(asked.Bank, asked.PCRs, b.UserData, a)
	if err != nil {
		t.Fatal(err)
	}
	return exchange{tpm: s, evidence: e, inputs: rats.Inputs{
		Binding: b, Now: now, Params: marshal(t, asked),
		Endorsements: []rats.Endorsement{{MediaType: "text/plain"}, enrol(t, s).Endorsement()},
	}}
}

func verify(t testing.TB, x exchange) (rats.Verified, error) {
	t.Helper()
	return tpm.New().Verify(t.Context(), x.evidence, x.inputs)
}

// wantCode fails the test unless err is a reason of this code; missing says of which class.
func wantCode(t testing.TB, err error, want rats.CodeInfo, missing bool) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("got %v, want %s", err, want.Code)
		return
	}
	if (r.Tier == rats.None) != missing {
		t.Errorf("%s: tier is %s", want.Code, r.Tier)
	}
	if r.Hint == "" || r.Expected == "" {
		t.Errorf("%s has no hint or says nothing expected", want.Code)
	}
}

// R140: RSA and ECC keys, SHA-256 and SHA-384.
func TestQuotesOfEveryKindOfKeyAndBankVerify(t *testing.T) {
	for _, kind := range []string{softtpm.ECDSAP256, softtpm.ECDSAP384, softtpm.RSASSA, softtpm.RSAPSS} {
		s := softtpm.New(rand.Reader, softtpm.Options{AK: kind})
		for _, bank := range []string{"sha256", "sha384", "sha512"} {
			t.Run(kind+"/"+bank, func(t *testing.T) {
				s.Extend(7, []byte("event"))
				x := altered(t, s, softtpm.Alter{})
				var err error
				if x.evidence, err = s.Quote(bank, asked.PCRs, x.inputs.Binding.UserData); err != nil {
					t.Fatal(err)
				}
				x.inputs.Params = marshal(t, tpm.Params{Bank: bank, PCRs: asked.PCRs})
				v, err := verify(t, x)
				if err != nil {
					t.Fatal(err)
				}
				checkVerified(t, s, bank, v)
			})
		}
	}
}

func checkVerified(t *testing.T, s *softtpm.TPM, bank string, v rats.Verified) {
	t.Helper()
	if len(v.Facts.Registers) != 1 || !bytes.Equal(v.Facts.Registers[0].Values[7], s.PCR(bank, 7)) || v.Facts.Registers[0].Alg != bank {
		t.Errorf("registers: %+v", v.Facts.Registers)
	}
	if k, ok := v.Facts.Key(rats.KeyTLS); !ok || string(k.Public) != "spki" {
		t.Error("the manifest's key is not among the facts")
	}
	if len(v.Facts.Boots) != 1 || !v.Facts.Boots[0].ID.Equal(s.BootID()) {
		t.Errorf("boots: %+v", v.Facts.Boots)
	}
	if want := []rats.Link{{From: tpm.Format, To: tpm.Format, Kind: rats.LinkEnrolled}}; !slices.Equal(v.Links, want) {
		t.Errorf("links: %+v", v.Links)
	}
	c := v.Claims.(*tpm.Claims)
	if !c.EKCertified || c.Software || c.Manufacturer != "id:46414B45" || c.Firmware != "0001000200030004" || !c.ClockSafe || len(v.Marks) != 0 {
		t.Errorf("claims: %+v, marks %v", c, v.Marks)
	}
}

// R140, R107: the refusal matrix: valid evidence with one thing changed.
func TestQuoteWithOneThingChangedIsRefused(t *testing.T) {
	s := softtpm.New(rand.Reader)
	other := softtpm.New(rand.Reader)
	set := func(i int, data []byte) func(*rats.Evidence) {
		return func(e *rats.Evidence) { e.Parts[i].Data = data }
	}
	sel := func(alg tpm2.TPMAlgID, bits ...byte) tpm2.TPMSPCRSelection {
		return tpm2.TPMSPCRSelection{Hash: alg, PCRSelect: bits}
	}
	extra := func(b []byte) func(*tpm2.TPMSAttest) {
		return func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = b }
	}
	for name, c := range map[string]struct {
		alter softtpm.Alter
		want  rats.CodeInfo
	}{
		"media type":            {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.MediaType = "text/plain" }}, tpm.CodeMediaType},
		"format":                {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Format = "ima" }}, tpm.CodeMediaType},
		"part missing":          {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts = e.Parts[1:] }}, tpm.CodeParts},
		"part doubled":          {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts = append(e.Parts, e.Parts[1]) }}, tpm.CodeParts},
		"part unknown":          {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts = append(e.Parts, rats.Part{Name: "log"}) }}, tpm.CodeParts},
		"part with offset":      {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts[1].Offset = 1 }}, tpm.CodeParts},
		"AK of another TPM":     {softtpm.Alter{Evidence: set(2, other.AKPublic())}, tpm.CodeOtherAK},
		"AK with a tail":        {softtpm.Alter{Evidence: set(2, append(s.AKPublic(), 0))}, tpm.CodeOtherAK},
		"signed by another":     {softtpm.Alter{Key: other}, tpm.CodeSignature},
		"signature flipped":     {softtpm.Alter{Signature: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }}, tpm.CodeSignature},
		"signature cut":         {softtpm.Alter{Signature: func(b []byte) []byte { return b[:len(b)-1] }}, tpm.CodeSignature},
		"signature with a tail": {softtpm.Alter{Signature: func(b []byte) []byte { return append(b, 0) }}, tpm.CodeSignature},
		"signature of SHA-1":    {softtpm.Alter{Hash: tpm2.TPMAlgSHA1}, tpm.CodeSignature},
		"signature of SHA-512":  {softtpm.Alter{Hash: tpm2.TPMAlgSHA512}, tpm.CodeSignature},
		"signature is empty":    {softtpm.Alter{Signature: func([]byte) []byte { return nil }}, tpm.CodeSignature},
		"body flipped":          {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Body[50] ^= 1 }}, tpm.CodeSignature},
		"magic":                 {softtpm.Alter{Attest: func(a *tpm2.TPMSAttest) { a.Magic++ }}, tpm.CodeMagic},
		"certification":         {softtpm.Alter{Attest: certification}, tpm.CodeType},
		"time":                  {softtpm.Alter{Bytes: func(b []byte) []byte { b[5] = 0x19; return b }}, tpm.CodeType},
		"body cut":              {softtpm.Alter{Bytes: func(b []byte) []byte { return b[:len(b)-1] }}, tpm.CodeAttestMalformed},
		"body with a tail":      {softtpm.Alter{Bytes: func(b []byte) []byte { return append(b, 0) }}, tpm.CodeAttestMalformed},
		"flag safe is 2":        {softtpm.Alter{Bytes: safeFlag(2)}, tpm.CodeAttestMalformed},
		"other user data":       {softtpm.Alter{Attest: extra(bytes.Repeat([]byte{9}, 32))}, tpm.CodeUserData},
		"user data cut":         {softtpm.Alter{Attest: func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = a.ExtraData.Buffer[:31] }}, tpm.CodeUserData},
		"user data padded":      {softtpm.Alter{Attest: func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = append(bytes.Clone(a.ExtraData.Buffer), 0) }}, tpm.CodeUserData},
		"no user data":          {softtpm.Alter{Attest: extra(nil)}, tpm.CodeUserData},
		"no selection":          {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{}}, tpm.CodeEmptySelection},
		"empty selection":       {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{sel(tpm2.TPMAlgSHA256, 0, 0, 0)}}, tpm.CodeEmptySelection},
		"fewer PCRs":            {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{sel(tpm2.TPMAlgSHA256, 0x81, 0, 0)}}, tpm.CodeSelection},
		"more PCRs":             {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{sel(tpm2.TPMAlgSHA256, 0x83, 4, 0)}}, tpm.CodeSelection},
		"other bank":            {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{sel(tpm2.TPMAlgSHA384, 0x81, 4, 0)}}, tpm.CodeSelection},
		"unknown bank":          {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{sel(tpm2.TPMAlgSHA1, 0x81, 4, 0)}}, tpm.CodeSelection},
		"second bank":           {softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{sel(tpm2.TPMAlgSHA256, 0x81, 4, 0), sel(tpm2.TPMAlgSHA1, 1, 0, 0)}}, tpm.CodeSelection},
		"values are no JSON":    {softtpm.Alter{Evidence: set(1, []byte("x"))}, tpm.CodePCRsMalformed},
		"values with spaces":    {softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Parts[1].Data = append(e.Parts[1].Data, ' ') }}, tpm.CodePCRsMalformed},
		"values of two banks":   {softtpm.Alter{Evidence: set(1, []byte(`{"sha256":{},"sha384":{}}`))}, tpm.CodePCRsMalformed},
		"values of SHA-1":       {softtpm.Alter{Evidence: set(1, []byte(`{"sha1":{}}`))}, tpm.CodePCRsMalformed},
		"value cut":             {softtpm.Alter{PCRs: func(m map[int][]byte) { m[7] = m[7][:31] }}, tpm.CodePCRsMalformed},
		"value of PCR 24":       {softtpm.Alter{PCRs: func(m map[int][]byte) { m[24] = m[7] }}, tpm.CodePCRsMalformed},
		"value missing":         {softtpm.Alter{PCRs: func(m map[int][]byte) { delete(m, 7) }}, tpm.CodePCRsSelection},
		"value beyond":          {softtpm.Alter{PCRs: func(m map[int][]byte) { m[8] = m[7] }}, tpm.CodePCRsSelection},
		"values of other bank":  {softtpm.Alter{Evidence: set(1, []byte(`{"sha384":{}}`))}, tpm.CodePCRsSelection},
		"value changed":         {softtpm.Alter{PCRs: func(m map[int][]byte) { m[7] = bytes.Repeat([]byte{1}, 32) }}, tpm.CodePCRDigest},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := verify(t, altered(t, s, c.alter))
			wantCode(t, err, c.want, false)
		})
	}
}

func certification(a *tpm2.TPMSAttest) {
	a.Type = tpm2.TPMSTAttestCertify
	a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{})
}

// safeFlag sets the byte that tells whether the clock is safe: behind header, signer's name, extraData, clock, counts.
func safeFlag(v byte) func([]byte) []byte {
	return func(b []byte) []byte { b[6+2+34+2+32+8+4+4] = v; return b }
}

func TestInputsThatAreNotAtHandYieldNone(t *testing.T) {
	s := softtpm.New(rand.Reader)
	for name, c := range map[string]struct {
		change func(*rats.Inputs)
		want   rats.CodeInfo
	}{
		"not enrolled": {func(in *rats.Inputs) { in.Endorsements = in.Endorsements[:1] }, tpm.CodeNotEnrolled},
		"unasked":      {func(in *rats.Inputs) { in.Params = nil }, tpm.CodeUnasked},
		"unbound":      {func(in *rats.Inputs) { in.Binding = rats.Binding{Profile: rats.ProfileNone} }, tpm.CodeUnbound},
		"short data":   {func(in *rats.Inputs) { in.Binding.UserData = in.Binding.UserData[:15] }, tpm.CodeUnbound},
	} {
		x := altered(t, s, softtpm.Alter{})
		c.change(&x.inputs)
		_, err := verify(t, x)
		t.Run(name, func(t *testing.T) { wantCode(t, err, c.want, true) })
	}
}

func TestBindingThatDoesNotHangTogetherIsRefused(t *testing.T) {
	s := softtpm.New(rand.Reader)
	x := altered(t, s, softtpm.Alter{})
	x.inputs.Binding.Manifest = append(bytes.Clone(x.inputs.Binding.Manifest), 0)
	_, err := verify(t, x)
	wantCode(t, err, tpm.CodeBinding, false)

	x = altered(t, s, softtpm.Alter{})
	x.inputs.Binding = rats.Binding{Profile: rats.ProfileAssay, Manifest: []byte("x"), UserData: rats.SHA256([]byte("x")).Sum}
	_, err = verify(t, x)
	wantCode(t, err, tpm.CodeBinding, false)
}

func TestRawBindingVouchesForNoKeysButTheEnrolledAK(t *testing.T) {
	x := altered(t, softtpm.New(rand.Reader), softtpm.Alter{})
	x.inputs.Binding.Profile, x.inputs.Binding.Manifest = rats.ProfileRaw, nil
	v, err := verify(t, x)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Facts.Keys) != 1 || v.Facts.Keys[0].Use != rats.KeyAK {
		t.Errorf("keys besides the AK: %+v", v.Facts.Keys)
	}
}

func TestBadRecordsAndParametersAreMalfunctions(t *testing.T) {
	s := softtpm.New(rand.Reader)
	for name, change := range map[string]func(*rats.Inputs){
		"record is no JSON":       func(in *rats.Inputs) { in.Endorsements[1].Body = []byte("x") },
		"record is empty":         func(in *rats.Inputs) { in.Endorsements[1].Body = []byte("{}") },
		"record of another EK":    func(in *rats.Inputs) { r := enrol(t, s); r.EKDigest.Sum[0] ^= 1; in.Endorsements[1] = r.Endorsement() },
		"parameters are no JSON":  func(in *rats.Inputs) { in.Params = []byte("x") },
		"parameters without PCRs": func(in *rats.Inputs) { in.Params = []byte(`{"bank":"sha256"}`) },
		"parameters of SHA-1":     func(in *rats.Inputs) { in.Params = []byte(`{"bank":"sha1","pcrs":[1]}`) },
		"parameters out of order": func(in *rats.Inputs) { in.Params = []byte(`{"bank":"sha256","pcrs":[2,1]}`) },
		"parameters with PCR 24":  func(in *rats.Inputs) { in.Params = []byte(`{"bank":"sha256","pcrs":[24]}`) },
	} {
		x := altered(t, s, softtpm.Alter{})
		change(&x.inputs)
		_, err := verify(t, x)
		if _, ok := rats.ReasonOf(err); err == nil || ok {
			t.Errorf("%s: got %v, want an error without reason", name, err)
		}
	}
}

// R140: an enrolled AK is looked at again with each quote.
func TestRecordOfAnUnfitKeyDoesNotMakeItFit(t *testing.T) {
	bad := softtpm.New(rand.Reader, softtpm.Options{AKPublic: func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }})
	good := softtpm.New(rand.Reader)
	r := enrol(t, good)
	r.AK = bad.AKPublic()
	x := altered(t, good, softtpm.Alter{})
	e, err := bad.Quote(asked.Bank, asked.PCRs, x.inputs.Binding.UserData)
	if err != nil {
		t.Fatal(err)
	}
	x.evidence, x.inputs.Endorsements = e, []rats.Endorsement{r.Endorsement()}
	_, err = verify(t, x)
	wantCode(t, err, tpm.CodeAKRestricted, false)

	r.AK = []byte{0, 1, 2}
	x.evidence.Parts[2].Data, x.inputs.Endorsements = r.AK, []rats.Endorsement{r.Endorsement()}
	_, err = verify(t, x)
	wantCode(t, err, tpm.CodeAKMalformed, false)
}

func TestSoftwareTPMIsMarked(t *testing.T) {
	for name, o := range map[string]softtpm.Options{"certified": {Software: true}, "uncertified": {WithoutEKCert: true}} {
		v, err := verify(t, altered(t, softtpm.New(rand.Reader, o), softtpm.Alter{}))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(v.Marks, []string{rats.MarkSoftwareTPM}) {
			t.Errorf("%s: marks %v", name, v.Marks)
		}
	}
}

// R032: every reset and every restart is another boot.
func TestBootIDChangesWithResetAndRestart(t *testing.T) {
	s := softtpm.New(rand.Reader)
	seen := map[string]bool{}
	for _, step := range []func(){func() {}, s.Reset, s.Restart, s.Reset} {
		step()
		v, err := verify(t, altered(t, s, softtpm.Alter{}))
		if err != nil {
			t.Fatal(err)
		}
		seen[v.Facts.Boots[0].ID.String()] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d boot ids of 4 boots", len(seen))
	}
}

func TestUnsafeClockIsAClaimAndNoRefusal(t *testing.T) {
	s := softtpm.New(rand.Reader)
	s.SetClockSafe(false)
	v, err := verify(t, altered(t, s, softtpm.Alter{}))
	if err != nil {
		t.Fatal(err)
	}
	if v.Claims.(*tpm.Claims).ClockSafe {
		t.Error("the clock is said to be safe")
	}
}

func TestClaimsOfTwoQuotesOfOneStateAreEqual(t *testing.T) {
	s := softtpm.New(rand.Reader)
	var before []byte
	for range 2 {
		v, err := verify(t, altered(t, s, softtpm.Alter{}))
		if err != nil {
			t.Fatal(err)
		}
		after := marshal(t, v.Claims)
		if before != nil && !bytes.Equal(before, after) {
			t.Errorf("claims differ:\n%s\n%s", before, after)
		}
		before = after
	}
}

func TestCodesAreCompleteAndUnique(t *testing.T) {
	seen := map[rats.Code]bool{}
	for _, c := range tpm.New().Descriptor().Codes {
		if seen[c.Code] || c.Title == "" || c.Hint == "" {
			t.Errorf("%s stands twice, or has no title or hint", c.Code)
		}
		seen[c.Code] = true
	}
}
