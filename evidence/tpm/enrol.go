package tpm

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the keys of a TPM that enrols.
var (
	CodeEKMalformed = rats.CodeInfo{Code: "tpm.ek.malformed", Slot: rats.Hardware,
		Title: "the endorsement key is not a public key of a TPM", Hint: "use an RSA 2048 or ECC P-256 endorsement key of the TCG's templates"}
	CodeEKAttributes = rats.CodeInfo{Code: "tpm.ek.attributes", Slot: rats.Hardware,
		Title: "the key is not an endorsement key", Hint: "it must be a restricted decryption key that can't leave its TPM"}
	CodeEKCertMalformed = rats.CodeInfo{Code: "tpm.ek.certificate-malformed", Slot: rats.Hardware,
		Title: "the endorsement key's certificate can't be read", Hint: "look at the NV index 0x01c00002 of the TPM"}
	CodeEKCertOther = rats.CodeInfo{Code: "tpm.ek.certificate-other", Slot: rats.Hardware,
		Title: "the certificate is for another key than the endorsement key", Hint: "the TPM may have been cleared with a new seed; without a certificate, pin the EK"}
	CodeAKType = rats.CodeInfo{Code: "tpm.ak.type", Slot: rats.InstanceIdentity,
		Title: "the attestation key has no fixed signature scheme", Hint: "make it with ECDSA, RSASSA or RSAPSS and SHA-256 or longer"}
	CodeAKRestricted = rats.CodeInfo{Code: "tpm.ak.not-restricted", Slot: rats.InstanceIdentity,
		Title: "the attestation key would sign foreign bytes", Hint: "make it with the attribute restricted"}
	CodeAKFixedTPM = rats.CodeInfo{Code: "tpm.ak.not-fixed-tpm", Slot: rats.InstanceIdentity,
		Title: "the attestation key can be moved to another TPM", Hint: "make it with the attribute fixedTPM"}
	CodeAKFixedParent = rats.CodeInfo{Code: "tpm.ak.not-fixed-parent", Slot: rats.InstanceIdentity,
		Title: "the attestation key can be moved to another parent", Hint: "make it with the attribute fixedParent"}
	CodeAKOrigin = rats.CodeInfo{Code: "tpm.ak.foreign-origin", Slot: rats.InstanceIdentity,
		Title: "the attestation key was not made by the TPM", Hint: "make it with the attribute sensitiveDataOrigin"}
	CodeAKSign = rats.CodeInfo{Code: "tpm.ak.not-signing", Slot: rats.InstanceIdentity,
		Title: "the attestation key can't sign", Hint: "make it with the attribute sign"}
	CodeAKDecrypt = rats.CodeInfo{Code: "tpm.ak.decrypts", Slot: rats.InstanceIdentity,
		Title: "the attestation key can decrypt too", Hint: "make it without the attribute decrypt"}
	CodeAKLockout = rats.CodeInfo{Code: "tpm.ak.lockout", Slot: rats.InstanceIdentity,
		Title: "the attestation key would be locked by dictionary-attack protection", Hint: "make it with the attribute noDA"}
	CodeCertifyMalformed = rats.CodeInfo{Code: "tpm.certify.malformed", Slot: rats.InstanceIdentity,
		Title: "the certified key, or its certification, is not well-formed", Hint: "update the agent"}
	CodeCertifySignature = rats.CodeInfo{Code: "tpm.certify.signature", Slot: rats.InstanceIdentity,
		Title: "the attestation key did not sign the certification", Hint: "certify the key by the attestation key that joins"}
	CodeCertifyNonce = rats.CodeInfo{Code: "tpm.certify.nonce", Slot: rats.InstanceIdentity,
		Title: "the certification answers another nonce", Hint: "join again"}
	CodeCertifyName = rats.CodeInfo{Code: "tpm.certify.name", Slot: rats.InstanceIdentity,
		Title: "the certification is about another key", Hint: "certify the key that is presented"}
	CodeCertifyAttributes = rats.CodeInfo{Code: "tpm.certify.attributes", Slot: rats.InstanceIdentity,
		Title: "the certified key is not a signing key that stays in its TPM", Hint: "make it with fixedTPM, fixedParent, sensitiveDataOrigin and sign, without restricted"}
)

var enrolCodes = []rats.CodeInfo{
	CodeEKMalformed, CodeEKAttributes, CodeEKCertMalformed, CodeEKCertOther, CodeAKType, CodeAKRestricted, CodeAKFixedTPM,
	CodeAKFixedParent, CodeAKOrigin, CodeAKSign, CodeAKDecrypt, CodeAKLockout, CodeCertifyMalformed, CodeCertifySignature,
	CodeCertifyNonce, CodeCertifyName, CodeCertifyAttributes,
}

