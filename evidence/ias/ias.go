// Package ias is the legacy evidence format "ias": an attestation verification report of Intel's attestation service
// for EPID quotes (IAS API versions 3 to 5). The service ended on 2 April 2025; this package verifies stored reports,
// and parses EPID quotes, which nobody can verify any more.
//
// A verified report guarantees that Intel's service signed exactly this statement at its time: the body of an EPID
// quote, and the status it had then. It does not say anything about the platform of today: the service publishes no
// revocations any more. So rules accept nothing of this format unless they say until when (R114).
//
// Specification: Attestation Service for Intel SGX, API specification, revision 6.
package ias

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// Format is the id of this format.
const Format rats.Format = "ias"

// MediaType is the media type of a report. The body of the evidence is the body of the service's answer, byte by byte.
const MediaType = "application/vnd.assay.ias-report+json"

// Names of the parts of a piece of evidence: the headers of the service's answer.
const (
	PartSignature    = "signature"    // X-IASReport-Signature: base64
	PartCertificates = "certificates" // X-IASReport-Signing-Certificate: URL-encoded PEM; plain PEM or base64 serve too
)

// signingCA is the Intel SGX Attestation Report Signing CA (self-signed, RSA-3072), from the vendor, SHA-256 of the DER
// 7b42e41ec43b91db834a065de4f98a13c44d695570e839cfa8921e584e40735d; recorded alike by independent projects.
//
//go:embed intel-ias-signing-ca.der
var signingCA []byte

// What can be wrong with a report.
var (
	CodeMediaType = rats.CodeInfo{Code: "ias.evidence.media-type", Slot: rats.InstanceIdentity,
		Title: "the evidence is of another kind", Hint: "send evidence of format ias as " + MediaType + " with the parts signature and certificates"}
	CodeMalformed = rats.CodeInfo{Code: "ias.report.malformed", Slot: rats.Hardware,
		Title: "the bytes are not a report of the attestation service", Hint: "give the body of the service's answer as it was received"}
	CodeVersion = rats.CodeInfo{Code: "ias.report.version", Slot: rats.Hardware,
		Title: "the report is of a version that is not supported", Hint: "versions 3, 4 and 5 are"}
	CodeCertificates = rats.CodeInfo{Code: "ias.report.certificates", Slot: rats.Hardware,
		Title: "the certificate of the signer is missing or can't be read", Hint: "hand over the header X-IASReport-Signing-Certificate"}
	CodeRoot = rats.CodeInfo{Code: "ias.report.root", Slot: rats.Hardware,
		Title: "the signer of the report is not certified by Intel", Hint: "only reports of Intel's service are verified"}
	CodeExpired = rats.CodeInfo{Code: "ias.report.signer-expired", Slot: rats.Hardware,
		Title: "the certificate of the signer is not valid at this time", Hint: "stored evidence can be verified at a stated time"}
	CodeSignature = rats.CodeInfo{Code: "ias.report.signature", Slot: rats.Hardware,
		Title: "the signature of the report is not valid", Hint: "the report was altered"}
	CodeEPID = rats.CodeInfo{Code: "ias.quote.unverifiable", Slot: rats.Hardware,
		Title: "an EPID quote can't be verified", Hint: "the service that verified EPID quotes has ended; move the platform to DCAP"}
)

// Codes are the reasons of this package; those of binding come from package dcap.
var Codes = slices.Concat([]rats.CodeInfo{
	CodeMediaType, CodeMalformed, CodeVersion, CodeCertificates, CodeRoot, CodeExpired, CodeSignature, CodeEPID,
}, ruleCodes)

// Claims are what a verified report says.
type Claims struct {
	Status        string    `json:"status"` // isvEnclaveQuoteStatus
	Advisories    []string  `json:"advisories"`
	Timestamp     time.Time `json:"timestamp"` // of the report, by the service's clock
	ReportVersion int       `json:"report_version"`
	Nonce         string    `json:"nonce,omitempty"`
	MRENCLAVE     string    `json:"mrenclave"`
	MRSIGNER      string    `json:"mrsigner"`
	ISVProdID     uint16    `json:"isv_prod_id"`
	ISVSVN        uint16    `json:"isv_svn"`
	Debug         bool      `json:"debug"`
	Attributes    string    `json:"attributes"`
	Legacy        bool      `json:"legacy"` // always true: EPID
	Linkable      bool      `json:"linkable"`
	ReportData    string    `json:"report_data,omitempty"` // only where no manifest is bound
}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// TCBStatus returns the service's status, the advisories it named, and the time of the report.
func (c *Claims) TCBStatus() (status string, advisories []string, date time.Time) {
	return c.Status, c.Advisories, c.Timestamp
}

// DebugEnabled says whether a debugger may look into the enclave.
func (c *Claims) DebugEnabled() bool { return c.Debug }

