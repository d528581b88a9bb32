package snp_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/rats"
)

// paravisor puts a guest behind a fake of Azure's paravisor.
type paravisor struct {
	ak       *rsa.PublicKey
	userData []byte
	runtime  string // instead of the usual
	hash     uint32
	patch    func([]byte)
}

func (p *paravisor) jwk(kid string) string {
	return fmt.Sprintf(`{"kid":%q,"key_ops":["sign"],"kty":"RSA","e":%q,"n":%q}`, kid,
		base64.RawURLEncoding.EncodeToString(big.NewInt(int64(p.ak.E)).Bytes()), base64.RawURLEncoding.EncodeToString(p.ak.N.Bytes()))
}

func (p *paravisor) json() string {
	if p.runtime != "" {
		return p.runtime
	}
	return fmt.Sprintf(`{"keys":[%s],"vm-configuration":{"console-enabled":true,"secure-boot":true,"tpm-enabled":true,"vmUniqueId":"vm"},"user-data":"%x"}`,
		p.jwk("HCLAkPub"), append(bytes.Clone(p.userData), make([]byte, 64-len(p.userData))...))
}

func (p *paravisor) wrap(report []byte) []byte {
	text := p.json()
	b := make([]byte, 1236, 2600)
	copy(b, "HCLA")
	for at, n := range map[int]uint32{
		4: 2, 8: uint32(1236 + len(text)), 12: 2, 1216: uint32(20 + len(text)), 1220: 1, 1224: 2, 1228: p.hash, 1232: uint32(len(text)),
	} {
		binary.LittleEndian.PutUint32(b[at:], n)
	}
	copy(b[32:], report)
	b = append(b, text...)
	b = append(b, make([]byte, 100)...)
	if p.patch != nil {
		p.patch(b)
	}
	return b
}

func newParavisor(t testing.TB, g *guest) *paravisor {
	t.Helper()
	p := &paravisor{ak: &newVendor(t, snp.Milan).key.PublicKey, hash: 1}
	g.prepare = func(r *snp.Report) {
		r.ReportData = [64]byte{}
		switch p.hash {
		case 1:
			s := sha256.Sum256([]byte(p.json()))
			copy(r.ReportData[:], s[:])
		case 2:
			s := sha512.Sum384([]byte(p.json()))
			copy(r.ReportData[:], s[:])
		case 3:
			s := sha512.Sum512([]byte(p.json()))
			copy(r.ReportData[:], s[:])
		}
	}
	g.wrap = p.wrap
	g.change = func(e *rats.Evidence) { e.MediaType = snp.MediaTypeHCL }
	return p
}

