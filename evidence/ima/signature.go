package ima

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // key ids are SHA-1
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"fmt"

	_ "crypto/sha256" // hash algorithms of signatures
	_ "crypto/sha512"
)

// Types of security.ima (security/integrity/integrity.h, enum evm_ima_xattr_type).
const (
	xattrDigsig       = 0x03
	xattrVerityDigsig = 0x06
)

// hashAlgos is the kernel's enum hash_algo, as far as Go computes it (include/uapi/linux/hash_info.h). SHA-1 counts for
// nothing.
var hashAlgos = map[byte]struct {
	name string
	hash crypto.Hash
}{4: {"sha256", crypto.SHA256}, 5: {"sha384", crypto.SHA384}, 6: {"sha512", crypto.SHA512}}

// key is a key whose signatures count.
type key struct {
	ids    [][]byte // the last 4 bytes of the certificate's subject key id, and of the SHA-1 of the key
	public crypto.PublicKey
}

// parseKeys reads PEM blocks of type CERTIFICATE or PUBLIC KEY.
func parseKeys(text string) ([]key, error) {
	var keys []key
	rest := []byte(text)
	for len(bytes.TrimSpace(rest)) > 0 {
		block, after := pem.Decode(rest)
		if block == nil {
			return nil, fmt.Errorf("text that is no PEM block, after %d keys", len(keys))
		}
		k, err := parseKey(block)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", len(keys)+1, err)
		}
		keys, rest = append(keys, k), after
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key")
	}
	return keys, nil
}

func parseKey(block *pem.Block) (key, error) {
	var k key
	spki := block.Bytes
	switch block.Type {
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return key{}, err
		}
		k.public, spki = cert.PublicKey, cert.RawSubjectPublicKeyInfo
		if n := len(cert.SubjectKeyId); n >= 4 {
			k.ids = append(k.ids, cert.SubjectKeyId[n-4:])
		}
	case "PUBLIC KEY":
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return key{}, err
		}
		k.public = public
	default:
		return key{}, fmt.Errorf("a PEM block of type %.40q", block.Type)
	}
	switch p := k.public.(type) {
	case *rsa.PublicKey:
		if p.N.BitLen() < 2048 {
			return key{}, fmt.Errorf("an RSA key of %d bits, at least 2048", p.N.BitLen())
		}
	case *ecdsa.PublicKey:
	default:
		return key{}, fmt.Errorf("a key that is not RSA or ECDSA")
	}
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		return key{}, err
	}
	sum := sha1.Sum(info.Key.Bytes) //nolint:gosec // a name, not a proof
	k.ids = append(k.ids, sum[len(sum)-4:])
	return k, nil
}

// checkSignature verifies security.ima of an entry (security/integrity/digsig_asymmetric.c): version 2 signs the file's
// digest; version 3 the digest of a struct ima_file_id that holds type, algorithm and digest, as fs-verity's digests are
// signed. It returns what is wrong.
func (e *Entry) checkSignature(keys []key) error {
	s := e.Sig
	if len(s) < 9 {
		return fmt.Errorf("a signature of %d bytes", len(s))
	}
	kind, version, algo := s[0], s[1], s[2]
	id, size := s[3:7], int(binary.BigEndian.Uint16(s[7:]))
	sig := s[9:]
	if size != len(sig) {
		return fmt.Errorf("a signature that claims %d bytes and has %d", size, len(sig))
	}
	h, ok := hashAlgos[algo]
	if !ok || h.name != e.Alg || h.hash.Size() != len(e.Digest) {
		return fmt.Errorf("a signature over hash algorithm %d of a digest by %.20q", algo, e.Alg)
	}
	digest := e.Digest
	verity := e.Flags&FlagVerity != 0
	switch {
	case kind == xattrDigsig && version == 2 && !verity:
	case version == 3 && (kind == xattrVerityDigsig && verity || kind == xattrDigsig && !verity):
		w := h.hash.New()
		w.Write([]byte{kind, algo})
		w.Write(e.Digest)
		digest = w.Sum(nil)
	default:
		return fmt.Errorf("a signature of type %d, version %d", kind, version)
	}
	known := false
	for _, k := range keys {
		for _, have := range k.ids {
			if !bytes.Equal(have, id) {
				continue
			}
			known = true
			if verifySignature(k.public, h.hash, digest, sig) {
				return nil
			}
			break
		}
	}
	if !known {
		return fmt.Errorf("a signature by key %x, which is not listed", id)
	}
	return fmt.Errorf("a signature that is not valid, by key %x", id)
}

func verifySignature(public crypto.PublicKey, h crypto.Hash, digest, sig []byte) bool {
	switch p := public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(p, h, digest, sig) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(p, digest, sig)
	}
	return false
}
