package fakevendor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
)

// The names of the two CAs that certify platforms.
const (
	PlatformCA  = "platform"
	ProcessorCA = "processor"
)

// Intel certifies platforms and says what they are worth.
type Intel struct {
	Root, Platforms, Processors, TCBSigner *Authority

	rand io.Reader
	now  func() time.Time

	mu    sync.Mutex
	known map[[6]byte]*Platform
}

func intelName(cn string) pkix.Name {
	return pkix.Name{
		CommonName: cn, Organization: []string{"Intel Corporation"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"}, Country: []string{"US"},
	}
}

// NewIntel makes an Intel whose certificates started a year ago.
func NewIntel(rand io.Reader, now func() time.Time) *Intel {
	i := &Intel{rand: rand, now: now, known: make(map[[6]byte]*Platform)}
	start := now().AddDate(-1, 0, 0)
	make := func(cn string, issuer *Authority, ca bool, years int) *Authority {
		return issue(rand, KeyP256(rand), issuer, request{
			subject: intelName(cn), ca: ca, from: start, to: start.AddDate(years, 0, 0), alg: x509.ECDSAWithSHA256,
			points: []string{"https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"},
		})
	}
	i.Root = make("Intel SGX Root CA", nil, true, rootYears)
	i.Platforms = make("Intel SGX PCK Platform CA", i.Root, true, rootYears-5)
	i.Processors = make("Intel SGX PCK Processor CA", i.Root, true, rootYears-5)
	i.TCBSigner = make("Intel SGX TCB Signing", i.Root, false, leafYears)
	return i
}

// Misnamed returns the same Intel with a signer of documents of another name.
func (i *Intel) Misnamed(cn string) *Intel {
	out := &Intel{Root: i.Root, Platforms: i.Platforms, Processors: i.Processors, rand: i.rand, now: i.now, known: make(map[[6]byte]*Platform)}
	out.TCBSigner = issue(i.rand, KeyP256(i.rand), i.Root, request{
		subject: intelName(cn), from: i.TCBSigner.Cert.NotBefore, to: i.TCBSigner.Cert.NotAfter, alg: x509.ECDSAWithSHA256,
	})
	return out
}

// CA returns the authority of a name.
func (i *Intel) CA(name string) *Authority {
	if name == ProcessorCA {
		return i.Processors
	}
	return i.Platforms
}

// Anchors returns the root as trust anchors.
func (i *Intel) Anchors() *x509.CertPool { return Pool(i.Root.Cert) }

// PCKChain returns the issuer chain of platforms' certificates.
func (i *Intel) PCKChain(ca string) []byte { return PEM(i.CA(ca).Cert, i.Root.Cert) }

// TCBChain returns the issuer chain of signed documents.
func (i *Intel) TCBChain() []byte { return PEM(i.TCBSigner.Cert, i.Root.Cert) }

// Enclave is what names a quoting enclave.
type Enclave struct {
	MRENCLAVE, MRSIGNER [32]byte
	ISVProdID, ISVSVN   uint16
}

// The quoting enclaves that machines have, and the enclave that verifies quotes.
var (
	standardQE   = Enclave{sha256.Sum256([]byte("qe")), sha256.Sum256([]byte("intel")), 1, 8}
	standardTDQE = Enclave{sha256.Sum256([]byte("td qe")), sha256.Sum256([]byte("intel")), 2, 4}
	standardQVE  = Enclave{sha256.Sum256([]byte("qve")), sha256.Sum256([]byte("intel")), 2, 7}
)

// PlatformSpec is what a machine's certificate will say.
type PlatformSpec struct {
	CA          string // PlatformCA, ProcessorCA
	FMSPC       [6]byte
	PCEID       [2]byte
	PPID        [16]byte
	Components  [16]byte
	PCESVN      uint16
	CPUSVN      [16]byte
	Type        int // 0 standard, 1 scalable, 2 scalable with integrity
	Instance    []byte
	QE, TDQE    Enclave
	Certificate func(*x509.Certificate) // the last word on the certificate
	Issuer      *Authority              // issues instead of the CA
}

// Platform is a machine with SGX and TDX.
type Platform struct {
	PlatformSpec
	PCK *Authority

	intel *Intel
}

// Platform makes a machine and has it certified. Unless changed it is certified by the platform CA, up to date, and of an
// FMSPC of its own.
func (i *Intel) Platform(changes ...func(*PlatformSpec)) *Platform {
	s := PlatformSpec{
		CA: PlatformCA, Components: [16]byte{7, 9, 3, 3, 255, 255, 1, 0, 2}, PCESVN: 13, Type: 1, Instance: make([]byte, 16),
		QE: standardQE, TDQE: standardTDQE,
	}
	for _, b := range [][]byte{s.FMSPC[:], s.PPID[:], s.Instance} {
		must(io.ReadFull(i.rand, b))
	}
	s.CPUSVN = s.Components
	for _, change := range changes {
		change(&s)
	}
	issuer := s.Issuer
	if issuer == nil {
		issuer = i.CA(s.CA)
	}
	from := i.now().AddDate(0, -6, 0)
	pck := issue(i.rand, KeyP256(i.rand), issuer, request{
		subject: intelName("Intel SGX PCK Certificate"), from: from, to: from.AddDate(leafYears, 0, 0), alg: x509.ECDSAWithSHA256,
		points: []string{"https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=" + s.CA + "&encoding=der"},
		extra:  []pkix.Extension{{Id: oidSGX, Value: s.extension()}}, change: s.Certificate,
	})
	p := &Platform{PlatformSpec: s, PCK: pck, intel: i}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.known[s.FMSPC] = p
	return p
}

var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

type sgxItem struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// extension encodes the SGX extension (PCK Certificate Profile, 1.3.5).
func (s *PlatformSpec) extension() []byte {
	id := func(n ...int) asn1.ObjectIdentifier { return append(oidSGX[:len(oidSGX):len(oidSGX)], n...) }
	var tcb []sgxItem
	for n, svn := range s.Components {
		tcb = append(tcb, sgxItem{id(2, n+1), int(svn)})
	}
	tcb = append(tcb, sgxItem{id(2, 17), int(s.PCESVN)}, sgxItem{id(2, 18), s.CPUSVN[:]})
	items := []sgxItem{
		{id(1), s.PPID[:]}, {id(2), tcb}, {id(3), s.PCEID[:]}, {id(4), s.FMSPC[:]}, {id(5), asn1.Enumerated(s.Type)},
	}
	if s.CA == PlatformCA {
		items = append(items, sgxItem{id(6), s.Instance}, sgxItem{id(7), []sgxItem{{id(7, 1), true}, {id(7, 2), true}, {id(7, 3), true}}})
	}
	return must(asn1.Marshal(items))
}

// Chain returns the certification data of type 5: leaf, CA, root.
func (p *Platform) Chain() []byte {
	return PEM(p.PCK.Cert, p.intel.CA(p.CA).Cert, p.intel.Root.Cert)
}

// EncryptedPPID stands for the PPID encrypted for Intel with RSA-3072.
func (p *Platform) EncryptedPPID() []byte {
	out := make([]byte, 0, 384)
	for sum := sha256.Sum256(p.PPID[:]); len(out) < cap(out); sum = sha256.Sum256(sum[:]) {
		out = append(out, sum[:]...)
	}
	return out
}

// KeyID returns certification data that name the platform's key: of type 1 (PPID in the clear), 2 or 3 (encrypted).
func (p *Platform) KeyID(kind uint16) []byte {
	ppid := make([]byte, 384)
	switch kind {
	case 1:
		copy(ppid, p.PPID[:])
	case 2:
		copy(ppid, p.EncryptedPPID()[:256])
	default:
		copy(ppid, p.EncryptedPPID())
	}
	out := binary.LittleEndian.AppendUint16(append(ppid, p.CPUSVN[:]...), p.PCESVN)
	return append(out, p.PCEID[:]...)
}

// WithKeyID makes a quote that names the platform's key instead of carrying its certificate.
func (p *Platform) WithKeyID(kind uint16) func(*Quote) {
	return func(q *Quote) {
		q.CertType, q.CertData = kind, p.KeyID(kind)
		copy(q.Header.UserData[:], p.PPID[:]) // id of the quoting enclave
	}
}

// report returns the report of a quoting enclave of this machine, without report data.
func (p *Platform) report(e Enclave) abi.ReportBody {
	return abi.ReportBody{
		CPUSVN: p.CPUSVN, Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64 | abi.FlagProvisionKey, XFRM: 0xe7},
		MRENCLAVE: e.MRENCLAVE, MRSIGNER: e.MRSIGNER, ISVProdID: e.ISVProdID, ISVSVN: e.ISVSVN,
	}
}

// signRS signs SHA-256 of b as r ‖ s, 64 bytes.
func signRS(rand io.Reader, key *ecdsa.PrivateKey, b []byte) []byte {
	sum := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand, key, sum[:])
	if err != nil {
		panic("fakevendor: " + err.Error())
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

// point returns x ‖ y of a key on P-256.
func point(key *ecdsa.PrivateKey) []byte {
	if key.Curve != elliptic.P256() {
		panic("fakevendor: not a P-256 key")
	}
	return must(key.PublicKey.Bytes())[1:]
}
