package enclave

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the TPM quote inside an enclave's quote.
var (
	CodeNotEnrolled = code("enclave.tpm.not-enrolled", rats.InstanceIdentity, "the node has no enrolment record of its TPM", "let the node join again")
	CodeOtherAK     = code("enclave.tpm.other-ak", rats.InstanceIdentity, "the TPM quote is by another key than the node enrolled", "if the TPM was replaced on purpose, let the node join again")
	CodeAK          = code("enclave.tpm.ak", rats.InstanceIdentity, "the attestation key is not a restricted P-256 key of a TPM", "update the agent")
	CodeAttest      = code("enclave.tpm.attest", rats.InstanceIdentity, "the TPM's statement is not a quote", "update the agent")
	CodeMagic       = code("enclave.tpm.magic", rats.InstanceIdentity, "the signed bytes were not composed by a TPM", "treat the machine as compromised: its key signed foreign bytes")
	CodeTPMSign     = code("enclave.tpm.signature", rats.InstanceIdentity, "the signature of the TPM quote is not valid", "the quote was altered or made by another key")
	CodeSpliced     = code("enclave.tpm.spliced", rats.InstanceIdentity, "the TPM quote belongs to another report", "the quote was put together of two, or replayed; treat the node with suspicion")
	CodeSelection   = code("enclave.tpm.selection", rats.Configuration, "the TPM quote covers other registers than were asked for", "update the agent; check that the SHA-256 bank is in use")
	CodePCRs        = code("enclave.tpm.pcrs", rats.Configuration, "the register values are not those that were signed", "the values were altered, or a register was extended in between")
	CodeOtherTPM    = code("enclave.tpm.other", rats.InstanceIdentity, "enclave and tpm evidence come from two TPMs, or two boots", "evidence of two machines was mixed; treat the node with suspicion")
	CodeUnasked     = code("enclave.tpm.unasked", rats.InstanceIdentity, "it is not known which registers were asked for", "verify with the parameters of the request, or with a policy")
)

var tpmCodes = []rats.CodeInfo{
	CodeNotEnrolled, CodeOtherAK, CodeAK, CodeAttest, CodeMagic, CodeTPMSign, CodeSpliced, CodeSelection, CodePCRs, CodeOtherTPM, CodeUnasked,
}

// Values of the TPM structures read here (TPM 2.0 part 2).
const (
	tpmMagic   = 0xff544347
	tagQuote   = 0x8018
	algSHA256  = 0x000b
	algNull    = 0x0010
	algECDSA   = 0x0018
	algECC     = 0x0023
	curveP256  = 0x0003
	maxTPMPart = 2048

	attrFixedTPM   = 1 << 1
	attrRestricted = 1 << 16
	attrDecrypt    = 1 << 17
	attrSign       = 1 << 18
)

// cursor reads big-endian TPM structures; after the first error it yields zeroes.
type cursor struct {
	rest []byte
	at   int
	err  error
}

func (c *cursor) take(n int) []byte {
	if c.err == nil && n > len(c.rest) {
		c.err = fmt.Errorf("at byte %d it ends, %d bytes too early", c.at, n-len(c.rest))
	}
	if c.err != nil {
		return make([]byte, 8)[:min(n, 8)]
	}
	b := c.rest[:n:n]
	c.rest, c.at = c.rest[n:], c.at+n
	return b
}

func (c *cursor) uint16() uint16 { return binary.BigEndian.Uint16(c.take(2)) }
func (c *cursor) uint32() uint32 { return binary.BigEndian.Uint32(c.take(4)) }
func (c *cursor) sized() []byte  { return c.take(int(c.uint16())) }

func (c *cursor) want(what string, expected, seen uint32) {
	if c.err == nil && expected != seen {
		c.err = fmt.Errorf("at byte %d its %s is 0x%x, expected 0x%x", c.at, what, seen, expected)
	}
}

