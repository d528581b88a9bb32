package endorse

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// What can be wrong with a document.
var (
	CodeMalformed = rats.CodeInfo{Code: "endorse.document.malformed", Title: "the document is not what the vendor publishes under this key",
		Hint: "something between here and the vendor answers in its place, or the service is broken: look at the answer with a browser"}
	CodeOther = rats.CodeInfo{Code: "endorse.document.other", Title: "the document is about another platform than the one asked for",
		Hint: "the service mixes up its documents; fetch from another one"}
	CodeChain = rats.CodeInfo{Code: "endorse.document.chain", Title: "the issuer chain did not sign the document, or doesn't lead to the vendor's root",
		Hint: "something between here and the vendor changes documents; fetch from another service"}
)

// Bounds of a document.
const (
	maxBody  = 4 << 20
	maxChain = 64 << 10
	maxCerts = 4 // in a chain
)

// Document is something a vendor published, as received.
type Document struct {
	Key     Key       `json:"key"`
	Body    []byte    `json:"body"`            // JSON as signed; revocation lists and chip certificates in DER
	Chain   []byte    `json:"chain,omitempty"` // the certificates that vouch for it, PEM
	Fetched time.Time `json:"fetched"`
	From    time.Time `json:"from"`  // when it was issued
	Until   time.Time `json:"until"` // when it, or a certificate of its chain, runs out
}

// Roots are the root certificates that documents must lead to, by vendor. A vendor without any isn't held to one.
type Roots map[string][]*x509.Certificate

// Digest is over body and chain.
func (d Document) Digest() rats.Digest { return rats.SHA256(d.Body, d.Chain) }

// ValidAt says whether t lies in the document's own validity.
func (d Document) ValidAt(t time.Time) bool { return !t.Before(d.From) && !t.After(d.Until) }

// Endorsements returns the document as verifiers take it: body, and chain if there is one.
func (d Document) Endorsements() []rats.Endorsement {
	media := "application/pkix-crl"
	switch k, _, _ := d.Key.parse(); k {
	case kindTCBInfo, kindIdentity, kindNumbers:
		media = "application/json"
	case kindChain, kindPCK:
		media = "application/pem-certificate-chain"
	case kindLeaf:
		media = "application/pkix-cert"
	}
	out := []rats.Endorsement{{MediaType: media, Body: d.Body, Fetched: d.Fetched}}
	if len(d.Chain) > 0 {
		out = append(out, rats.Endorsement{MediaType: "application/pem-certificate-chain", Body: d.Chain, Fetched: d.Fetched})
	}
	return out
}

// newDocument reads and checks what was received for a key.
func newDocument(k Key, body, chain []byte, fetched time.Time, roots Roots) (Document, error) {
	kind, params, err := k.parse()
	if err != nil {
		return Document{}, err
	}
	if len(body) > maxBody || len(chain) > maxChain {
		return Document{}, CodeMalformed.Bad(string(k), fmt.Sprintf("at most %d bytes", maxBody), "more")
	}
	d := Document{Key: k, Body: body, Chain: chain, Fetched: fetched.UTC().Truncate(time.Second)}
	trusted := roots[k.Vendor()]
	switch kind {
	case kindTCBInfo, kindIdentity, kindNumbers:
		err = d.checkSigned(kind, params, trusted)
	case kindList:
		err = d.checkList(params, trusted)
	case kindPCK:
		err = d.checkPCK(params, trusted)
	case kindCRL:
		err = d.checkCRL(params, trusted)
	case kindChain:
		err = d.checkChain(params, trusted)
	default:
		err = d.checkLeaf(params)
	}
	return d, err
}

func (d *Document) malformed(expected string) error {
	seen := clip(string(bytes.TrimSpace(d.Body[:min(len(d.Body), 200)])))
	if len(d.Body) == 0 {
		seen = "nothing"
	}
	return CodeMalformed.Bad(string(d.Key), expected, seen)
}

// narrow shortens the validity.
func (d *Document) narrow(from, until time.Time) {
	if from = from.UTC(); from.After(d.From) {
		d.From = from
	}
	if until = until.UTC(); d.Until.IsZero() || until.Before(d.Until) {
		d.Until = until
	}
}

