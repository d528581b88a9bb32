package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

// Verifier verifies quotes. It is safe for concurrent use.
type Verifier struct {
	roots  []*x509.Certificate
	memo   *memo // signatures and chains that were verified
	parsed *memo // collateral by its bytes
}

// Bounds of what a verifier remembers.
const (
	maxMemo       = 1024
	maxParsed     = 64
	maxParsedSize = 256 << 10
)

// NewVerifier returns a verifier that trusts Intel's root, unless other anchors are given to a verification.
func NewVerifier() *Verifier {
	return &Verifier{roots: []*x509.Certificate{IntelRoot()}, memo: newMemo(maxMemo), parsed: newMemo(maxParsed)}
}

// Platform is what the certificates of a quote say of the machine, without what names a single one (PPID, platform
// instance id).
type Platform struct {
	CA         string         `json:"ca"` // processor or platform
	Type       string         `json:"type"`
	FMSPC      string         `json:"fmspc"`
	PCEID      string         `json:"pce_id"`
	PCESVN     uint16         `json:"pce_svn"`
	Components string         `json:"tcb_components"` // SVNs, 32 hex digits
	Dynamic    bool           `json:"dynamic"`
	SMT        bool           `json:"smt"`
	QE         QuotingEnclave `json:"quoting_enclave"`
}

// QuotingEnclave is the enclave that signed the quote.
type QuotingEnclave struct {
	MRENCLAVE string `json:"mrenclave"`
	MRSIGNER  string `json:"mrsigner"`
	ISVProdID uint16 `json:"isv_prod_id"`
	ISVSVN    uint16 `json:"isv_svn"`
	Confirmed bool   `json:"confirmed"` // Intel's signed identity names it
}

// Used says which collateral the status rests on, and what was wrong with it.
type Used struct {
	Issued   time.Time `json:"issued"`   // the older of TCB info and identity
	From     time.Time `json:"from"`     // all of it is valid from here on
	Until    time.Time `json:"until"`    // up to and including here
	RootCRL  bool      `json:"root_crl"` // the root's revocation list was at hand
	PCKCRL   bool      `json:"pck_crl"`  // and that of the platform's CA
	QVE      *QVE      `json:"qve,omitempty"`
	Problems []Problem `json:"problems,omitempty"`
}

// QVE is Intel's signed identity of its own quote verification enclave, where it was at hand. The status doesn't rest on
// it: this package verifies by itself, and believes no enclave that says it did.
type QVE struct {
	MRSIGNER         string    `json:"mrsigner"`
	ISVProdID        uint16    `json:"isv_prod_id"`
	ISVSVN           uint16    `json:"isv_svn"` // of the latest level
	EvaluationNumber uint32    `json:"evaluation_data_number"`
	Issued           time.Time `json:"issued"`
	Until            time.Time `json:"until"`
}

// Verdict is what is true of a quote's signatures and of the platform behind it.
type Verdict struct {
	Platform   Platform
	TCB        TCB
	Collateral Used
	Until      time.Time // when the chain ends, or the collateral, if it is valid now
	ReportData string    // hex, where no manifest is bound; empty from Verify
}

// Verify checks the signatures of a quote: PCK chain to the anchors, report of the quoting enclave, attestation key,
// body. Then it computes the platform's status from the collateral among the endorsements. Forged or expired parts of
// the quote are errors; missing, broken or expired collateral is not: then the status is unknown, or the validity in
// Used says so. Module is nil for SGX.
func (v *Verifier) Verify(q *Quote, module *ModuleOf, in rats.Inputs) (Verdict, error) {
	collateral, problems := v.collateralOf(in.Endorsements)
	a := anchors{in.Anchors, v.roots}
	ch, err := v.chainFor(q, collateral, a, in.Now)
	if err != nil {
		return Verdict{}, err
	}
	report, err := verifySignatures(q, ch.leaf)
	if err != nil {
		return Verdict{}, err
	}
	if err := ch.checkDates(in.Now); err != nil {
		return Verdict{}, err
	}
	s := &session{v: v, c: collateral, a: a, now: in.Now, ch: ch}
	s.used.Problems = problems
	if err := s.checkRevocation(); err != nil {
		return Verdict{}, err
	}
	s.readQVE()
	out := Verdict{Platform: platformOf(ch, report), TCB: TCB{Status: Unknown, Platform: Unknown, QE: Unknown}}
	if err := s.judge(report, module, &out); err != nil {
		return Verdict{}, err
	}
	s.used.From, s.used.Until = s.window.from, s.window.until
	out.Collateral, out.Until = s.used, ch.notAfter()
	if u := s.window.until; u.After(in.Now) && u.Before(out.Until) {
		out.Until = u
	}
	return out, nil
}

