package tpm

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with a quote.
var (
	CodeMediaType = rats.CodeInfo{Code: "tpm.evidence.media-type", Slot: rats.InstanceIdentity,
		Title: "the evidence is of another kind", Hint: "send evidence of format tpm as " + MediaType}
	CodeParts = rats.CodeInfo{Code: "tpm.evidence.parts", Slot: rats.InstanceIdentity,
		Title: "a part of the evidence is missing, doubled or unknown", Hint: "send exactly the parts signature, pcrs and ak, and at most ak-cert of 24 KiB"}
	CodeUnasked = rats.CodeInfo{Code: "tpm.quote.unasked", Slot: rats.InstanceIdentity,
		Title: "it is not known which PCRs were asked for", Hint: "verify with the parameters of the request, or with a policy"}
	CodeUnbound = rats.CodeInfo{Code: "tpm.quote.unbound", Slot: rats.InstanceIdentity,
		Title: "it is not known what the quote must be bound to", Hint: "give the manifest or report data of this exchange, at least 16 bytes"}
	CodeNotEnrolled = rats.CodeInfo{Code: "tpm.ak.not-enrolled", Slot: rats.InstanceIdentity,
		Title: "the node has no enrolment record", Hint: "let the node join again"}
	CodeOtherAK = rats.CodeInfo{Code: "tpm.ak.other", Slot: rats.InstanceIdentity,
		Title: "the attestation key is not the one the node enrolled", Hint: "if the TPM or the system was replaced on purpose, let the node join again"}
	CodeAKMalformed = rats.CodeInfo{Code: "tpm.ak.malformed", Slot: rats.InstanceIdentity,
		Title: "the attestation key is not a public key of a TPM", Hint: "update the agent; use ECC P-256, P-384 or RSA 2048 to 4096"}
	CodeAttestMalformed = rats.CodeInfo{Code: "tpm.quote.malformed", Slot: rats.InstanceIdentity,
		Title: "the quote is not a TPMS_ATTEST", Hint: "update the agent"}
	CodeMagic = rats.CodeInfo{Code: "tpm.quote.magic", Slot: rats.InstanceIdentity,
		Title: "the signed bytes were not composed by a TPM", Hint: "treat the machine as compromised: its key signed foreign bytes"}
	CodeType = rats.CodeInfo{Code: "tpm.quote.type", Slot: rats.InstanceIdentity,
		Title: "the signed statement is not a quote", Hint: "update the agent"}
	CodeSignature = rats.CodeInfo{Code: "tpm.quote.signature", Slot: rats.InstanceIdentity,
		Title: "the signature of the quote is not valid", Hint: "the quote was altered or made by another key"}
	CodeUserData = rats.CodeInfo{Code: "tpm.quote.user-data", Slot: rats.InstanceIdentity,
		Title: "the quote is bound to something else", Hint: "a quote answers one challenge only; collect a new one"}
	CodeBinding = rats.CodeInfo{Code: "tpm.quote.binding", Slot: rats.InstanceIdentity,
		Title: "the binding does not hang together", Hint: "user data must be the SHA-256 of the manifest"}
	CodeSelection = rats.CodeInfo{Code: "tpm.quote.selection", Slot: rats.Configuration,
		Title: "the quote covers other PCRs than were asked for", Hint: "update the agent; check that the PCR bank is in use"}
	CodeEmptySelection = rats.CodeInfo{Code: "tpm.quote.empty-selection", Slot: rats.Configuration,
		Title: "the quote covers no PCR at all", Hint: "such a quote says nothing about the machine; collect a new one"}
	CodePCRsMalformed = rats.CodeInfo{Code: "tpm.pcrs.malformed", Slot: rats.Configuration,
		Title: "the PCR values are not well-formed", Hint: "update the agent"}
	CodePCRsSelection = rats.CodeInfo{Code: "tpm.pcrs.selection", Slot: rats.Configuration,
		Title: "the PCR values are not those of the quote's selection", Hint: "send a value for each quoted PCR and no other"}
	CodePCRDigest = rats.CodeInfo{Code: "tpm.pcrs.digest", Slot: rats.Configuration,
		Title: "the PCR values are not those that were signed", Hint: "the values were altered, or a PCR was extended between quote and reading"}
)

var verifyCodes = []rats.CodeInfo{
	CodeMediaType, CodeParts, CodeUnasked, CodeUnbound, CodeNotEnrolled, CodeOtherAK, CodeAKMalformed, CodeAttestMalformed,
	CodeMagic, CodeType, CodeSignature, CodeUserData, CodeBinding, CodeSelection, CodeEmptySelection, CodePCRsMalformed, CodePCRsSelection,
	CodePCRDigest,
}

