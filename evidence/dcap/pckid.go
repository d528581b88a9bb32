package dcap

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"fmt"
)

// The sizes of certification data of types 1 to 3 (DCAP Quote Generation, appendix A.4): PPID, CPUSVN, PCESVN, PCE id.
// Quoting libraries write the PPID into a field of full length whatever its type is, filled up with zero bytes; others
// write it without filling, or leave the PCE id out.
const (
	ppidSize       = 16
	ppid2048Size   = 256
	ppid3072Size   = 384
	svnsSize       = 16 + 2
	pceIDSize      = 2
	pckIDFieldSize = ppid3072Size + svnsSize + pceIDSize
)

var ppidSizes = map[uint16]int{CertPPID: ppidSize, CertPPIDRSA2048: ppid2048Size, CertPPIDRSA3072: ppid3072Size}

// PCKID names a platform's key where a quote carries no certificate: the platform by its PPID, the key by the TCB that
// it was derived for. No signature covers it. A certificate that is to serve must be of exactly this TCB, as the key of
// another one would be another key.
type PCKID struct {
	PPID      []byte // in the clear (type 1), or encrypted for Intel: 256 bytes in type 2, 384 in type 3
	Encrypted bool
	CPUSVN    [16]byte
	PCESVN    uint16
	PCEID     *[2]byte // nil where it was left out
	QEID      [16]byte // of the quoting enclave's installation, from the header: by this a caching service knows platforms
}

// PCKID returns what certification data of types 1 to 3 say; nil for other types.
func (q *Quote) PCKID() *PCKID {
	n, ok := ppidSizes[q.CertType]
	field := pckIDField(q.CertType, q.CertData)
	if !ok || field == 0 {
		return nil
	}
	tail := q.CertData[field:]
	id := &PCKID{
		PPID: bytes.Clone(q.CertData[:n]), Encrypted: q.CertType != CertPPID, CPUSVN: [16]byte(tail),
		PCESVN: uint16(tail[16]) | uint16(tail[17])<<8, QEID: [16]byte(q.Header.UserData[:]),
	}
	if len(tail) > svnsSize {
		id.PCEID = (*[2]byte)(bytes.Clone(tail[svnsSize:]))
	}
	return id
}

// pckIDField returns the length of the PPID's field in certification data of types 1 to 3; 0 if their length is none of
// those, or if something stands in the filling.
func pckIDField(kind uint16, b []byte) int {
	n := ppidSizes[kind]
	switch {
	case len(b) == n+svnsSize || len(b) == n+svnsSize+pceIDSize:
		return n
	case len(b) == pckIDFieldSize && len(bytes.Trim(b[n:ppid3072Size], "\x00")) == 0:
		return ppid3072Size
	}
	return 0
}

// names says whether a certificate is of the key that the id names. An encrypted PPID can be compared by Intel only:
// that the key signed the quoting enclave's report shows the machine.
func (id *PCKID) names(p PCK) bool {
	return p.CPUSVN == id.CPUSVN && p.PCESVN == id.PCESVN && (id.PCEID == nil || p.PCEID == *id.PCEID) && (id.Encrypted || bytes.Equal(p.PPID[:], id.PPID))
}

func (id *PCKID) String() string {
	pce := "any"
	if id.PCEID != nil {
		pce = hex.EncodeToString(id.PCEID[:])
	}
	return fmt.Sprintf("CPUSVN %x, PCESVN %d, PCE id %s", id.CPUSVN, id.PCESVN, pce)
}

// PCK returns the platform's certificate as the quote carries it (types 4 and 5), unverified; nil if it carries none.
func (q *Quote) PCK() *x509.Certificate {
	if q.CertType != CertPCKChain && q.CertType != CertPCKLeaf {
		return nil
	}
	certs, err := parseCerts(q.CertData)
	if err != nil {
		return nil
	}
	return certs[0]
}