// verifySignatures follows the signatures from the PCK to the body (DCAP Quote Generation, 4.1.2.4).
func verifySignatures(q *Quote, pck *x509.Certificate) (abi.ReportBody, error) {
	report, err := abi.ParseReportBody(q.QEReport)
	if err != nil {
		return report, err
	}
	if !verifyRS(pck.PublicKey, q.QEReport, q.QESig) {
		return report, CodeQESignature.Bad("report of the quoting enclave", "a signature by the PCK", "another signature")
	}
	var bound [abi.ReportDataSize]byte
	h := sha256.New()
	h.Write(q.Key)
	h.Write(q.QEAuth)
	h.Sum(bound[:0])
	if report.ReportData != bound {
		return report, CodeKeyUnbound.Bad("report data of the quoting enclave", hex.EncodeToString(bound[:]), hex.EncodeToString(report.ReportData[:]))
	}
	if report.Attributes.Debug() {
		return report, CodeQEDebug.Bad("attributes of the quoting enclave", "no DEBUG bit", "the DEBUG bit")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.Key...))
	if err != nil {
		return report, CodeQuoteKey.Bad("attestation key", "a point of P-256", hex.EncodeToString(q.Key))
	}
	if !verifyRS(key, q.Signed, q.Signature) {
		return report, CodeQuoteSignature.Bad("signature", "a signature by the attestation key", "another signature")
	}
	return report, nil
}

func platformOf(ch *chain, qe abi.ReportBody) Platform {
	p := ch.pck
	ca := "processor"
	if ch.ca.Subject.CommonName == namePlatform {
		ca = "platform"
	}
	return Platform{
		CA: ca, Type: p.Type, FMSPC: hex.EncodeToString(p.FMSPC[:]), PCEID: hex.EncodeToString(p.PCEID[:]), PCESVN: p.PCESVN,
		Components: hex.EncodeToString(p.Components[:]), Dynamic: p.Dynamic, SMT: p.SMT,
		QE: QuotingEnclave{
			MRENCLAVE: hex.EncodeToString(qe.MRENCLAVE[:]), MRSIGNER: hex.EncodeToString(qe.MRSIGNER[:]),
			ISVProdID: qe.ISVProdID, ISVSVN: qe.ISVSVN,
		},
	}
}

// session is one evaluation of collateral.
type session struct {
	v      *Verifier
	c      *Collateral
	a      anchors
	now    time.Time
	ch     *chain
	used   Used
	window window
}

func (s *session) problem(err error) { s.used.Problems = append(s.used.Problems, problemOf(err)) }

// checkRevocation looks the chain up in the lists at hand. A list out of its time still revokes; that it is out of its
// time narrows the window.
func (s *session) checkRevocation() error {
	for _, step := range []struct {
		issuer, cert *x509.Certificate
		listed       *bool
	}{{s.ch.root, s.ch.ca, &s.used.RootCRL}, {s.ch.ca, s.ch.leaf, &s.used.PCKCRL}} {
		crl, forged := s.v.crlOf(step.issuer, s.c.CRLs, s.now)
		if forged {
			s.problem(CodeCRLSignature.Bad(clip(step.issuer.Subject.CommonName), "a list signed by its issuer", "another signature"))
		}
		if crl == nil {
			continue
		}
		if revoked(crl, step.cert.SerialNumber) {
			return CodeRevoked.Bad(clip(step.cert.Subject.CommonName), "not revoked", "serial number "+step.cert.SerialNumber.Text(16))
		}
		*step.listed = true
		s.window.narrow(crl.ThisUpdate, crl.NextUpdate)
	}
	return nil
}