func spki(t testing.TB, k *rsa.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func withAK(ak []byte) func(*rats.Inputs) {
	return func(in *rats.Inputs) { in.Facts.Keys = []rats.BoundKey{{Use: snp.KeyAK, Public: ak}} }
}

// S01, R116: a paravisor's report belongs to the exchange only through the key it names, or the user data it includes.
func TestParavisorReportIsLinkedByItsAttestationKey(t *testing.T) {
	g := newGuest(t, snp.Milan, 2)
	p := newParavisor(t, g)
	ak := spki(t, p.ak)
	g.inputs = withAK(ak)
	v, err := g.verify()
	if err != nil {
		t.Fatal(err)
	}
	c := v.Claims.(*snp.Claims)
	if c.Binding != snp.BoundAKQuote || c.HCL == nil || !c.HCL.SecureBoot || !c.HCL.Bound || !c.HCL.AK.Equal(rats.SHA256(ak)) {
		t.Errorf("claims: %+v, %+v", c.Binding, c.HCL)
	}
	if len(v.Links) != 1 || v.Links[0] != (rats.Link{From: "tpm", To: snp.Format, Kind: rats.LinkAKInReport}) {
		t.Errorf("links: %v", v.Links)
	}
	if k, ok := v.Facts.Key(snp.KeyAK); !ok || !bytes.Equal(k.Public, ak) {
		t.Error("the attestation key is not among the facts")
	}
}

func TestParavisorReportWithTheUserDataInItNeedsNoQuoteAndHasNoLink(t *testing.T) {
	for _, hash := range []uint32{1, 2, 3} {
		g := newGuest(t, snp.Milan, 2)
		p := newParavisor(t, g)
		p.hash, p.userData = hash, manifest(t).UserData
		v, err := g.verify()
		if err != nil {
			t.Fatal(err)
		}
		if c := v.Claims.(*snp.Claims); c.Binding != snp.BoundUserData || len(v.Links) != 0 {
			t.Errorf("binding %s, links %v", c.Binding, v.Links)
		}
	}
}

func TestParavisorReportsThatDoNotHoldTogetherAreRefused(t *testing.T) {
	type change func(t *testing.T, g *guest, p *paravisor)
	patch := func(at int, n uint32) change {
		return func(_ *testing.T, _ *guest, p *paravisor) {
			p.patch = func(b []byte) { binary.LittleEndian.PutUint32(b[at:], n) }
		}
	}
	runtime := func(text func(p *paravisor) string) change {
		return func(_ *testing.T, _ *guest, p *paravisor) { p.runtime = text(p) }
	}
	for name, c := range map[string]struct {
		change change
		want   rats.CodeInfo
	}{
		"another magic":  {func(_ *testing.T, _ *guest, p *paravisor) { p.patch = func(b []byte) { b[0] = 'X' } }, snp.CodeMalformed},
		"version 3":      {patch(4, 3), hcl.CodeMalformed},
		"another size":   {patch(8, 9), hcl.CodeMalformed},
		"data too large": {patch(1232, 0xffffffff), hcl.CodeMalformed},
		"data beyond":    {func(_ *testing.T, g *guest, _ *paravisor) { g.tamper = func(b []byte) []byte { return b[:len(b)-101] } }, hcl.CodeMalformed},
		"header only":    {func(_ *testing.T, g *guest, _ *paravisor) { g.tamper = func(b []byte) []byte { return b[:1230] } }, hcl.CodeMalformed},
		"other tail":     {func(_ *testing.T, g *guest, _ *paravisor) { g.tamper = func(b []byte) []byte { return append(b, 1) } }, hcl.CodeMalformed},
		"unknown report": {patch(1224, 5), hcl.CodeMalformed},
		"unknown hash":   {patch(1228, 4), hcl.CodeMalformed},
		"a TD report":    {func(_ *testing.T, g *guest, p *paravisor) { g.wrap = tdWrap(p) }, hcl.CodeKind},
		"TD, unbound":    {patch(1224, 4), hcl.CodeUnbound},
		"altered data": {func(_ *testing.T, g *guest, _ *paravisor) {
			g.tamper = func(b []byte) []byte { b[1300] ^= 1; return b }
		}, hcl.CodeUnbound},
		"data is no JSON":   {runtime(func(*paravisor) string { return "{" }), hcl.CodeMalformed},
		"data is odd JSON":  {runtime(func(*paravisor) string { return `{"keys":5}` }), hcl.CodeMalformed},
		"user data not hex": {runtime(func(*paravisor) string { return `{"user-data":"xy"}` }), hcl.CodeMalformed},
		"no key":            {runtime(func(*paravisor) string { return `{"keys":[]}` }), hcl.CodeKey},
		"key twice":         {runtime(func(p *paravisor) string { return `{"keys":[` + p.jwk("HCLAkPub") + "," + p.jwk("HCLAkPub") + `]}` }), hcl.CodeKey},
		"weak key":          {runtime(func(*paravisor) string { return `{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"AQAB"}]}` }), hcl.CodeKey},
		"unlinked":          {func(_ *testing.T, g *guest, _ *paravisor) { g.inputs = nil }, hcl.CodeUnlinked},
		"other TPM":         {func(t *testing.T, g *guest, _ *paravisor) { g.inputs = withAK(spki(t, &rsaKey(t).PublicKey)) }, hcl.CodeOtherAK},
		// S01: whoever writes the manifest must not be able to vouch for a TPM's key.
		"key in manifest": {func(t *testing.T, g *guest, p *paravisor) {
			g.bind = func(t testing.TB) rats.Binding {
				return manifest(t, rats.BoundKey{Use: snp.KeyAK, Public: spki(t, p.ak)})
			}
		}, hcl.CodeBinding},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, snp.Milan, 2)
			p := newParavisor(t, g)
			g.inputs = withAK(spki(t, p.ak))
			c.change(t, g, p)
			if _, err := g.verify(); !hasCode(err, c.want) {
				t.Errorf("got %v, want %s", err, c.want.Code)
			}
		})
	}
}

// tdWrap makes a paravisor's report of a TDX guest, whose report data is right.
func tdWrap(p *paravisor) func([]byte) []byte {
	return func([]byte) []byte {
		td := make([]byte, 1184)
		td[0] = 0x81
		s := sha256.Sum256([]byte(p.json()))
		copy(td[128:], s[:])
		b := p.wrap(td)
		binary.LittleEndian.PutUint32(b[1224:], 4)
		return b
	}
}

func TestAttestersJSONIsImported(t *testing.T) {
	g := newGuest(t, snp.Milan, 2)
	newParavisor(t, g)
	e, _ := g.make()
	leaf := g.vendor.leaf(t, g.chip).Raw
	text := fmt.Sprintf(`{"version":2,"hcl_report":%q,"vcek":%q,"tpm_quote":{"message":"ff54","signature":"00","pcrs":["%s"]},"td_quote":%q}`,
		base64.RawURLEncoding.EncodeToString(e.Body), base64.RawURLEncoding.EncodeToString(leaf), strings.Repeat("00", 32), base64.RawURLEncoding.EncodeToString([]byte("quote")))
	a, err := snp.ParseAzure([]byte(text))
	if err != nil || !bytes.Equal(a.HCL, e.Body) || !bytes.Equal(a.VCEK, leaf) || len(a.TPMQuote.PCRs) != 1 || string(a.TDQuote) != "quote" {
		t.Fatalf("%v", err)
	}
	got, err := snp.Import([]byte(text))
	if p, ok := got.Part(snp.PartCerts); err != nil || got.MediaType != snp.MediaTypeHCL || !ok || !bytes.Equal(p.Data, leaf) {
		t.Errorf("%v", err)
	}
	if got, err := snp.Import([]byte(hex.EncodeToString(e.Body))); err != nil || got.MediaType != snp.MediaTypeHCL {
		t.Errorf("hex: %v", err)
	}
}
