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

	"github.com/assay-attest/assay/rats"
)

// MediaTypeRecorded is the media type of a quote that was recorded outside of Assay: the file as it is, with the parts
// signature, ak and pcrs where they stand in other files. Only NewRecorded takes it: a node can't answer with it.
const MediaTypeRecorded = "application/vnd.assay.tpm-recorded"

// What can be wrong with a recorded quote, besides what can be wrong with any.
var (
	CodeRecordedMalformed = rats.CodeInfo{Code: "tpm.recorded.malformed", Slot: rats.InstanceIdentity,
		Title: "the file is not a TPM quote", Hint: "give a TPMS_ATTEST (tpm2_quote --message), or a file that holds quote, signature and key"}
	CodeRecordedNoSignature = rats.CodeInfo{Code: "tpm.recorded.no-signature", Slot: rats.InstanceIdentity,
		Title: "the quote's signature is not at hand", Hint: "give it with --signature (tpm2_quote --signature)"}
	CodeRecordedNoKey = rats.CodeInfo{Code: "tpm.recorded.no-key", Slot: rats.InstanceIdentity,
		Title: "the attestation key is not at hand", Hint: "give it with --ak, as PEM or TPM2B_PUBLIC"}
	CodeRecordedKeyOnly = rats.CodeInfo{Code: "tpm.recorded.key-only", Slot: rats.InstanceIdentity,
		Title: "the file holds a key and no quote", Hint: "give it with --ak, beside a quote"}
)

var recordedCodes = []rats.CodeInfo{
	CodeRecordedMalformed, CodeRecordedNoSignature, CodeRecordedNoKey, CodeRecordedKeyOnly, CodeRecordedKeyUnvouched,
	CodeRecordedUnbound, CodeRecordedNoValues, CodeRecordedSHA1,
}

// Recorded is what claims about a recorded quote say besides. Several quotes of one file (of several banks) are one
// statement; what can differ between them is of the first.
type Recorded struct {
	Container     string           `json:"container"`
	Key           string           `json:"key,omitempty"`  // sha256:… of the signer's SubjectPublicKeyInfo
	Name          string           `json:"name,omitempty"` // the signer's Name in hex; empty if only its numbers are known
	KeyInside     bool             `json:"key_inside"`     // the key came with the quote: nobody vouched for it
	Signed        bool             `json:"signature_ok"`
	SignatureHash string           `json:"signature_hash,omitempty"`
	Bound         bool             `json:"bound"`
	ExtraData     string           `json:"extra_data"` // hex
	Clock         uint64           `json:"clock"`      // milliseconds
	Banks         []string         `json:"banks_quoted"`
	Selection     map[string][]int `json:"pcr_selection"`
	Digest        string           `json:"pcr_digest"`
	Values        bool             `json:"pcr_digest_ok"` // the PCR values are at hand and are those that were quoted
}

type recordedVerifier struct{}

var recordedDescriptor = func() *rats.Descriptor {
	d := *descriptor
	d.Title = "TPM 2.0 quote, recorded"
	d.MediaTypes = []string{MediaTypeRecorded}
	return &d
}()

// NewRecorded returns the verifier of quotes in files, for auditors and for comparison with other tools: the caller
// vouches for the key (part ak), no enrolment does. Its evidence has media type MediaTypeRecorded: the body is a
// TPMS_ATTEST, or a file of go-tpm-tools, go-attestation, Trustee, Keylime or Azure's tools that holds one; the optional
// parts are signature (TPMT_SIGNATURE), ak (TPM2B_PUBLIC, TPMT_PUBLIC, PEM, DER, JWK) and pcrs (EncodeBanks).
//
// A server must never use it: it would take a key that a node brings along.
func NewRecorded() rats.Verifier { return recordedVerifier{} }

// DefaultRules are the rules for recorded quotes where there is no policy: signed by a key that the caller vouches for,
// not with SHA-1, bound to a nonce that was given, over PCR values that were given.
func DefaultRules() rats.Rules { return &Rules{recorded: true} }

func (recordedVerifier) Descriptor() *rats.Descriptor { return recordedDescriptor }