// Enrolment is the record of a TPM that joined: what ties an attestation key to an endorsement key. It counts only
// where the server made it itself, after the TPM opened a credential made for both (MakeCredential).
type Enrolment struct {
	EK           []byte      `json:"ek"` // TPM2B_PUBLIC
	EKDigest     rats.Digest `json:"ek_digest"`
	EKCert       []byte      `json:"ek_cert,omitempty"`  // DER
	EKChain      [][]byte    `json:"ek_chain,omitempty"` // DER of issuers of it, which prove nothing by themselves
	AK           []byte      `json:"ak"`                 // TPM2B_PUBLIC
	Manufacturer string      `json:"manufacturer,omitempty"`
	Model        string      `json:"model,omitempty"`
	Software     bool        `json:"software"`
	At           time.Time   `json:"at"`
}

// maxCertificate bounds an EK certificate.
const maxCertificate = 8 << 10

// maxEnrolment bounds the JSON of a record.
const maxEnrolment = 64 << 10

// Enrol makes the record of the keys (TPM2B_PUBLIC) and the EK's certificate (DER, may be empty) of a TPM. Behind the
// certificate those of its issuers may stand, as the TPM's NV holds them. It refuses keys that could not carry
// attestation; it does not judge who issued the certificate, which rules do (Rules.Vouch).
func Enrol(ekPub, ekCertDER, akPub []byte, now time.Time) (Enrolment, error) {
	ek, err := parsePublic(ekPub)
	if err != nil {
		return Enrolment{}, CodeEKMalformed.Bad("ek", "TPM2B_PUBLIC", err.Error())
	}
	if err := checkEK(ek); err != nil {
		return Enrolment{}, err
	}
	ak, err := parsePublic(akPub)
	if err != nil {
		return Enrolment{}, CodeAKMalformed.Bad("ak", "TPM2B_PUBLIC", err.Error())
	}
	if err := checkAK(ak); err != nil {
		return Enrolment{}, err
	}
	spki, err := ek.spki()
	if err != nil {
		return Enrolment{}, fmt.Errorf("encoding the endorsement key: %w", err)
	}
	r := Enrolment{
		EK: bytes.Clone(ekPub), EKDigest: rats.SHA256(spki), AK: bytes.Clone(akPub), Software: true, At: now.UTC(),
	}
	if len(ekCertDER) == 0 {
		return r, nil
	}
	cert, issuers, err := openEKCert(ekCertDER)
	if err != nil {
		return Enrolment{}, CodeEKCertMalformed.Bad("ek_cert", "an X.509 certificate", err.Error())
	}
	if !samePublic(cert.PublicKey, ek.key) {
		return Enrolment{}, CodeEKCertOther.Bad("ek_cert", "the endorsement key "+r.EKDigest.String(), "another key")
	}
	r.EKCert = bytes.Clone(cert.Raw) // without header and padding
	r.Manufacturer, r.Model = makerOf(cert)
	r.Software = isSoftware(cert, r.Manufacturer, r.Model)
	return r.WithIssuers(issuers), nil
}

// WithIssuers adds those of the certificates (DER) to the record that lead upwards from the EK's certificate, so that
// rules need not hold them. They prove nothing by themselves: rules trust what ends in one of their own anchors.
func (r Enrolment) WithIssuers(ders [][]byte) Enrolment {
	cert, err := readCertificate(r.EKCert)
	if err != nil || len(ders) == 0 {
		return r
	}
	others := parsed(r.EKChain)
	for _, der := range ders[:min(len(ders), maxIssuers)] {
		if c, err := readCertificate(der); err == nil {
			others = append(others, c)
		}
	}
	r.EKChain = rawOf(climb(cert, others)[1:])
	return r
}

// openEKCert reads an EK certificate and those that may follow it.
func openEKCert(b []byte) (*x509.Certificate, [][]byte, error) {
	if cert, err := parseEKCert(b); err == nil {
		return cert, nil, nil
	}
	if len(b) > maxChainBytes {
		return nil, nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxChainBytes)
	}
	var first asn1.RawValue
	rest, err := asn1.Unmarshal(b, &first)
	if err != nil || len(rest) == 0 {
		cert, err := parseEKCert(b)
		return cert, nil, err
	}
	cert, err := parseEKCert(first.FullBytes)
	if err != nil {
		return nil, nil, err
	}
	issuers, err := readCertificates(rest)
	return cert, rawOf(issuers), err
}

// Endorsement wraps the record for Inputs.Endorsements. Its time is that of the enrolment.
func (r Enrolment) Endorsement() rats.Endorsement {
	b, err := json.Marshal(r)
	if err != nil { // a struct of bytes, text and one time of this era
		b = nil
	}
	return rats.Endorsement{MediaType: EnrolmentMediaType, Body: b, Fetched: r.At}
}

