package dcap_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/internal/testkit/dcaptest"
	"github.com/assay-attest/assay/rats"
)

// containers packs the same collateral as different services and tools do.
func containers(i *dcaptest.Intel) map[string][][]byte {
	info, identity := i.TCBInfo("SGX", dcaptest.Level(4, 4, 5, "UpToDate")), i.Identity("QE", dcaptest.SVNLevel(6, "UpToDate"))
	pcsInfo, pcsIdentity := i.Document("tcbInfo", info), i.Document("enclaveIdentity", identity)
	rootCRL, pckCRL := i.CRL(i.Root), i.CRL(i.Platform)
	signers := slices.Concat(i.Signer.PEM(), i.Root.PEM())
	crls := [][]byte{rootCRL, pckCRL}
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	object := func(v any) []byte { return []byte(text(v)) }
	derSig := func(body string) []int {
		digest := sha256.Sum256([]byte(body))
		sig, err := ecdsa.SignASN1(rand.Reader, i.Signer.Key, digest[:])
		if err != nil {
			panic(err)
		}
		out := make([]int, len(sig))
		for n, b := range sig {
			out[n] = int(b)
		}
		return out
	}
	pemCRL := func(b []byte) string { return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: b})) }
	infoText, identityText := text(info), text(identity)
	parts := [][]byte{append(signers, 0), append([]byte(hex.EncodeToString(rootCRL)), 0), append(bytes.Clone(pckCRL), 0), append(signers, 0), append(pcsInfo, 0), append(signers, 0), append(pcsIdentity, 0)}
	image := append(binary.LittleEndian.AppendUint32(nil, 4), 0, 0, 0, 0)
	for _, p := range parts {
		image = binary.LittleEndian.AppendUint64(image, 0x1234)
		image = binary.LittleEndian.AppendUint64(image, uint64(len(p)))
	}
	image = append(image, bytes.Join(parts, nil)...)
	var offsets, data []byte
	for _, p := range parts {
		offsets = binary.LittleEndian.AppendUint32(offsets, uint32(len(data)))
		data = append(data, p...)
	}
	oe := binary.LittleEndian.AppendUint32(nil, 1)
	oe = binary.LittleEndian.AppendUint32(oe, 2)
	oe = binary.LittleEndian.AppendUint32(oe, uint32(len(offsets)+len(data)))
	oe = binary.LittleEndian.AppendUint32(oe, uint32(len(parts)))
	return map[string][][]byte{
		"PCS answers":         append([][]byte{pcsInfo, pcsIdentity, signers}, crls...),
		"URL-encoded headers": {pcsInfo, pcsIdentity, []byte(url.PathEscape(string(signers))), rootCRL, pckCRL},
		"text of lists":       {pcsInfo, pcsIdentity, signers, []byte(hex.EncodeToString(rootCRL)), []byte(base64.StdEncoding.EncodeToString(pckCRL))},
		"PEM of lists":        {pcsInfo, pcsIdentity, []byte(string(signers) + pemCRL(rootCRL) + pemCRL(pckCRL))},
		"dcap-qvl": {object(map[string]any{
			"tcb_info": infoText, "tcb_info_signature": hex.EncodeToString(i.Sign(i.Signer, []byte(infoText))), "tcb_info_issuer_chain": string(signers),
			"qe_identity": identityText, "qe_identity_signature": hex.EncodeToString(i.Sign(i.Signer, []byte(identityText))), "qe_identity_issuer_chain": string(signers),
			"root_ca_crl": hex.EncodeToString(rootCRL), "pck_crl": hex.EncodeToString(pckCRL),
		})},
		"lists of bytes": {
			object(map[string]any{"raw_tcb_info": infoText, "signature": derSig(infoText), "ca_chain": []string{string(i.Signer.PEM()), string(i.Root.PEM())}}),
			object(map[string]any{"raw_enclave_identity": identityText, "signature": derSig(identityText), "ca_chain": []string{string(i.Signer.PEM())}}),
			object(map[string]any{"crl": pemCRL(rootCRL), "ca_chain": []string{}}), object(map[string]any{"crl": pemCRL(pckCRL)}),
		},
		"PCCS": {object(map[string]any{"platforms": []any{}, "collaterals": map[string]any{
			"tcbinfos": []any{map[string]any{"fmspc": "00face000000", "sgx_tcbinfo": json.RawMessage(pcsInfo)}}, "qeidentity": string(pcsIdentity),
			"certificates": map[string]any{"SGX-TCB-Info-Issuer-Chain": url.PathEscape(string(signers))},
			"pckcacrl":     map[string]any{"platformCrl": hex.EncodeToString(pckCRL)}, "rootcacrl": hex.EncodeToString(rootCRL),
		}})},
		"SCALE":                     {scaled(signers, []byte(hex.EncodeToString(rootCRL)), []byte(hex.EncodeToString(pckCRL)), signers, []byte(infoText), i.Sign(i.Signer, []byte(infoText)), signers, []byte(identityText), i.Sign(i.Signer, []byte(identityText)))},
		"SCALE with an option":      {append(scaled(signers, rootCRL, pckCRL, signers, []byte(infoText), i.Sign(i.Signer, []byte(infoText)), signers, []byte(identityText), i.Sign(i.Signer, []byte(identityText))), 0)},
		"Intel's structure":         {image},
		"Open Enclave endorsements": {slices.Concat(oe, offsets, data)},
	}
}

