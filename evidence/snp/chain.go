package snp

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed" // the vendor's certificates
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong with the key that signed, and with what vouches for it.
var (
	CodeCertTable = rats.CodeInfo{Code: "snp.certs.malformed", Slot: rats.InstanceIdentity,
		Title: "the table of certificates can't be read", Hint: "send the table as the host gave it, PEM, or one DER certificate"}
	CodeNoVEK = rats.CodeInfo{Code: "snp.vek.missing", Slot: rats.InstanceIdentity,
		Title: "the certificate of the key that signed is not at hand", Hint: "fetch the VCEK of this chip and TCB from AMD's KDS, or send the host's certificates along"}
	CodeVEK = rats.CodeInfo{Code: "snp.vek.malformed", Slot: rats.InstanceIdentity,
		Title: "the certificate of the endorsement key can't be read", Hint: "fetch it again from AMD's KDS"}
	CodeChain = rats.CodeInfo{Code: "snp.chain.untrusted", Slot: rats.InstanceIdentity,
		Title: "the endorsement key's certificate does not lead to AMD's root", Hint: "give the chain of this product line, of VCEK or VLEK as the report says, or none to use the built-in one"}
	CodeExpired = rats.CodeInfo{Code: "snp.chain.expired", Slot: rats.InstanceIdentity,
		Title: "a certificate of the chain has expired", Hint: "fetch a new one; to judge old evidence give the time of then"}
	CodeNotYetValid = rats.CodeInfo{Code: "snp.chain.not-yet-valid", Slot: rats.InstanceIdentity,
		Title: "a certificate of the chain is not valid yet", Hint: "check the clock; evidence can't be older than its key's certificate"}
	CodeRevoked = rats.CodeInfo{Code: "snp.chain.revoked", Slot: rats.InstanceIdentity,
		Title: "AMD has revoked a certificate of the chain", Hint: "the platform needs another endorsement key: update its firmware, ask its owner"}
	CodeCRL = rats.CodeInfo{Code: "snp.crl.signature", Slot: rats.InstanceIdentity,
		Title: "the revocation list is not signed by AMD's root", Hint: "fetch it again from AMD's KDS"}
)

var chainCodes = []rats.CodeInfo{
	CodeCertTable, CodeNoVEK, CodeVEK, CodeChain, CodeExpired, CodeNotYetValid, CodeRevoked, CodeCRL,
}

var (
	//go:embed roots/milan.pem
	milanPEM []byte
	//go:embed roots/genoa.pem
	genoaPEM []byte
	//go:embed roots/turin.pem
	turinPEM []byte
)

// line is the pinned certificates of a product line: root, signer of VCEKs, signer of VLEKs.
type line struct{ ark, ask, asvk *x509.Certificate }

var pinned = sync.OnceValue(func() map[Product]line {
	lines := map[Product]line{}
	for product, text := range map[Product][]byte{Milan: milanPEM, Genoa: genoaPEM, Turin: turinPEM} {
		var certs []*x509.Certificate
		for {
			block, rest := pem.Decode(text)
			if block == nil {
				break
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				panic("snp: the built-in certificates of " + string(product) + ": " + err.Error()) // a test shows it can't be
			}
			certs, text = append(certs, cert), rest
		}
		lines[product] = line{certs[0], certs[1], certs[2]}
	}
	return lines
})

// issuerName is the subject of the certificate that signs a product's keys.
func issuerName(p Product, signer int) string {
	if signer == SignerVLEK {
		return "SEV-VLEK-" + string(p)
	}
	return "SEV-" + string(p)
}

// chain is a verified path from an endorsement key to a root.
type chain struct {
	leaf   *vek
	issuer *x509.Certificate
	root   *x509.Certificate // nil if the caller's anchors took its place and it wasn't handed over
}

// memo remembers which certificate was seen to have signed which; that depends on no clock.
type memo struct {
	mu   sync.Mutex
	good map[[sha256.Size]byte]bool
}

const maxMemo = 4096

func newMemo() *memo { return &memo{good: map[[sha256.Size]byte]bool{}} }

// signed says whether parent signed child.
func (m *memo) signed(child, parent *x509.Certificate) error {
	h := sha256.New()
	c, p := sha256.Sum256(child.Raw), sha256.Sum256(parent.Raw)
	h.Write(c[:])
	h.Write(p[:])
	key := [sha256.Size]byte(h.Sum(nil))
	m.mu.Lock()
	good := m.good[key]
	m.mu.Unlock()
	if good {
		return nil
	}
	if err := child.CheckSignatureFrom(parent); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.good) >= maxMemo {
		clear(m.good)
	}
	m.good[key] = true
	return nil
}