// checkSigned checks a signed JSON document: subject, dates, signature.
func (d *Document) checkSigned(k kind, params []string, trusted []*x509.Certificate) error {
	name := map[kind]string{kindTCBInfo: "tcbInfo", kindIdentity: "enclaveIdentity", kindNumbers: "tcbEvaluationDataNumbers"}[k]
	var outer map[string]json.RawMessage
	var signature string
	var inner struct {
		ID    string    `json:"id"`
		FMSPC string    `json:"fmspc"`
		From  time.Time `json:"issueDate"`
		Until time.Time `json:"nextUpdate"`
	}
	if json.Unmarshal(d.Body, &outer) != nil || json.Unmarshal(outer[name], &inner) != nil || json.Unmarshal(outer["signature"], &signature) != nil {
		return d.malformed("JSON with " + name + " and signature")
	}
	if inner.From.IsZero() || inner.Until.IsZero() {
		return d.malformed("issueDate and nextUpdate")
	}
	want := strings.ToUpper(params[0])
	if k == kindIdentity {
		want = map[string]string{"sgx qe": "QE", "tdx qe": "TD_QE", "sgx qve": "QVE"}[params[0]+" "+params[1]]
	}
	if inner.ID != want {
		return CodeOther.Bad(string(d.Key), want, clip(inner.ID))
	}
	if k == kindTCBInfo && !strings.EqualFold(inner.FMSPC, params[1]) {
		return CodeOther.Bad(string(d.Key), params[1], clip(inner.FMSPC))
	}
	certs, err := d.issuers(trusted)
	if err != nil {
		return err
	}
	if cn := certs[0].Subject.CommonName; cn != nameTCBSigner {
		return CodeChain.Bad(string(d.Key), "a signer called "+nameTCBSigner, clip(cn))
	}
	if !signedRS(certs[0], outer[name], signature) {
		return CodeChain.Bad(string(d.Key), "a signature by "+clip(certs[0].Subject.CommonName), "another signature")
	}
	d.narrow(inner.From, inner.Until)
	return nil
}

// signedRS checks an ECDSA signature r ‖ s in hex over SHA-256 with a P-256 key.
func signedRS(cert *x509.Certificate, signed []byte, signature string) bool {
	sig, err := hex.DecodeString(signature)
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if err != nil || !ok || key.Curve != elliptic.P256() || len(sig) != 64 {
		return false
	}
	sum := sha256.Sum256(signed)
	return ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}

// issuers reads the issuer chain, signer first, and checks that each certificate signed the one before.
func (d *Document) issuers(trusted []*x509.Certificate) ([]*x509.Certificate, error) {
	certs, err := readPEM(d.Chain)
	if err != nil || len(certs) < 2 {
		return nil, CodeChain.Bad(string(d.Key), "the issuer's certificate and its root, PEM", clip(string(d.Chain)))
	}
	return certs, d.checkPath(certs, trusted)
}

// checkPath checks that certificates sign one another and end in a root: a trusted one where there are any.
func (d *Document) checkPath(certs, trusted []*x509.Certificate) error {
	for i, c := range certs {
		issuer := certs[min(i+1, len(certs)-1)]
		if err := c.CheckSignatureFrom(issuer); err != nil {
			return CodeChain.Bad(string(d.Key), clip(c.Subject.CommonName)+" signed by "+clip(issuer.Subject.CommonName), clip(err.Error()))
		}
		d.narrow(c.NotBefore, c.NotAfter)
	}
	root := certs[len(certs)-1]
	for _, t := range trusted {
		if bytes.Equal(t.RawSubject, root.RawSubject) && bytes.Equal(t.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) {
			return nil
		}
	}
	if len(trusted) > 0 {
		return CodeChain.Bad(string(d.Key), "a root of the vendor", clip(root.Subject.CommonName)+" with another key")
	}
	return nil
}

// readPEM reads a chain that may be URL-encoded, as services put it into headers.
func readPEM(b []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" || len(out) == maxCerts {
			return nil, errors.New("not a chain of certificates")
		}
		out = append(out, c)
	}
}

// readCRL takes DER, PEM or hex, and leaves DER in the body.
func (d *Document) readCRL() (*x509.RevocationList, error) {
	der := d.Body
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	} else if b, err := hex.DecodeString(string(bytes.TrimSpace(der))); err == nil {
		der = b
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, d.malformed("a revocation list")
	}
	d.Body = der
	d.narrow(crl.ThisUpdate, crl.NextUpdate)
	return crl, nil
}

// The names of Intel's CAs and of its signer.
const (
	namePlatform  = "Intel SGX PCK Platform CA"
	nameProcessor = "Intel SGX PCK Processor CA"
	nameTCBSigner = "Intel SGX TCB Signing"
)

