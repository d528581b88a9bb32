package tpm

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Labels of part 1, section 24 (credential protection), each ending in the zero byte that the derivations want.
const (
	labelIdentity  = "IDENTITY\x00"
	labelStorage   = "STORAGE\x00"
	labelIntegrity = "INTEGRITY\x00"
)

// MakeCredential encrypts a secret so that only the TPM with this endorsement key can open it, and only if it holds
// this attestation key (TPM2_MakeCredential, part 1 section 24 and annexes B.10.4, C.6.4). Both keys are TPM2B_PUBLIC;
// the secret is at most as long as the EK's name hash, 32 bytes for the usual templates. The results are the contents
// of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET. The keys' attributes are for Enrol to check.
func MakeCredential(rand io.Reader, ekPub, akPub, secret []byte) (credential, encSecret []byte, err error) {
	ek, err := parsePublic(ekPub)
	if err != nil {
		return nil, nil, CodeEKMalformed.Bad("ek", "TPM2B_PUBLIC", err.Error())
	}
	if err := checkEK(ek); err != nil {
		return nil, nil, err
	}
	ak, err := parsePublic(akPub)
	if err != nil {
		return nil, nil, CodeAKMalformed.Bad("ak", "TPM2B_PUBLIC", err.Error())
	}
	hash := hashes[ek.nameAlg]
	if len(secret) == 0 || len(secret) > hash.Size() {
		return nil, nil, fmt.Errorf("making a credential: secret of %d bytes, expected 1 to %d", len(secret), hash.Size())
	}
	seed, encSecret, err := ek.seed(rand, hash)
	if err != nil {
		return nil, nil, fmt.Errorf("making a credential: %w", err)
	}
	defer clear(seed)
	name := ak.name()
	key := kdfa(hash, seed, labelStorage, name, int(ek.symBits))
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a credential: %w", err)
	}
	identity := append(binary.BigEndian.AppendUint16(nil, uint16(len(secret))), secret...)
	cfbEncrypt(block, identity)
	macKey := kdfa(hash, seed, labelIntegrity, nil, 8*hash.Size())
	defer clear(macKey)
	mac := hmac.New(hash.New, macKey)
	mac.Write(identity)
	mac.Write(name)
	credential = binary.BigEndian.AppendUint16(nil, uint16(hash.Size()))
	return append(mac.Sum(credential), identity...), encSecret, nil
}

// seed makes a random seed and encrypts it to the endorsement key.
func (p *public) seed(rand io.Reader, hash crypto.Hash) (seed, encrypted []byte, err error) {
	switch key := p.key.(type) {
	case *rsa.PublicKey:
		seed = make([]byte, hash.Size())
		if _, err := io.ReadFull(rand, seed); err != nil {
			return nil, nil, fmt.Errorf("reading randomness: %w", err)
		}
		encrypted, err = rsa.EncryptOAEP(hash.New(), rand, key, seed, []byte(labelIdentity))
		return seed, encrypted, err
	case *ecdsa.PublicKey:
		theirs, err := key.ECDH()
		if err != nil {
			return nil, nil, err
		}
		ours, err := theirs.Curve().GenerateKey(rand)
		if err != nil {
			return nil, nil, err
		}
		z, err := ours.ECDH(theirs)
		if err != nil {
			return nil, nil, err
		}
		defer clear(z)
		// Public keys are 4 ‖ x ‖ y.
		our, their := ours.PublicKey().Bytes()[1:], theirs.Bytes()[1:]
		n := len(our) / 2
		for _, coordinate := range [][]byte{our[:n], our[n:]} {
			encrypted = binary.BigEndian.AppendUint16(encrypted, uint16(n))
			encrypted = append(encrypted, coordinate...)
		}
		return kdfe(hash, z, labelIdentity, our[:n], their[:n]), encrypted, nil
	}
	return nil, nil, errors.New("the endorsement key is of an unknown kind")
}

// kdfa is KDFa (part 1, section 11.4.10.2): HMAC in counter mode, without the second context.
func kdfa(hash crypto.Hash, key []byte, label string, context []byte, bits int) []byte {
	var out []byte
	for i := uint32(1); len(out) < bits/8; i++ {
		h := hmac.New(hash.New, key)
		h.Write(binary.BigEndian.AppendUint32(nil, i))
		h.Write([]byte(label))
		h.Write(context)
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(bits)))
		out = h.Sum(out)
	}
	return out[:bits/8]
}

// kdfe is KDFe (part 1, section 11.4.10.3) for one block: the seed is as long as the hash.
func kdfe(hash crypto.Hash, z []byte, label string, u, v []byte) []byte {
	h := hash.New()
	h.Write([]byte{0, 0, 0, 1})
	h.Write(z)
	h.Write([]byte(label))
	h.Write(u)
	h.Write(v)
	return h.Sum(nil)
}

// cfbEncrypt encrypts b in place in CFB mode with a zero initial value, as TPMs do. The HMAC around it makes it safe.
func cfbEncrypt(block cipher.Block, b []byte) {
	feedback := make([]byte, block.BlockSize())
	for len(b) > 0 {
		block.Encrypt(feedback, feedback)
		n := subtle.XORBytes(b, b, feedback)
		copy(feedback, b[:n])
		b = b[n:]
	}
}

// minNonce is the shortest nonce of a certification.
const minNonce = 16

// VerifyCertify checks a TPM2_Certify: the attestation key akPub says that the key keyTPM2B (both TPM2B_PUBLIC) is in
// its TPM. info is the TPMS_ATTEST, sig the TPMT_SIGNATURE. It returns the SubjectPublicKeyInfo (DER) of the key, which
// is a signing key that can't leave the TPM. That akPub is an attestation key is for Enrol to check.
func VerifyCertify(akPub, keyTPM2B, nonce, info, sig []byte) (spki []byte, err error) {
	if len(nonce) < minNonce {
		return nil, fmt.Errorf("verifying a certification: nonce of %d bytes, at least %d", len(nonce), minNonce)
	}
	ak, err := parsePublic(akPub)
	if err != nil {
		return nil, CodeAKMalformed.Bad("ak", "TPM2B_PUBLIC", err.Error())
	}
	key, err := parsePublic(keyTPM2B)
	if err != nil {
		return nil, CodeCertifyMalformed.Bad("key", "TPM2B_PUBLIC", err.Error())
	}
	if _, err := ak.verify(info, sig); err != nil {
		return nil, CodeCertifySignature.Bad("signature", "the AK's signature of the certification", err.Error())
	}
	a, err := parseAttest(info)
	if err != nil || a.tag != tagCertify {
		return nil, CodeCertifyMalformed.Bad("info", "TPMS_ATTEST of a certification", "something else")
	}
	if subtle.ConstantTimeCompare(a.extra, nonce) != 1 {
		return nil, CodeCertifyNonce.Bad("info.extraData", clipHex(nonce), clipHex(a.extra))
	}
	if name := key.name(); !bytes.Equal(a.name, name) {
		return nil, CodeCertifyName.Bad("info.name", clipHex(name), clipHex(a.name))
	}
	if !key.has(attrFixedTPM|attrFixedParent|attrSensitiveDataOrigin|attrSign) || key.has(attrRestricted) {
		return nil, CodeCertifyAttributes.Bad("key.objectAttributes", "fixedTPM, fixedParent, sensitiveDataOrigin, sign, not restricted", fmt.Sprintf("0x%08x", key.attributes))
	}
	return key.spki()
}
