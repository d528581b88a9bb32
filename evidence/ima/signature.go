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
	"slices"

	_ "crypto/sha256" // hash algorithms of signatures
	_ "crypto/sha512"

	"github.com/assay-attest/assay/rats"
)

// Types of security.ima and security.evm (security/integrity/integrity.h, enum evm_ima_xattr_type).
const (
	xattrDigsig       = 0x03
	xattrDigestNG     = 0x04
	xattrEVMPortable  = 0x05
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
	name   rats.Digest // SHA-256 of the SubjectPublicKeyInfo
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
	k.name = rats.SHA256(spki)
	return k, nil
}

// header is struct signature_v2_hdr, which stands before the signature in security.ima and security.evm.
type header struct {
	kind, version, algo byte
	id, sig             []byte
	hash                crypto.Hash
	name                string // of the hash algorithm
}

func parseHeader(s []byte) (header, error) {
	if len(s) < 9 {
		return header{}, fmt.Errorf("a signature of %d bytes", len(s))
	}
	h := header{kind: s[0], version: s[1], algo: s[2], id: s[3:7], sig: s[9:]}
	if size := int(binary.BigEndian.Uint16(s[7:])); size != len(h.sig) {
		return header{}, fmt.Errorf("a signature that claims %d bytes and has %d", size, len(h.sig))
	}
	known, ok := hashAlgos[h.algo]
	if !ok {
		return header{}, fmt.Errorf("a signature over hash algorithm %d", h.algo)
	}
	h.hash, h.name = known.hash, known.name
	return h, nil
}

// fileID returns the digest of struct ima_file_id {type, algorithm, digest}, which signatures of version 3 are over.
func (h header) fileID(digest []byte) []byte {
	w := h.hash.New()
	w.Write([]byte{h.kind, h.algo})
	w.Write(digest)
	return w.Sum(nil)
}

// verify finds the key by the id that the signature names.
func (h header) verify(keys []key, digest []byte) (*key, error) {
	known := false
	for i := range keys {
		if !slices.ContainsFunc(keys[i].ids, func(id []byte) bool { return bytes.Equal(id, h.id) }) {
			continue
		}
		known = true
		if verifySignature(keys[i].public, h.hash, digest, h.sig) {
			return &keys[i], nil
		}
	}
	if !known {
		return nil, fmt.Errorf("a signature by key %x, which is not listed", h.id)
	}
	return nil, fmt.Errorf("a signature that is not valid, by key %x", h.id)
}

// checkSignature verifies security.ima of an entry (security/integrity/digsig_asymmetric.c): version 2 signs the file's
// digest; version 3 the digest of a struct ima_file_id that holds type, algorithm and digest, as fs-verity's digests are
// signed. It returns the key that signed, or what is wrong.
func (e *Entry) checkSignature(keys []key) (*key, error) {
	h, err := parseHeader(e.Sig)
	if err != nil {
		return nil, err
	}
	if h.name != e.Alg || h.hash.Size() != len(e.Digest) {
		return nil, fmt.Errorf("a signature over hash algorithm %d of a digest by %.20q", h.algo, e.Alg)
	}
	digest := e.Digest
	verity := e.Flags&FlagVerity != 0
	switch {
	case h.kind == xattrDigsig && h.version == 2 && !verity:
	case h.version == 3 && (h.kind == xattrVerityDigsig && verity || h.kind == xattrDigsig && !verity):
		digest = h.fileID(e.Digest)
	default:
		return nil, fmt.Errorf("a signature of type %d, version %d", h.kind, h.version)
	}
	return h.verify(keys, digest)
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
