package ima

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
)

// Object identifiers of appended signatures (RFC 5652, RFC 5754, RFC 5758).
var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidECDSA      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
)

type modsigHash struct {
	digest, rsa, ecdsa asn1.ObjectIdentifier
	name               string
	hash               crypto.Hash
}

var modsigHashes = []modsigHash{
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, "sha256", crypto.SHA256},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, "sha384", crypto.SHA384},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, "sha512", crypto.SHA512},
}

const maxSigners = 4

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version      int
	Algorithms   asn1.RawValue `asn1:"set"`
	Content      asn1.RawValue
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	Lists        asn1.RawValue `asn1:"optional,tag:1"`
	Signers      []signerInfo  `asn1:"set"`
}

type signerInfo struct {
	Version    int
	ID         asn1.RawValue
	Digest     pkix.AlgorithmIdentifier
	Attributes asn1.RawValue `asn1:"optional,tag:0"`
	Algorithm  pkix.AlgorithmIdentifier
	Signature  []byte
	Others     asn1.RawValue `asn1:"optional,tag:1"`
}

// parseModsig reads the signers of a detached signature.
func parseModsig(der []byte) ([]signerInfo, error) {
	var info contentInfo
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) != 0 || !info.Type.Equal(oidSignedData) {
		return nil, fmt.Errorf("an appended signature that is not PKCS #7 signed data")
	}
	var sd signedData
	if rest, err := asn1.Unmarshal(info.Content.Bytes, &sd); err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("an appended signature of broken signed data")
	}
	var content []asn1.RawValue // the type alone: the content is the file
	var kind asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(sd.Content.FullBytes, &content); err != nil || len(content) != 1 {
		return nil, fmt.Errorf("an appended signature with a content of its own")
	}
	if _, err := asn1.Unmarshal(content[0].FullBytes, &kind); err != nil || !kind.Equal(oidData) {
		return nil, fmt.Errorf("an appended signature of something else than data")
	}
	if n := len(sd.Signers); n == 0 || n > maxSigners {
		return nil, fmt.Errorf("an appended signature by %d signers, expected 1 to %d", n, maxSigners)
	}
	return sd.Signers, nil
}

// checkModsig verifies the appended signature of an entry of template ima-modsig (security/integrity/ima/ima_modsig.c): a
// detached PKCS #7 signature, as the kernel's sign-file makes it for modules, over the digest of the file without it, which
// the kernel computed and listed. Signed attributes are refused: the kernel would list their digest and not the file's.
// Certificates in the signature count for nothing; one of the keys must have signed. It returns that key, or what is wrong.
func (e *Entry) checkModsig(keys []key) (*key, error) {
	if len(e.Mod.Sig) == 0 {
		return nil, fmt.Errorf("no appended signature")
	}
	signers, err := parseModsig(e.Mod.Sig)
	if err != nil {
		return nil, err
	}
	var problem error
	for _, s := range signers {
		k, err := e.checkSigner(s, keys)
		if err == nil {
			return k, nil
		}
		if problem == nil {
			problem = err
		}
	}
	return nil, problem
}

func (e *Entry) checkSigner(s signerInfo, keys []key) (*key, error) {
	if len(s.Attributes.FullBytes) > 0 {
		return nil, fmt.Errorf("an appended signature with signed attributes")
	}
	i := slices.IndexFunc(modsigHashes, func(h modsigHash) bool { return h.digest.Equal(s.Digest.Algorithm) })
	if i < 0 {
		return nil, fmt.Errorf("an appended signature over hash algorithm %v", s.Digest.Algorithm)
	}
	h := modsigHashes[i]
	if h.name != e.Mod.Alg || h.hash.Size() != len(e.Mod.Digest) {
		return nil, fmt.Errorf("an appended signature over %s of a digest by %.20q", h.name, e.Mod.Alg)
	}
	for k := range keys {
		want, plain := h.rsa, oidRSA
		switch keys[k].public.(type) {
		case *rsa.PublicKey:
		case *ecdsa.PublicKey:
			want, plain = h.ecdsa, oidECDSA
		}
		if alg := s.Algorithm.Algorithm; !alg.Equal(want) && !alg.Equal(plain) {
			continue
		}
		if verifySignature(keys[k].public, h.hash, e.Mod.Digest, s.Signature) {
			return &keys[k], nil
		}
	}
	return nil, fmt.Errorf("an appended signature by none of the listed keys")
}
