package all

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/rats"
)

const formatCollateral rats.Format = "collateral"

// collateral is what a file of collateral says: of its documents, if there are several, the first.
type collateral struct {
	Kind             string    `json:"kind"` // tcb-info, identity, evaluation-numbers, crl, certificates
	ID               string    `json:"id,omitempty"`
	Version          int       `json:"version,omitempty"`
	IssueDate        time.Time `json:"issueDate,omitzero"`
	NextUpdate       time.Time `json:"nextUpdate,omitzero"`
	EvaluationNumber uint32    `json:"tcbEvaluationDataNumber,omitempty"`
	FMSPC            string    `json:"fmspc,omitempty"`
	MRSIGNER         string    `json:"mrsigner,omitempty"` // of the enclave that an identity names
	ISVProdID        *uint16   `json:"isvprodid,omitempty"`
	ISVSVN           *uint16   `json:"isvsvn,omitempty"` // of its latest level
	Revoked          *int      `json:"revoked_entries,omitempty"`
	Issuer           string    `json:"issuer,omitempty"`
	Subjects         []string  `json:"subjects,omitempty"` // of certificates
	Documents        int       `json:"documents"`          // in the file
	Listed           bool      `json:"revocation_checked"` // of certificates: every list that could revoke them was at hand
}

func (*collateral) ClaimsOf() rats.Format { return formatCollateral }

// against refuses collateral that is out of date, which leaves it genuine.
func (c *collateral) against(now time.Time) []rats.Reason {
	if !c.NextUpdate.IsZero() && now.After(c.NextUpdate) {
		return []rats.Reason{dcap.CodeCollateralExpired.Refuse(c.Kind, "a moment up to "+c.NextUpdate.Format(time.RFC3339), now.UTC().Format(time.RFC3339))}
	}
	if now.Before(c.IssueDate) {
		return []rats.Reason{dcap.CodeCollateralEarly.Refuse(c.Kind, "a moment from "+c.IssueDate.Format(time.RFC3339), now.UTC().Format(time.RFC3339))}
	}
	return nil
}

func isCollateral(b []byte) bool {
	_, err := dcap.ParseCollateral(b)
	return err == nil
}

func inspectCollateral(b []byte) (any, error) {
	c, err := dcap.ParseCollateral(b)
	if err != nil {
		return nil, err
	}
	return describeCollateral(c), nil
}

func describeCollateral(c *dcap.Collateral) *collateral {
	out := &collateral{Documents: len(c.TCBInfos) + len(c.Identities) + len(c.Numbers) + len(c.CRLs)}
	switch {
	case len(c.TCBInfos) > 0:
		v := c.TCBInfos[0].Value
		out.Kind, out.ID, out.Version, out.IssueDate, out.NextUpdate = "tcb-info", v.ID, v.Version, v.IssueDate, v.NextUpdate
		out.EvaluationNumber, out.FMSPC = v.EvaluationDataNumber, hex.EncodeToString(v.FMSPC[:])
	case len(c.Identities) > 0:
		v := c.Identities[0].Value
		out.Kind, out.ID, out.Version, out.IssueDate, out.NextUpdate = "identity", v.ID, v.Version, v.IssueDate, v.NextUpdate
		out.EvaluationNumber, out.MRSIGNER = v.EvaluationDataNumber, hex.EncodeToString(v.MRSIGNER[:])
		out.ISVProdID, out.ISVSVN = &v.ISVProdID, &v.Levels[0].ISVSVN
	case len(c.Numbers) > 0:
		v := c.Numbers[0].Value
		out.Kind, out.ID, out.Version, out.IssueDate, out.NextUpdate = "evaluation-numbers", v.ID, v.Version, v.IssueDate, v.NextUpdate
	case len(c.CRLs) > 0:
		v := c.CRLs[0]
		n := len(v.RevokedCertificateEntries)
		out.Kind, out.Issuer, out.IssueDate, out.NextUpdate, out.Revoked = "crl", v.Issuer.String(), v.ThisUpdate.UTC(), v.NextUpdate.UTC(), &n
	default:
		out.Kind = "certificates"
	}
	for _, cert := range c.Certs {
		out.Subjects = append(out.Subjects, cert.Subject.String())
	}
	return out
}