var descriptor = &rats.Descriptor{
	ID:            Format,
	Title:         "TPM 2.0 quote",
	Doc:           "formats/tpm.md",
	MediaTypes:    []string{MediaType},
	Hardware:      true,
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         Codes,
}

type verifier struct{ *verified }

// New returns the verifier of TPM quotes. It remembers the chains and records it found good.
func New() rats.Verifier { return verifier{&verified{}} }

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }

func (verifier) Descriptor() *rats.Descriptor { return descriptor }

// Verify implements rats.Verifier. Its inputs are the binding, the parameters of the request (Params) and the node's
// enrolment records; in other endorsements certificates of TPM makers and revocation lists are recognised by content. It
// needs no clock: when certificates and lists count is for the rules to say.
func (v verifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	if len(in.Params) == 0 {
		return rats.Verified{}, CodeUnasked.Missing("params", "bank and PCRs", "nothing")
	}
	asked, err := ParseParams(in.Params)
	if err != nil {
		return rats.Verified{}, err
	}
	keys, err := checkBinding(in.Binding)
	if err != nil {
		return rats.Verified{}, err
	}
	parts, err := partsOf(e)
	if err != nil {
		return rats.Verified{}, err
	}
	enrolment, err := v.enrolled(parts[PartAK], in.Endorsements)
	if err != nil {
		return rats.Verified{}, err
	}
	ak, err := parsePublic(parts[PartAK])
	if err != nil {
		return rats.Verified{}, CodeAKMalformed.Bad(PartAK, "TPM2B_PUBLIC", err.Error())
	}
	if err := checkAK(ak); err != nil {
		return rats.Verified{}, err
	}
	quote, values, err := checkQuote(ak, e.Body, parts, in.Binding.UserData, asked)
	if err != nil {
		return rats.Verified{}, err
	}
	claims := claimsOf(enrolment, quote, asked.Bank, values)
	have, key := v.gather(in.Endorsements)
	if err := claims.addEK(enrolment, have, key, v.verified); err != nil {
		return rats.Verified{}, err
	}
	if err := claims.addAK(parts[PartAKCert], ak, have); err != nil {
		return rats.Verified{}, err
	}
	spki, err := ak.spki()
	if err != nil {
		return rats.Verified{}, fmt.Errorf("encoding the attestation key: %w", err)
	}
	out := rats.Verified{
		Claims: claims,
		Facts: rats.Facts{
			Registers: []rats.Registers{{By: Format, Kind: "pcr", Alg: asked.Bank, Values: values}},
			// The record of enrolment vouches for the AK; formats that name a TPM's key compare it with theirs (S01).
			Keys:     append(keys, rats.BoundKey{Use: rats.KeyAK, Public: spki}),
			UserData: [][]byte{bytes.Clone(quote.extra)},
			Boots:    []rats.Boot{{By: Format, ID: BootID(enrolment.AK, quote.resetCount, quote.restartCount)}},
		},
		// The record ties AK to EK by a credential that only the EK's TPM could open.
		Links: []rats.Link{{From: Format, To: Format, Kind: rats.LinkEnrolled}},
	}
	if claims.Software {
		out.Marks = []string{rats.MarkSoftwareTPM}
	}
	return out, nil
}

// minUserData is the shortest binding that can hold a challenge (R107).
const minUserData = 16

// checkBinding returns the keys that the binding binds.
func checkBinding(b rats.Binding) ([]rats.BoundKey, error) {
	if len(b.UserData) < minUserData {
		return nil, CodeUnbound.Missing("binding.user_data", fmt.Sprintf("at least %d bytes", minUserData), fmt.Sprintf("%d bytes", len(b.UserData)))
	}
	if b.Profile != rats.ProfileAssay {
		return nil, nil
	}
	if sum := rats.SHA256(b.Manifest).Sum; subtle.ConstantTimeCompare(sum, b.UserData) != 1 {
		return nil, CodeBinding.Bad("binding.user_data", hex.EncodeToString(sum), clipHex(b.UserData))
	}
	m, err := rats.DecodeManifest(b.Manifest)
	if err != nil {
		return nil, CodeBinding.Bad("binding.manifest", "an assay/1 manifest", err.Error())
	}
	if _, named := m.Key(rats.KeyAK); named {
		// The sender writes the manifest; only a verified quote says whose key a TPM's is (S01).
		return nil, CodeBinding.Bad("binding.manifest", "no key of use "+rats.KeyAK, "one")
	}
	return m.Keys, nil
}