var descriptor = &rats.Descriptor{
	ID:            Format,
	Title:         "IAS report (legacy)",
	Doc:           "formats/ias.md",
	MediaTypes:    []string{MediaType},
	Hardware:      true,
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         slices.Concat(Codes, []rats.CodeInfo{dcap.CodeUnbound, dcap.CodeBinding, dcap.CodeReportData}),
}

type verifier struct{ root *x509.Certificate }

// New returns the verifier of IAS reports.
func New() rats.Verifier {
	root, err := x509.ParseCertificate(signingCA)
	if err != nil {
		panic(err) // embedded
	}
	return verifier{root}
}

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }

// Descriptor implements rats.Verifier.
func (verifier) Descriptor() *rats.Descriptor { return descriptor }

const maxReport = 64 << 10

// Detect says cheaply whether b could be a report, a certificate that carries one, or an EPID quote.
func Detect(b []byte) bool {
	if len(b) > maxReport {
		return false
	}
	if _, ok := FromCertificate(b); ok || isEPID(b) {
		return true
	}
	return len(b) > 0 && b[0] == '{' && bytes.Contains(b, []byte(`"isvEnclaveQuoteBody"`))
}

func isEPID(b []byte) bool {
	if len(b) < abi.EPIDQuoteSize {
		return false
	}
	version, kind := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
	return (version == 1 || version == 2) && kind <= 1 && uint64(binary.LittleEndian.Uint32(b[abi.EPIDQuoteSize-4:])) == uint64(len(b)-abi.EPIDQuoteSize)
}

// ParseQuote reads an EPID quote (version 1 or 2) with its signature, which is encrypted to the service that has ended.
func ParseQuote(b []byte) (abi.EPIDQuote, []byte, error) {
	if !isEPID(b) {
		return abi.EPIDQuote{}, nil, CodeMalformed.Bad("quote at byte 0", "an EPID quote, version 1 or 2", "other bytes, or another length")
	}
	q, err := abi.ParseEPIDQuote(b[:abi.EPIDQuoteSize-4])
	return q, b[abi.EPIDQuoteSize:], err
}

// Report is the body of the service's answer.
type Report struct {
	ID         string        `json:"id"`
	Timestamp  timestamp     `json:"timestamp"`
	Version    int           `json:"version"`
	Status     string        `json:"isvEnclaveQuoteStatus"`
	QuoteBody  []byte        `json:"isvEnclaveQuoteBody"` // 432 bytes
	Nonce      string        `json:"nonce"`
	Advisories []string      `json:"advisoryIDs"`
	Quote      abi.EPIDQuote `json:"-"`
}

// timestamp is UTC without a zone.
type timestamp struct{ time.Time }

func (t *timestamp) UnmarshalJSON(b []byte) (err error) {
	t.Time, err = time.Parse(`"2006-01-02T15:04:05.999999999"`, string(b))
	return err
}

// ParseReport reads the body of a report. It checks no signature.
func ParseReport(b []byte) (Report, error) {
	var r Report
	if len(b) > maxReport {
		return r, CodeMalformed.Bad("report at byte 0", fmt.Sprintf("at most %d bytes", maxReport), fmt.Sprintf("%d bytes", len(b)))
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, CodeMalformed.Bad("report at byte 0", "the JSON of a report", clip(err.Error()))
	}
	if r.Version < 3 || r.Version > 5 {
		return r, CodeVersion.Bad("version", "3, 4 or 5", fmt.Sprint(r.Version))
	}
	if r.Status == "" || r.ID == "" || r.Timestamp.IsZero() {
		return r, CodeMalformed.Bad("report", "id, timestamp and isvEnclaveQuoteStatus", "not all of them")
	}
	q, err := abi.ParseEPIDQuote(r.QuoteBody)
	if err != nil {
		return r, CodeMalformed.Bad("isvEnclaveQuoteBody", "432 bytes in base64", fmt.Sprintf("%d bytes", len(r.QuoteBody)))
	}
	r.Quote = q
	return r, nil
}

// Verify implements rats.Verifier. Its inputs are the binding, compared with the report data of the enclave, and the
// time, at which the signer's certificate must be valid. Anchors replace the built-in CA.
func (v verifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	if e.Format != Format || e.MediaType != MediaType {
		return rats.Verified{}, CodeMediaType.Bad("media_type", MediaType, clip(e.MediaType))
	}
	if inner, ok := FromCertificate(e.Body); ok && len(e.Parts) == 0 {
		e = inner
	}
	if isEPID(e.Body) {
		return rats.Verified{}, CodeEPID.Bad("quote at byte 0", "a report of the attestation service", "an EPID quote")
	}
	report, err := ParseReport(e.Body)
	if err != nil {
		return rats.Verified{}, err
	}
	until, err := v.verifySignature(e, in)
	if err != nil {
		return rats.Verified{}, err
	}
	body := report.Quote.Body
	keys, err := dcap.CheckBinding(in.Binding, body.ReportData[:])
	if err != nil {
		return rats.Verified{}, err
	}
	c := claimsOf(report)
	if in.Binding.Profile != rats.ProfileAssay {
		c.ReportData = hex.EncodeToString(body.ReportData[:])
	}
	out := rats.Verified{Claims: c, Facts: rats.Facts{Keys: keys, UserData: [][]byte{body.ReportData[:]}}, Until: until}
	if c.Debug {
		out.Marks = []string{rats.MarkDebug}
	}
	return out, nil
}

