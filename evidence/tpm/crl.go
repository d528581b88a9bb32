package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What revocation lists of TPM makers can say, and what can be wrong with them.
var (
	CodeCertRevoked = rats.CodeInfo{Code: "tpm.certificate.revoked", Slot: rats.Hardware,
		Title: "the TPM's maker has revoked a certificate of the chain", Hint: "replace the TPM or update its firmware, as its maker says"}
	CodeCRLSignature = rats.CodeInfo{Code: "tpm.crl.signature", Slot: rats.Hardware,
		Title: "a revocation list is not signed by the issuer it names", Hint: "fetch the list again from the TPM's maker"}
	CodeCRLExpired = rats.CodeInfo{Code: "tpm.crl.expired", Slot: rats.Hardware,
		Title: "a revocation list of the chain is out of its time", Hint: "fetch a new one from the TPM's maker; what it revokes stays revoked"}
	CodeCRLMissing = rats.CodeInfo{Code: "tpm.crl.missing", Slot: rats.Hardware,
		Title: "no revocation list is at hand for a certificate of the chain", Hint: "give the lists of the TPM's maker as collateral, or in ek_crls"}
)

// Bounds of revocation lists.
const (
	maxCRL   = 4 << 20
	maxLists = 64
)

// The states of the revocation lists of a chain: that of the worst of its certificates.
const (
	CRLUnchecked   = "unchecked"     // for one of them there is no list
	CRLNotYetValid = "not-yet-valid" // the list is of the future
	CRLExpired     = "expired"
	CRLCurrent     = "current"
)

// Revocation says what revocation lists said of a chain. None of its certificates is on one: that is an error.
type Revocation struct {
	Checked bool      `json:"checked"`        // every certificate below the anchor was looked up in a whole list of its issuer
	From    time.Time `json:"from,omitzero"`  // the lists are valid from here on
	Until   time.Time `json:"until,omitzero"` // up to and including here
}

// At returns the state at a moment.
func (r Revocation) At(now time.Time) string {
	switch {
	case !r.Checked:
		return CRLUnchecked
	case now.Before(r.From):
		return CRLNotYetValid
	case now.After(r.Until):
		return CRLExpired
	}
	return CRLCurrent
}

// DetectCRL says whether b is a revocation list, DER or PEM.
func DetectCRL(b []byte) bool { return readCRL(b) != nil }

// readCRL reads a revocation list, DER or PEM. It returns nil if b is none.
func readCRL(b []byte) *x509.RevocationList {
	if len(b) > maxCRL {
		return nil
	}
	if block, _ := pem.Decode(b); block != nil {
		if block.Type != "X509 CRL" {
			return nil
		}
		b = block.Bytes
	}
	list, err := x509.ParseRevocationList(b)
	if err != nil {
		return nil
	}
	return list
}

// checkRevoked looks every certificate below the anchor up in the lists of its issuer. A list of any age revokes; only a
// whole one in its time clears.
func checkRevoked(chain []*x509.Certificate, lists []*x509.RevocationList) (Revocation, error) {
	out := Revocation{Checked: len(chain) > 1}
	for i := 0; i+1 < len(chain); i++ {
		cert, issuer := chain[i], chain[i+1]
		var best *x509.RevocationList
		for _, l := range lists[:min(len(lists), maxLists)] {
			if !isListOf(l, issuer) {
				continue
			}
			if err := checkListSigned(l, issuer); err != nil {
				return out, CodeCRLSignature.Bad("crl of "+clip(issuer.Subject.String()), "a signature of the issuer", clip(err.Error()))
			}
			for _, e := range l.RevokedCertificateEntries {
				if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
					return out, CodeCertRevoked.Bad(clip(cert.Subject.String()+" of "+issuer.Subject.String()), "not on its issuer's revocation list",
						fmt.Sprintf("serial number %x, revoked %s", e.SerialNumber, e.RevocationTime.UTC().Format(time.RFC3339)))
				}
			}
			if isWhole(l) && (best == nil || l.ThisUpdate.After(best.ThisUpdate)) {
				best = l
			}
		}
		if best == nil {
			out.Checked = false
			continue
		}
		if best.ThisUpdate.After(out.From) {
			out.From = best.ThisUpdate.UTC()
		}
		if out.Until.IsZero() || best.NextUpdate.Before(out.Until) {
			out.Until = best.NextUpdate.UTC()
		}
	}
	return out, nil
}

// isListOf says whether a list names this issuer: by name and, where both say it, by key. Makers gave several keys one
// name.
func isListOf(l *x509.RevocationList, issuer *x509.Certificate) bool {
	if !bytes.Equal(l.RawIssuer, issuer.RawSubject) {
		return false
	}
	return len(l.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0 || bytes.Equal(l.AuthorityKeyId, issuer.SubjectKeyId)
}

var (
	oidCRLNumber    = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// isWhole says whether a list is about all certificates of its issuer: a list with another critical extension is a part
// (a delta, one distribution point) or of unknown meaning.
func isWhole(l *x509.RevocationList) bool {
	for _, e := range l.Extensions {
		if e.Critical && !e.Id.Equal(oidCRLNumber) && !e.Id.Equal(oidAuthorityKey) {
			return false
		}
	}
	return true
}

func checkListSigned(l *x509.RevocationList, issuer *x509.Certificate) error {
	if issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return fmt.Errorf("its issuer may not sign lists")
	}
	return checkSignature(issuer.PublicKey, l.SignatureAlgorithm, l.RawTBSRevocationList, l.Signature, issuer)
}

// checkSignature checks a signature by an issuer's key, SHA-1 included.
func checkSignature(public any, alg x509.SignatureAlgorithm, signed, sig []byte, issuer *x509.Certificate) error {
	if alg != x509.SHA1WithRSA && alg != x509.ECDSAWithSHA1 {
		return issuer.CheckSignature(alg, signed, sig)
	}
	h := crypto.SHA1.New()
	h.Write(signed)
	digest := h.Sum(nil)
	switch key := public.(type) {
	case *rsa.PublicKey:
		if alg == x509.SHA1WithRSA {
			return rsa.VerifyPKCS1v15(key, crypto.SHA1, digest, sig)
		}
	case *ecdsa.PublicKey:
		if alg == x509.ECDSAWithSHA1 && ecdsa.VerifyASN1(key, digest, sig) {
			return nil
		}
	}
	return fmt.Errorf("the signature is not valid")
}
