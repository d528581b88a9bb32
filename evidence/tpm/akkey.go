package tpm

import (
	"crypto"
	"fmt"
)

// AKPublicKey returns the key of an attestation key's TPM2B_PUBLIC, as a certificate carries it. It refuses a key that
// couldn't carry attestation, whatever its name: one that isn't restricted, fixed to its TPM and made by it, for signing.
func AKPublicKey(akPub []byte) (crypto.PublicKey, error) {
	p, err := parsePublic(akPub)
	if err != nil {
		return nil, CodeAKMalformed.Bad("ak", "TPM2B_PUBLIC", err.Error())
	}
	if err := checkAK(p); err != nil {
		return nil, err
	}
	if p.key == nil {
		return nil, fmt.Errorf("reading an attestation key: it has no public key")
	}
	return p.key, nil
}
