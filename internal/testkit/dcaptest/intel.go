package dcaptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Authority is a certificate of the fake Intel with its key.
type Authority struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// PEM returns the certificate as a PEM block.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})
}

// Intel is a fake of Intel's certification: the same names and profiles as the real one, under a root of its own. All it
// makes is valid from a day before Now to a month after, certificates for ten years around.
type Intel struct {
	Rand      io.Reader
	Now       time.Time
	Root      *Authority
	Processor *Authority
	Platform  *Authority
	Signer    *Authority // of TCB infos and identities
	serial    int64
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("faking Intel: %v", err))
	}
	return v
}

// NewIntel makes keys and certificates.
func NewIntel(rand io.Reader, now time.Time) *Intel {
	i := &Intel{Rand: rand, Now: now.UTC().Truncate(time.Second)}
	i.Root = i.Issue(nil, "Intel SGX Root CA", true, nil)
	i.Processor = i.Issue(i.Root, "Intel SGX PCK Processor CA", true, nil)
	i.Platform = i.Issue(i.Root, "Intel SGX PCK Platform CA", true, nil)
	i.Signer = i.Issue(i.Root, "Intel SGX TCB Signing", false, nil)
	return i
}

// Pool returns the fake root as trust anchor.
func (i *Intel) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(i.Root.Cert)
	return p
}

// Issue makes a key and its certificate; change may alter the template. No parent makes it sign itself.
func (i *Intel) Issue(parent *Authority, name string, ca bool, change func(*x509.Certificate)) *Authority {
	i.serial++
	a := &Authority{Key: must(ecdsa.GenerateKey(elliptic.P256(), i.Rand))}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1000 + i.serial), Subject: subject(name), NotBefore: i.Now.AddDate(-5, 0, 0), NotAfter: i.Now.AddDate(5, 0, 0),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if change != nil {
		change(t)
	}
	signer := a
	issuer := t
	if parent != nil {
		signer, issuer = parent, parent.Cert
	}
	a.Cert = must(x509.ParseCertificate(must(x509.CreateCertificate(i.Rand, t, issuer, &a.Key.PublicKey, signer.Key))))
	return a
}

func subject(name string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: []string{"Intel Corporation"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"}, Country: []string{"US"}}
}

// Sign makes an ECDSA signature r ‖ s over SHA-256.
func (i *Intel) Sign(a *Authority, b []byte) []byte { return signRS(i.Rand, a.Key, b) }

func signRS(rand io.Reader, key *ecdsa.PrivateKey, b []byte) []byte {
	digest := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand, key, digest[:])
	if err != nil {
		panic(err)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

// CRL makes a revocation list of an authority.
func (i *Intel) CRL(a *Authority, revoked ...*x509.Certificate) []byte {
	return i.CRLAt(a, i.Now.AddDate(0, 0, -1), revoked...)
}

// CRLAt makes a revocation list that is valid for a month from a time.
func (i *Intel) CRLAt(a *Authority, from time.Time, revoked ...*x509.Certificate) []byte {
	i.serial++
	t := &x509.RevocationList{Number: big.NewInt(i.serial), ThisUpdate: from, NextUpdate: from.AddDate(0, 1, 0)}
	for _, c := range revoked {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: from})
	}
	return must(x509.CreateRevocationList(i.Rand, t, a.Cert, a.Key))
}

// EndlessCRL makes a revocation list that doesn't say when it ends.
func (i *Intel) EndlessCRL(a *Authority) []byte {
	list := must(x509.ParseRevocationList(i.CRL(a)))
	var tbs struct {
		Version    int `asn1:"optional,default:0"`
		Alg        pkix.AlgorithmIdentifier
		Issuer     asn1.RawValue
		ThisUpdate time.Time
		Next       time.Time                 `asn1:"optional"`
		Revoked    []pkix.RevokedCertificate `asn1:"optional"`
		Extensions []pkix.Extension          `asn1:"tag:0,optional,explicit"`
	}
	must(asn1.Unmarshal(list.RawTBSRevocationList, &tbs))
	tbs.Next = time.Time{}
	raw := must(asn1.Marshal(tbs))
	digest := sha256.Sum256(raw)
	sig := must(ecdsa.SignASN1(i.Rand, a.Key, digest[:]))
	return must(asn1.Marshal(struct {
		TBS asn1.RawValue
		Alg pkix.AlgorithmIdentifier
		Sig asn1.BitString
	}{asn1.RawValue{FullBytes: raw}, tbs.Alg, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}}))
}

// Document signs a document and wraps it as Intel's service does.
func (i *Intel) Document(name string, body any) []byte {
	raw := must(json.Marshal(body))
	return []byte(fmt.Sprintf(`{%q:%s,"signature":%q}`, name, raw, hex.EncodeToString(i.Sign(i.Signer, raw))))
}

// Object is a JSON object that tests alter.
type Object map[string]any

