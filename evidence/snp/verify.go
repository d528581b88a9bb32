package snp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"

	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/rats"
)

// What can be wrong with a piece of evidence as a whole.
var (
	CodeMediaType = rats.CodeInfo{Code: "snp.evidence.media-type", Slot: rats.InstanceIdentity,
		Title: "the evidence is of another kind", Hint: "send evidence of format snp as " + MediaType}
	CodeParts = rats.CodeInfo{Code: "snp.evidence.parts", Slot: rats.InstanceIdentity,
		Title: "a part of the evidence is doubled or unknown", Hint: "send the report and at most one part, " + PartCerts}
	CodeUnsigned = rats.CodeInfo{Code: "snp.report.unsigned", Slot: rats.InstanceIdentity,
		Title: "the report is signed by no key of the hardware", Hint: "the host masks its chip's keys: it must be set to sign reports"}
	CodeSigner = rats.CodeInfo{Code: "snp.vek.role", Slot: rats.InstanceIdentity,
		Title: "the certificate is of another kind of key than the one that signed", Hint: "give a VCEK for a report signed by the chip's key, a VLEK for one signed by a leased key"}
	CodeProduct = rats.CodeInfo{Code: "snp.report.product", Slot: rats.InstanceIdentity,
		Title: "the report is of another product than its key", Hint: "give the certificates of the processor that the report names"}
	CodeSignature = rats.CodeInfo{Code: "snp.report.signature", Slot: rats.InstanceIdentity,
		Title: "the signature of the report is not valid", Hint: "the report was altered, or the certificate is of another chip or TCB version"}
	CodeChipID = rats.CodeInfo{Code: "snp.vek.chip-id", Slot: rats.InstanceIdentity,
		Title: "the key is of another chip than the report", Hint: "fetch the VCEK of the report's chip id"}
	CodeTCBOther = rats.CodeInfo{Code: "snp.vek.tcb", Slot: rats.InstanceIdentity,
		Title: "the key was made for another TCB version than the report says", Hint: "fetch the key's certificate for the report's reported TCB"}
	CodeUserData = rats.CodeInfo{Code: "snp.report.user-data", Slot: rats.InstanceIdentity,
		Title: "the report is bound to something else", Hint: "a report answers one challenge only; collect a new one"}
	CodeBinding = rats.CodeInfo{Code: "snp.evidence.binding", Slot: rats.InstanceIdentity,
		Title: "the binding does not hang together", Hint: "user data is the SHA-256 of the manifest, or 1 to 64 bytes"}
)

var verifyCodes = []rats.CodeInfo{
	CodeMediaType, CodeParts, CodeUnsigned, CodeSigner, CodeProduct, CodeSignature, CodeChipID, CodeTCBOther, CodeUserData, CodeBinding,
}

const maxBody = 1 << 20

type verifier struct{ seen *memo }

func (*verifier) Descriptor() *rats.Descriptor { return descriptor }

// Verify implements rats.Verifier. Its inputs are the binding, the time, and as endorsements, told apart by content: VCEK or VLEK
// certificates, chains, revocation lists (PEM, DER, certificate tables, Azure's JSON) and minimum TCBs (Minimum); others are
// passed over. Of Facts it takes the key KeyAK that a TPM quote was verified with.
func (v *verifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	body, have, err := open(e, in.Endorsements)
	if err != nil {
		return rats.Verified{}, err
	}
	raw := body
	var envelope *hcl.Report
	if hcl.Detect(body) {
		if envelope, err = hcl.Parse(body); err != nil {
			return rats.Verified{}, err
		}
		if envelope.Kind != hcl.KindSNP {
			return rats.Verified{}, hcl.CodeKind.Bad("hcl report type", hcl.KindSNP, envelope.Kind)
		}
		raw = envelope.Hardware
	}
	r, err := ParseReport(raw)
	if err != nil {
		return rats.Verified{}, err
	}
	ch, err := v.authentic(r, raw, have, in)
	if err != nil {
		return rats.Verified{}, err
	}
	c, err := claimsOf(r, ch)
	if err != nil {
		return rats.Verified{}, err
	}
	if c.CRL, err = ch.revocation(have.crls, in.Now); err != nil {
		return rats.Verified{}, err
	}
	c.TCB.judge(ch.leaf.product, have.minima, in.Now)
	out := rats.Verified{Claims: c, Until: ch.until()}
	if c.CRL.Status == CRLCurrent && c.CRL.Next.Before(out.Until) {
		out.Until = c.CRL.Next
	}
	if c.Debug {
		out.Marks = []string{rats.MarkDebug}
	}
	if err := bind(r, envelope, c, in, &out); err != nil {
		return rats.Verified{}, err
	}
	return out, nil
}