func (c *cursor) end() error {
	if c.err == nil && len(c.rest) > 0 {
		c.err = fmt.Errorf("at byte %d %d bytes follow it", c.at, len(c.rest))
	}
	return c.err
}

// parseAK reads a TPM2B_PUBLIC of a restricted ECDSA key on P-256 with SHA-256.
func parseAK(b []byte) (*ecdsa.PublicKey, error) {
	c := &cursor{rest: b}
	c.want("size", uint32(len(b)-2), uint32(c.uint16()))
	c.want("type", algECC, uint32(c.uint16()))
	c.want("name algorithm", algSHA256, uint32(c.uint16()))
	attributes := c.uint32()
	c.want("set of attributes (fixedTPM, restricted, sign, without decrypt)", attrFixedTPM|attrRestricted|attrSign, attributes&(attrFixedTPM|attrRestricted|attrSign|attrDecrypt))
	c.sized() // authorisation policy
	c.want("symmetric algorithm", algNull, uint32(c.uint16()))
	c.want("scheme", algECDSA, uint32(c.uint16()))
	c.want("hash", algSHA256, uint32(c.uint16()))
	c.want("curve", curveP256, uint32(c.uint16()))
	c.want("key derivation", algNull, uint32(c.uint16()))
	x, y := c.sized(), c.sized()
	if err := c.end(); err != nil {
		return nil, err
	}
	if len(x) > 32 || len(y) > 32 {
		return nil, fmt.Errorf("its point has coordinates of %d and %d bytes, at most 32", len(x), len(y))
	}
	point := make([]byte, 65)
	point[0] = 4
	copy(point[33-len(x):], x)
	copy(point[65-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, errors.New("its point is not on the curve")
	}
	return key, nil
}

// verifySignature checks a TPMT_SIGNATURE over message.
func verifySignature(key *ecdsa.PublicKey, message, signature []byte) error {
	c := &cursor{rest: signature}
	c.want("scheme", algECDSA, uint32(c.uint16()))
	c.want("hash", algSHA256, uint32(c.uint16()))
	r, s := c.sized(), c.sized()
	if err := c.end(); err != nil {
		return err
	}
	sum := sha256.Sum256(message)
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
		return errors.New("not the key's signature of these bytes")
	}
	return nil
}

// attest is a TPMS_ATTEST of a quote.
type attest struct {
	extra          []byte
	reset, restart uint32
	bank           uint16
	pcrs           []int
	digest         []byte
}

// errMagic says that a TPM did not compose the structure.
var errMagic = errors.New("another magic")

func parseAttest(b []byte) (attest, error) {
	c := &cursor{rest: b}
	if m := c.uint32(); c.err == nil && m != tpmMagic {
		return attest{}, errMagic
	}
	c.want("type", tagQuote, uint32(c.uint16()))
	c.sized() // qualified name of the signer
	a := attest{extra: c.sized()}
	c.take(8) // clock
	a.reset, a.restart = c.uint32(), c.uint32()
	c.take(1 + 8) // safe, firmware version
	c.want("number of selections", 1, c.uint32())
	a.bank = c.uint16()
	size := int(c.take(1)[0])
	if size > 4 {
		return attest{}, fmt.Errorf("at byte %d it has a selection of %d bytes, at most 4", c.at, size)
	}
	for i, bits := range c.take(size) {
		for bit := range 8 {
			if bits&(1<<bit) != 0 {
				a.pcrs = append(a.pcrs, 8*i+bit)
			}
		}
	}
	a.digest = c.sized()
	return a, c.end()
}

// enrolment is what counts here of a record of the tpm format.
type enrolment struct {
	EKDigest rats.Digest `json:"ek_digest"`
	AK       []byte      `json:"ak"`
	Software bool        `json:"software"`
}