// ParseEnrolment reads the record's JSON.
func ParseEnrolment(b []byte) (Enrolment, error) {
	if len(b) > maxEnrolment {
		return Enrolment{}, fmt.Errorf("reading an enrolment record: %d bytes, at most %d", len(b), maxEnrolment)
	}
	// A record that doesn't say what made the TPM was not made by hardware.
	r := Enrolment{Software: true}
	if err := json.Unmarshal(b, &r); err != nil {
		return Enrolment{}, fmt.Errorf("reading an enrolment record: %w", err)
	}
	if len(r.EK) == 0 || len(r.AK) == 0 {
		return Enrolment{}, errors.New("reading an enrolment record: it has no EK or no AK")
	}
	digest, err := EKDigest(r.EK)
	if err != nil {
		return Enrolment{}, fmt.Errorf("reading an enrolment record: %v", err)
	}
	if !digest.Equal(r.EKDigest) {
		return Enrolment{}, errors.New("reading an enrolment record: its digest is of another EK")
	}
	return r, nil
}

// checkAK refuses keys whose signature would prove nothing. noDA: an attestation key that failed logins lock would let
// anyone on the machine stop attestation (S14).
func checkAK(p *public) error {
	for _, c := range []struct {
		ok   bool
		code rats.CodeInfo
	}{
		{p.has(attrSign), CodeAKSign},
		{!p.has(attrDecrypt), CodeAKDecrypt},
		{p.has(attrRestricted), CodeAKRestricted},
		{p.has(attrFixedTPM), CodeAKFixedTPM},
		{p.has(attrFixedParent), CodeAKFixedParent},
		{p.has(attrSensitiveDataOrigin), CodeAKOrigin},
		{p.has(attrNoDA), CodeAKLockout},
	} {
		if !c.ok {
			return c.code.Bad("ak.objectAttributes", "fixedTPM, fixedParent, sensitiveDataOrigin, noDA, restricted, sign", fmt.Sprintf("0x%08x", p.attributes))
		}
	}
	if _, ok := hashes[p.schemeHash]; !ok || p.scheme == algNull || p.symAlg != algNull {
		return CodeAKType.Bad("ak.parameters", "a signature scheme with SHA-256 or longer", fmt.Sprintf("scheme 0x%04x, hash 0x%04x", p.scheme, p.schemeHash))
	}
	return nil
}

func checkEK(p *public) error {
	if !p.has(attrFixedTPM|attrFixedParent|attrSensitiveDataOrigin|attrRestricted|attrDecrypt) || p.has(attrSign) {
		return CodeEKAttributes.Bad("ek.objectAttributes", "fixedTPM, fixedParent, sensitiveDataOrigin, restricted, decrypt", fmt.Sprintf("0x%08x", p.attributes))
	}
	if p.symAlg != algAES || p.symMode != algCFB || p.symBits != 128 && p.symBits != 256 {
		return CodeEKAttributes.Bad("ek.parameters", "AES-CFB with 128 or 256 bits", fmt.Sprintf("algorithm 0x%04x, mode 0x%04x, %d bits", p.symAlg, p.symMode, p.symBits))
	}
	return nil
}

// Attributes of the TPM in an EK certificate (TCG EK Credential Profile, section 3.1.2).
var (
	oidManufacturer   = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel          = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidSAN            = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidRSAESOAEP      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	tagDirectoryName  = 4
	manufacturerIBM   = "id:00001014" // what swtpm says, and IBM's simulator
	modelSoftwareTPM  = "swtpm"
	maxAttributeBytes = 64
)

// parseEKCert reads an EK certificate, with the quirks of real ones (readCertificate).
func parseEKCert(der []byte) (*x509.Certificate, error) { return readCertificate(der) }

// makerOf returns manufacturer and model from the directory name in the certificate's subject alternative name.
func makerOf(cert *x509.Certificate) (manufacturer, model string) {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 {
			return "", ""
		}
		for _, n := range names {
			if n.Class != asn1.ClassContextSpecific || n.Tag != tagDirectoryName {
				continue
			}
			m, mo := makerInName(n.Bytes)
			if m != "" {
				manufacturer = m
			}
			if mo != "" {
				model = mo
			}
		}
	}
	return manufacturer, model
}

func makerInName(der []byte) (manufacturer, model string) {
	// RDNSequence ::= SEQUENCE OF SET OF AttributeTypeAndValue; values are UTF8String or PrintableString.
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	var sets []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &sets); err != nil || len(rest) > 0 {
		return "", ""
	}
	for _, set := range sets {
		for rest := set.Bytes; len(rest) > 0; {
			var a attribute
			var err error
			if rest, err = asn1.Unmarshal(rest, &a); err != nil {
				return "", ""
			}
			text := strings.ToValidUTF8(string(a.Value.Bytes[:min(len(a.Value.Bytes), maxAttributeBytes)]), "?")
			switch {
			case a.Type.Equal(oidManufacturer):
				manufacturer = text
			case a.Type.Equal(oidModel):
				model = text
			}
		}
	}
	return manufacturer, model
}

// isSoftware errs on the side of software: a certificate that doesn't name a manufacturer vouches for no hardware.
func isSoftware(cert *x509.Certificate, manufacturer, model string) bool {
	return manufacturer == "" || strings.EqualFold(manufacturer, manufacturerIBM) ||
		strings.Contains(strings.ToLower(model), modelSoftwareTPM) ||
		strings.Contains(strings.ToLower(cert.Issuer.String()), modelSoftwareTPM)
}
