package abi

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
)

// Offsets of HyperEnclave's quote (R090): the head and body of an EPID quote with a signature length, the monitor's
// signature, the monitor's attestation key, the TPM's statement and its signature, the certificate of the TPM's key.
const (
	hyperEnclaveSignature = 436
	hyperEnclaveKey       = 500
	hyperEnclaveAttest    = 564
	hyperEnclaveTPMSig    = 711
	hyperEnclaveCert      = 775
	hyperEnclaveMaxCert   = 1280
)

// HyperEnclaveQuote is a quote as HyperEnclave's published monitor makes it, with SM2 and SM3. This is its structure: the
// legacy format evidence/hyperenclave verifies its signatures.
type HyperEnclaveQuote struct {
	Head         EPIDQuote
	SignatureLen uint32   // of what follows the head, without padding
	Signature    [64]byte // r ‖ s: SM2 over the report body by the monitor's key
	Key          [64]byte // the monitor's attestation key, x ‖ y
	Attest       [147]byte
	TPMSignature [64]byte // r ‖ s: SM2 over Attest by the TPM's key
	Certificate  []byte   // DER, of the TPM's key
	Padding      int      // zero bytes after the certificate
}

// The TPMS_ATTEST of a HyperEnclave quote must be one that a TPM composed as a quote.
const (
	tpmMagic = 0xff544347
	tpmQuote = 0x8018
)

// ParseHyperEnclaveQuote reads a quote and refuses other versions, truncated fields, statements that no TPM composed,
// another signature length than there is, and anything but zero bytes after the certificate.
func ParseHyperEnclaveQuote(b []byte) (HyperEnclaveQuote, error) {
	var q HyperEnclaveQuote
	if len(b) < hyperEnclaveCert+2 || len(b) > hyperEnclaveCert+hyperEnclaveMaxCert {
		return q, CodeHyperEnclave.Bad(fmt.Sprintf("quote at byte %d", len(b)), fmt.Sprintf("%d to %d bytes", hyperEnclaveCert+2, hyperEnclaveCert+hyperEnclaveMaxCert), fmt.Sprintf("%d bytes", len(b)))
	}
	head, err := ParseEPIDQuote(b[:hyperEnclaveSignature-4])
	if err != nil {
		return q, err
	}
	q.Head = head
	q.SignatureLen = binary.LittleEndian.Uint32(b[hyperEnclaveSignature-4:])
	copy(q.Signature[:], b[hyperEnclaveSignature:])
	copy(q.Key[:], b[hyperEnclaveKey:])
	copy(q.Attest[:], b[hyperEnclaveAttest:])
	copy(q.TPMSignature[:], b[hyperEnclaveTPMSig:])
	if head.Version != 1 || head.SignType != 4 {
		return q, CodeHyperEnclaveVersion.Bad("version at byte 0", "version 1, signature type 4", fmt.Sprintf("version %d, signature type %d", head.Version, head.SignType))
	}
	if m, t := binary.BigEndian.Uint32(q.Attest[:]), binary.BigEndian.Uint16(q.Attest[4:]); m != tpmMagic || t != tpmQuote {
		return q, CodeHyperEnclaveStatement.Bad(fmt.Sprintf("TPM statement at byte %d", hyperEnclaveAttest), "a quote composed by a TPM", fmt.Sprintf("magic %08x, type %04x", m, t))
	}
	cert := b[hyperEnclaveCert:]
	var der asn1.RawValue
	rest, err := asn1.Unmarshal(cert, &der)
	if err != nil || der.Class != asn1.ClassUniversal || der.Tag != asn1.TagSequence || !der.IsCompound {
		return q, CodeHyperEnclaveCertificate.Bad(fmt.Sprintf("certificate at byte %d", hyperEnclaveCert), "a DER certificate", "other bytes")
	}
	if len(bytes.Trim(rest, "\x00")) != 0 {
		return q, CodeHyperEnclave.Bad(fmt.Sprintf("padding at byte %d", len(b)-len(rest)), "zero bytes", "other bytes")
	}
	if want := len(b) - len(rest) - hyperEnclaveSignature; uint64(q.SignatureLen) != uint64(want) {
		return q, CodeHyperEnclaveLength.Bad(fmt.Sprintf("signature length at byte %d", hyperEnclaveSignature-4), fmt.Sprintf("%d bytes", want), fmt.Sprintf("%d bytes", q.SignatureLen))
	}
	q.Certificate, q.Padding = bytes.Clone(der.FullBytes), len(rest)
	return q, nil
}

// IsHyperEnclaveQuote says cheaply whether b could be a quote of HyperEnclave.
func IsHyperEnclaveQuote(b []byte) bool {
	return len(b) > hyperEnclaveCert && len(b) <= hyperEnclaveCert+hyperEnclaveMaxCert &&
		binary.LittleEndian.Uint16(b) == 1 && binary.LittleEndian.Uint16(b[2:]) == 4 &&
		binary.BigEndian.Uint32(b[hyperEnclaveAttest:]) == tpmMagic && b[hyperEnclaveCert] == 0x30
}

// Bytes returns the bytes of the quote.
func (q HyperEnclaveQuote) Bytes() []byte {
	b := binary.LittleEndian.AppendUint32(q.Head.Bytes(), q.SignatureLen)
	for _, part := range [][]byte{q.Signature[:], q.Key[:], q.Attest[:], q.TPMSignature[:], q.Certificate, make([]byte, q.Padding)} {
		b = append(b, part...)
	}
	return b
}