func (d *Document) checkList(params []string, trusted []*x509.Certificate) error {
	crl, err := d.readCRL()
	if err != nil {
		return err
	}
	want := map[string]string{"platform": namePlatform, "processor": nameProcessor}[params[0]]
	if cn := crl.Issuer.CommonName; cn != want {
		return CodeOther.Bad(string(d.Key), want, clip(cn))
	}
	certs, err := d.issuers(trusted)
	if err != nil {
		return err
	}
	if err := crl.CheckSignatureFrom(certs[0]); err != nil {
		return CodeChain.Bad(string(d.Key), "signed by "+clip(certs[0].Subject.CommonName), clip(err.Error()))
	}
	return nil
}

// checkPCK checks the certificate of a platform's key: signed by its chain, and derived for the TCB that was asked for.
// Intel answers with the best certificate it has, and the key of another TCB is another key.
func (d *Document) checkPCK(params []string, trusted []*x509.Certificate) error {
	leaf, err := readPEM(d.Body)
	if err != nil || len(leaf) != 1 {
		return d.malformed("one certificate, PEM")
	}
	p, err := dcap.ParsePCK(leaf[0])
	if err != nil {
		return d.malformed("a PCK certificate")
	}
	svn := binary.LittleEndian.AppendUint16(nil, p.PCESVN)
	if got := fmt.Sprintf("%x %x %x", p.CPUSVN, svn, p.PCEID); got != strings.Join(params, " ") {
		return CodeOther.Bad(string(d.Key), "CPUSVN, PCESVN and PCE id "+strings.Join(params, " "), got)
	}
	certs, err := d.issuers(trusted)
	if err != nil {
		return err
	}
	return d.checkPath(append(leaf, certs...), trusted)
}

// checkCRL checks a root's list. Without trusted roots only its issuer's name is looked at.
func (d *Document) checkCRL(params []string, trusted []*x509.Certificate) error {
	crl, err := d.readCRL()
	if err != nil {
		return err
	}
	d.Chain = nil
	want := "Intel SGX Root CA"
	if len(params) == 2 {
		want = "ARK-" + params[1]
	}
	if crl.Issuer.CommonName != want {
		return CodeOther.Bad(string(d.Key), want, clip(crl.Issuer.CommonName))
	}
	for _, t := range trusted {
		if crl.CheckSignatureFrom(t) == nil {
			return nil
		}
	}
	if len(trusted) > 0 {
		return CodeChain.Bad(string(d.Key), "a list signed by the vendor's root", "another signature")
	}
	return nil
}

// checkChain checks an answer of AMD's KDS: signer of keys, then root.
func (d *Document) checkChain(params []string, trusted []*x509.Certificate) error {
	d.Chain = nil
	certs, err := readPEM(d.Body)
	if err != nil || len(certs) != 2 {
		return d.malformed("two certificates, PEM")
	}
	want := map[string]string{"vcek": "SEV-", "vlek": "SEV-VLEK-"}[params[0]] + params[1]
	if cn := certs[0].Subject.CommonName; cn != want {
		return CodeOther.Bad(string(d.Key), want, clip(cn))
	}
	return d.checkPath(certs, trusted)
}

// checkLeaf checks the certificate of a chip's key: its names and its chip. Who signed it is seen by verifiers, who have
// the chain.
func (d *Document) checkLeaf(params []string) error {
	d.Chain = nil
	cert, err := x509.ParseCertificate(d.Body)
	if err != nil {
		return d.malformed("a certificate in DER")
	}
	if cn, issuer := cert.Subject.CommonName, cert.Issuer.CommonName; cn != "SEV-VCEK" || issuer != "SEV-"+params[0] {
		return CodeOther.Bad(string(d.Key), "SEV-VCEK by SEV-"+params[0], clip(cn+" by "+issuer))
	}
	id, _ := hex.DecodeString(params[1]) // the grammar says that it is hex
	for _, e := range cert.Extensions {
		if e.Id.String() == "1.3.6.1.4.1.3704.1.4" && bytes.HasSuffix(e.Value, id) && len(e.Value) <= len(id)+2 {
			d.narrow(cert.NotBefore, cert.NotAfter)
			return nil
		}
	}
	return CodeOther.Bad(string(d.Key), "chip "+params[1][:16]+"…", "another chip")
}