// With returns a copy with some fields replaced; a nil value removes the field.
func (o Object) With(changes Object) Object {
	out := Object{}
	for k, v := range o {
		out[k] = v
	}
	for k, v := range changes {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

func (i *Intel) dates() Object {
	return Object{
		"issueDate":               i.Now.AddDate(0, 0, -1).Format("2006-01-02T15:04:05Z"),
		"nextUpdate":              i.Now.AddDate(0, 1, -1).Format("2006-01-02T15:04:05Z"),
		"tcbEvaluationDataNumber": 17,
	}
}

// Level is a TCB level of a TCB info.
func Level(sgx, tdx byte, pcesvn int, status string, advisories ...string) Object {
	list := func(svn byte) []Object {
		out := make([]Object, 16)
		for i := range out {
			out[i] = Object{"svn": svn}
		}
		return out
	}
	return Object{
		"tcb":     Object{"sgxtcbcomponents": list(sgx), "tdxtcbcomponents": list(tdx), "pcesvn": pcesvn},
		"tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": append([]string{}, advisories...),
	}
}

// SVNLevel is a level of an identity.
func SVNLevel(svn int, status string, advisories ...string) Object {
	return Object{"tcb": Object{"isvsvn": svn}, "tcbDate": "2024-02-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": append([]string{}, advisories...)}
}

// TCBInfo returns a TCB info of the machines of this fake; id is SGX or TDX.
func (i *Intel) TCBInfo(id string, levels ...Object) Object {
	zero := func(n int) string { return hex.EncodeToString(make([]byte, n)) }
	o := i.dates().With(Object{
		"id": id, "version": 3, "fmspc": hex.EncodeToString(fmspc[:]), "pceId": "0000", "tcbType": 0, "tcbLevels": levels,
	})
	if id == "TDX" {
		o["tdxModule"] = Object{"mrsigner": zero(48), "attributes": zero(8), "attributesMask": "FFFFFFFFFFFFFFFF"}
		o["tdxModuleIdentities"] = []Object{Module(1, SVNLevel(5, "UpToDate"), SVNLevel(3, "OutOfDate", "INTEL-SA-00003"), SVNLevel(1, "Revoked"))}
	}
	return o
}

// Module is an identity of TDX modules of a major version.
func Module(major int, levels ...Object) Object {
	return Object{
		"id": fmt.Sprintf("TDX_%02X", major), "mrsigner": hex.EncodeToString(make([]byte, 48)), "attributes": hex.EncodeToString(make([]byte, 8)),
		"attributesMask": "FFFFFFFFFFFFFFFF", "tcbLevels": levels,
	}
}

// Identity returns the identity of the quoting enclave of this fake; id is QE or TD_QE.
func (i *Intel) Identity(id string, levels ...Object) Object {
	return i.dates().With(Object{
		"id": id, "version": 2, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
		"mrsigner": hex.EncodeToString(qeSigner[:]), "isvprodid": 1, "tcbLevels": levels,
	})
}

// Collateral returns everything a verifier needs for an up-to-date machine of this fake; id is SGX or TDX.
func (i *Intel) Collateral(id string) []rats.Endorsement {
	return i.Endorse(i.TCBInfo(id, Level(4, 4, 5, "UpToDate"), Level(2, 2, 3, "OutOfDate", "INTEL-SA-00001")), i.Identity(QEOf(id), SVNLevel(6, "UpToDate"), SVNLevel(3, "OutOfDate", "INTEL-SA-00002")))
}

// QEOf names the quoting enclave of a technology.
func QEOf(id string) string {
	if id == "TDX" {
		return "TD_QE"
	}
	return "QE"
}

// Endorse signs a TCB info and an identity and adds the signer's chain and both revocation lists.
func (i *Intel) Endorse(info, identity Object) []rats.Endorsement {
	return Endorsements(i.Document("tcbInfo", info), i.Document("enclaveIdentity", identity), slices.Concat(i.Signer.PEM(), i.Root.PEM()), i.CRL(i.Root), i.CRL(i.Processor), i.CRL(i.Platform))
}

// Endorsements wraps files of collateral.
func Endorsements(files ...[]byte) (out []rats.Endorsement) {
	for _, f := range files {
		out = append(out, rats.Endorsement{Body: f})
	}
	return out
}

var (
	fmspc    = [6]byte{0x00, 0xfa, 0xce, 0, 0, 0}
	qeSigner = [32]byte{0xfa, 0xce}
	oidSGX   = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
)

type item struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// SGXExtension returns the extension of a PCK certificate whose TCB components are all svn.
func SGXExtension(svn, pcesvn int) pkix.Extension {
	sub := func(n ...int) asn1.ObjectIdentifier { return append(slices.Clone(oidSGX), n...) }
	var tcb []item
	cpusvn := make([]byte, 16)
	for n := range 16 {
		tcb = append(tcb, item{sub(2, n+1), svn})
		cpusvn[n] = byte(svn)
	}
	tcb = append(tcb, item{sub(2, 17), pcesvn}, item{sub(2, 18), cpusvn})
	list := []item{{sub(1), make([]byte, 16)}, {sub(2), tcb}, {sub(3), make([]byte, 2)}, {sub(4), fmspc[:]}, {sub(5), asn1.Enumerated(1)}}
	return pkix.Extension{Id: oidSGX, Value: must(asn1.Marshal(list))}
}
