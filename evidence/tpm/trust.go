package tpm

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// The part of a policy's section that says which TPMs and attestation keys are trusted.

func (r *Rules) lintTrust() (reasons []rats.Reason) {
	if len(r.EKCAs) == 0 && len(r.EKVendors) == 0 && len(r.EKPins) == 0 && len(r.AKPins) == 0 {
		reasons = append(reasons, CodeRuleEmpty.Refuse("tpm", "ek_vendors, ek_cas or ek_pins", "none of them"))
	}
	r.cas = certificatesOf("ek_cas", r.EKCAs, &reasons)
	r.issuers = certificatesOf("ek_issuers", r.EKIssuers, &reasons)
	r.iaks = certificatesOf("iak_cas", r.IAKCAs, &reasons)
	for i, id := range r.EKVendors {
		if !knownVendor(id) {
			reasons = append(reasons, CodeRuleVendor.Refuse(fmt.Sprintf("tpm.ek_vendors[%d]", i), "an id of the built-in set, or all", clip(id)))
		}
	}
	vendors := vendorAnchors(r.EKVendors)
	r.anchors = slices.Concat(r.cas, vendors)
	if len(r.IAKCAs) == 0 {
		r.iaks = vendors
	}
	r.lists, r.known = nil, &chains{}
	for i, text := range r.EKCRLs {
		list := readCRL([]byte(text))
		if list == nil {
			reasons = append(reasons, CodeRuleCRL.Refuse(fmt.Sprintf("tpm.ek_crls[%d]", i), "a PEM revocation list", clip(text)))
			continue
		}
		r.lists = append(r.lists, list)
	}
	for i, source := range r.AKSources {
		certified := source == SourceIAK || source == SourceAKCertificate
		if !certified && source != SourceCredential || certified && len(r.iaks) == 0 {
			reasons = append(reasons, CodeRuleSource.Refuse(fmt.Sprintf("tpm.ak_sources[%d]", i), "credential, or iak or ak-certificate and their CAs", clip(source)))
		}
	}
	r.pins = pinsOf("ek_pins", r.EKPins, &reasons)
	r.akPins = pinsOf("ak_pins", r.AKPins, &reasons)
	return reasons
}

func certificatesOf(field string, texts Strings, reasons *[]rats.Reason) []*x509.Certificate {
	var out []*x509.Certificate
	for i, text := range texts {
		certs, err := certificatesIn(text)
		if err != nil {
			*reasons = append(*reasons, CodeRuleCA.Refuse(fmt.Sprintf("tpm.%s[%d]", field, i), "PEM certificates", clip(err.Error())))
		}
		out = append(out, certs...)
	}
	return out
}

func certificatesIn(text string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := []byte(text); len(strings.TrimSpace(string(rest))) > 0; {
		block, after := pem.Decode(rest)
		if block == nil {
			return nil, fmt.Errorf("text that is no PEM block, after %d certificates", len(out))
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %s", clip(block.Type))
		}
		cert, err := readCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		if cert.BasicConstraintsValid && !cert.IsCA {
			return nil, fmt.Errorf("certificate %d is not one of a CA", len(out)+1)
		}
		out = append(out, cert)
		rest = after
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no certificate")
	}
	return out, nil
}

// Vouch implements rats.EnrolmentRules: it judges a TPM that joins as Check judges its quotes.
func (r *Rules) Vouch(e rats.Endorsement, now time.Time) []rats.Reason {
	if e.MediaType != EnrolmentMediaType {
		return r.untrusted("media_type", EnrolmentMediaType, clip(e.MediaType))
	}
	record, err := ParseEnrolment(e.Body)
	if err != nil {
		return r.untrusted("enrolment", "an enrolment record", err.Error())
	}
	reasons, state := r.checkEK(record.EKDigest, record.EKCert, record.EKChain, nil, now)
	if r.RequireCRL {
		reasons = append(reasons, crlReasons(state, true)...)
	}
	return reasons
}