// Verify implements rats.Verifier.
func (recordedVerifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	r, values, err := openRecorded(e)
	if err != nil {
		return rats.Verified{}, err
	}
	if len(r.key) == 0 {
		return rats.Verified{}, CodeRecordedNoKey.Missing(PartAK, "a public key", "none")
	}
	key, err := parseKey(r.key)
	if err != nil {
		return rats.Verified{}, CodeAKMalformed.Bad(PartAK, "a public key", err.Error())
	}
	given, beside := e.Part(PartAK)
	c := &Claims{PCRs: make(map[string]map[string]string), Recorded: &Recorded{Container: r.kind, KeyInside: !beside, Signed: true, Values: true}}
	if c.AKSource = SourceGiven; !beside {
		c.AKSource = SourceInside
	}
	if err := c.addRecordedAK(given.Data, key, in); err != nil {
		return rats.Verified{}, err
	}
	var facts rats.Facts
	for i, q := range r.quotes {
		a, got, err := checkRecorded(key, q, values, in.Binding.UserData, c.Recorded)
		if err != nil {
			return rats.Verified{}, err
		}
		c.add(a, got, i == 0)
		for _, s := range a.selections {
			if bank := recordedBanks[s.hash]; len(got[bank]) > 0 {
				facts.Registers = append(facts.Registers, rats.Registers{By: Format, Kind: "pcr", Alg: bank, Values: got[bank]})
			}
		}
		facts.UserData = append(facts.UserData, bytes.Clone(a.extra))
	}
	c.Recorded.Bound = len(in.Binding.UserData) > 0
	if err := c.sign(key, r.key); err != nil {
		return rats.Verified{}, err
	}
	facts.Boots = []rats.Boot{{By: Format, ID: BootID([]byte(c.Recorded.Key), c.ResetCount, c.RestartCount)}}
	return rats.Verified{Claims: c, Facts: facts}, nil
}

// addRecordedAK judges a key that was given as a certificate: under anchors that the caller names it must be one of an
// attestation key; under the built-in makers it may be.
func (c *Claims) addRecordedAK(part []byte, key *public, in rats.Inputs) error {
	certs, err := readCertificates(part)
	if err != nil {
		return nil // a bare key
	}
	have := gather(in.Endorsements)
	k, err := openAKCert(part, key)
	if err != nil && (have.operator || deviceOf(certs[0]).Role == RoleIDevID) {
		return err // an IDevID key signs anything, quotes of its owner's making too
	}
	if err != nil {
		return nil
	}
	c.AKCertificate, c.Device = k.cert.Raw, k.device
	_, err = judgeChain(k.cert, have.trusted(), append(k.others, have.others...), have.lists, in.Now)
	switch {
	case err == nil:
		c.AKSource = k.device.source()
	case have.operator || isRevoked(err):
		return err
	}
	return nil
}

// openRecorded reads the file and puts the parts in their places.
func openRecorded(e rats.Evidence) (*recording, banks, error) {
	if e.Format != Format || e.MediaType != MediaTypeRecorded {
		return nil, nil, CodeMediaType.Bad("media_type", MediaTypeRecorded, clip(e.MediaType))
	}
	for _, p := range e.Parts {
		if _, once := e.Part(p.Name); !once || p.Offset != 0 || p.Name != PartSignature && p.Name != PartAK && p.Name != PartPCRs {
			return nil, nil, CodeParts.Bad("parts."+clip(p.Name), "at most one each of signature, ak, pcrs", "another")
		}
	}
	r, err := parseRecording(e.Body)
	if err != nil {
		return nil, nil, CodeRecordedMalformed.Bad("body", "a quote", err.Error())
	}
	if r.kind == kindKey {
		return nil, nil, CodeRecordedKeyOnly.Missing("body", "a quote", "a key")
	}
	if p, ok := e.Part(PartAK); ok {
		r.key = p.Data
	}
	if p, ok := e.Part(PartSignature); ok {
		if len(r.quotes) != 1 {
			return nil, nil, CodeParts.Bad("parts."+PartSignature, "none beside a file that holds several quotes", "one")
		}
		r.quotes[0].signature = p.Data
	}
	var values banks
	if p, ok := e.Part(PartPCRs); ok {
		if values, err = parseBanks(p.Data); err != nil {
			return nil, nil, CodePCRsMalformed.Bad(PartPCRs, "PCR values", err.Error())
		}
	}
	return r, values, nil
}

