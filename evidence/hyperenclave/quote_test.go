package hyperenclave

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/smx509"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// raw signs by SM2 and returns r ‖ s; without an id as a TPM does.
func raw(key *sm2.PrivateKey, id, message []byte) (out [64]byte) {
	h := sm3.New()
	if id != nil {
		h.Write(must(sm2.CalculateZA(&key.PublicKey, id)))
	}
	h.Write(message)
	var sig struct{ R, S *big.Int }
	must(asn1.Unmarshal(must(sm2.SignASN1(rand.Reader, key, h.Sum(nil), nil)), &sig))
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out
}

func point(key *sm2.PrivateKey) (out [64]byte) {
	key.X.FillBytes(out[:32])
	key.Y.FillBytes(out[32:])
	return out
}

// machine is an authority, a TPM and a monitor that make quotes of the published layout; its hooks change one thing before
// it is signed.
type machine struct {
	ca, ak, monitor *sm2.PrivateKey
	anchor          []byte

	template  func(*x509.Certificate)
	baseline  func([]byte) []byte // the extension's value
	statement func([]byte)
	body      func(*abi.ReportBody)
	id        []byte // the monitor's user id
	tpmID     []byte
	issuer    *sm2.PrivateKey // that signs the certificate instead of ca
	named     [64]byte        // the monitor's key as measured
}

var authority = &x509.Certificate{
	SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "SM2 CA"}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
	IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{ca: must(sm2.GenerateKey(rand.Reader)), ak: must(sm2.GenerateKey(rand.Reader)), monitor: must(sm2.GenerateKey(rand.Reader)), id: monitorID}
	m.anchor = must(smx509.CreateCertificate(rand.Reader, authority, authority, &m.ca.PublicKey, m.ca))
	m.named, m.issuer = point(m.monitor), m.ca
	return m
}

func sum(b ...[]byte) []byte {
	h := sm3.New()
	for _, p := range b {
		h.Write(p)
	}
	return h.Sum(nil)
}

var pcrDigest = sum([]byte("PCRs 0 to 9, 12 and 13"))

func (m *machine) certificate() []byte {
	values := append(append(append([]byte(nil), pcrDigest...), make([]byte, 32)...), sum(make([]byte, 32), sum(m.named[:]))...)
	value := must(asn1.MarshalWithParams(base64.StdEncoding.EncodeToString(values), "utf8"))
	if m.baseline != nil {
		value = m.baseline(value)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "AK"}, NotBefore: noon.AddDate(0, -1, 0), NotAfter: noon.AddDate(0, 1, 0),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if value != nil {
		leaf.ExtraExtensions = []pkix.Extension{{Id: oidBaseline, Value: value}}
	}
	var public any = &m.ak.PublicKey
	if m.template != nil {
		m.template(leaf)
		if leaf.PublicKey != nil {
			public = leaf.PublicKey
		}
	}
	return must(smx509.CreateCertificate(rand.Reader, leaf, authority, public, m.issuer))
}

func (m *machine) attest(reportData []byte) (b [147]byte) {
	be := binary.BigEndian
	be.PutUint32(b[0:], 0xff544347)
	be.PutUint16(b[4:], 0x8018)
	be.PutUint16(b[6:], 34)
	be.PutUint16(b[8:], algSM3)
	copy(b[10:], sum([]byte("name")))
	be.PutUint16(b[42:], 34)
	be.PutUint16(b[44:], algSM3)
	copy(b[46:], sum(reportData))
	be.PutUint64(b[78:], 12345)
	be.PutUint32(b[86:], 7)
	be.PutUint32(b[90:], 3)
	b[94] = 1
	be.PutUint64(b[95:], 0x2001)
	be.PutUint32(b[103:], 1)
	be.PutUint16(b[107:], algSM3)
	b[109] = 3
	copy(b[110:], quotedPCRs[:])
	be.PutUint16(b[113:], 32)
	copy(b[115:], pcrDigest)
	if m.statement != nil {
		m.statement(b[:])
	}
	return b
}

// quote makes a quote over report data.
func (m *machine) quote(t testing.TB, reportData []byte) []byte {
	t.Helper()
	var q abi.HyperEnclaveQuote
	q.Head.Version, q.Head.SignType = 1, 4
	r := &q.Head.Body
	copy(r.MRENCLAVE[:], sum([]byte("enclave")))
	copy(r.MRSIGNER[:], sum([]byte("signer")))
	r.ISVProdID, r.ISVSVN = 7, 3
	copy(r.ReportData[:], reportData)
	if m.body != nil {
		m.body(r)
	}
	q.Attest = m.attest(r.ReportData[:])
	q.Key = point(m.monitor)
	q.Certificate = m.certificate()
	q.SignatureLen = uint32(339 + len(q.Certificate))
	q.Signature = raw(m.monitor, m.id, q.Bytes()[48:432])
	q.TPMSignature = raw(m.ak, m.tpmID, q.Attest[:])
	return q.Bytes()
}

var reportData = sum([]byte("challenge"))

func evidenceOf(b []byte) rats.Evidence {
	return rats.Evidence{Format: Format, MediaType: MediaType, Body: b}
}

func (m *machine) inputs() rats.Inputs {
	return rats.Inputs{
		Binding: rats.Binding{Profile: rats.ProfileRaw, UserData: reportData}, Now: noon,
		Endorsements: []rats.Endorsement{{MediaType: "text/plain"}, {MediaType: MediaTypeAnchor, Body: m.anchor}},
	}
}

var update = flag.Bool("update", false, "make the quote in testdata again")

// recorded returns the quote and the authority's certificate that tests of other packages and the example use. They are of
// this package's own making, by keys that were thrown away.
func recorded(t testing.TB) (quote, anchor []byte) {
	t.Helper()
	if *update {
		m := newMachine(t)
		for name, b := range map[string][]byte{"quote.bin": m.quote(t, reportData), "anchor.der": m.anchor} {
			if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return must(os.ReadFile(filepath.Join("testdata", "quote.bin"))), must(os.ReadFile(filepath.Join("testdata", "anchor.der")))
}

func TestRecordedQuoteVerifies(t *testing.T) {
	quote, anchor := recorded(t)
	in := (&machine{anchor: anchor}).inputs()
	if _, err := New().Verify(t.Context(), evidenceOf(quote), in); err != nil {
		t.Error(err)
	}
}
