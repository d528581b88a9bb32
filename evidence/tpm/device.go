package tpm

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"strings"
	"unicode"

	"github.com/assay-attest/assay/rats"
)

// The roles of a device key (TCG, TPM 2.0 Keys for Device Identity and Attestation).
const (
	RoleIAK     = "iak"     // initial attestation key: restricted, signs quotes
	RoleIDevID  = "idevid"  // initial device identity: signs anything, so its quotes prove nothing
	RoleAK      = "ak"      // an attestation key certified later, by a cloud for one
	RoleUnknown = "unknown" // the certificate doesn't say
)

// What can be wrong with the certificate of an attestation key.
var (
	CodeAKCertMalformed = rats.CodeInfo{Code: "tpm.ak.certificate-malformed", Slot: rats.InstanceIdentity,
		Title: "the attestation key's certificate can't be read", Hint: "send it as DER or PEM, its issuers behind it"}
	CodeAKCertOther = rats.CodeInfo{Code: "tpm.ak.certificate-other", Slot: rats.InstanceIdentity,
		Title: "the certificate is for another key than the attestation key", Hint: "send the certificate of the key that signs the quotes"}
	CodeAKCertUse = rats.CodeInfo{Code: "tpm.ak.certificate-use", Slot: rats.InstanceIdentity,
		Title: "the certificate is not one of an attestation key", Hint: "an IDevID key signs anything; send the certificate of the IAK"}
)

var deviceCodes = []rats.CodeInfo{CodeAKCertMalformed, CodeAKCertOther, CodeAKCertUse}

// Device is what a certificate says of a device key and its TPM. Its issuer is a machine's maker, who vouches that the
// key is in that TPM.
type Device struct {
	Role        string `json:"role"` // iak, idevid, ak, unknown
	HWType      string `json:"hw_type,omitempty"`
	HWSerial    string `json:"hw_serial,omitempty"` // text, or hex:… of other bytes
	PermanentID string `json:"permanent_id,omitempty"`
	Residency   bool   `json:"verified_residency"`  // the issuer verified that the key is in the TPM
	Fixed       bool   `json:"verified_fixed"`      // and can't leave it
	Restricted  bool   `json:"verified_restricted"` // and signs only what the TPM composed
}

// hwTypeTPM20 is the hardware type of a TPM 2.0.
const hwTypeTPM20 = "2.23.133.1.2"

var (
	oidCapResidency  = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 1}
	oidCapFixed      = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 2}
	oidCapRestricted = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 3}
	oidPurposeAK     = asn1.ObjectIdentifier{2, 23, 133, 8, 3} // tcg-kp-AIKCertificate
	oidPermanentID   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3}
)

// deviceOf reads what a certificate says of a device key. The capabilities stand among the policies, or among the
// purposes, as different makers read the specification.
func deviceOf(c *x509.Certificate) *Device {
	d := &Device{Role: RoleUnknown}
	says := func(id asn1.ObjectIdentifier) bool {
		return slices.ContainsFunc(c.PolicyIdentifiers, id.Equal) || slices.ContainsFunc(c.UnknownExtKeyUsage, id.Equal)
	}
	d.Residency, d.Fixed, d.Restricted = says(oidCapResidency), says(oidCapFixed), says(oidCapRestricted)
	d.readNames(c)
	google := slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidGoogleInstance) })
	switch {
	case d.Restricted && d.HWType == hwTypeTPM20:
		d.Role = RoleIAK
	case d.Restricted || says(oidPurposeAK) || google && c.KeyUsage&x509.KeyUsageDigitalSignature != 0:
		d.Role = RoleAK
	case d.Fixed && d.HWType == hwTypeTPM20:
		d.Role = RoleIDevID
	}
	return d
}

// readNames reads HardwareModuleName (RFC 4108, section 5) and PermanentIdentifier (RFC 4043) among the alternative names.
func (d *Device) readNames(c *x509.Certificate) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 {
			return
		}
		for _, n := range names {
			var id asn1.ObjectIdentifier
			if n.Class != asn1.ClassContextSpecific || n.Tag != 0 {
				continue
			}
			rest, err := asn1.Unmarshal(n.Bytes, &id)
			if err != nil {
				continue
			}
			var value asn1.RawValue
			if _, err := asn1.Unmarshal(rest, &value); err != nil || value.Class != asn1.ClassContextSpecific || value.Tag != 0 {
				continue
			}
			switch {
			case id.Equal(oidHardwareModule):
				var module struct {
					Type   asn1.ObjectIdentifier
					Serial []byte
				}
				if _, err := asn1.Unmarshal(value.Bytes, &module); err == nil {
					d.HWType, d.HWSerial = module.Type.String(), printable(module.Serial)
				}
			case id.Equal(oidPermanentID):
				var permanent struct {
					Value    string                `asn1:"optional,utf8"`
					Assigner asn1.ObjectIdentifier `asn1:"optional"`
				}
				if _, err := asn1.Unmarshal(value.Bytes, &permanent); err == nil {
					d.PermanentID = clipTo(permanent.Value, maxSerial)
				}
			}
		}
	}
}

// maxSerial bounds a serial number in claims. The TCG's form has two digests in hex.
const maxSerial = 160

func printable(b []byte) string {
	text := string(b)
	if strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
		text = "hex:" + hex.EncodeToString(b[:min(len(b), maxSerial/2)])
	}
	return clipTo(text, maxSerial)
}

func clipTo(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// certified is a certificate of an attestation key with what came along.
type certified struct {
	cert   *x509.Certificate
	others []*x509.Certificate
	device *Device
}

// openAKCert reads the part ak-cert: the certificate of the attestation key, its issuers behind it, as DER one after
// another or as PEM. The key must be ak's. Its role must be one of a key that signs quotes: as the certificate says or,
// where it says only in which TPM the key is, as the key's attributes do.
func openAKCert(b []byte, ak *public) (*certified, error) {
	certs, err := readCertificates(b)
	if err != nil {
		return nil, CodeAKCertMalformed.Bad(PartAKCert, "X.509 certificates", clip(err.Error()))
	}
	out := &certified{cert: certs[0], others: certs[1:], device: deviceOf(certs[0])}
	if !samePublic(out.cert.PublicKey, ak.key) {
		return nil, CodeAKCertOther.Bad(PartAKCert, "the attestation key", "another key")
	}
	if out.device.Role == RoleUnknown && out.device.HWType == hwTypeTPM20 && ak.has(attrRestricted|attrSign|attrFixedTPM) {
		out.device.Role = RoleIAK
	}
	if r := out.device.Role; out.cert.IsCA || r != RoleIAK && r != RoleAK {
		return nil, CodeAKCertUse.Bad(PartAKCert, "the certificate of an IAK or AK", r)
	}
	return out, nil
}

// source names the role of a key in claims and rules.
func (d *Device) source() string {
	if d.Role == RoleIAK {
		return SourceIAK
	}
	return SourceAKCertificate
}