// judge finds TCB info and identity and computes the status. Its error is about the quote: a quoting enclave that
// Intel doesn't name.
func (s *session) judge(report abi.ReportBody, module *ModuleOf, out *Verdict) error {
	id, qe := IDSGX, IDQE
	if module != nil {
		id, qe = IDTDX, IDTDQE
		out.TCB.Module = Unknown
	}
	info := s.tcbInfo(id)
	identity := s.identity(qe)
	var level *SVNLevel
	if identity != nil {
		if err := identity.matches(report); err != nil {
			return err
		}
		out.Platform.QE.Confirmed = true
		level = svnLevel(identity.Levels, report.ISVSVN)
	}
	if info == nil || identity == nil {
		return nil
	}
	tcb, err := judge(info, s.ch.pck, module, level)
	if err != nil {
		s.problem(err)
	}
	tcb.InfoNumber, tcb.IdentityNumber = info.EvaluationDataNumber, identity.EvaluationDataNumber
	tcb.EvaluationNumber = min(tcb.InfoNumber, tcb.IdentityNumber)
	out.TCB = tcb
	s.used.Issued = info.IssueDate
	if identity.IssueDate.Before(info.IssueDate) {
		s.used.Issued = identity.IssueDate
	}
	return nil
}

// tcbInfo returns the best TCB info of the platform that Intel signed.
func (s *session) tcbInfo(id string) *TCBInfo {
	var fit []Signed[TCBInfo]
	other := ""
	for _, t := range s.c.TCBInfos {
		i := t.Value
		if i.ID == id && i.FMSPC == s.ch.pck.FMSPC && (i.PCEID == nil || *i.PCEID == s.ch.pck.PCEID) && i.Version >= 2 {
			fit = append(fit, t)
			continue
		}
		other = i.ID + " " + hex.EncodeToString(i.FMSPC[:])
	}
	want := id + " " + hex.EncodeToString(s.ch.pck.FMSPC[:])
	if len(fit) == 0 && other != "" {
		s.problem(CodeTCBInfoOther.Bad("tcbInfo", want, other))
		return nil
	}
	if len(fit) == 0 {
		s.problem(CodeTCBInfoMissing.Missing("tcbInfo", want, "none"))
		return nil
	}
	best := pick(s, fit, func(t TCBInfo) (time.Time, time.Time, uint32) {
		return t.IssueDate, t.NextUpdate, t.EvaluationDataNumber
	})
	if best == nil {
		return nil
	}
	return &best.Value
}

// identity returns the best identity of the quoting enclave that Intel signed.
func (s *session) identity(id string) *Identity {
	fit := slices.DeleteFunc(slices.Clone(s.c.Identities), func(d Signed[Identity]) bool { return d.Value.ID != id || d.Value.Version < 2 })
	if len(fit) == 0 {
		s.problem(CodeIdentityMissing.Missing("enclaveIdentity", id, "none"))
		return nil
	}
	best := pick(s, fit, func(d Identity) (time.Time, time.Time, uint32) {
		return d.IssueDate, d.NextUpdate, d.EvaluationDataNumber
	})
	if best == nil {
		return nil
	}
	return &best.Value
}

