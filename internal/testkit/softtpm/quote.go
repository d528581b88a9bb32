package softtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// Alter changes a quote while it is made: what a TPM would never sign, signed nevertheless.
type Alter struct {
	Attest    func(*tpm2.TPMSAttest)  // before it is signed
	Bytes     func([]byte) []byte     // the marshalled TPMS_ATTEST, before it is signed
	Signature func([]byte) []byte     // the marshalled TPMT_SIGNATURE
	PCRs      func(map[int][]byte)    // the values sent along
	Evidence  func(e *rats.Evidence)  // at the end
	Key       *TPM                    // whose AK signs, instead of our own
	Hash      tpm2.TPMIAlgHash        // of the signature; 0: that of the AK's scheme
	Selection []tpm2.TPMSPCRSelection // instead of bank and PCRs
}

var bankAlgs = map[string]tpm2.TPMAlgID{
	"sha1": tpm2.TPMAlgSHA1, "sha256": tpm2.TPMAlgSHA256, "sha384": tpm2.TPMAlgSHA384, "sha512": tpm2.TPMAlgSHA512,
}

var hashAlgs = map[tpm2.TPMAlgID]crypto.Hash{
	tpm2.TPMAlgSHA1: crypto.SHA1, tpm2.TPMAlgSHA256: crypto.SHA256, tpm2.TPMAlgSHA384: crypto.SHA384, tpm2.TPMAlgSHA512: crypto.SHA512,
}

// Quote quotes PCRs of a bank with extra data, as evidence.
func (t *TPM) Quote(bank string, pcrs []int, extra []byte) (rats.Evidence, error) {
	return t.QuoteAltered(bank, pcrs, extra, Alter{})
}

// QuoteAltered is Quote with something wrong.
func (t *TPM) QuoteAltered(bank string, pcrs []int, extra []byte, a Alter) (rats.Evidence, error) {
	alg, ok := bankAlgs[bank]
	if !ok {
		return rats.Evidence{}, fmt.Errorf("softtpm: no bank %q", bank)
	}
	pcrs = slices.Sorted(slices.Values(pcrs))
	signer := t
	if a.Key != nil {
		signer = a.Key
	}
	scheme, hashAlg := signer.ak.scheme()
	if a.Hash != 0 {
		hashAlg = a.Hash
	}
	values := make(map[int][]byte, len(pcrs))
	digest := hashAlgs[hashAlg].New()
	bits := make([]byte, 3)
	t.mu.Lock()
	for _, i := range pcrs {
		values[i] = t.pcrs[bank][i]
		digest.Write(values[i])
		bits[i/8] |= 1 << (i % 8)
	}
	t.mu.Unlock()
	if a.Selection == nil {
		a.Selection = []tpm2.TPMSPCRSelection{{Hash: alg, PCRSelect: bits}}
	}
	attest := t.attest(tpm2.TPMSTAttestQuote, extra)
	attest.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: a.Selection},
		PCRDigest: tpm2.TPM2BDigest{Buffer: digest.Sum(nil)},
	})
	if a.Attest != nil {
		a.Attest(&attest)
	}
	body := tpm2.Marshal(attest)
	if a.Bytes != nil {
		body = a.Bytes(body)
	}
	sig, err := signer.ak.sign(t, scheme, hashAlg, body)
	if err != nil {
		return rats.Evidence{}, err
	}
	if a.Signature != nil {
		sig = a.Signature(sig)
	}
	if a.PCRs != nil {
		a.PCRs(values)
	}
	part, err := tpm.EncodePCRs(bank, values)
	if err != nil {
		return rats.Evidence{}, err
	}
	e := rats.Evidence{Format: tpm.Format, MediaType: tpm.MediaType, Body: body, Parts: []rats.Part{
		{Name: tpm.PartSignature, Data: sig}, {Name: tpm.PartPCRs, Data: part}, {Name: tpm.PartAK, Data: t.AKPublic()},
	}}
	if a.Evidence != nil {
		a.Evidence(&e)
	}
	return e, nil
}

func (t *TPM) attest(kind tpm2.TPMST, extra []byte) tpm2.TPMSAttest {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock++
	return tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: kind,
		QualifiedSigner: tpm2.TPM2BName{Buffer: append([]byte{0, 0x0b}, make([]byte, 32)...)},
		ExtraData:       tpm2.TPM2BData{Buffer: extra},
		ClockInfo: tpm2.TPMSClockInfo{
			Clock: t.clock, ResetCount: t.resets, RestartCount: t.restarts, Safe: tpm2.TPMIYesNo(!t.unsafe),
		},
		FirmwareVersion: 0x0001000200030004,
	}
}

// scheme returns the key's scheme and its hash.
func (k key) scheme() (tpm2.TPMAlgID, tpm2.TPMIAlgHash) {
	if ecc, err := k.public.Parameters.ECCDetail(); err == nil {
		if d, err := ecc.Scheme.Details.ECDSA(); err == nil {
			return tpm2.TPMAlgECDSA, d.HashAlg
		}
		return tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256
	}
	if r, err := k.public.Parameters.RSADetail(); err == nil && r.Scheme.Scheme == tpm2.TPMAlgRSAPSS {
		return tpm2.TPMAlgRSAPSS, tpm2.TPMAlgSHA256
	}
	return tpm2.TPMAlgRSASSA, tpm2.TPMAlgSHA256
}

// sign signs any bytes at all and returns a TPMT_SIGNATURE.
func (k key) sign(t *TPM, scheme tpm2.TPMAlgID, alg tpm2.TPMIAlgHash, message []byte) ([]byte, error) {
	h := hashAlgs[alg].New()
	h.Write(message)
	opts := crypto.SignerOpts(hashAlgs[alg])
	if scheme == tpm2.TPMAlgRSAPSS {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hashAlgs[alg]}
	}
	raw, err := k.private.Sign(t.rand, h.Sum(nil), opts)
	if err != nil {
		return nil, fmt.Errorf("softtpm: signing: %w", err)
	}
	if _, ok := k.private.(*ecdsa.PrivateKey); ok {
		var sig struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(raw, &sig); err != nil {
			return nil, fmt.Errorf("softtpm: signing: %w", err)
		}
		return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: scheme, Signature: tpm2.NewTPMUSignature(scheme, &tpm2.TPMSSignatureECC{
			Hash:       alg,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: sig.R.Bytes()},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: sig.S.Bytes()},
		})}), nil
	}
	return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: scheme, Signature: tpm2.NewTPMUSignature(scheme, &tpm2.TPMSSignatureRSA{
		Hash: alg, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: raw},
	})}), nil
}

// Certify makes the AK certify the TLS key, as TPM2_Certify does.
func (t *TPM) Certify(nonce []byte) (info, sig []byte, err error) {
	return t.CertifyAltered(nonce, nil)
}

// CertifyAltered is Certify with a change to what is signed.
func (t *TPM) CertifyAltered(nonce []byte, alter func(*tpm2.TPMSAttest)) (info, sig []byte, err error) {
	name, err := tpm2.ObjectName(&t.tls.public)
	if err != nil {
		return nil, nil, fmt.Errorf("softtpm: naming a key: %w", err)
	}
	attest := t.attest(tpm2.TPMSTAttestCertify, nonce)
	attest.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: *name, QualifiedName: *name})
	if alter != nil {
		alter(&attest)
	}
	info = tpm2.Marshal(attest)
	scheme, alg := t.ak.scheme()
	sig, err = t.ak.sign(t, scheme, alg, info)
	return info, sig, err
}
