package tpm

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-attest/assay/rats"
)

// FormatCertificate is the id under which certificates of TPM keys are judged from files: of endorsement keys, and of
// the keys IAK and IDevID that a machine's maker certifies. Nodes never send it: their EK certificate is part of their
// enrolment.
const FormatCertificate rats.Format = "ek-cert"

// Media types of the certificate and of its trust anchors, which are endorsements.
const (
	MediaTypeCertificate = "application/pkix-cert"
	MediaTypeAnchor      = "application/vnd.assay.trust-anchor"
)

// What can be wrong with the certificate of a TPM key.
var (
	CodeCertMalformed = rats.CodeInfo{Code: "tpm.certificate.malformed", Slot: rats.Hardware,
		Title: "the certificate can't be read", Hint: "give it as DER, PEM, or the content of the TPM's NV index"}
	CodeCertNoAnchor = rats.CodeInfo{Code: "tpm.certificate.no-anchor", Slot: rats.Hardware,
		Title: "the trust anchors that were given can't be read", Hint: "give certificates with --ca, or leave it out to use the built-in ones"}
	CodeCertUntrusted = rats.CodeInfo{Code: "tpm.certificate.untrusted", Slot: rats.Hardware,
		Title: "the certificate does not chain to a trust anchor", Hint: "give the certificates of the TPM's maker, intermediate ones too"}
	CodeCertSignature = rats.CodeInfo{Code: "tpm.certificate.signature", Slot: rats.Hardware,
		Title: "a signature in the certificate's chain is not valid", Hint: "the certificate was altered, or another issuer has the same name"}
	CodeCertExpired = rats.CodeInfo{Code: "tpm.certificate.expired", Slot: rats.Hardware,
		Title: "a certificate of the chain had expired", Hint: "judge for an earlier moment if the evidence is old"}
	CodeCertEarly = rats.CodeInfo{Code: "tpm.certificate.not-yet-valid", Slot: rats.Hardware,
		Title: "a certificate of the chain was not valid yet", Hint: "check the clock, and the moment to judge for"}
	CodeCertIssuer = rats.CodeInfo{Code: "tpm.certificate.issuer", Slot: rats.Hardware,
		Title: "a certificate was issued by one that may not issue", Hint: "trust certificates of CAs only"}
	CodeCertCritical = rats.CodeInfo{Code: "tpm.certificate.critical-extension", Slot: rats.Hardware,
		Title: "the certificate has a critical extension of unknown meaning", Hint: "report it, with the extension's id"}
	CodeCertUse = rats.CodeInfo{Code: "tpm.certificate.use", Slot: rats.Hardware,
		Title: "the certificate is not one of a TPM's key", Hint: "an EK certificate has the usage tcg-kp-EKCertificate, or none and names its TPM"}
	CodeCertSHA1 = rats.CodeInfo{Code: "tpm.certificate.sha1", Slot: rats.Hardware,
		Title: "the certificate is signed with SHA-1", Hint: "pin the key by its digest instead, or give sha1_until for a while"}
	CodeCertSoftware = rats.CodeInfo{Code: "tpm.certificate.software", Slot: rats.Hardware,
		Title: "the certificate is of a software TPM, or names no maker", Hint: "it proves no hardware"}
)

var certificateCodes = []rats.CodeInfo{
	CodeCertMalformed, CodeCertNoAnchor, CodeCertUntrusted, CodeCertSignature, CodeCertExpired, CodeCertEarly,
	CodeCertIssuer, CodeCertCritical, CodeCertUse, CodeCertSHA1, CodeCertSoftware, CodeCertRevoked, CodeCRLSignature,
	CodeCRLExpired, CodeCRLMissing,
}

// The kinds of keys that a certificate can be for.
const (
	KindEK      = "ek"
	KindDevice  = "device" // IAK or IDevID: a key that the machine's maker certified
	KindCA      = "ca"
	KindUnknown = "unknown"
)