// checkRecorded checks one quote. It returns the values of every bank that are proven to be those that were signed.
func checkRecorded(key *public, q recordedQuote, given banks, userData []byte, out *Recorded) (*attest, banks, error) {
	if len(q.signature) == 0 {
		return nil, nil, CodeRecordedNoSignature.Missing(PartSignature, "a signature", "none")
	}
	s, err := key.verifyRecorded(q.attest, q.signature)
	if err != nil {
		return nil, nil, CodeSignature.Bad(PartSignature, "the AK's signature over the quote", err.Error())
	}
	a, err := parseQuote(q.attest)
	if err != nil {
		return nil, nil, err
	}
	if a.empty() {
		return nil, nil, CodeEmptySelection.Bad("body.pcrSelect", "at least one PCR", describe(a.selections))
	}
	if !boundTo(a.extra, userData) {
		return nil, nil, CodeUserData.Bad("body.extraData", hex.EncodeToString(userData), clipHex(a.extra))
	}
	if out.SignatureHash == "" || s.hash == algSHA1 {
		out.SignatureHash = hashNames[s.hash]
	}
	values, err := chosen(a.selections, q.values, given)
	if err != nil {
		return nil, nil, err
	}
	if values == nil {
		out.Values = false
		return a, nil, nil
	}
	h := recordedHashes[s.hash].New()
	for _, sel := range a.selections {
		for _, i := range sel.pcrs {
			h.Write(values[recordedBanks[sel.hash]][i])
		}
	}
	if digest := h.Sum(nil); subtle.ConstantTimeCompare(digest, a.pcrDigest) != 1 {
		return nil, nil, CodePCRDigest.Bad(PartPCRs, clipHex(a.pcrDigest), hex.EncodeToString(digest))
	}
	return a, values, nil
}

// parseQuote reads a TPMS_ATTEST and refuses all but quotes.
func parseQuote(b []byte) (*attest, error) {
	a, err := parseAttest(b)
	switch {
	case errors.Is(err, errOther) && a.magic != magic:
		return nil, CodeMagic.Bad("body.magic", fmt.Sprintf("0x%08x", uint32(magic)), fmt.Sprintf("0x%08x at byte 0", a.magic))
	case err == nil && a.tag != tagQuote, errors.Is(err, errOther):
		return nil, CodeType.Bad("body.type", fmt.Sprintf("0x%04x", tagQuote), fmt.Sprintf("0x%04x at byte 4", a.tag))
	case err != nil:
		return nil, CodeAttestMalformed.Bad("body", "TPMS_ATTEST", err.Error())
	}
	return a, nil
}

// boundTo compares user data with what must stand at its beginning; the rest must be zero. Nothing given binds nothing.
func boundTo(extra, userData []byte) bool {
	if len(userData) == 0 {
		return true
	}
	if len(userData) > len(extra) || subtle.ConstantTimeCompare(extra[:len(userData)], userData) != 1 {
		return false
	}
	return !slices.ContainsFunc(extra[len(userData):], func(b byte) bool { return b != 0 })
}