// newCollateral verifies documents of Intel, and certificates and revocation lists of Intel and AMD: each by itself,
// with the certificates that stand beside it.
func newCollateral() rats.Verifier {
	d := descriptorOf(formatCollateral, "what a maker says of its platforms", "evidence.md", func() rats.Claims { return new(collateral) }, nil)
	v := dcap.NewVerifier()
	return document{d, func(e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
		own, err := dcap.ParseCollateral(e.Body)
		if err != nil {
			return rats.Verified{}, err
		}
		with := &dcap.Collateral{Certs: slices.Clone(own.Certs), CRLs: slices.Clone(own.CRLs)}
		for _, end := range in.Endorsements {
			if c, err := dcap.ParseCollateral(end.Body); err == nil {
				with.Certs, with.CRLs = append(with.Certs, c.Certs...), append(with.CRLs, c.CRLs...)
			}
		}
		out := describeCollateral(own)
		if err := verifyCollateral(v, own, with, in, out); err != nil {
			return rats.Verified{}, err
		}
		return rats.Verified{Claims: out}, nil
	}}
}

func verifyCollateral(v *dcap.Verifier, own, with *dcap.Collateral, in rats.Inputs, out *collateral) error {
	for _, s := range own.TCBInfos {
		if err := v.VerifyDocument(s.Raw, s.Signature, with, in.Anchors, in.Now); err != nil {
			return err
		}
	}
	for _, s := range own.Identities {
		if err := v.VerifyDocument(s.Raw, s.Signature, with, in.Anchors, in.Now); err != nil {
			return err
		}
	}
	for _, s := range own.Numbers {
		if err := v.VerifyDocument(s.Raw, s.Signature, with, in.Anchors, in.Now); err != nil {
			return err
		}
	}
	for _, crl := range own.CRLs {
		if err := verifyCRL(v, crl, with, in); err != nil {
			return err
		}
	}
	if out.Kind == "certificates" {
		for i, cert := range own.Certs {
			_, listed, err := verifyPath(v, cert, with, in.Anchors, in.Now)
			if err != nil {
				return err
			}
			out.Listed = listed && (i == 0 || out.Listed)
		}
	}
	return nil
}

// verifyCRL finds the issuer of a list among the certificates at hand and the built-in roots. That the list is out of
// date is for the rules; the issuer must have been valid when it was made.
func verifyCRL(v *dcap.Verifier, crl *x509.RevocationList, with *dcap.Collateral, in rats.Inputs) error {
	why := dcap.CodeCRLSignature.Bad("crl of "+crl.Issuer.String(), "a list signed by its issuer", "no issuer at hand signed it")
	for _, issuer := range slices.Concat(with.Certs, roots()) {
		if crl.CheckSignatureFrom(issuer) != nil {
			continue
		}
		if _, _, err := verifyPath(v, issuer, &dcap.Collateral{Certs: with.Certs}, in.Anchors, crl.ThisUpdate); err == nil {
			return nil
		} else {
			why = err
		}
	}
	return why
}

func roots() []*x509.Certificate {
	return append(snp.Roots(), dcap.IntelRoot())
}

// verifyPath looks for a path to the given anchors, without them to Intel's root, then to AMD's.
func verifyPath(v *dcap.Verifier, cert *x509.Certificate, with *dcap.Collateral, anchors *x509.CertPool, now time.Time) ([]*x509.Certificate, bool, error) {
	path, listed, err := v.VerifyPath(cert, with, anchors, now)
	var bad *rats.BadEvidence
	if anchors != nil || err == nil || !errors.As(err, &bad) || bad.Reason.Code != dcap.CodeChainRoot.Code {
		return path, listed, err
	}
	pool := x509.NewCertPool()
	for _, r := range snp.Roots() {
		pool.AddCert(r)
	}
	if path, listed, err2 := v.VerifyPath(cert, with, pool, now); err2 == nil {
		return path, listed, nil
	}
	return nil, false, fmt.Errorf("%w", err)
}
