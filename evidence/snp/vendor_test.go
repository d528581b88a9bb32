package snp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/rats"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// vendor is a maker of processors like AMD, for one product line.
type vendor struct {
	product        snp.Product
	ark, ask, asvk *x509.Certificate
	arkKey, key    *rsa.PrivateKey // the signers share one
}

var vendors sync.Map

func newVendor(t testing.TB, p snp.Product) *vendor {
	t.Helper()
	if v, ok := vendors.Load(p); ok {
		return v.(*vendor)
	}
	v := &vendor{product: p, arkKey: rsaKey(t), key: rsaKey(t)}
	v.ark = v.certify(t, ca("ARK-"+string(p), 1), nil, &v.arkKey.PublicKey, v.arkKey)
	v.ask = v.certify(t, ca("SEV-"+string(p), 2), v.ark, &v.key.PublicKey, v.arkKey)
	v.asvk = v.certify(t, ca("SEV-VLEK-"+string(p), 3), v.ark, &v.key.PublicKey, v.arkKey)
	vendors.Store(p, v)
	return v
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ca(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"Advanced Micro Devices"}},
		NotBefore: now.AddDate(-3, 0, 0), NotAfter: now.AddDate(20, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
}

func (v *vendor) certify(t testing.TB, template, parent *x509.Certificate, pub any, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (v *vendor) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(v.ark)
	return p
}

func (v *vendor) crl(t testing.TB, key crypto.Signer, revoked ...int64) []byte {
	t.Helper()
	list := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: now.AddDate(0, -1, 0), NextUpdate: now.AddDate(1, 0, 0), SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
	for _, s := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: list.ThisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, v.ark, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// chip is a processor: what its certificate says, to be changed by tests.
type chip struct {
	signer  int
	product string // as the certificate names it
	tcb     snp.TCB
	hwid    []byte
	csp     string
	key     *ecdsa.PrivateKey
	public  any // instead of the key's
	from    time.Time
	drop    string // an extension to leave out
	replace map[string][]byte
	issuer  *x509.Certificate
}

func extension(id string, der []byte) pkix.Extension {
	oid := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	for _, n := range strings.Split(id, ".") {
		oid = append(oid, int(n[0]-'0'))
	}
	return pkix.Extension{Id: oid, Value: der}
}

func der(t testing.TB, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v *vendor) leaf(t testing.TB, c chip) *x509.Certificate {
	t.Helper()
	name, issuer := "SEV-VCEK", v.ask
	if c.signer == snp.SignerVLEK {
		name, issuer = "SEV-VLEK", v.asvk
	}
	if c.issuer != nil {
		issuer = c.issuer
	}
	exts := map[string][]byte{
		"1": der(t, 0, ""), "2": der(t, c.product, "ia5"), "3.1": der(t, int(c.tcb.Bootloader), ""), "3.2": der(t, int(c.tcb.TEE), ""),
		"3.3": der(t, int(c.tcb.SNP), ""), "3.8": der(t, int(c.tcb.Microcode), ""), "3.9": der(t, int(c.tcb.FMC), ""), "4": c.hwid,
	}
	if c.signer == snp.SignerVLEK {
		delete(exts, "4")
		exts["5"] = der(t, c.csp, "ia5")
	}
	delete(exts, c.drop)
	for id, b := range c.replace {
		exts[id] = b
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: c.from, NotAfter: c.from.AddDate(7, 0, 0),
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
	for id, b := range exts {
		template.ExtraExtensions = append(template.ExtraExtensions, extension(id, b))
	}
	var pub any = &c.key.PublicKey
	if c.public != nil {
		pub = c.public
	}
	return v.certify(t, template, issuer, pub, v.key)
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// guest is one attestation by a fake platform, to be changed by tests before it is made.
type guest struct {
	t       testing.TB
	vendor  *vendor
	chip    chip
	report  snp.Report
	patch   func([]byte)               // of the report before it is signed
	tamper  func([]byte) []byte        // of the body after
	endorse func([][]byte) [][]byte    // of the endorsements
	inputs  func(*rats.Inputs)         // of everything else
	change  func(*rats.Evidence)       // of the evidence
	wrap    func(report []byte) []byte // into a paravisor's report
	prepare func(report *snp.Report)   // late, when the binding is known
	crl     func(g *guest) []byte      // nil: a current one
	bind    func(t testing.TB) rats.Binding
}

func manifest(t testing.TB, keys ...rats.BoundKey) rats.Binding {
	t.Helper()
	b, err := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("verifier")),
		Nonce: bytes.Repeat([]byte{1}, 32), Instance: bytes.Repeat([]byte{2}, 16),
		Keys: append(keys, rats.BoundKey{Use: rats.KeyTLS, Public: []byte("spki")}), Formats: []rats.Format{snp.Format},
	}.Bind()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var tcb = snp.TCB{Bootloader: 4, TEE: 1, SNP: 24, Microcode: 219}

func newGuest(t testing.TB, p snp.Product, version uint32) *guest {
	t.Helper()
	numbers, id := tcb, bytes.Repeat([]byte{0xc1}, 64)
	if p == snp.Turin {
		numbers.FMC, id = 3, bytes.Repeat([]byte{0xc1}, 8)
	}
	g := &guest{t: t, vendor: newVendor(t, p), chip: chip{
		product: string(p) + "-B1", tcb: numbers, hwid: id, csp: "cloud", key: ecKey(t, elliptic.P384()), from: now.AddDate(-1, 0, 0),
	}}
	raw := numbers.Raw(p)
	g.report = snp.Report{
		Version: version, GuestSVN: 7, Policy: 0x30000 | 51 | 1<<8, SigAlgo: 1, CurrentTCB: raw, ReportedTCB: raw, CommittedTCB: raw, LaunchTCB: raw,
		PlatformInfo: 0x25, Measurement: [48]byte(bytes.Repeat([]byte{0xaa}, 48)), HostData: [32]byte(bytes.Repeat([]byte{0xdd}, 32)),
		FamilyID: [16]byte(bytes.Repeat([]byte{1}, 16)), ImageID: [16]byte(bytes.Repeat([]byte{2}, 16)), ReportIDMA: [32]byte(bytes.Repeat([]byte{0xff}, 32)),
		Current: snp.Build{Build: 40, Minor: 55, Major: 1}, Committed: snp.Build{Build: 40, Minor: 55, Major: 1},
	}
	copy(g.report.ChipID[:], id)
	if version >= 3 {
		cpu := map[snp.Product][2]byte{snp.Milan: {0x19, 1}, snp.Genoa: {0x19, 0xa0}, snp.Turin: {0x1a, 2}}[p]
		g.report.CPUFamily, g.report.CPUModel, g.report.CPUStepping = cpu[0], cpu[1], 1
	}
	if version >= 4 {
		g.report.LaunchMit, g.report.CurrentMit = 1, 3
	}
	return g
}

// make signs the report and returns it with what is needed to verify it.
func (g *guest) make() (rats.Evidence, rats.Inputs) {
	g.t.Helper()
	binding := manifest(g.t)
	if g.bind != nil {
		binding = g.bind(g.t)
	}
	copy(g.report.ReportData[:], binding.UserData)
	if g.prepare != nil {
		g.prepare(&g.report)
	}
	body := g.report.Bytes()
	if g.patch != nil {
		g.patch(body)
	}
	signReport(g.t, body, g.chip.key)
	if g.wrap != nil {
		body = g.wrap(body)
	}
	if g.tamper != nil {
		body = g.tamper(body)
	}
	crl := g.vendor.crl(g.t, g.vendor.arkKey)
	if g.crl != nil {
		crl = g.crl(g)
	}
	docs := [][]byte{g.vendor.leaf(g.t, g.chip).Raw, chainPEM(g.vendor), crl, []byte("something else"), []byte(`{"other":1}`)}
	if g.endorse != nil {
		docs = g.endorse(docs)
	}
	in := rats.Inputs{Binding: binding, Now: now, Anchors: g.vendor.pool()}
	for _, d := range docs {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{Body: d})
	}
	e := rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: body}
	if g.change != nil {
		g.change(&e)
	}
	if g.inputs != nil {
		g.inputs(&in)
	}
	return e, in
}