// scaled encodes byte strings as SCALE does.
func scaled(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		switch n := uint32(len(p)); {
		case n < 1<<6:
			out = append(out, byte(n<<2))
		case n < 1<<14:
			out = binary.LittleEndian.AppendUint16(out, uint16(n<<2|1))
		default:
			out = binary.LittleEndian.AppendUint32(out, n<<2|2)
		}
		out = append(out, p...)
	}
	return out
}

// SCALE tells no names and has no mark. What is not exactly its lengths may still be text with certificates in it, but no
// document is read from it; documents that are broken are refused.
func TestBrokenScaleIsRefused(t *testing.T) {
	i := dcaptest.NewIntel(rand.Reader, now)
	signers, sig := slices.Concat(i.Signer.PEM(), i.Root.PEM()), make([]byte, 64)
	body := mustJSON(i.Identity("QE", dcaptest.SVNLevel(6, "UpToDate")))
	good := scaled(signers, i.CRL(i.Root), body, sig)
	for name, c := range map[string]struct {
		b         []byte
		documents int
		code      rats.Code
	}{
		"good":              {good, 1, ""},
		"cut":               {good[:len(good)-1], 0, ""},
		"a byte after":      {append(bytes.Clone(good), 7), 0, ""},
		"a longer form":     {append([]byte{5, 0, 'x'}, scaled(i.CRL(i.Root))...), 0, dcap.CodeCollateralUnknown.Code},
		"a big integer":     {append([]byte{3, 1, 0, 0, 0}, good...), 0, ""},
		"another object":    {scaled(signers, []byte(`{"a":1}`), sig), 0, dcap.CodeCollateralMalformed.Code},
		"a broken object":   {scaled(signers, []byte(`{"fmspc"`), sig), 0, dcap.CodeCollateralMalformed.Code},
		"a bare TCB info":   {scaled(signers, []byte(`{"fmspc":"00"}`), sig), 0, dcap.CodeCollateralMalformed.Code},
		"too many":          {bytes.Repeat(scaled([]byte("x")), 17), 0, dcap.CodeCollateralUnknown.Code},
		"nothing but text":  {scaled([]byte("one"), []byte("two")), 0, dcap.CodeCollateralUnknown.Code},
		"with a chain":      {append(bytes.Clone(good), append([]byte{1}, scaled(signers)...)...), 1, ""},
		"a short signature": {scaled(signers, body, sig[1:]), 0, ""},
	} {
		got, err := dcap.ParseCollateral(c.b)
		if dcaptest.CodeOf(t, err) != c.code || err == nil && (len(got.Identities) != c.documents || len(got.Certs) < 1) {
			t.Errorf("%s: %v, expected %s", name, err, c.code)
		}
	}
}