// checkEK looks for the EK among the pins, then for a chain from its certificate to a trusted maker. The digest and
// the certificate are of one key: Enrol compared them. It returns the state of the chain's revocation lists too, those
// that verification saw included; pinned keys have none.
func (r *Rules) checkEK(ek rats.Digest, der []byte, chain [][]byte, seen *Revocation, now time.Time) ([]rats.Reason, string) {
	if ek.Check() == nil && r.pins[ek.String()] {
		return nil, CRLCurrent
	}
	const wanted = "a certificate of a trusted TPM maker"
	if len(r.anchors) == 0 {
		return r.untrusted("ek", "one of the pinned keys", ek.String()), CRLCurrent
	}
	if len(der) == 0 {
		return r.untrusted("ek_certificate", wanted, "no certificate; key "+ek.String()), CRLCurrent
	}
	j, err := r.known.of(der, chain, now, func(cert *x509.Certificate) (judged, error) { return r.chainOf(cert, chain, now) })
	if isRevoked(err) {
		revoked, _ := rats.ReasonOf(err)
		revoked.Tier = rats.Contraindicated
		return append([]rats.Reason{revoked}, r.untrusted("ek_certificate", wanted, "a revoked one; key "+ek.String())...), CRLCurrent
	}
	if err != nil {
		return r.untrusted("ek_certificate", wanted, clip(err.Error())+"; key "+ek.String()), CRLCurrent
	}
	if j.hash == "sha1" && !now.Before(r.SHA1Until) {
		return append(r.untrusted("ek_certificate", wanted, "one signed with SHA-1; key "+ek.String()),
			CodeEKSHA1.Refuse("ek_certificate", "sha256 or longer", j.hash)), CRLCurrent
	}
	state := j.revocation.At(now)
	if state != CRLCurrent && seen != nil && j.vendor != "" && seen.At(now) != CRLUnchecked {
		state = seen.At(now)
	}
	return nil, state
}

// chainOf builds the chain of an EK certificate. Its key usage is tcg-kp-EKCertificate or none (TCG EK Credential
// Profile, section 3.2.16); under a built-in maker, who certifies other keys too, it must say that it is one of a TPM.
func (r *Rules) chainOf(cert *x509.Certificate, chain [][]byte, now time.Time) (judged, error) {
	if len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 && !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return judged{}, fmt.Errorf("its extended key usage is not that of an endorsement key")
	}
	if now.IsZero() {
		return judged{}, fmt.Errorf("the time is not known")
	}
	j, err := judgeChain(cert, r.anchors, append(parsed(chain), r.issuers...), r.lists, now)
	if manufacturer, _ := makerOf(cert); err == nil && !slices.ContainsFunc(r.cas, j.chain[len(j.chain)-1].Equal) && kindOf(cert, manufacturer) != KindEK {
		return judged{}, fmt.Errorf("it does not say that it is of an endorsement key")
	}
	return j, err
}

// checkAK judges what ties the AK to its TPM besides the enrolment.
func (r *Rules) checkAK(c *Claims, now time.Time) []rats.Reason {
	if len(r.AKSources) == 0 || slices.Contains(r.AKSources, SourceCredential) {
		return nil
	}
	seen := "no certificate"
	if len(c.AKCertificate) > 0 && c.Device != nil && !now.IsZero() {
		cert, err := readCertificate(c.AKCertificate)
		if err == nil {
			var j judged
			j, err = judgeChain(cert, r.iaks, append(parsed(c.AKChain), r.issuers...), r.lists, now)
			if err == nil && j.hash == "sha1" && !now.Before(r.SHA1Until) {
				err = fmt.Errorf("a chain signed with SHA-1")
			}
		}
		source := c.Device.source()
		if err == nil && slices.Contains(r.AKSources, source) {
			return nil
		}
		if seen = source; err != nil {
			seen = clip(err.Error())
		}
	}
	return []rats.Reason{CodeAKSource.Refuse("ak_source", strings.Join(r.AKSources, " or "), seen)}
}

// untrusted lowers both slots that an unknown TPM leaves unproven.
func (r *Rules) untrusted(path, expected, seen string) []rats.Reason {
	return []rats.Reason{CodeEKUntrusted.Refuse(path, expected, seen), CodeHardwareUnproven.Refuse(path, expected, seen)}
}