func signReport(t testing.TB, body []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	sum := sha512.Sum384(body[:0x2a0])
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	for at, n := range map[int]*big.Int{0x2a0: r, 0x2e8: s} {
		b := n.FillBytes(make([]byte, 72))
		slices.Reverse(b)
		copy(body[at:], b)
	}
}

func chainPEM(v *vendor) []byte {
	var b []byte
	for _, c := range []*x509.Certificate{v.ask, v.asvk, v.ark} {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

func (g *guest) verify() (rats.Verified, error) {
	g.t.Helper()
	e, in := g.make()
	return snp.New().Verify(g.t.Context(), e, in)
}

// table makes a certificate table: GUIDs, offsets, lengths, data.
func table(t testing.TB, entries ...snp.CertEntry) []byte {
	t.Helper()
	head := make([]byte, 24*(len(entries)+1))
	out := head
	for i, e := range entries {
		id := strings.ReplaceAll(e.GUID, "-", "")
		for j := range 16 {
			n, _ := new(big.Int).SetString(id[2*j:2*j+2], 16)
			head[24*i+j] = byte(n.Int64())
		}
		binary.LittleEndian.PutUint32(head[24*i+16:], uint32(len(out)))
		binary.LittleEndian.PutUint32(head[24*i+20:], uint32(len(e.Data)))
		out = append(out, e.Data...)
		copy(out, head)
	}
	return out
}