// R104, R115: collateral is recognised by content in every container.
func TestCollateralOfEveryContainerServes(t *testing.T) {
	s := newScene()
	for name, files := range containers(s.intel) {
		s.in.Endorsements = dcaptest.Endorsements(files...)
		v, err := s.verify(t, s.quote())
		if err != nil || v.TCB.Status != dcap.UpToDate || !v.Collateral.RootCRL || !v.Collateral.PCKCRL || len(v.Collateral.Problems) > 0 {
			t.Errorf("%s: %v %+v", name, err, v)
		}
	}
	s.in.Endorsements = append(s.intel.Collateral("SGX"), rats.Endorsement{MediaType: "application/vnd.assay.tpm-enrolment+json", Body: []byte(`{"tcbInfo":1}`)}, rats.Endorsement{Body: []byte("something else")})
	if v, err := s.verify(t, s.quote()); err != nil || len(v.Collateral.Problems) > 0 {
		t.Errorf("others' endorsements: %v %+v", err, v)
	}
}

// A signature is any bytes: those that look like the start of a JSON object once decoded must not be read as one.
func TestSignatureThatLooksLikeADocumentIsNotReadAsOne(t *testing.T) {
	s := newScene()
	for _, first := range []string{"7b", "5b", "30", "2d"} {
		b := []byte(`{"enclaveIdentity":` + string(mustJSON(s.intel.Identity("QE", dcaptest.SVNLevel(6, "UpToDate")))) + `,"signature":"` + first + strings.Repeat("11", 63) + `"}`)
		if c, err := dcap.ParseCollateral(b); err != nil || len(c.Identities) != 1 {
			t.Errorf("%s: %v", first, err)
		}
	}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func TestWhatIsNoCollateralIsRefused(t *testing.T) {
	sig := strings.Repeat("00", 64)
	deep := strings.Repeat(`{"a":`, 50) + `"` + strings.Repeat("x", 100) + `"` + strings.Repeat("}", 50)
	for in, code := range map[string]rats.Code{
		"":                                     dcap.CodeCollateralUnknown.Code,
		"{}":                                   dcap.CodeCollateralUnknown.Code,
		"[]":                                   dcap.CodeCollateralUnknown.Code,
		`{"a":1}`:                              dcap.CodeCollateralUnknown.Code,
		"plain text":                           dcap.CodeCollateralUnknown.Code,
		strings.Repeat("00", 400):              dcap.CodeCollateralUnknown.Code,
		"0\x03abc":                             dcap.CodeCollateralUnknown.Code,
		strings.Repeat(" ", 5<<20):             dcap.CodeCollateralUnknown.Code,
		deep:                                   dcap.CodeCollateralMalformed.Code,
		"{":                                    dcap.CodeCollateralMalformed.Code,
		"[":                                    dcap.CodeCollateralMalformed.Code,
		`{"a":1}x`:                             dcap.CodeCollateralMalformed.Code,
		`{"a":1,"a":1}`:                        dcap.CodeCollateralMalformed.Code,
		"-----BEGIN%20x%zz":                    dcap.CodeCollateralMalformed.Code,
		"-----BEGIN X-----\n-----END X-----\n": dcap.CodeCollateralMalformed.Code,
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n": dcap.CodeCollateralMalformed.Code,
		`{"tcbInfo":{}}`:                                                      dcap.CodeCollateralMalformed.Code,
		`{"tcbInfo":{},"signature":"00"}`:                                     dcap.CodeCollateralMalformed.Code,
		`{"tcbInfo":[],"signature":"` + sig + `"}`:                            dcap.CodeCollateralMalformed.Code,
		`{"tcbInfo":{"version":4},"signature":"` + sig + `"}`:                 dcap.CodeCollateralMalformed.Code,
		`{"enclaveIdentity":{"version":null},"signature":"` + sig + `"}`:      dcap.CodeCollateralMalformed.Code,
		`{"tcbEvaluationDataNumbers":{"id":"SGX"},"signature":"` + sig + `"}`: dcap.CodeCollateralMalformed.Code,
		`{"raw_tcb_info":"{}","signature":[1,2,300]}`:                         dcap.CodeCollateralMalformed.Code,
		`{"tcb_info":"\ud800","tcb_info_signature":"` + sig + `"}`:            dcap.CodeCollateralMalformed.Code,
	} {
		if _, err := dcap.ParseCollateral([]byte(in)); dcaptest.CodeOf(t, err) != code {
			t.Errorf("%.60q: %v, expected %s", in, err, code)
		}
	}
}

func TestPathsOfCertificatesAreVerified(t *testing.T) {
	s := newScene()
	c := func(files ...[]byte) *dcap.Collateral {
		out, err := dcap.ParseCollateral(bytes.Join(files, nil))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	list := func(a *dcaptest.Authority, revoked ...*dcaptest.Authority) []byte {
		var crl []byte
		if len(revoked) > 0 {
			crl = s.intel.CRL(a, revoked[0].Cert)
		} else {
			crl = s.intel.CRL(a)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crl})
	}
	chain := [][]byte{s.machine.PCK.PEM(), s.machine.CA.PEM()}
	for name, x := range map[string]struct {
		c      *dcap.Collateral
		code   rats.Code
		listed bool
	}{
		"without lists": {c(chain...), "", false},
		"with lists":    {c(append(chain, list(s.intel.Root), list(s.machine.CA))...), "", true},
		"revoked leaf":  {c(append(chain, list(s.machine.CA, s.machine.PCK))...), dcap.CodeRevoked.Code, false},
		"revoked CA":    {c(append(chain, list(s.intel.Root, s.machine.CA))...), dcap.CodeRevoked.Code, false},
		"no CA":         {c(chain[0]), dcap.CodeChainRoot.Code, false},
		"foreign list":  {c(append(chain, list(dcaptest.NewIntel(rand.Reader, now).Platform))...), dcap.CodeCRLSignature.Code, false},
	} {
		path, listed, err := s.v.VerifyPath(s.machine.PCK.Cert, x.c, s.intel.Pool(), now)
		if dcaptest.CodeOf(t, err) != x.code || listed != x.listed || err == nil && len(path) != 3 {
			t.Errorf("%s: %v %v", name, err, listed)
		}
	}
	for at, code := range map[int]rats.Code{10: dcap.CodeChainExpired.Code, -10: dcap.CodeChainEarly.Code} {
		if _, _, err := s.v.VerifyPath(s.machine.PCK.Cert, c(chain...), s.intel.Pool(), now.AddDate(at, 0, 0)); dcaptest.CodeOf(t, err) != code {
			t.Errorf("%v", err)
		}
	}
}

func FuzzParseQuote(f *testing.F) {
	s := newScene()
	for _, version := range []uint16{3, 4, 5} {
		f.Add(s.machine.Quote(version, abi.TEESGX, dcaptest.SGXBody(nil).Bytes()))
	}
	f.Add(s.machine.Quote(5, abi.TEETDX, dcaptest.TDBody(nil, true).Bytes()))
	f.Fuzz(func(t *testing.T, b []byte) {
		dcap.Detect(b, abi.TEESGX)
		q, err := dcap.ParseQuote(b)
		if err != nil {
			dcaptest.CodeOf(t, err)
			return
		}
		if !bytes.Equal(q.Encode(), b) {
			t.Error("it is not written as it was read")
		}
		if _, err := s.v.Verify(q, nil, s.in); err != nil {
			dcaptest.CodeOf(t, err)
		}
	})
}

func FuzzParseCollateral(f *testing.F) {
	s := newScene()
	for _, files := range containers(s.intel) {
		for _, b := range files {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := dcap.ParseCollateral(b)
		if err != nil {
			dcaptest.CodeOf(t, err)
			return
		}
		for _, x := range c.TCBInfos {
			_ = s.v.VerifyDocument(x.Raw, x.Signature, c, nil, now)
		}
		for _, cert := range c.Certs[:min(len(c.Certs), 3)] {
			_, _, _ = s.v.VerifyPath(cert, c, nil, now)
			_, _ = dcap.ParsePCK(cert)
		}
	})
}

func ExampleParseQuote() {
	intel := dcaptest.NewIntel(rand.Reader, now)
	b := intel.Machine(4, 5).Quote(4, abi.TEETDX, dcaptest.TDBody([]byte("nonce"), false).Bytes())
	q, err := dcap.ParseQuote(b)
	if err != nil {
		fmt.Println(err)
		return
	}
	body, err := abi.ParseTDBody(q.Body)
	fmt.Printf("version %d, report data %q, %v\n", q.Header.Version, body.ReportData[:5], err)
	// Output: version 4, report data "nonce", <nil>
}
