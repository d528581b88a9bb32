package dcap

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/assay-attest/assay/enclave/abi"
)

// The kinds of quote bodies, as version 5 numbers them.
const (
	BodySGX  = 1
	BodyTD10 = 2
	BodyTD15 = 3
)

// The types of certification data (DCAP Quote Generation, appendix A.4).
const (
	CertPPID          = 1 // PPID in the clear, CPUSVN, PCESVN, PCEID
	CertPPIDRSA2048   = 2
	CertPPIDRSA3072   = 3
	CertPCKLeaf       = 4
	CertPCKChain      = 5
	CertQEReport      = 6
	CertPlatform      = 7 // platform manifest
	maxQuote          = 256 << 10
	maxPadding        = 8 << 10
	quoteSignatureLen = 64
)

var bodySizes = map[uint16]int{BodySGX: abi.ReportBodySize, BodyTD10: abi.TDReport10Size, BodyTD15: abi.TDReport15Size}

// Quote is a parsed quote. Its slices refer to the bytes it was read from.
type Quote struct {
	Header    abi.QuoteHeader
	BodyType  uint16 // BodySGX, BodyTD10, BodyTD15
	Body      []byte
	Signed    []byte // header and body, as the attestation key signed them
	Signature []byte // ECDSA r ‖ s, 64 bytes
	Key       []byte // P-256 x ‖ y, 64 bytes
	QEReport  []byte // 384 bytes
	QESig     []byte // ECDSA r ‖ s, 64 bytes, by the PCK
	QEAuth    []byte
	CertType  uint16
	CertData  []byte
	Padding   int // zero bytes after the quote
}

// Detect says cheaply whether b could be a quote of this package, of the given TEE type (abi.TEESGX, abi.TEETDX).
func Detect(b []byte, tee uint32) bool {
	if len(b) < abi.QuoteHeaderSize+abi.ReportBodySize {
		return false
	}
	h, err := abi.ParseQuoteHeader(b[:abi.QuoteHeaderSize])
	return err == nil && h.Version >= 3 && h.Version <= 5 && h.TEEType == tee && (h.KeyType == 2 || h.KeyType == 3)
}

// reader takes bytes one field after another and keeps the first error, with its offset.
type reader struct {
	b   []byte
	off int
	err error
}

func (r *reader) take(n int, what string) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b)-r.off {
		r.err = CodeQuoteMalformed.Bad(fmt.Sprintf("%s at byte %d", what, r.off), fmt.Sprintf("%d bytes", n), fmt.Sprintf("%d bytes", len(r.b)-r.off))
		return nil
	}
	f := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return f
}