// CertificateClaims are what the certificate of a TPM key says.
type CertificateClaims struct {
	Kind          string    `json:"kind"` // ek, device, ca, unknown
	Subject       string    `json:"subject"`
	Issuer        string    `json:"issuer"`
	Serial        string    `json:"serial"` // hex
	NotBefore     time.Time `json:"not_before"`
	NotAfter      time.Time `json:"not_after"`
	DER           string    `json:"der_sha256"` // hex, of the certificate without header and padding
	Key           string    `json:"key"`        // sha256:… of the SubjectPublicKeyInfo, as ek_pins has it
	KeyKind       string    `json:"key_kind"`   // "RSA 2048", "ECDSA P-256"
	KeyOID        string    `json:"spki_oid"`
	SignatureHash string    `json:"signature_hash"` // the weakest of the chain below its anchor
	Manufacturer  string    `json:"manufacturer,omitempty"`
	Model         string    `json:"model,omitempty"`
	Software      bool      `json:"software"`
	Header        int       `json:"header"`  // bytes before the certificate
	Padding       int       `json:"padding"` // bytes after it
	Chain         []string  `json:"chain"`   // subjects, from the issuer to the anchor
	Quirks        []string  `json:"quirks"`
	Vendor        string    `json:"vendor,omitempty"`         // of the built-in set's certificate that the chain ends in
	Virtual       bool      `json:"vendor_virtual,omitempty"` // which is a cloud's
	CRL           string    `json:"crl,omitempty"`            // unchecked, current, expired, not-yet-valid; of a verified chain
	CRLUntil      time.Time `json:"crl_until,omitzero"`
	Device        *Device   `json:"device,omitempty"` // of IAK and IDevID
}

// ClaimsOf implements rats.Claims.
func (*CertificateClaims) ClaimsOf() rats.Format { return FormatCertificate }

// CertificateRules is the section "ek-cert" of a policy for files.
type CertificateRules struct {
	// Kinds are the kinds of keys that are accepted; if empty, ek and device.
	Kinds Strings `yaml:"kinds"`
	// Software accepts certificates of software TPMs.
	Software bool `yaml:"software"`
	// SHA1Until accepts chains that are signed with SHA-1, until then.
	SHA1Until time.Time `yaml:"sha1_until"`
	// RequireCRL refuses chains of which not every certificate was looked up in a list that is in its time.
	RequireCRL bool `yaml:"require_crl"`
	// Roles are the roles of device keys that are accepted (iak, idevid, ak, unknown); if empty, all.
	Roles Strings `yaml:"roles"`
}

// Lint implements rats.Rules.
func (*CertificateRules) Lint() []rats.Reason { return nil }

// Slots implements rats.Rules.
func (*CertificateRules) Slots() []rats.Slot { return []rats.Slot{rats.Hardware} }

// Params implements rats.Rules: nothing is asked.
func (*CertificateRules) Params() []byte { return nil }

// Check implements rats.Rules.
func (r *CertificateRules) Check(c rats.Claims, _ rats.Lookup, now time.Time) (reasons []rats.Reason) {
	claims, ok := c.(*CertificateClaims)
	if !ok || claims == nil {
		return []rats.Reason{CodeCertUse.Refuse("claims", "claims of a certificate", fmt.Sprintf("%T", c))}
	}
	kinds := r.Kinds
	if len(kinds) == 0 {
		kinds = Strings{KindEK, KindDevice}
	}
	if !slices.Contains(kinds, claims.Kind) {
		reasons = append(reasons, CodeCertUse.Refuse("kind", fmt.Sprint(kinds), claims.Kind))
	}
	if claims.SignatureHash == "sha1" && !now.Before(r.SHA1Until) {
		reasons = append(reasons, CodeCertSHA1.Refuse("signature_hash", "sha256 or longer", claims.SignatureHash))
	}
	if claims.Kind == KindEK && claims.Software && !r.Software {
		reasons = append(reasons, CodeCertSoftware.Refuse("software", "the TPM of a maker", claims.Manufacturer+" "+claims.Model))
	}
	if d := claims.Device; d != nil && len(r.Roles) > 0 && !slices.Contains(r.Roles, d.Role) {
		reasons = append(reasons, CodeCertUse.Refuse("device.role", fmt.Sprint(r.Roles), d.Role))
	}
	return append(reasons, crlReasons(claims.CRL, r.RequireCRL)...)
}

// crlReasons says what the state of revocation lists means. A missing list is a claim; one out of its time a warning,
// since nobody knows what was revoked after it.
func crlReasons(state string, required bool) []rats.Reason {
	switch {
	case state == CRLExpired || state == CRLNotYetValid:
		if required {
			return []rats.Reason{CodeCRLExpired.Refuse("crl", CRLCurrent, state)}
		}
		return []rats.Reason{CodeCRLExpired.At(rats.Warning, "crl", CRLCurrent, state)}
	case state != CRLCurrent && required:
		return []rats.Reason{CodeCRLMissing.Refuse("crl", CRLCurrent, state)}
	}
	return nil
}

type certificateVerifier struct{}

var certificateDescriptor = &rats.Descriptor{
	ID: FormatCertificate, Title: "certificate of a TPM key", Doc: "formats/tpm.md", MediaTypes: []string{MediaTypeCertificate},
	Hardware: true, NewClaims: func() rats.Claims { return new(CertificateClaims) }, ClaimsVersion: 1,
	NewRules: func() rats.Rules { return new(CertificateRules) }, Codes: certificateCodes,
}