// chosen returns the values of all selected PCRs: those that came with the quote, else those that were given. Where both
// name a value they must agree. It returns nothing if no value of a selected bank is at hand.
func chosen(selections []selection, own, given banks) (banks, error) {
	out := make(banks)
	missing, found := "", false
	for _, s := range selections {
		bank, ok := recordedBanks[s.hash]
		if !ok && len(s.pcrs) > 0 {
			return nil, CodeSelection.Bad("body.pcrSelect", "banks sha1, sha256, sha384, sha512", describe(selections))
		}
		for _, i := range s.pcrs {
			o, g := own[bank][i], given[bank][i]
			if o != nil && g != nil && !bytes.Equal(o, g) {
				return nil, CodePCRDigest.Bad(fmt.Sprintf("pcrs.%s.%d", bank, i), hex.EncodeToString(g), hex.EncodeToString(o))
			}
			if o == nil {
				o = g
			}
			if o == nil {
				missing = fmt.Sprintf("%s %d", bank, i)
				continue
			}
			found = true
			if err := out.add(bank, i, o); err != nil {
				return nil, CodePCRsMalformed.Bad(PartPCRs, "PCR values", err.Error())
			}
		}
	}
	if missing != "" && found {
		return nil, CodePCRsSelection.Bad(PartPCRs, "a value for each of "+describe(selections), "none for "+missing)
	}
	if !found {
		return nil, nil
	}
	return out, nil
}

// add adds what one quote says.
func (c *Claims) add(a *attest, values banks, first bool) {
	r := c.Recorded
	if first {
		c.Firmware, c.ResetCount, c.RestartCount, c.ClockSafe = fmt.Sprintf("%016x", a.firmware), a.resetCount, a.restartCount, a.safe
		r.ExtraData, r.Clock, r.Digest = hex.EncodeToString(a.extra), a.clock, hex.EncodeToString(a.pcrDigest)
		r.Selection = make(map[string][]int)
	}
	for _, s := range a.selections {
		bank := recordedBanks[s.hash]
		if bank == "" {
			bank = fmt.Sprintf("0x%04x", s.hash)
		}
		if !slices.Contains(r.Banks, bank) {
			r.Banks = append(r.Banks, bank)
		}
		r.Selection[bank] = append(r.Selection[bank], s.pcrs...)
	}
	for bank, v := range values {
		if c.PCRs[bank] == nil {
			c.PCRs[bank] = make(map[string]string)
		}
		for i, value := range v {
			c.PCRs[bank][strconv.Itoa(i)] = hex.EncodeToString(value)
		}
	}
}

// sign adds what is known of the signer.
func (c *Claims) sign(key *public, file []byte) error {
	spki, err := key.spki()
	if err != nil {
		return fmt.Errorf("encoding the attestation key: %w", err)
	}
	c.Recorded.Key = rats.SHA256(spki).String()
	if key.raw == nil {
		return nil
	}
	c.Recorded.Name = hex.EncodeToString(key.name())
	if !key.has(attrRestricted|attrFixedTPM|attrFixedParent|attrSensitiveDataOrigin|attrSign) || key.has(attrDecrypt) {
		return CodeAKRestricted.Bad("ak.objectAttributes", "restricted, fixedTPM, fixedParent, sensitiveDataOrigin, sign, not decrypt", fmt.Sprintf("0x%08x", key.attributes))
	}
	c.AK = rats.SHA256(file)
	return nil
}

// InspectRecorded decodes a recorded quote, or an attestation key, and verifies nothing.
func InspectRecorded(b []byte) (any, error) {
	r, err := parseRecording(b)
	if err != nil {
		return nil, CodeRecordedMalformed.Bad("body", "a quote", err.Error())
	}
	c := &Claims{PCRs: make(map[string]map[string]string), Recorded: &Recorded{Container: r.kind, KeyInside: len(r.key) > 0}}
	for i, q := range r.quotes {
		a, err := parseQuote(q.attest)
		if err != nil {
			return nil, err
		}
		c.add(a, q.values, i == 0)
	}
	if len(r.key) > 0 {
		key, err := parseKey(r.key)
		if err != nil {
			return nil, CodeAKMalformed.Bad(PartAK, "a public key", err.Error())
		}
		if spki, err := key.spki(); err == nil {
			c.Recorded.Key = rats.SHA256(spki).String()
		}
		if key.raw != nil {
			c.Recorded.Name = hex.EncodeToString(key.name())
		}
	}
	return c, nil
}

// RecordedLog returns the boot event log that the file holds beside its quotes, nil if there is none.
func RecordedLog(b []byte) []byte {
	r, err := parseRecording(b)
	if err != nil {
		return nil
	}
	return r.log
}
