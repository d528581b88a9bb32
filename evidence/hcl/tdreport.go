package hcl

import (
	"bytes"
	"crypto/sha512"
	"fmt"
)

// TDReport is what a TDREPORT_STRUCT says (Intel TDX module ABI). It is authentic only together with a TD quote of the same report
// data; nothing here checks its MAC.
type TDReport struct {
	ReportData     [64]byte
	TEETCBSVN      [16]byte
	MRSeam         [48]byte
	MRSignerSM     [48]byte
	SEAMAttributes [8]byte
	Attributes     [8]byte
	XFAM           [8]byte
	MRTD           [48]byte
	MRConfigID     [48]byte
	MROwner        [48]byte
	MROwnerConf    [48]byte
	RTMR           [4][48]byte
}

// ParseTDReport reads the 1024 bytes of a TDREPORT and checks that its parts hash to what its MAC structure says.
func ParseTDReport(b []byte) (*TDReport, error) {
	if len(b) != tdReportSize || b[0] != 0x81 {
		return nil, CodeTDReport.Bad("tdreport", "1024 bytes of type 0x81", fmt.Sprintf("%d bytes, %s", len(b), clipHex(b[:min(1, len(b))])))
	}
	info, tcb := b[512:], b[256:256+239]
	if s := sha512.Sum384(info); !bytes.Equal(s[:], b[80:128]) {
		return nil, CodeTDReport.Bad("tdreport[0x050]", clipHex(s[:]), clipHex(b[80:128]))
	}
	if s := sha512.Sum384(tcb); !bytes.Equal(s[:], b[32:80]) {
		return nil, CodeTDReport.Bad("tdreport[0x020]", clipHex(s[:]), clipHex(b[32:80]))
	}
	r := &TDReport{
		ReportData: [64]byte(b[128:]), TEETCBSVN: [16]byte(tcb[8:]), MRSeam: [48]byte(tcb[24:]), MRSignerSM: [48]byte(tcb[72:]), SEAMAttributes: [8]byte(tcb[120:]),
		Attributes: [8]byte(info), XFAM: [8]byte(info[8:]), MRTD: [48]byte(info[16:]), MRConfigID: [48]byte(info[64:]),
		MROwner: [48]byte(info[112:]), MROwnerConf: [48]byte(info[160:]),
	}
	for i := range r.RTMR {
		r.RTMR[i] = [48]byte(info[208+48*i:])
	}
	return r, nil
}