// readQVE shows the latest identity of the quote verification enclave that Intel signed. It doesn't narrow the window.
func (s *session) readQVE() {
	for _, d := range s.c.Identities {
		v := d.Value
		if v.ID != IDQVE || v.Version < 2 {
			continue
		}
		if _, _, err := s.signer(d.Raw, d.Signature); err != nil {
			s.problem(err)
			continue
		}
		if s.used.QVE == nil || better(v.IssueDate, s.used.QVE.Issued, s.now) {
			s.used.QVE = &QVE{
				MRSIGNER: hex.EncodeToString(v.MRSIGNER[:]), ISVProdID: v.ISVProdID, ISVSVN: v.Levels[0].ISVSVN,
				EvaluationNumber: v.EvaluationDataNumber, Issued: v.IssueDate, Until: v.NextUpdate,
			}
		}
	}
}

// pick returns, of documents that Intel signed, one that is valid now if there is any, then the one with the highest
// evaluation number, then the latest. Its validity and that of its signer narrow the window.
func pick[T any](s *session, docs []Signed[T], of func(T) (from, until time.Time, number uint32)) *Signed[T] {
	slices.SortStableFunc(docs, func(x, y Signed[T]) int {
		xf, xu, xn := of(x.Value)
		yf, yu, yn := of(y.Value)
		xv, yv := !s.now.Before(xf) && !s.now.After(xu), !s.now.Before(yf) && !s.now.After(yu)
		switch {
		case xv != yv && xv, xv == yv && xn > yn, xv == yv && xn == yn && better(xf, yf, s.now):
			return -1
		case xv != yv, xn < yn, better(yf, xf, s.now):
			return 1
		}
		return 0
	})
	var problem error
	for i := range docs {
		signer, crl, err := s.signer(docs[i].Raw, docs[i].Signature)
		if err != nil {
			problem = err
			continue
		}
		from, until, _ := of(docs[i].Value)
		s.window.narrow(from, until)
		s.window.narrow(signer.NotBefore, signer.NotAfter)
		if crl == nil {
			s.used.RootCRL = false // of several anchors, the signer's may be another than the platform's
		} else {
			s.window.narrow(crl.ThisUpdate, crl.NextUpdate)
		}
		return &docs[i]
	}
	s.problem(problem)
	return nil
}

// signer returns the certificate that signed a document, one of Intel's TCB signing certificates, and the list by which
// it is not revoked; nil if that is not at hand.
func (s *session) signer(raw, sig []byte) (*x509.Certificate, *x509.RevocationList, error) {
	for _, cert := range s.c.Certs {
		if cert.Subject.CommonName != nameTCBSigner {
			continue
		}
		root := s.anchorOf(cert)
		if root == nil {
			continue
		}
		if !s.v.signedBy(cert, "document", raw, sig, func() bool { return verifyRS(cert.PublicKey, raw, sig) }) {
			continue
		}
		crl, _ := s.v.crlOf(root, s.c.CRLs, s.now)
		if crl != nil && revoked(crl, cert.SerialNumber) {
			return nil, nil, CodeCollateralSigner.Bad(nameTCBSigner, "not revoked", "serial number "+cert.SerialNumber.Text(16))
		}
		return cert, crl, nil
	}
	return nil, nil, CodeCollateralSignature.Bad("signature", "one by "+nameTCBSigner+" under the trusted root", "no such signer, or another signature")
}

// anchorOf returns the root that signed a certificate directly, and remembers it for the built-in one.
func (s *session) anchorOf(cert *x509.Certificate) *x509.Certificate {
	if s.a.pool == nil {
		for _, root := range s.v.roots {
			if bytes.Equal(root.RawSubject, cert.RawIssuer) && s.v.signedBy(root, "cert", cert.Raw, nil, func() bool { return cert.CheckSignatureFrom(root) == nil }) {
				return root
			}
		}
		return nil
	}
	return s.a.find(cert, s.now)
}

// VerifyDocument checks that Intel signed a TCB info, identity or list of evaluation numbers: with one of the
// certificates in c, under the anchors (nil: Intel's root). Validity times are the caller's to judge.
func (v *Verifier) VerifyDocument(raw, sig []byte, c *Collateral, pool *x509.CertPool, now time.Time) error {
	s := &session{v: v, c: c, a: anchors{pool, v.roots}, now: now}
	_, _, err := s.signer(raw, sig)
	return err
}