// build finds the issuer of the leaf and checks the signatures up to the root. Issuers that were handed over are the only
// ones used; the pinned ones serve where none was. Anchors, if any, replace the pinned roots.
func (m *memo) build(leaf *vek, c *collateral, anchors *x509.CertPool, now time.Time) (*chain, error) {
	own := pinned()[leaf.product]
	want := issuerName(leaf.product, leaf.signer)
	issuers := c.issuers
	if len(issuers) == 0 && anchors == nil {
		issuers = []*x509.Certificate{own.ask, own.asvk}
	}
	why := "no certificate of it"
	for _, issuer := range issuers {
		if issuer.Subject.CommonName != want {
			continue
		}
		if err := m.signed(leaf.cert, issuer); err != nil {
			why = err.Error()
			continue
		}
		if anchors != nil {
			root, err := m.anchored(issuer, c.roots, anchors, now)
			if err != nil {
				return nil, err
			}
			return &chain{leaf, issuer, root}, nil
		}
		if err := m.signed(issuer, own.ark); err != nil {
			why = err.Error()
			continue
		}
		return &chain{leaf, issuer, own.ark}, nil
	}
	return nil, CodeChain.Bad("certificate", "signed by "+want+" under AMD's root", clip(why))
}

// anchored checks an issuer against the caller's roots. It returns the root if that was handed over too.
func (m *memo) anchored(issuer *x509.Certificate, roots []*x509.Certificate, anchors *x509.CertPool, now time.Time) (*x509.Certificate, error) {
	opts := x509.VerifyOptions{Roots: anchors, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	_, err := issuer.Verify(opts)
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && checkTime(issuer, now) != nil:
		return nil, checkTime(issuer, now)
	case err != nil:
		return nil, CodeChain.Bad("certificate "+clip(issuer.Subject.CommonName), "signed by one of the given roots", clip(err.Error()))
	}
	for _, root := range roots {
		if m.signed(issuer, root) == nil {
			if _, err := root.Verify(opts); err == nil {
				return root, nil
			}
		}
	}
	return nil, nil
}

// checkTimes reports validity apart from signatures, which were good.
func (c *chain) checkTimes(now time.Time) error {
	for _, cert := range []*x509.Certificate{c.leaf.cert, c.issuer, c.root} {
		if cert == nil {
			continue
		}
		if err := checkTime(cert, now); err != nil {
			return err
		}
	}
	return nil
}

func checkTime(cert *x509.Certificate, now time.Time) error {
	path, at := "certificate "+clip(cert.Subject.CommonName), now.UTC().Format(time.RFC3339)
	if now.Before(cert.NotBefore) {
		return CodeNotYetValid.Bad(path, "valid at "+at, "valid from "+cert.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.After(cert.NotAfter) {
		return CodeExpired.Bad(path, "valid at "+at, "valid until "+cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// until returns when the first certificate of the chain ends.
func (c *chain) until() time.Time {
	end := c.leaf.cert.NotAfter
	if c.issuer.NotAfter.Before(end) {
		end = c.issuer.NotAfter
	}
	return end
}

// The states of the revocation list.
const (
	CRLMissing     = "missing"
	CRLCurrent     = "current"
	CRLExpired     = "expired"
	CRLNotYetValid = "not-yet-valid"
)

// CRLClaims says what was known of revocations.
type CRLClaims struct {
	Status string    `json:"status"` // missing, current, expired, not-yet-valid
	Issued time.Time `json:"issued,omitzero"`
	Next   time.Time `json:"next,omitzero"`
}

// revocation looks the issuer up in the root's lists. AMD's lists name no endorsement keys: those all have serial number 0.
// A list of any age revokes; only one that is current clears. A list whose root isn't at hand is passed over.
func (c *chain) revocation(crls []*x509.RevocationList, now time.Time) (CRLClaims, error) {
	out := CRLClaims{Status: CRLMissing}
	for _, crl := range crls {
		if c.root == nil || crl.Issuer.String() != c.root.Subject.String() {
			continue
		}
		if err := crl.CheckSignatureFrom(c.root); err != nil {
			return out, CodeCRL.Bad("crl "+clip(c.root.Subject.CommonName), "the root's signature", clip(err.Error()))
		}
		for _, r := range crl.RevokedCertificateEntries {
			if r.SerialNumber.Cmp(c.issuer.SerialNumber) == 0 {
				return out, CodeRevoked.Bad("certificate "+clip(c.issuer.Subject.CommonName), "not on the revocation list",
					fmt.Sprintf("serial number %x, revoked %s", r.SerialNumber, r.RevocationTime.UTC().Format(time.RFC3339)))
			}
		}
		next := CRLClaims{Status: CRLCurrent, Issued: crl.ThisUpdate.UTC(), Next: crl.NextUpdate.UTC()}
		switch {
		case now.Before(crl.ThisUpdate):
			next.Status = CRLNotYetValid
		case crl.NextUpdate.IsZero() || now.After(crl.NextUpdate):
			next.Status = CRLExpired
		}
		if out.Status == CRLMissing || next.Status == CRLCurrent && (out.Status != CRLCurrent || next.Issued.After(out.Issued)) {
			out = next
		}
	}
	return out, nil
}
