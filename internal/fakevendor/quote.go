package fakevendor

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"

	"github.com/assay-attest/assay/enclave/abi"
)

// Quote is a quote before it is signed, with room for faults.
type Quote struct {
	Header   abi.QuoteHeader
	Enclave  abi.ReportBody // the body of an SGX quote
	TD       abi.TDBody     // the body of a TDX quote
	QE       abi.ReportBody // its report data is computed
	Auth     []byte
	CertType uint16
	CertData []byte

	BodyKey *ecdsa.PrivateKey // signs header and body instead of the attestation key
	QEKey   *ecdsa.PrivateKey // signs the quoting enclave's report instead of the PCK
	QEData  *[64]byte         // report data of the quoting enclave instead of what binds the key
	Resign  func([]byte)      // changes header and body before they are signed
	Padding int               // zero bytes at the end
}

// SGX makes a quote of version 3, 4 or 5 for an enclave in production mode. Report data is at most 64 bytes.
func (p *Platform) SGX(version uint16, reportData []byte, changes ...func(*Quote)) []byte {
	q := p.quote(version, abi.TEESGX, p.QE)
	q.Enclave = abi.ReportBody{
		CPUSVN: p.CPUSVN, Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64, XFRM: 0xe7},
		MRENCLAVE: sha256.Sum256([]byte("enclave")), MRSIGNER: sha256.Sum256([]byte("owner")), ISVProdID: 1, ISVSVN: 2,
	}
	copy(q.Enclave.ReportData[:], reportData)
	return p.finish(q, changes)
}

// TDX makes a quote of version 4, or 5 with a body of TDX module 1.0 or 1.5, for a TD in production mode.
func (p *Platform) TDX(version uint16, v15 bool, reportData []byte, changes ...func(*Quote)) []byte {
	q := p.quote(version, abi.TEETDX, p.TDQE)
	q.TD = abi.TDBody{TDBody10: abi.TDBody10{
		TEETCBSVN: ModuleSVN, MRSEAM: sha512.Sum384([]byte("module")), Attributes: abi.TDSeptVEDisable, XFAM: 0xe7,
		MRTD: sha512.Sum384([]byte("td")),
	}, V15: v15}
	for i := range q.TD.RTMR {
		q.TD.RTMR[i] = sha512.Sum384([]byte{byte(i)})
	}
	if v15 {
		q.TD.TEETCBSVN2 = ModuleSVN
	}
	copy(q.TD.ReportData[:], reportData)
	return p.finish(q, changes)
}

func (p *Platform) quote(version uint16, tee uint32, qe Enclave) *Quote {
	q := &Quote{
		Header: abi.QuoteHeader{Version: version, KeyType: 2, TEEType: tee, VendorID: abi.IntelQE},
		QE:     p.report(qe), Auth: make([]byte, 32), CertType: 5, CertData: p.Chain(),
	}
	if version == 3 {
		q.Header.QESVN, q.Header.PCESVN = qe.ISVSVN, p.PCESVN
	}
	for i := range q.Auth {
		q.Auth[i] = byte(i)
	}
	return q
}

// finish signs a quote and writes it (DCAP Quote Generation, appendix A).
func (p *Platform) finish(q *Quote, changes []func(*Quote)) []byte {
	for _, change := range changes {
		change(q)
	}
	le := binary.LittleEndian
	key := KeyP256(p.intel.rand)
	body := q.Enclave.Bytes()
	if q.Header.TEEType == abi.TEETDX {
		body = q.TD.Bytes()
	}
	signed := q.Header.Bytes()
	if q.Header.Version == 5 {
		kind := uint16(1)
		if q.Header.TEEType == abi.TEETDX {
			if kind = 2; q.TD.V15 {
				kind = 3
			}
		}
		signed = le.AppendUint16(signed, kind)
		signed = le.AppendUint32(signed, uint32(len(body)))
	}
	signed = append(signed, body...)
	if q.Resign != nil {
		q.Resign(signed)
	}
	sum := sha256.Sum256(append(point(key), q.Auth...))
	copy(q.QE.ReportData[:], sum[:])
	if q.QEData != nil {
		q.QE.ReportData = *q.QEData
	}
	bodyKey, qeKey := key, p.PCK.Key.(*ecdsa.PrivateKey)
	if q.BodyKey != nil {
		bodyKey = q.BodyKey
	}
	if q.QEKey != nil {
		qeKey = q.QEKey
	}
	report := q.QE.Bytes()
	inner := append(report, signRS(p.intel.rand, qeKey, report)...)
	inner = le.AppendUint16(inner, uint16(len(q.Auth)))
	inner = append(inner, q.Auth...)
	inner = le.AppendUint16(inner, q.CertType)
	inner = le.AppendUint32(inner, uint32(len(q.CertData)))
	inner = append(inner, q.CertData...)
	sig := append(signRS(p.intel.rand, bodyKey, signed), point(key)...)
	if q.Header.Version >= 4 {
		sig = le.AppendUint16(sig, 6)
		sig = le.AppendUint32(sig, uint32(len(inner)))
	}
	sig = append(sig, inner...)
	out := le.AppendUint32(signed, uint32(len(sig)))
	out = append(out, sig...)
	return append(out, make([]byte, q.Padding)...)
}