// NewCertificate returns the verifier of certificates of TPM keys in files. The body is the certificate: DER, PEM, or
// the content of a TPM's NV index with its header and padding. Endorsements of type MediaTypeAnchor (DER) are trust
// anchors, intermediate ones too, and replace the built-in ones (VendorRoots). In all others certificates and revocation
// lists are recognised by content; they are trusted by nobody.
func NewCertificate() rats.Verifier { return certificateVerifier{} }

func (certificateVerifier) Descriptor() *rats.Descriptor { return certificateDescriptor }

// Verify implements rats.Verifier. A certificate is genuine if a chain leads to an anchor, with every certificate of it
// valid at Inputs.Now, both ends included, and none of it on a list of its issuer. Nothing is bound: certificates answer
// no challenge.
func (certificateVerifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	leaf, claims, err := openCertificate(e.Body)
	if err != nil {
		return rats.Verified{}, err
	}
	have := gather(in.Endorsements)
	if have.operator && len(have.anchors) == 0 {
		return rats.Verified{}, CodeCertNoAnchor.Missing("ca", "certificates", "none")
	}
	j, err := judgeChain(leaf, have.trusted(), have.others, have.lists, in.Now)
	if err != nil {
		return rats.Verified{}, err
	}
	for _, c := range j.chain[1:] {
		claims.Chain = append(claims.Chain, clip(c.Subject.String()))
	}
	claims.SignatureHash, claims.Vendor, claims.Virtual = j.hash, j.vendor, j.virtual
	claims.CRL, claims.CRLUntil = j.revocation.At(in.Now), j.revocation.Until
	v := rats.Verified{Claims: claims, Until: leaf.NotAfter}
	if claims.CRL == CRLCurrent && claims.CRLUntil.Before(v.Until) {
		v.Until = claims.CRLUntil
	}
	if claims.Kind == KindEK && (claims.Software || claims.Virtual && !have.operator) {
		v.Marks = []string{rats.MarkSoftwareTPM}
	}
	return v, nil
}

// InspectCertificate decodes the certificate of a TPM key and verifies nothing.
func InspectCertificate(b []byte) (any, error) {
	_, claims, err := openCertificate(b)
	if err != nil {
		return nil, err
	}
	return claims, nil
}

// DetectCertificate says whether b is a certificate that could be one of a TPM key: as DER or PEM, or as an NV index
// holds it.
func DetectCertificate(b []byte) bool {
	if block, _ := pem.Decode(b); block != nil && len(b) <= maxKey {
		b = block.Bytes
	}
	if len(b) > maxCertificate {
		return false
	}
	_, err := readCertificate(b)
	return err == nil
}

func openCertificate(b []byte) (*x509.Certificate, *CertificateClaims, error) {
	if block, _ := pem.Decode(b); block != nil && len(b) <= maxKey {
		b = block.Bytes
	}
	der, header, padding, err := trimCertificate(b)
	if err != nil {
		return nil, nil, CodeCertMalformed.Bad("certificate", "an X.509 certificate", err.Error())
	}
	cert, err := readCertificate(der)
	if err != nil {
		return nil, nil, CodeCertMalformed.Bad(fmt.Sprintf("byte %d", header), "an X.509 certificate", clip(err.Error()))
	}
	c := &CertificateClaims{
		Subject: clip(cert.Subject.String()), Issuer: clip(cert.Issuer.String()), Serial: clip(cert.SerialNumber.Text(16)),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), DER: hex.EncodeToString(rats.SHA256(der).Sum),
		Key: rats.SHA256(cert.RawSubjectPublicKeyInfo).String(), KeyKind: keyKind(cert.PublicKey), KeyOID: keyOID(cert),
		SignatureHash: signatureHash(cert), Header: header, Padding: padding, Chain: []string{}, Quirks: []string{},
	}
	if spki, err := x509.MarshalPKIXPublicKey(cert.PublicKey); err == nil {
		c.Key = rats.SHA256(spki).String() // the same key whatever name its algorithm has in the certificate
	}
	c.Manufacturer, c.Model = makerOf(cert)
	c.Software = isSoftware(cert, c.Manufacturer, c.Model)
	c.Kind = kindOf(cert, c.Manufacturer)
	if c.Kind == KindDevice {
		c.Device = deviceOf(cert)
	}
	c.Quirks = quirksOf(cert, c)
	return cert, c, nil
}

