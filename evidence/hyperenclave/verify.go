package hyperenclave

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/smx509"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// monitorID is the user id that the published monitor mixes into what it signs: the bytes 1 to 14, and not the standard's
// default "1234567812345678", which certificates use.
var monitorID = []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}

// verifySM2 verifies r ‖ s over a message. With an id the message is preceded by the hash of id and key (GB/T 32918.2,
// section 5.5); without one it is hashed alone, as TPMs do.
func verifySM2(public *ecdsa.PublicKey, id, message []byte, sig [64]byte) bool {
	h := sm3.New()
	if id != nil {
		za, err := sm2.CalculateZA(public, id)
		if err != nil {
			return false
		}
		h.Write(za)
	}
	h.Write(message)
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
	return err == nil && sm2.VerifyASN1(public, h.Sum(nil), der)
}

func sumSM3(b []byte) rats.Digest {
	sum := sm3.Sum(b)
	return rats.Digest{Alg: "sm3", Sum: sum[:]}
}

// oidBaseline is the extension with the register values that the authority found when it certified the TPM's key.
var oidBaseline = asn1.ObjectIdentifier{1, 2, 86, 1}

// baseline is the content of that extension: the digest of all quoted registers first, PCR 13 last.
type baseline struct{ digest, pcr13 []byte }