func partsOf(e rats.Evidence) (map[string][]byte, error) {
	if e.Format != Format || e.MediaType != MediaType {
		return nil, CodeMediaType.Bad("media_type", MediaType, clip(e.MediaType))
	}
	names := []string{PartSignature, PartPCRs, PartAK}
	parts := make(map[string][]byte, len(names))
	for _, name := range names {
		p, ok := e.Part(name)
		if !ok || p.Offset != 0 {
			return nil, CodeParts.Bad("parts."+name, "exactly one, at offset 0", "another number or offset")
		}
		parts[name] = p.Data
	}
	if p, ok := e.Part(PartAKCert); ok && p.Offset == 0 && len(p.Data) > 0 && len(p.Data) <= maxChainBytes {
		parts[PartAKCert] = p.Data
	}
	if len(e.Parts) != len(parts) {
		return nil, CodeParts.Bad("parts", strings.Join(names, ", ")+" and at most "+PartAKCert, fmt.Sprintf("%d parts", len(e.Parts)))
	}
	return parts, nil
}

// enrolled returns the enrolment record of the attestation key.
func (v *verified) enrolled(ak []byte, endorsements []rats.Endorsement) (Enrolment, error) {
	n := 0
	for _, e := range endorsements {
		if e.MediaType != EnrolmentMediaType {
			continue
		}
		n++
		r, err := v.record(e.Body)
		if err != nil {
			return Enrolment{}, err // our own record: a malfunction, not bad evidence
		}
		if bytes.Equal(r.AK, ak) {
			return r, nil
		}
	}
	if n == 0 {
		return Enrolment{}, CodeNotEnrolled.Missing("endorsements", "an enrolment record", "none")
	}
	return Enrolment{}, CodeOtherAK.Bad(PartAK, "the key of one of the node's "+strconv.Itoa(n)+" enrolment records", rats.SHA256(ak).String())
}

// checkQuote checks everything about the signed statement and its companions.
func checkQuote(ak *public, body []byte, parts map[string][]byte, userData []byte, asked Params) (*attest, map[int][]byte, error) {
	hash, err := ak.verify(body, parts[PartSignature])
	if err != nil {
		return nil, nil, CodeSignature.Bad(PartSignature, "the AK's signature over the body", err.Error())
	}
	q, err := parseAttest(body)
	switch {
	case errors.Is(err, errOther) && q.magic != magic:
		return nil, nil, CodeMagic.Bad("body.magic", fmt.Sprintf("0x%08x", uint32(magic)), fmt.Sprintf("0x%08x", q.magic))
	case err == nil && q.tag != tagQuote, errors.Is(err, errOther):
		return nil, nil, CodeType.Bad("body.type", fmt.Sprintf("0x%04x", tagQuote), fmt.Sprintf("0x%04x", q.tag))
	case err != nil:
		return nil, nil, CodeAttestMalformed.Bad("body", "TPMS_ATTEST", err.Error())
	}
	if subtle.ConstantTimeCompare(q.extra, userData) != 1 {
		return nil, nil, CodeUserData.Bad("body.extraData", hex.EncodeToString(userData), clipHex(q.extra))
	}
	if q.empty() {
		return nil, nil, CodeEmptySelection.Bad("body.pcrSelect", fmt.Sprintf("%s %v", asked.Bank, asked.PCRs), describe(q.selections))
	}
	if len(q.selections) != 1 || bankOf[q.selections[0].hash] != asked.Bank || !slices.Equal(q.selections[0].pcrs, asked.PCRs) {
		return nil, nil, CodeSelection.Bad("body.pcrSelect", fmt.Sprintf("%s %v", asked.Bank, asked.PCRs), describe(q.selections))
	}
	bank, values, err := parsePCRs(parts[PartPCRs])
	if err != nil {
		return nil, nil, CodePCRsMalformed.Bad(PartPCRs, "PCR values of one bank", err.Error())
	}
	if bank != asked.Bank || !slices.Equal(indexes(values), asked.PCRs) {
		return nil, nil, CodePCRsSelection.Bad(PartPCRs, fmt.Sprintf("%s %v", asked.Bank, asked.PCRs), fmt.Sprintf("%s %v", bank, indexes(values)))
	}
	if digest := pcrDigest(hash, values); subtle.ConstantTimeCompare(digest, q.pcrDigest) != 1 {
		return nil, nil, CodePCRDigest.Bad(PartPCRs, clipHex(q.pcrDigest), hex.EncodeToString(digest))
	}
	return q, values, nil
}

