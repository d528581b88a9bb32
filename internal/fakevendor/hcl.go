package fakevendor

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/assay-attest/assay/enclave/abi"
)

// Paravisor is Azure's, in front of a guest of SEV-SNP or TDX: it owns the hardware report, and names the key of its TPM.
type Paravisor struct {
	AK       *rsa.PublicKey
	UserData []byte // what the guest had it include, at most 64 bytes

	Envelope func([]byte) // changes the report's envelope
}

// Runtime returns the runtime data, whose hash is the report data of the hardware report.
func (p *Paravisor) Runtime() []byte {
	e := base64.RawURLEncoding.EncodeToString
	var data [64]byte
	copy(data[:], p.UserData)
	return fmt.Appendf(nil, `{"keys":[{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":%q,"n":%q}],`+
		`"vm-configuration":{"console-enabled":true,"secure-boot":true,"tpm-enabled":true,"vmUniqueId":"vm"},"user-data":"%x"}`,
		e(big.NewInt(int64(p.AK.E)).Bytes()), e(p.AK.N.Bytes()), data)
}

// ReportData is what the hardware report must hold.
func (p *Paravisor) ReportData() []byte {
	s := sha256.Sum256(p.Runtime())
	return s[:]
}

// Wrap puts a hardware report of a kind (2 SEV-SNP, 4 TDX) into the envelope.
func (p *Paravisor) Wrap(kind uint32, hardware []byte) []byte {
	const area, data = 32, 1216
	text := p.Runtime()
	b := make([]byte, data+20)
	copy(b, "HCLA")
	for at, n := range map[int]uint32{
		4: 2, 8: uint32(data + 20 + len(text)), 12: 2, data: uint32(20 + len(text)), data + 4: 1, data + 8: kind, data + 12: 1, data + 16: uint32(len(text)),
	} {
		binary.LittleEndian.PutUint32(b[at:], n)
	}
	copy(b[area:], hardware)
	b = append(b, text...)
	if p.Envelope != nil {
		p.Envelope(b)
	}
	return append(b, make([]byte, 128)...)
}

// SNP returns the paravisor's report of a guest on a chip.
func (p *Paravisor) SNP(c *Chip, changes ...func(*Report)) []byte {
	return p.Wrap(2, c.Report(2, p.ReportData(), changes...))
}

// TDX returns the paravisor's report of a trust domain, which holds a TDREPORT, and the quote made of that.
func (p *Paravisor) TDX(platform *Platform, changes ...func(*Quote)) (report, quote []byte) {
	var td abi.TDBody
	keep := func(q *Quote) { td = q.TD }
	quote = platform.TDX(4, false, p.ReportData(), append([]func(*Quote){keep}, changes...)...)
	le := binary.LittleEndian
	b := make([]byte, abi.TDReportSize)
	b[0] = 0x81
	copy(b[128:], td.ReportData[:])
	tcb, info := b[256:495], b[512:]
	copy(tcb[8:], td.TEETCBSVN[:])
	copy(tcb[24:], td.MRSEAM[:])
	copy(tcb[72:], td.MRSIGNERSEAM[:])
	le.PutUint64(tcb[120:], td.SEAMAttributes)
	le.PutUint64(info, td.Attributes)
	le.PutUint64(info[8:], td.XFAM)
	copy(info[16:], td.MRTD[:])
	copy(info[64:], td.MRConfigID[:])
	copy(info[112:], td.MROwner[:])
	copy(info[160:], td.MROwnerConfig[:])
	for i, r := range td.RTMR {
		copy(info[208+48*i:], r[:])
	}
	ofTCB, ofInfo := sha512.Sum384(tcb), sha512.Sum384(info)
	copy(b[32:], ofTCB[:])
	copy(b[80:], ofInfo[:])
	return p.Wrap(4, b), quote
}