// open returns the report or HCL report and everything that was handed over beside it.
func open(e rats.Evidence, endorsements []rats.Endorsement) ([]byte, *collateral, error) {
	if e.Format != Format || !slices.Contains(descriptor.MediaTypes, e.MediaType) {
		return nil, nil, CodeMediaType.Bad("media_type", MediaType, clip(e.MediaType))
	}
	have := &collateral{}
	for _, d := range endorsements {
		have.add(d.Body)
	}
	body, table, err := split(e.Body)
	if err != nil {
		return nil, nil, err
	}
	if len(table) > 0 {
		if err := have.addTable(table); err != nil {
			return nil, nil, err
		}
	}
	switch p, ok := e.Part(PartCerts); {
	case len(e.Parts) == 0:
	case !ok || len(e.Parts) != 1 || p.Offset != 0 || len(p.Data) > maxCollateral:
		return nil, nil, CodeParts.Bad("parts", "at most one part "+PartCerts+" of at most 1 MiB", fmt.Sprintf("%d parts", len(e.Parts)))
	case len(p.Data) > 0 && p.Data[0] != 0x30 && !bytes.Contains(p.Data, []byte("-----BEGIN ")):
		if err := have.addTable(p.Data); err != nil {
			return nil, nil, err
		}
	default:
		have.add(p.Data)
	}
	return body, have, nil
}

// split cuts a body into the report and a certificate table that follows it. Zeros may follow instead.
func split(b []byte) (body, table []byte, err error) {
	switch {
	case len(b) > maxBody:
		return nil, nil, CodeMalformed.Bad("body", "at most 1 MiB", fmt.Sprintf("%d bytes", len(b)))
	case hcl.Detect(b) || len(b) <= ReportSize:
		return b, nil, nil
	}
	at, ok := hcl.Padded(b, ReportSize)
	if ok {
		return b[:ReportSize], nil, nil
	}
	if _, err := ParseCertTable(b[ReportSize:]); err != nil {
		return nil, nil, CodeMalformed.Bad(fmt.Sprintf("body[0x%x]", at), "nothing, at most 8 KiB of zeros, or a certificate table", "other data")
	}
	return b[:ReportSize], b[ReportSize:], nil
}

// maxTries bounds how many certificates are tried on one report.
const maxTries = 8