// parseBaseline reads a UTF8String of base64 of 96 bytes.
func parseBaseline(value []byte) (baseline, bool) {
	var text string
	rest, err := asn1.UnmarshalWithParams(value, &text, "utf8")
	if err != nil || len(rest) != 0 || value[0] != asn1.TagUTF8String {
		return baseline{}, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != 3*sm3.Size {
		return baseline{}, false
	}
	return baseline{b[:sm3.Size], b[len(b)-sm3.Size:]}, true
}

// statement is a TPMS_ATTEST (TPM 2.0 part 2, section 10.12.8) of a quote whose name, extra data and digest are by SM3.
type statement struct {
	clock          uint64
	resets, starts uint32
	safe           bool
	firmware       uint64
	extra          []byte // 32 bytes
	selection      [3]byte
	digest         []byte
}

const algSM3 = 0x0012 // TPM_ALG_SM3_256

// parseStatement reads the one shape of 147 bytes that SM3 names and digests, 32 bytes of extra data with their algorithm
// and one selection of three bytes have. Magic and tag were checked with the structure.
func parseStatement(b [147]byte) (statement, error) {
	be := binary.BigEndian
	for _, f := range []struct {
		at, want int
		what     string
	}{
		{6, 34, "size of the signer's name"}, {8, algSM3, "algorithm of the signer's name"}, {42, 34, "size of the extra data"},
		{44, algSM3, "algorithm of the extra data"}, {105, 1, "number of selections"}, {113, sm3.Size, "size of the digest"},
	} {
		if got := int(be.Uint16(b[f.at:])); got != f.want {
			return statement{}, CodeStatement.Bad(fmt.Sprintf("%s at byte %d", f.what, attestOffset+f.at), fmt.Sprint(f.want), fmt.Sprint(got))
		}
	}
	if be.Uint16(b[103:]) != 0 || b[94] > 1 {
		return statement{}, CodeStatement.Bad(fmt.Sprintf("TPM statement at byte %d", attestOffset+94), "one selection, and safe 0 or 1", "others")
	}
	if be.Uint16(b[107:]) != algSM3 || b[109] != 3 {
		return statement{}, CodeSelection.Bad(fmt.Sprintf("selection at byte %d", attestOffset+107), "three bytes of the SM3 bank", fmt.Sprintf("%d bytes of bank %#04x", b[109], be.Uint16(b[107:])))
	}
	return statement{
		clock: be.Uint64(b[78:]), resets: be.Uint32(b[86:]), starts: be.Uint32(b[90:]), safe: b[94] == 1, firmware: be.Uint64(b[95:]),
		extra: b[46:78], selection: [3]byte(b[110:113]), digest: b[115:147],
	}, nil
}

const attestOffset = 564

// quotedPCRs are the registers 0 to 9, 12 and 13 as a bitmap.
var quotedPCRs = [3]byte{0xff, 0x33, 0x00}

// Verify implements rats.Verifier. Its inputs are the binding, compared with the report data of the enclave, the time, at
// which the certificates must be valid, and endorsements of MediaTypeAnchor: the certificates that may have issued that of
// the TPM's key.
func (verifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	if e.Format != Format || e.MediaType != MediaType || len(e.Parts) > 0 {
		return rats.Verified{}, CodeMediaType.Bad("media_type", MediaType+" without parts", fmt.Sprintf("%s with %d parts", clip(e.MediaType), len(e.Parts)))
	}
	q, err := abi.ParseHyperEnclaveQuote(e.Body)
	if err != nil {
		return rats.Verified{}, err
	}
	if head := e.Body[4:48]; len(bytes.Trim(head, "\x00")) > 0 {
		return rats.Verified{}, CodeHead.Bad("quote at byte 4", "44 zero bytes", hex.EncodeToString(head))
	}
	cert, key, err := parseCertificate(q.Certificate)
	if err != nil {
		return rats.Verified{}, err
	}
	issuer, err := issuerOf(cert, in)
	if err != nil {
		return rats.Verified{}, err
	}
	st, base, err := checkTPM(q, cert, key)
	if err != nil {
		return rats.Verified{}, err
	}
	if err := checkMonitor(q, base, e.Body); err != nil {
		return rats.Verified{}, err
	}
	until, err := checkTime(cert, issuer, in.Now)
	if err != nil {
		return rats.Verified{}, err
	}
	data := q.Head.Body.ReportData
	keys, err := dcap.CheckBinding(in.Binding, data[:])
	if err != nil {
		return rats.Verified{}, err
	}
	c := claimsOf(q, st, cert)
	if in.Binding.Profile != rats.ProfileAssay {
		c.ReportData = hex.EncodeToString(data[:])
	}
	out := rats.Verified{Claims: c, Facts: rats.Facts{Keys: keys, UserData: [][]byte{data[:]}}, Until: until}
	if c.Debug {
		out.Marks = []string{rats.MarkDebug}
	}
	return out, nil
}

// parseCertificate reads the certificate of the TPM's key.
func parseCertificate(der []byte) (*smx509.Certificate, *ecdsa.PublicKey, error) {
	bad := func(seen string) (*smx509.Certificate, *ecdsa.PublicKey, error) {
		return nil, nil, CodeCertificate.Bad("certificate at byte 775", "an SM2 key, signed by SM2 with SM3", seen)
	}
	cert, err := smx509.ParseCertificate(der)
	if err != nil {
		return bad(clip(err.Error()))
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || !sm2.IsSM2PublicKey(key):
		return bad("another key")
	case cert.SignatureAlgorithm != smx509.SM2WithSM3:
		return bad("a signature by " + cert.SignatureAlgorithm.String())
	case cert.IsCA || !keyUsageOK(cert.KeyUsage):
		return bad("a key that is for something else")
	case slices.ContainsFunc(cert.UnhandledCriticalExtensions, func(o asn1.ObjectIdentifier) bool { return !o.Equal(oidBaseline) }):
		return bad("a critical extension that is not known")
	}
	return cert, key, nil
}

// issuerOf returns the anchor that issued the certificate.
func issuerOf(cert *smx509.Certificate, in rats.Inputs) (*smx509.Certificate, error) {
	n := 0
	for _, e := range in.Endorsements {
		if e.MediaType != MediaTypeAnchor {
			continue
		}
		n++
		anchor, err := smx509.ParseCertificate(e.Body)
		if err != nil || !bytes.Equal(anchor.RawSubject, cert.RawIssuer) || cert.CheckSignatureFrom(anchor) != nil {
			continue
		}
		return anchor, nil
	}
	if n == 0 {
		return nil, CodeNoAnchor.Missing("endorsements", "the certificate of "+clip(cert.Issuer.CommonName), "no trust anchor")
	}
	return nil, CodeUntrusted.Bad("certificate at byte 775", "a certificate issued by a given authority", clip(cert.Issuer.CommonName))
}

// checkTime is apart from the signatures, so that an old quote is told from a forged one.
func checkTime(cert, issuer *smx509.Certificate, now time.Time) (until time.Time, err error) {
	until = cert.NotAfter
	for _, c := range []*smx509.Certificate{cert, issuer} {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return until, CodeExpired.Bad("certificate at byte 775", "valid at "+stamp(now), stamp(c.NotBefore)+" to "+stamp(c.NotAfter))
		}
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return until, nil
}

// checkTPM verifies the TPM's statement: signature, what it is of, and the registers against the certificate's baseline.
func checkTPM(q abi.HyperEnclaveQuote, cert *smx509.Certificate, key *ecdsa.PublicKey) (statement, baseline, error) {
	if !verifySM2(key, nil, q.Attest[:], q.TPMSignature) {
		return statement{}, baseline{}, CodeTPMSignature.Bad("TPM signature at byte 711", "SM2 by the certificate's key over SM3 of bytes 564 to 710", "another signature")
	}
	st, err := parseStatement(q.Attest)
	if err != nil {
		return statement{}, baseline{}, err
	}
	if st.selection != quotedPCRs {
		return statement{}, baseline{}, CodeSelection.Bad("selection at byte 674", hex.EncodeToString(quotedPCRs[:]), hex.EncodeToString(st.selection[:]))
	}
	if want := sumSM3(q.Head.Body.ReportData[:]); !bytes.Equal(want.Sum, st.extra) {
		return statement{}, baseline{}, CodeExtraData.Bad("extra data at byte 610", hex.EncodeToString(want.Sum), hex.EncodeToString(st.extra))
	}
	i := slices.IndexFunc(cert.Extensions, func(x pkix.Extension) bool { return x.Id.Equal(oidBaseline) })
	if i < 0 {
		return statement{}, baseline{}, CodeBaseline.Bad("certificate at byte 775", "the extension 1.2.86.1", "none")
	}
	base, ok := parseBaseline(cert.Extensions[i].Value)
	if !ok {
		return statement{}, baseline{}, CodeBaseline.Bad("certificate at byte 775", "96 bytes in base64", clip(hex.EncodeToString(cert.Extensions[i].Value)))
	}
	if !bytes.Equal(base.digest, st.digest) {
		return statement{}, baseline{}, CodePCRDigest.Bad("register digest at byte 679", hex.EncodeToString(base.digest), hex.EncodeToString(st.digest))
	}
	return st, base, nil
}

// checkMonitor verifies that the monitor's key is the one that was measured, and its signature of the report body.
func checkMonitor(q abi.HyperEnclaveQuote, base baseline, body []byte) error {
	key, err := sm2.NewPublicKey(append([]byte{4}, q.Key[:]...))
	if err != nil {
		return CodeMonitorKey.Bad("monitor's key at byte 500", "a point of the SM2 curve", clip(hex.EncodeToString(q.Key[:])))
	}
	if want := sumSM3(append(make([]byte, sm3.Size), sumSM3(q.Key[:]).Sum...)); !bytes.Equal(want.Sum, base.pcr13) {
		return CodeUnmeasured.Bad("monitor's key at byte 500", "PCR 13 "+hex.EncodeToString(base.pcr13), hex.EncodeToString(want.Sum))
	}
	if !verifySM2(key, monitorID, body[48:48+abi.ReportBodySize], q.Signature) {
		return CodeSignature.Bad("monitor's signature at byte 436", "SM2 by the monitor's key over the report body", "another signature")
	}
	return nil
}

func claimsOf(q abi.HyperEnclaveQuote, st statement, cert *smx509.Certificate) *Claims {
	b := q.Head.Body
	return &Claims{
		MRENCLAVE: hex.EncodeToString(b.MRENCLAVE[:]), MRSIGNER: hex.EncodeToString(b.MRSIGNER[:]), ISVProdID: b.ISVProdID, ISVSVN: b.ISVSVN,
		Debug: b.Attributes.Debug(), Attributes: hex.EncodeToString(b.Attributes.Bytes()), Legacy: true,
		MonitorKey: sumSM3(q.Key[:]), PCRDigest: rats.Digest{Alg: "sm3", Sum: bytes.Clone(st.digest)}, Baseline: "certificate",
		TPM: TPM{
			Key: sumSM3(cert.RawSubjectPublicKeyInfo), Subject: clip(cert.Subject.String()), Issuer: clip(cert.Issuer.String()), NotAfter: cert.NotAfter,
			Clock: st.clock, ResetCount: st.resets, RestartCount: st.starts, Safe: st.safe, Firmware: st.firmware,
		},
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func clip(s string) string {
	if len(s) > 160 {
		s = s[:160] + "…"
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("?")))
}