func (r *reader) uint16(what string) uint16 {
	if b := r.take(2, what); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// length reads a 32-bit length that must fit into what follows.
func (r *reader) length(what string) int {
	b := r.take(4, what)
	if b == nil {
		return 0
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(r.b)-r.off) {
		r.err = CodeQuoteMalformed.Bad(fmt.Sprintf("%s at byte %d", what, r.off-4), fmt.Sprintf("at most %d", len(r.b)-r.off), fmt.Sprint(n))
		return 0
	}
	return int(n)
}

func (r *reader) fail(what string, at int, expected, seen string) {
	if r.err == nil {
		r.err = CodeQuoteMalformed.Bad(fmt.Sprintf("%s at byte %d", what, at), expected, seen)
	}
}

// ParseQuote reads a quote of version 3, 4 or 5 (DCAP Quote Generation, appendix A). Every declared length must be met
// exactly; after the quote up to 8 KiB of zero bytes may follow, and nothing else. It checks no signature.
func ParseQuote(b []byte) (*Quote, error) {
	if len(b) > maxQuote {
		return nil, CodeQuoteMalformed.Bad("quote at byte 0", fmt.Sprintf("at most %d bytes", maxQuote), fmt.Sprintf("%d bytes", len(b)))
	}
	r := &reader{b: b}
	q := &Quote{}
	head := r.take(abi.QuoteHeaderSize, "header")
	if r.err != nil {
		return nil, r.err
	}
	var err error
	if q.Header, err = abi.ParseQuoteHeader(head); err != nil {
		return nil, err
	}
	if err := q.checkHeader(); err != nil {
		return nil, err
	}
	q.readBody(r)
	q.readSignature(r)
	if r.err != nil {
		return nil, r.err
	}
	rest := b[r.off:]
	if i := bytes.IndexFunc(rest, func(c rune) bool { return c != 0 }); i >= 0 || len(rest) > maxPadding {
		return nil, CodeQuoteTrailing.Bad(fmt.Sprintf("padding at byte %d", r.off+max(i, 0)), fmt.Sprintf("nothing, or at most %d zero bytes", maxPadding), fmt.Sprintf("%d bytes, not all zero or too many", len(rest)))
	}
	q.Padding = len(rest)
	return q, nil
}

func (q *Quote) checkHeader() error {
	h := q.Header
	switch {
	case h.Version < 3 || h.Version > 5:
		return CodeQuoteUnsupported.Bad("version at byte 0", "3, 4 or 5", fmt.Sprint(h.Version))
	case h.KeyType != 2:
		return CodeQuoteUnsupported.Bad("key type at byte 2", "2 (ECDSA with P-256)", fmt.Sprint(h.KeyType))
	case h.TEEType != abi.TEESGX && (h.TEEType != abi.TEETDX || h.Version == 3):
		return CodeQuoteUnsupported.Bad("TEE type at byte 4", "0 (SGX), or 0x81 (TDX) from version 4 on", fmt.Sprintf("0x%x", h.TEEType))
	case h.VendorID != abi.IntelQE:
		return CodeQuoteUnsupported.Bad("vendor at byte 12", fmt.Sprintf("%x", abi.IntelQE), fmt.Sprintf("%x", h.VendorID))
	}
	return nil
}

func (q *Quote) readBody(r *reader) {
	q.BodyType = BodySGX
	if q.Header.TEEType == abi.TEETDX {
		q.BodyType = BodyTD10
	}
	if q.Header.Version == 5 {
		at := r.off
		t := r.uint16("body type")
		if fits := t == BodySGX || t == BodyTD10 || t == BodyTD15; !fits || (t == BodySGX) != (q.Header.TEEType == abi.TEESGX) {
			r.fail("body type", at, "1 for SGX, 2 or 3 for TDX", fmt.Sprint(t))
		}
		q.BodyType = t
		if n := r.length("body length"); n != bodySizes[t] {
			r.fail("body length", at+2, fmt.Sprint(bodySizes[t]), fmt.Sprint(n))
		}
	}
	q.Body = r.take(bodySizes[q.BodyType], "body")
	q.Signed = r.b[:r.off:r.off]
}

// readSignature reads the signature data, which must be exactly as long as declared.
func (q *Quote) readSignature(r *reader) {
	n := r.length("length of the signature data")
	end := r.off + n
	s := &reader{b: r.b[:end:end], off: r.off, err: r.err}
	q.Signature = s.take(quoteSignatureLen, "signature")
	q.Key = s.take(64, "attestation key")
	if q.Header.Version >= 4 {
		at := s.off
		if t := s.uint16("certification data type"); t != CertQEReport {
			s.fail("certification data type", at, fmt.Sprint(CertQEReport), fmt.Sprint(t))
		}
		if n := s.length("length of the certification data"); n != len(s.b)-s.off {
			s.fail("length of the certification data", at+2, fmt.Sprint(len(s.b)-s.off), fmt.Sprint(n))
		}
	}
	q.QEReport = s.take(abi.ReportBodySize, "report of the quoting enclave")
	q.QESig = s.take(quoteSignatureLen, "signature of the quoting enclave's report")
	q.QEAuth = s.take(int(s.uint16("length of the authentication data")), "authentication data")
	at := s.off
	q.CertType = s.uint16("inner certification data type")
	if q.CertType < CertPPID || q.CertType > CertPlatform || q.CertType == CertQEReport {
		s.fail("inner certification data type", at, "1 to 5, or 7", fmt.Sprint(q.CertType))
	}
	q.CertData = s.take(s.length("length of the inner certification data"), "inner certification data")
	if n, ok := ppidSizes[q.CertType]; ok && s.err == nil && pckIDField(q.CertType, q.CertData) == 0 {
		s.fail("inner certification data", at+6, fmt.Sprintf("%d bytes, or %d filled up with zero", n+svnsSize+pceIDSize, pckIDFieldSize), fmt.Sprintf("%d bytes", len(q.CertData)))
	}
	if s.off != end {
		s.fail("signature data", s.off, "its declared end", fmt.Sprintf("%d more bytes", end-s.off))
	}
	r.off, r.err = end, s.err
}

// Encode returns the bytes of the quote, padding included: the same that it was read from (R101).
func (q *Quote) Encode() []byte {
	le := binary.LittleEndian
	b := q.Header.Bytes()
	if q.Header.Version == 5 {
		b = le.AppendUint16(b, q.BodyType)
		b = le.AppendUint32(b, uint32(len(q.Body)))
	}
	b = append(b, q.Body...)
	inner := append(append([]byte(nil), q.QEReport...), q.QESig...)
	inner = le.AppendUint16(inner, uint16(len(q.QEAuth)))
	inner = append(inner, q.QEAuth...)
	inner = le.AppendUint16(inner, q.CertType)
	inner = le.AppendUint32(inner, uint32(len(q.CertData)))
	inner = append(inner, q.CertData...)
	sig := append(append([]byte(nil), q.Signature...), q.Key...)
	if q.Header.Version >= 4 {
		sig = le.AppendUint16(sig, CertQEReport)
		sig = le.AppendUint32(sig, uint32(len(inner)))
	}
	sig = append(sig, inner...)
	b = le.AppendUint32(b, uint32(len(sig)))
	b = append(b, sig...)
	return append(b, make([]byte, q.Padding)...)
}