func claimsOf(r Report) *Claims {
	b := r.Quote.Body
	advisories := slices.Clone(r.Advisories)
	slices.Sort(advisories)
	return &Claims{
		Status: r.Status, Advisories: advisories, Timestamp: r.Timestamp.Time, ReportVersion: r.Version, Nonce: clip(r.Nonce),
		MRENCLAVE: hex.EncodeToString(b.MRENCLAVE[:]), MRSIGNER: hex.EncodeToString(b.MRSIGNER[:]), ISVProdID: b.ISVProdID,
		ISVSVN: b.ISVSVN, Debug: b.Attributes.Debug(), Attributes: hex.EncodeToString(b.Attributes.Bytes()),
		Legacy: true, Linkable: r.Quote.SignType == 1,
	}
}

// verifySignature checks the signer's chain, then the signature, then the time.
func (v verifier) verifySignature(e rats.Evidence, in rats.Inputs) (until time.Time, err error) {
	sigPart, ok := e.Part(PartSignature)
	if !ok || len(sigPart.Data) > 2048 || len(e.Parts) > 2 {
		return until, CodeMediaType.Bad("parts.signature", "exactly one", "none, several or more parts")
	}
	sig, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(sigPart.Data)))
	if err != nil {
		return until, CodeSignature.Bad("parts.signature", "base64", "other text")
	}
	certPart, _ := e.Part(PartCertificates)
	certs, err := parseCerts(certPart.Data)
	if err != nil {
		return until, CodeCertificates.Bad("parts.certificates", "the certificate of the signer", err.Error())
	}
	leaf := certs[0]
	pool := in.Anchors
	if pool == nil {
		pool = x509.NewCertPool()
		pool.AddCert(v.root)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool(), CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil || leaf.IsCA {
		return until, CodeRoot.Bad("parts.certificates", "a signer under the Intel SGX Attestation Report Signing CA", clip(leaf.Issuer.CommonName))
	}
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok || leaf.CheckSignature(x509.SHA256WithRSA, e.Body, sig) != nil {
		return until, CodeSignature.Bad("parts.signature", "the signer's signature over the body", "another signature")
	}
	for _, cert := range chains[0] {
		if in.Now.After(cert.NotAfter) || in.Now.Before(cert.NotBefore) {
			return until, CodeExpired.Bad("parts.certificates", "valid at "+stamp(in.Now), stamp(cert.NotBefore)+" to "+stamp(cert.NotAfter))
		}
	}
	return leaf.NotAfter, nil
}

// parseCerts reads URL-encoded PEM, PEM, or base64 of DER; the signer comes first.
func parseCerts(b []byte) ([]*x509.Certificate, error) {
	const most = 4
	if len(b) > maxReport {
		return nil, fmt.Errorf("more than %d bytes", maxReport)
	}
	text, err := url.PathUnescape(string(bytes.TrimSpace(b)))
	if err != nil {
		return nil, fmt.Errorf("a broken escape")
	}
	if der, err := base64.StdEncoding.DecodeString(text); err == nil && len(der) > 0 {
		return x509.ParseCertificates(der)
	}
	var certs []*x509.Certificate
	for rest := []byte(text); len(certs) < most; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a block that is no certificate")
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("no certificate")
	}
	return certs, nil
}

// oidComment is the extension in which early attested TLS carried a report.
var oidComment = []int{2, 16, 840, 1, 113730, 1, 13}

// FromCertificate takes the report out of a self-signed certificate of early attested TLS: body, signature and
// certificate, divided by bars. Whether the report binds the certificate's key is not looked at.
func FromCertificate(der []byte) (rats.Evidence, bool) {
	if len(der) < 2 || der[0] != 0x30 || len(der) > maxReport {
		return rats.Evidence{}, false
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return rats.Evidence{}, false
	}
	for _, e := range cert.Extensions {
		if fields := bytes.Split(e.Value, []byte("|")); e.Id.Equal(oidComment) && len(fields) == 3 {
			return rats.Evidence{Format: Format, MediaType: MediaType, Body: fields[0], Parts: []rats.Part{
				{Name: PartSignature, Data: fields[1]}, {Name: PartCertificates, Data: fields[2]},
			}}, true
		}
	}
	return rats.Evidence{}, false
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("?")))
}
