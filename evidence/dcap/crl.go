package dcap

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"time"
)

// window is a span of validity, narrowed by everything that was relied on. What doesn't say when it ends has ended: a
// revocation list without next update would else be good for ever.
type window struct {
	from, until time.Time
	narrowed    bool
}

func (w *window) narrow(from, until time.Time) {
	if from.After(w.from) {
		w.from = from
	}
	if !w.narrowed || until.Before(w.until) {
		w.until = until
	}
	w.narrowed = true
}

// signedBy says whether the issuer signed what check checks, and remembers a yes.
func (v *Verifier) signedBy(issuer *x509.Certificate, kind string, signed, sig []byte, check func() bool) bool {
	k := keyOf([]byte(kind), issuer.Raw, signed, sig)
	if _, ok := v.memo.get(k); ok {
		return true
	}
	if !check() {
		return false
	}
	v.memo.put(k, true)
	return true
}

// crlOf returns the revocation list of an issuer: of several valid ones the latest that has been issued by now. The
// bool says whether a list of its name stands there with another's signature.
func (v *Verifier) crlOf(issuer *x509.Certificate, crls []*x509.RevocationList, now time.Time) (best *x509.RevocationList, forged bool) {
	for _, crl := range crls {
		if !bytes.Equal(crl.RawIssuer, issuer.RawSubject) {
			continue
		}
		if !v.signedBy(issuer, "crl", crl.Raw, nil, func() bool { return crl.CheckSignatureFrom(issuer) == nil }) {
			forged = true
			continue
		}
		if best == nil || better(crl.ThisUpdate, best.ThisUpdate, now) {
			best = crl
		}
	}
	return best, forged && best == nil
}

// better prefers the later of two times, but not one that lies in the future to one that doesn't.
func better(a, b, now time.Time) bool {
	if fa, fb := a.After(now), b.After(now); fa != fb {
		return fb
	}
	return a.After(b)
}

func revoked(crl *x509.RevocationList, serial *big.Int) bool {
	for _, e := range crl.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(serial) == 0 {
			return true
		}
	}
	return false
}

// VerifyPath finds a path from cert over the given certificates to one of the anchors (nil: Intel's root), valid at
// now, no certificate of which is revoked by a list at hand. It serves to inspect certificates by themselves; whether
// every list was at hand is its second result.
func (v *Verifier) VerifyPath(cert *x509.Certificate, c *Collateral, pool *x509.CertPool, now time.Time) (path []*x509.Certificate, listed bool, err error) {
	const most = 6
	a := anchors{pool, v.roots}
	path, listed = []*x509.Certificate{cert}, true
	for top := cert; ; top = path[len(path)-1] {
		if root := a.find(top, now); root != nil {
			if !root.Equal(top) {
				path = append(path, root)
			}
			break
		}
		var next *x509.Certificate
		for _, o := range c.Certs {
			if bytes.Equal(top.RawIssuer, o.RawSubject) && !o.Equal(top) && top.CheckSignatureFrom(o) == nil {
				next = o
			}
		}
		if next == nil || len(path) > most {
			return nil, false, CodeChainRoot.Bad(clip(top.Subject.CommonName), "a path to a trusted root", "none")
		}
		path = append(path, next)
	}
	for i, cert := range path {
		if now.After(cert.NotAfter) {
			return nil, false, CodeChainExpired.Bad(clip(cert.Subject.CommonName), "valid at "+stamp(now), "until "+stamp(cert.NotAfter))
		}
		if now.Before(cert.NotBefore) {
			return nil, false, CodeChainEarly.Bad(clip(cert.Subject.CommonName), "valid at "+stamp(now), "from "+stamp(cert.NotBefore))
		}
		if i+1 == len(path) {
			break
		}
		crl, forged := v.crlOf(path[i+1], c.CRLs, now)
		switch {
		case forged:
			return nil, false, CodeCRLSignature.Bad(clip(path[i+1].Subject.CommonName), "a list signed by its issuer", "another signature")
		case crl == nil:
			listed = false
		case revoked(crl, cert.SerialNumber):
			return nil, false, CodeRevoked.Bad(clip(cert.Subject.CommonName), "not revoked", "serial number "+cert.SerialNumber.Text(16))
		}
	}
	return path, listed, nil
}
