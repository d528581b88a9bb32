package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Authority is who says under which conditions a sealed object opens: not the object itself, which outlives updates, but
// whoever holds the private key of Owner (TPM2_PolicyAuthorize, TPM 2.0 part 3, section 23.16).
type Authority struct {
	Owner *ecdsa.PublicKey // P-256
	// Ref is 32 bytes that tell apart objects under the same key: an approval counts only for objects with the same Ref.
	Ref []byte
}

// Approval is what an owner signs: an object opens while the PCRs have these values and the counter has not passed Limit
// (PolicyPCR ∧ PolicyNV). A counter only grows, so raising it kills older approvals for ever; without it the signature for
// a kernel with a known hole would open the object for ever.
type Approval struct {
	PCRs    map[int][]byte // SHA-256 bank
	Counter uint32         // NV index, defined by DefineCounter
	Limit   uint64
}

// Check says whether an approval is well-formed. The PCRs 16 to 23 are refused: they can be reset without a reboot, or
// belong to dynamic launches (S13).
func (a Approval) Check() error {
	if len(a.PCRs) == 0 || len(a.PCRs) > 16 {
		return fmt.Errorf("approval names %d PCRs, expected 1 to 16", len(a.PCRs))
	}
	for p, v := range a.PCRs {
		if p < 0 || p > 15 {
			return fmt.Errorf("approval names PCR %d, expected 0 to 15", p)
		}
		if len(v) != sha256.Size {
			return fmt.Errorf("approval has %d bytes for PCR %d, expected %d", len(v), p, sha256.Size)
		}
	}
	return checkCounter(a.Counter)
}

// Digest returns the policy digest of the approval, as TPM2_PolicyGetDigest would. It needs no TPM.
func (a Approval) Digest() ([]byte, error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	if err := a.pcrs().Update(calc); err != nil {
		return nil, err
	}
	nv, err := a.revision()
	if err != nil {
		return nil, err
	}
	if err := nv.Update(calc); err != nil {
		return nil, err
	}
	return calc.Hash().Digest, nil
}

// SignedDigest is the SHA-256 digest that an owner signs with ECDSA to approve a policy for objects with this Ref.
func SignedDigest(policy, ref []byte) [sha256.Size]byte {
	return sha256.Sum256(append(bytes.Clone(policy), ref...))
}

func (a Approval) pcrs() tpm2.PolicyPCR {
	list := slices.Sorted(maps.Keys(a.PCRs))
	h := sha256.New()
	for _, p := range list {
		h.Write(a.PCRs[p])
	}
	return tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}, Pcrs: selection(tpm2.TPMAlgSHA256, list)}
}

// unsignedLE is TPM_EO_UNSIGNED_LE: the counter is at most the operand.
const unsignedLE tpm2.TPMEO = 0x0009

func (a Approval) revision() (tpm2.PolicyNV, error) {
	name, err := counterName(a.Counter)
	if err != nil {
		return tpm2.PolicyNV{}, err
	}
	return tpm2.PolicyNV{
		AuthHandle: emptyAuth(tpm2.TPMRHOwner),
		NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(a.Counter), Name: name},
		OperandB:   tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, a.Limit)},
		Operation:  unsignedLE,
	}, nil
}

// public is the owner's key as the TPM loads it; its Name stands in the policy of sealed objects.
func (a Authority) public() (tpm2.TPMTPublic, error) {
	if a.Owner == nil || a.Owner.Curve != elliptic.P256() {
		return tpm2.TPMTPublic{}, errors.New("the owner's policy key is not on P-256")
	}
	if len(a.Ref) != sha256.Size {
		return tpm2.TPMTPublic{}, fmt.Errorf("policy reference of %d bytes, expected %d", len(a.Ref), sha256.Size)
	}
	point, err := a.Owner.Bytes() // 4 ‖ x ‖ y
	if err != nil {
		return tpm2.TPMTPublic{}, fmt.Errorf("reading the owner's policy key: %w", err)
	}
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Scheme: ecdsaScheme, CurveID: tpm2.TPMECCNistP256}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	}, nil
}

// digest is the authPolicy of objects under this authority.
func (a Authority) digest() ([]byte, error) {
	public, err := a.public()
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return nil, err
	}
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	authorize := tpm2.PolicyAuthorize{KeySign: *name, PolicyRef: tpm2.TPM2BDigest{Buffer: a.Ref}}
	if err := authorize.Update(calc); err != nil {
		return nil, err
	}
	return calc.Hash().Digest, nil
}

// ecdsaSignature turns an ASN.1 signature on P-256 into a TPM's.
func ecdsaSignature(der []byte) (tpm2.TPMTSignature, error) {
	var sig struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &sig)
	if err != nil || len(rest) != 0 || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return tpm2.TPMTSignature{}, fmt.Errorf("%w: it is not the ASN.1 form of a P-256 signature", ErrSignature)
	}
	return tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: sig.R.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: sig.S.FillBytes(make([]byte, 32))},
		}),
	}, nil
}
