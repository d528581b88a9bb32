package dcaptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"slices"

	"github.com/assay-attest/assay/enclave/abi"
)

// Machine is a fake platform with its PCK.
type Machine struct {
	Intel *Intel
	PCK   *Authority
	CA    *Authority
	Key   *ecdsa.PrivateKey // attestation key of its quoting enclave
	// The parts of a quote that tests alter.
	QE       abi.ReportBody
	Auth     []byte
	CertType uint16
	CertData []byte
}

// Machine makes a platform whose TCB components are all svn.
func (i *Intel) Machine(svn, pcesvn int) *Machine {
	return i.MachineOf(i.Platform, func(t *x509.Certificate) { t.ExtraExtensions = []pkix.Extension{SGXExtension(svn, pcesvn)} })
}

// MachineOf makes a platform certified by a CA, with a template to change.
func (i *Intel) MachineOf(ca *Authority, change func(*x509.Certificate)) *Machine {
	m := &Machine{Intel: i, CA: ca, PCK: i.Issue(ca, "Intel SGX PCK Certificate", false, change)}
	m.Key = must(ecdsa.GenerateKey(elliptic.P256(), i.Rand))
	m.QE = abi.ReportBody{MRSIGNER: qeSigner, ISVProdID: 1, ISVSVN: 6, Attributes: abi.Attributes{Flags: 0x11 | abi.FlagMode64, XFRM: 3}}
	m.Auth = []byte("authentication data of a fake")[:16]
	m.CertType = 5
	m.CertData = append(slices.Concat(m.PCK.PEM(), ca.PEM(), i.Root.PEM()), 0)
	return m
}

// KeyID returns certification data of types 1 to 3 that name a machine's key: made by Machine, not by MachineOf. The PPID
// is zero, in the clear or for Intel's eyes.
func KeyID(svn byte, pcesvn uint16) []byte {
	out := make([]byte, 384)
	for range 16 {
		out = append(out, svn)
	}
	return append(binary.LittleEndian.AppendUint16(out, pcesvn), 0, 0)
}

// SGXBody returns the body of a production enclave.
func SGXBody(reportData []byte) abi.ReportBody {
	b := abi.ReportBody{MRENCLAVE: [32]byte{0xe0}, MRSIGNER: [32]byte{0x51}, ISVProdID: 7, ISVSVN: 3, Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64, XFRM: 3}}
	copy(b.ReportData[:], reportData)
	return b
}

// TDBody returns the body of a production TD under an up-to-date module of version 1.
func TDBody(reportData []byte, v15 bool) abi.TDBody {
	b := abi.TDBody{V15: v15}
	b.TEETCBSVN = [16]byte{5, 1, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4}
	b.Attributes, b.XFAM = abi.TDSeptVEDisable, 0xe7
	b.MRTD = [48]byte{0x7d}
	for i := range b.RTMR {
		b.RTMR[i][0] = byte(i + 1)
	}
	copy(b.ReportData[:], reportData)
	if v15 {
		b.TEETCBSVN2 = b.TEETCBSVN
	}
	return b
}

// Quote makes a quote of a version (3, 4, 5) over a body.
func (m *Machine) Quote(version uint16, tee uint32, body []byte) []byte {
	le := binary.LittleEndian
	h := abi.QuoteHeader{Version: version, KeyType: 2, TEEType: tee, VendorID: abi.IntelQE, UserData: [20]byte{1}}
	signed := h.Bytes()
	if version == 5 {
		kind := map[int]uint16{abi.ReportBodySize: 1, abi.TDReport10Size: 2, abi.TDReport15Size: 3}[len(body)]
		signed = le.AppendUint16(signed, kind)
		signed = le.AppendUint32(signed, uint32(len(body)))
	}
	signed = append(signed, body...)
	public := must(m.Key.PublicKey.Bytes())[1:]
	qe := m.QE
	if qe.ReportData == [64]byte{} {
		sum := sha256.Sum256(slices.Concat(public, m.Auth))
		copy(qe.ReportData[:], sum[:])
	}
	report := qe.Bytes()
	inner := slices.Concat(report, signRS(m.Intel.Rand, m.PCK.Key, report))
	inner = le.AppendUint16(inner, uint16(len(m.Auth)))
	inner = append(inner, m.Auth...)
	inner = le.AppendUint16(inner, m.CertType)
	inner = le.AppendUint32(inner, uint32(len(m.CertData)))
	inner = append(inner, m.CertData...)
	sig := slices.Concat(signRS(m.Intel.Rand, m.Key, signed), public)
	if version >= 4 {
		sig = le.AppendUint16(sig, 6)
		sig = le.AppendUint32(sig, uint32(len(inner)))
	}
	sig = append(sig, inner...)
	out := le.AppendUint32(signed, uint32(len(sig)))
	return append(out, sig...)
}
