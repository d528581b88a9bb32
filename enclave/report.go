package enclave

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"

	"github.com/assay-attest/assay/enclave/abi"
)

// Body returns the body of a report by an enclave with this identity on this platform (384 bytes when encoded). The
// report data of a quote is the SHA-256 of the manifest and 32 zero bytes (R088).
func (id Identity) Body(p abi.Platform, data [64]byte) abi.ReportBody {
	return abi.ReportBody{
		CPUSVN: p.CPUSVN(), MiscSelect: id.MiscSelect, ISVExtProdID: id.ExtProdID, Attributes: id.Attributes,
		MRENCLAVE: id.MRENCLAVE, MRSIGNER: id.MRSIGNER, ConfigID: id.ConfigID, ISVProdID: id.ISVProdID, ISVSVN: id.ISVSVN,
		ConfigSVN: id.ConfigSVN, ISVFamilyID: id.FamilyID, ReportData: data,
	}
}

// Target returns the target info by which another enclave of the platform makes a report for the one that made body.
// Its first reserved byte after MISCSELECT is the target's mode, since keys depend on it (S15).
func Target(body abi.ReportBody) (abi.TargetInfo, error) {
	p, err := abi.ParsePlatform(body.CPUSVN)
	if err != nil {
		return abi.TargetInfo{}, err
	}
	t := abi.TargetOf(body)
	t.Reserved2[0] = byte(p.Mode)
	return t, nil
}

// Report makes a report of one enclave for another on the same platform: the body and its AES-CMAC under the target's
// report key (SDM 3D, EREPORT). The key id is random, one for each start of the monitor.
func (m *MonitorKey) Report(id Identity, p abi.Platform, t abi.TargetInfo, data [64]byte, keyID [32]byte) (abi.Report, error) {
	mode := abi.Mode(t.Reserved2[0])
	if mode != abi.ModeInline && mode != abi.ModeProcess || !zero(t.Reserved2[1:]) || !zero(t.Reserved3[:]) || t.Reserved1 != 0 || t.CETAttributes != 0 {
		return abi.Report{}, CodeReportTarget.Bad("targetinfo at byte 56", "a mode, and zero bytes", fmt.Sprintf("mode %d", mode))
	}
	at := p
	at.Mode = mode
	target := Identity{MRENCLAVE: t.Measurement, Attributes: t.Attributes, MiscSelect: t.MiscSelect, ConfigID: t.ConfigID, ConfigSVN: t.ConfigSVN}
	key, err := m.reportKey(target, at, keyID)
	if err != nil {
		return abi.Report{}, err
	}
	defer clear(key[:])
	r := abi.Report{Body: id.Body(p, data), KeyID: keyID}
	r.MAC = cmac(key, r.Body.Bytes())
	return r, nil
}

// VerifyReport checks a report with the report key of the enclave it is for, which that enclave gets by Key with the
// report's key id. What the report says is for the enclave to judge: signer, product, version, attributes (R106).
func VerifyReport(key [16]byte, r abi.Report) error {
	mac := cmac(key, r.Body.Bytes())
	if subtle.ConstantTimeCompare(mac[:], r.MAC[:]) != 1 {
		return CodeReportMAC.Bad("report.mac", "the MAC of the body under this enclave's report key", "another")
	}
	return nil
}

// AttestationPublic returns the public half of an attestation key as quotes and events carry it: x ‖ y.
func AttestationPublic(key *ecdsa.PublicKey) ([64]byte, error) {
	b, err := key.Bytes()
	if err != nil || len(b) != 65 {
		return [64]byte{}, fmt.Errorf("encoding an attestation key: not a point of P-256")
	}
	return [64]byte(b[1:]), nil
}

// Quote signs a report's body with the monitor's attestation key. A TPM quote over abi.KeyPCR, with Extra as its
// extraData, completes it.
func Quote(rand io.Reader, body abi.ReportBody, key *ecdsa.PrivateKey) (abi.MonitorQuote, error) {
	q := abi.MonitorQuote{Body: body}
	var err error
	if q.Key, err = AttestationPublic(&key.PublicKey); err != nil {
		return abi.MonitorQuote{}, err
	}
	sum := sha256.Sum256(abi.MonitorSigned(body))
	der, err := ecdsa.SignASN1(rand, key, sum[:])
	if err != nil {
		return abi.MonitorQuote{}, fmt.Errorf("signing a quote: %w", err)
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return abi.MonitorQuote{}, fmt.Errorf("signing a quote: %w", err)
	}
	sig.R.FillBytes(q.Signature[:32])
	sig.S.FillBytes(q.Signature[32:])
	return q, nil
}