// authentic finds the certificate of the key of AMD's hardware that signed the report. What it tells if there is none is about
// the one that fitted best.
func (v *verifier) authentic(r *Report, raw []byte, have *collateral, in rats.Inputs) (*chain, error) {
	if s := r.Signer(); s != SignerVCEK && s != SignerVLEK {
		return nil, CodeUnsigned.Bad("report[0x048]", "signing key 0 (VCEK) or 1 (VLEK)", fmt.Sprint(s))
	}
	leaves := ranked(r, have.leaves)
	if len(leaves) == 0 && have.bad != nil {
		return nil, have.bad
	}
	if len(leaves) == 0 {
		return nil, CodeNoVEK.Missing("endorsements", fmt.Sprintf("the certificate for chip %s and TCB %x", clipHex(r.ChipID[:]), r.ReportedTCB), "none")
	}
	var first error
	for _, leaf := range leaves[:min(len(leaves), maxTries)] {
		ch, err := v.vouched(r, raw, leaf, have, in)
		if err == nil {
			return ch, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// vouched checks first the chain, then the signature, then what the key is for, last the dates, so that an expired certificate
// masks no forgery.
func (v *verifier) vouched(r *Report, raw []byte, leaf *vek, have *collateral, in rats.Inputs) (*chain, error) {
	if leaf.signer != r.Signer() {
		return nil, CodeSigner.Bad("certificate "+clip(leaf.cert.Subject.CommonName), fmt.Sprintf("signing key %d", r.Signer()), fmt.Sprint(leaf.signer))
	}
	ch, err := v.seen.build(leaf, have, in.Anchors, in.Now)
	if err != nil {
		return nil, err
	}
	if !signed(r, raw, leaf.key) {
		return nil, CodeSignature.Bad("report[0x2a0]", "the signature of the key "+rats.SHA256(leaf.cert.Raw).String(), "another")
	}
	if r.hasCPUID() {
		if p, ok := productOfCPU(r.CPUFamily, r.CPUModel); !ok || p != leaf.product {
			return nil, CodeProduct.Bad("report[0x188]", "a processor of "+string(leaf.product), fmt.Sprintf("family 0x%02x, model 0x%02x", r.CPUFamily, r.CPUModel))
		}
	}
	if leaf.signer == SignerVCEK && !leaf.isChip(r.ChipID) {
		return nil, CodeChipID.Bad("report[0x1a0]", clipHex(leaf.hwid), clipHex(r.ChipID[:]))
	}
	if tcb, ok := r.ReportedTCB.Of(leaf.product); !ok || tcb != leaf.tcb {
		return nil, CodeTCBOther.Bad("report[0x180]", leaf.tcb.String(), hex.EncodeToString(r.ReportedTCB[:]))
	}
	return ch, ch.checkTimes(in.Now)
}

// ranked orders certificates by how they fit: of the right kind, of the report's chip, of its TCB. So a whole folder of
// certificates may be handed over.
func ranked(r *Report, leaves []*vek) []*vek {
	rank := func(l *vek) (n int) {
		if l.signer == r.Signer() {
			n = 4
		}
		if l.signer == SignerVLEK || l.isChip(r.ChipID) {
			n += 2
		}
		if tcb, ok := r.ReportedTCB.Of(l.product); ok && tcb == l.tcb {
			n++
		}
		return n
	}
	out := slices.Clone(leaves)
	slices.SortStableFunc(out, func(a, b *vek) int { return rank(b) - rank(a) })
	return out
}

// signed checks the signature: ECDSA over SHA-384 of the first 0x2a0 bytes, r and s little-endian.
func signed(r *Report, raw []byte, key *ecdsa.PublicKey) bool {
	sum := sha512.Sum384(raw[:signedSize])
	return ecdsa.Verify(key, sum[:], bigEndian(r.R), bigEndian(r.S))
}

func bigEndian(b [72]byte) *big.Int {
	slices.Reverse(b[:])
	return new(big.Int).SetBytes(b[:])
}

// bind checks that the report is of this exchange and adds what it vouches for.
func bind(r *Report, envelope *hcl.Report, c *Claims, in rats.Inputs, out *rats.Verified) (err error) {
	if envelope != nil {
		c.HCL, c.Binding, err = envelope.Tie(in, Format, out)
		return err
	}
	if out.Facts.Keys, err = checkBinding(in.Binding); err != nil {
		return err
	}
	if in.Binding.Profile == rats.ProfileNone {
		return nil
	}
	want := append(bytes.Clone(in.Binding.UserData), make([]byte, 64-len(in.Binding.UserData))...)
	if subtle.ConstantTimeCompare(want, r.ReportData[:]) != 1 {
		return CodeUserData.Bad("report[0x050]", hex.EncodeToString(want), hex.EncodeToString(r.ReportData[:]))
	}
	c.Binding = BoundReportData
	out.Facts.UserData = [][]byte{want}
	return nil
}

// checkBinding returns the keys that the binding binds.
func checkBinding(b rats.Binding) ([]rats.BoundKey, error) {
	if b.Profile == rats.ProfileNone {
		return nil, nil
	}
	if n := len(b.UserData); n == 0 || n > 64 {
		return nil, CodeBinding.Bad("binding.user_data", "1 to 64 bytes", fmt.Sprintf("%d bytes", n))
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
	if slices.ContainsFunc(m.Keys, func(k rats.BoundKey) bool { return k.Use == KeyAK }) {
		// The sender writes the manifest; only a verified quote may say whose key a TPM's is (S01).
		return nil, CodeBinding.Bad("binding.manifest", "no key of use "+KeyAK, "one")
	}
	return m.Keys, nil
}