func quirksOf(cert *x509.Certificate, c *CertificateClaims) []string {
	out := []string{}
	add := func(is bool, what string) {
		if is {
			out = append(out, what)
		}
	}
	add(c.Header > 0, "header")
	add(c.Padding > 0, "padding")
	add(c.KeyOID == oidRSAESOAEP.String(), "rsaes-oaep-key")
	add(c.KeyOID == oidRSAPSS.String(), "rsa-pss-key")
	add(c.SignatureHash == "sha1", "sha1-signature")
	add(slices.ContainsFunc(cert.UnhandledCriticalExtensions, oidSAN.Equal), "critical-directory-name")
	add(cert.SerialNumber.Sign() <= 0, "serial-not-positive")
	return out
}

// The header of a certificate in NV (TCG PC Client, TCPA_STORED_CERT): tag 0x1001, type, and the length of what follows,
// which begins with tag 0x1002.
const (
	storedCertHeader = 7
	storedCertTag    = 0x1001
	fullCertTag      = 0x1002
)

// trimCertificate finds the DER in the content of an NV index: behind the header of seven bytes that some makers write,
// before padding of zeroes or all-ones. Anything else around it is refused.
func trimCertificate(b []byte) (der []byte, header, padding int, err error) {
	if len(b) > maxCertificate {
		return nil, 0, 0, fmt.Errorf("it has %d bytes, at most %d", len(b), maxCertificate)
	}
	if len(b) > storedCertHeader && uint16(b[0])<<8|uint16(b[1]) == storedCertTag && uint16(b[5])<<8|uint16(b[6]) == fullCertTag {
		size := int(b[3])<<8 | int(b[4])
		if size < 2 || storedCertHeader+size-2 > len(b) {
			return nil, 0, 0, fmt.Errorf("its header at byte 3 announces %d bytes, there are %d", size, len(b)-storedCertHeader+2)
		}
		header = storedCertHeader
	}
	var one asn1.RawValue
	rest, err := asn1.Unmarshal(b[header:], &one)
	if err != nil || one.Tag != asn1.TagSequence || one.Class != asn1.ClassUniversal {
		return nil, 0, 0, fmt.Errorf("no DER sequence at byte %d", header)
	}
	if len(rest) > 0 && (rest[0] != 0 && rest[0] != 0xff || len(bytes.Trim(rest, string(rest[:1]))) > 0) {
		return nil, 0, 0, fmt.Errorf("%d bytes that are no padding at byte %d", len(rest), len(b)-len(rest))
	}
	return one.FullBytes, header, len(rest), nil
}

// readCertificate parses DER as package x509 does, and beyond it: keys named RSAES-OAEP or RSASSA-PSS, serial numbers
// below zero.
func readCertificate(b []byte) (*x509.Certificate, error) {
	der, _, _, err := trimCertificate(b)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		if cert = withoutSign(der); cert == nil {
			return nil, err
		}
	}
	if cert.PublicKey != nil {
		return cert, nil
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &spki); err != nil || len(rest) > 0 ||
		!spki.Algorithm.Algorithm.Equal(oidRSAESOAEP) && !spki.Algorithm.Algorithm.Equal(oidRSAPSS) {
		return nil, errors.New("its public key is of an unknown kind")
	}
	if cert.PublicKey, err = x509.ParsePKCS1PublicKey(spki.Key.RightAlign()); err != nil {
		return nil, err
	}
	return cert, nil
}

// withoutSign parses a certificate whose serial number is below zero, which package x509 refuses: it reads a copy with
// another serial number, and puts back the bytes that were signed. It returns nil if that is not what was wrong.
func withoutSign(der []byte) *x509.Certificate {
	var outer struct {
		TBS asn1.RawValue
		Alg asn1.RawValue
		Sig asn1.RawValue
	}
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return nil
	}
	inner := outer.TBS.Bytes
	var version, serial asn1.RawValue
	rest, err := asn1.Unmarshal(inner, &version)
	if err != nil {
		return nil
	}
	if _, err := asn1.Unmarshal(rest, &serial); err != nil || serial.Tag != asn1.TagInteger || len(serial.Bytes) < 2 || serial.Bytes[0] < 0x80 {
		return nil
	}
	copied := bytes.Clone(der)
	at := len(der) - len(outer.Alg.FullBytes) - len(outer.Sig.FullBytes) - len(rest) + len(serial.FullBytes) - len(serial.Bytes)
	copied[at] = copied[at]&0x7f | 1 // no shorter encoding than before
	cert, err := x509.ParseCertificate(copied)
	if err != nil {
		return nil
	}
	cert.Raw, cert.RawTBSCertificate = der, outer.TBS.FullBytes
	cert.SerialNumber.Neg(cert.SerialNumber)
	return cert
}