func claimsOf(r Enrolment, q *attest, bank string, values map[int][]byte) *Claims {
	pcrs := make(map[string]string, len(values))
	for i, v := range values {
		pcrs[strconv.Itoa(i)] = hex.EncodeToString(v)
	}
	return &Claims{
		AK:            rats.SHA256(r.AK),
		EK:            r.EKDigest,
		EKCertified:   len(r.EKCert) > 0,
		EKCertificate: r.EKCert,
		Manufacturer:  r.Manufacturer,
		Model:         r.Model,
		Software:      r.Software,
		Firmware:      fmt.Sprintf("%016x", q.firmware),
		ResetCount:    q.resetCount,
		RestartCount:  q.restartCount,
		ClockSafe:     q.safe,
		PCRs:          map[string]map[string]string{bank: pcrs},
	}
}

// addEK follows the EK's certificate upwards, and to the built-in makers if it leads there. Whatever it finds counts for
// nothing until rules name the maker; but what a list revokes is refused whoever is trusted.
func (c *Claims) addEK(r Enrolment, have *collateral, key [32]byte, v *verified) error {
	if len(r.EKCert) == 0 {
		return nil
	}
	key = keyOf(slices.Concat([][]byte{key[:], []byte(r.Manufacturer), r.EKCert}, r.EKChain)...)
	if known, ok := v.eks.get(key); ok {
		c.EKChain, c.EKVendor, c.EKRevocation, c.Software = known.chain, known.vendor, known.revocation, c.Software || known.virtual
		return nil
	}
	virtual, err := c.judgeEK(r, have)
	if err != nil {
		return err
	}
	c.Software = c.Software || virtual
	v.eks.put(key, ekClaims{chain: c.EKChain, vendor: c.EKVendor, revocation: c.EKRevocation, virtual: virtual})
	return nil
}

func (c *Claims) judgeEK(r Enrolment, have *collateral) (virtual bool, err error) {
	cert, err := readCertificate(r.EKCert)
	if err != nil {
		return false, fmt.Errorf("reading the record's EK certificate: %v", err) // our own record: a malfunction
	}
	others := append(parsed(r.EKChain), have.others...)
	c.EKChain = rawOf(climb(cert, others)[1:])
	if _, err := checkRevoked(climb(cert, slices.Concat(others, have.trusted())), have.lists); err != nil {
		return false, err
	}
	if kindOf(cert, r.Manufacturer) != KindEK {
		return false, nil
	}
	j, err := judgeChain(cert, everyAnchor(), others, have.lists, time.Time{})
	switch {
	case isRevoked(err):
		return false, err
	case err == nil:
		c.EKVendor, c.EKRevocation = j.vendor, &j.revocation
		virtual = j.virtual
	}
	return virtual, nil
}

// isRevoked tells what lists say from a chain that leads nowhere.
func isRevoked(err error) bool {
	r, ok := rats.ReasonOf(err)
	return ok && (r.Code == CodeCertRevoked.Code || r.Code == CodeCRLSignature.Code)
}

// addAK reads the certificate of the AK, if one came along, and says what it proves under the built-in makers, or the
// anchors among the endorsements.
func (c *Claims) addAK(part []byte, ak *public, have *collateral) error {
	c.AKSource = SourceCredential
	if len(part) == 0 {
		return nil
	}
	k, err := openAKCert(part, ak)
	if err != nil {
		return err
	}
	others := append(k.others, have.others...)
	c.AKCertificate, c.AKChain, c.Device = k.cert.Raw, rawOf(climb(k.cert, others)[1:]), k.device
	_, err = judgeChain(k.cert, have.trusted(), others, have.lists, time.Time{})
	switch {
	case isRevoked(err):
		return err
	case err == nil:
		c.AKSource = k.device.source()
	}
	return nil
}

func describe(selections []selection) string {
	var out []string
	for _, s := range selections {
		name, ok := bankOf[s.hash]
		if !ok {
			name = fmt.Sprintf("bank 0x%04x", s.hash)
		}
		out = append(out, fmt.Sprintf("%s %v", name, s.pcrs))
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

// clip bounds foreign text in reasons.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func clipHex(b []byte) string {
	if len(b) > 64 {
		return hex.EncodeToString(b[:64]) + "…"
	}
	return hex.EncodeToString(b)
}