// enrolled returns the enrolment record of the attestation key.
func enrolled(ak []byte, endorsements []rats.Endorsement) (enrolment, error) {
	n := 0
	for _, e := range endorsements {
		if e.MediaType != enrolmentMediaType {
			continue
		}
		n++
		r := enrolment{Software: true} // a record that doesn't say was not made by hardware
		if err := json.Unmarshal(e.Body, &r); err != nil {
			return enrolment{}, fmt.Errorf("reading an enrolment record: %w", err) // our own: a malfunction
		}
		if len(ak) > 0 && bytes.Equal(r.AK, ak) {
			return r, nil
		}
	}
	if n == 0 {
		return enrolment{}, CodeNotEnrolled.Missing("endorsements", "an enrolment record", "none")
	}
	return enrolment{}, CodeOtherAK.Bad(PartAK, fmt.Sprintf("the key of one of the node's %d enrolment records", n), rats.SHA256(ak).String())
}

// quoted is a TPM quote that was verified.
type quoted struct {
	enrolment enrolment
	attest    attest
	values    map[int][]byte
}

// checkTPM verifies the TPM quote: key, signature, what it is bound to, registers.
func checkTPM(parts map[string][]byte, extra [32]byte, in rats.Inputs) (quoted, error) {
	if len(in.Params) == 0 {
		return quoted{}, CodeUnasked.Missing("params", "registers", "nothing")
	}
	asked, err := ParseParams(in.Params)
	if err != nil {
		return quoted{}, err
	}
	q := quoted{values: make(map[int][]byte)}
	if q.enrolment, err = enrolled(parts[PartAK], in.Endorsements); err != nil {
		return quoted{}, err
	}
	key, err := parseAK(parts[PartAK])
	if err != nil {
		return quoted{}, CodeAK.Bad(PartAK, "TPM2B_PUBLIC of a restricted P-256 key", err.Error())
	}
	if err := verifySignature(key, parts[PartAttest], parts[PartSignature]); err != nil {
		return quoted{}, CodeTPMSign.Bad(PartSignature, "the AK's signature", err.Error())
	}
	q.attest, err = parseAttest(parts[PartAttest])
	if errors.Is(err, errMagic) {
		return quoted{}, CodeMagic.Bad(PartAttest+" at byte 0", fmt.Sprintf("0x%08x", uint32(tpmMagic)), hex.EncodeToString(parts[PartAttest][:4]))
	}
	if err != nil {
		return quoted{}, CodeAttest.Bad(PartAttest, "TPMS_ATTEST of a quote", err.Error())
	}
	// w1 of HyperEnclave: decoded, logged, and never compared.
	if subtle.ConstantTimeCompare(q.attest.extra, extra[:]) != 1 {
		return quoted{}, CodeSpliced.Bad(PartAttest+".extraData", hex.EncodeToString(extra[:]), clipHex(q.attest.extra))
	}
	if q.attest.bank != algSHA256 || !slices.Equal(q.attest.pcrs, asked.PCRs) {
		return quoted{}, CodeSelection.Bad(PartAttest+".pcrSelect", fmt.Sprintf("SHA-256 %v", asked.PCRs), fmt.Sprintf("bank 0x%04x %v", q.attest.bank, q.attest.pcrs))
	}
	values := parts[PartPCRs]
	if sum := sha256.Sum256(values); len(values) != 32*len(asked.PCRs) || subtle.ConstantTimeCompare(sum[:], q.attest.digest) != 1 {
		return quoted{}, CodePCRs.Bad(PartPCRs, fmt.Sprintf("%d values with digest %s", len(asked.PCRs), clipHex(q.attest.digest)), fmt.Sprintf("%d bytes", len(values)))
	}
	for i, n := range asked.PCRs {
		q.values[n] = bytes.Clone(values[32*i : 32*i+32])
	}
	return q, nil
}

func clipHex(b []byte) string {
	if len(b) > 64 {
		return hex.EncodeToString(b[:64]) + "…"
	}
	return hex.EncodeToString(b)
}
