package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
)

// Hash and bank ids that count in recordings only, where their weakness is a claim.
const algSHA1 = 0x0004

var (
	recordedHashes = func() map[uint16]crypto.Hash {
		m := maps.Clone(hashes)
		m[algSHA1] = crypto.SHA1
		return m
	}()
	recordedBanks = map[uint16]string{algSHA1: "sha1", algSHA256: "sha256", algSHA384: "sha384", algSHA512: "sha512"}
	hashNames     = recordedBanks
	_             = sha1.Size // links the hash
)

// maxKey bounds a file with a key; the runtime data of a paravisor is the largest.
const maxKey = 64 << 10

// parseKey reads a signing key: TPM2B_PUBLIC, TPMT_PUBLIC, SubjectPublicKeyInfo (DER or PEM), a certificate (its key),
// a JWK, or the runtime data of an Azure paravisor, which holds the AK of its vTPM as a JWK. Keys that are not the
// structure of a TPM have no attributes.
func parseKey(b []byte) (*public, error) {
	if len(b) > maxKey {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxKey)
	}
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	if p, err := parseTPMKey(b); err == nil {
		return p, nil
	}
	if key, err := x509.ParsePKIXPublicKey(b); err == nil {
		return bareKey(key)
	}
	if key, err := x509.ParsePKCS1PublicKey(b); err == nil {
		return bareKey(key)
	}
	if cert, err := parseEKCert(b); err == nil {
		return bareKey(cert.PublicKey)
	}
	if key, err := parseJWK(b); err == nil {
		return bareKey(key)
	}
	return nil, errors.New("it is neither the public key of a TPM, nor a key or certificate in PEM or DER, nor runtime data with an AK")
}

// DetectKey says whether b is a key in one of the forms that the part ak of a recorded quote takes.
func DetectKey(b []byte) bool {
	_, err := parseKey(b)
	return err == nil
}

// DetectSignature says whether b is a TPMT_SIGNATURE.
func DetectSignature(b []byte) bool {
	_, err := parseSignatureOf(b, recordedHashes)
	return err == nil
}

// parseTPMKey reads a TPM2B_PUBLIC, or the TPMT_PUBLIC in it.
func parseTPMKey(b []byte) (*public, error) {
	p, err := parsePublic(b)
	if err != nil && len(b) <= maxPublic {
		return parsePublic(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	}
	return p, err
}

// bareKey takes a key of which only the numbers are known.
func bareKey(key crypto.PublicKey) (*public, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 || k.N.BitLen() > 4096 {
			return nil, fmt.Errorf("it is an RSA key of %d bits, expected 2048 to 4096", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
	default:
		return nil, fmt.Errorf("it is a key of type %T, expected RSA or ECC", key)
	}
	return &public{scheme: algNull, symAlg: algNull, key: key}, nil
}

// kidAK is the id of the vTPM's AK in the runtime data of an Azure paravisor.
const kidAK = "HCLAkPub"

func parseJWK(b []byte) (*rsa.PublicKey, error) {
	type jwk struct {
		Kid, Kty, N, E string
	}
	var one jwk
	if i := bytes.Index(b, []byte(`"`+kidAK+`"`)); i >= 0 {
		start := bytes.LastIndex(b[:i], []byte(`{"keys"`))
		if start < 0 {
			return nil, errors.New("runtime data without keys")
		}
		var set struct{ Keys []jwk }
		if err := json.NewDecoder(bytes.NewReader(b[start:])).Decode(&set); err != nil {
			return nil, err
		}
		n := 0
		for _, k := range set.Keys {
			if k.Kid == kidAK {
				one = k
				n++
			}
		}
		if n != 1 {
			return nil, fmt.Errorf("%d keys called %s", n, kidAK)
		}
	} else if err := json.Unmarshal(b, &one); err != nil {
		return nil, err
	}
	n, err1 := base64.RawURLEncoding.DecodeString(one.N)
	e, err2 := base64.RawURLEncoding.DecodeString(one.E)
	if err := errors.Join(err1, err2); err != nil || one.Kty != "RSA" || len(e) > 4 {
		return nil, errors.New("not an RSA key as JWK")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
}

// verifyRecorded checks a signature as verify does, by SHA-1 too: TPMT_SIGNATURE, or the bare bytes of an RSASSA
// signature with SHA-256.
func (p *public) verifyRecorded(message, sig []byte) (*signature, error) {
	s, err := parseSignatureOf(sig, recordedHashes)
	if k, ok := p.key.(*rsa.PublicKey); err != nil && ok && len(sig) == k.Size() {
		s, err = &signature{scheme: algRSASSA, hash: algSHA256, rsa: sig}, nil
	}
	if err != nil {
		return nil, err
	}
	return s, p.check(message, s, recordedHashes)
}
