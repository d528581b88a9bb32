package rats

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The binding profiles: how user data is made from what is to be bound.
const (
	ProfileAssay = "assay/1" // SHA-256 of a Manifest
	ProfileCoCo  = "coco/1"  // SHA-384 of canonical JSON, of the Confidential Containers protocol
	ProfileRaw   = "raw"     // given by the caller (offline --report-data)
	ProfileNone  = "none"    // nothing is bound: inspect only, never affirming
)

// Binding ties evidence to one exchange.
type Binding struct {
	Profile  string `json:"profile"`
	Manifest []byte `json:"manifest,omitempty"` // as received; UserData is its hash
	UserData []byte `json:"user_data"`
}

// The uses of a BoundKey.
const (
	KeyTLS        = "tls"         // SubjectPublicKeyInfo of the connection's peer
	KeyHPKE       = "hpke"        // X25519 public key, 32 bytes, to which plans and secrets are sealed
	KeySign       = "sign"        // SubjectPublicKeyInfo, ECDSA P-256, that signs outcomes
	KeyPlanSigner = "plan-signer" // SubjectPublicKeyInfo of the key whose plans the enclave obeys (S05)
	KeyAK         = "ak"          // SubjectPublicKeyInfo of a TPM's attestation key; vouched by formats, never by a manifest
	KeyTEE        = "tee-pubkey"  // of the Confidential Containers protocol
)

// BoundKey is a public key with the use it is bound for.
type BoundKey struct {
	Use    string `json:"use"`
	Public []byte `json:"public"`
}

func keyOf(keys []BoundKey, use string) (BoundKey, bool) {
	var found BoundKey
	ok := false
	for _, k := range keys {
		if k.Use != use {
			continue
		}
		if ok && !bytes.Equal(found.Public, k.Public) {
			return BoundKey{}, false
		}
		found, ok = k, true
	}
	return found, ok
}

// Manifest is the decoded "assay/1" manifest (S03): everything one attestation is about.
type Manifest struct {
	Purpose   string // "attest"
	Namespace string
	Node      string
	Verifier  Digest     // hash of the verifier's key
	Nonce     []byte     // the challenge, 32 bytes
	Instance  []byte     // chosen by this instance of the Attester, 16…64 bytes
	Keys      []BoundKey // in ascending order of Use, no use twice
	Formats   []Format   // asked for, in order, none twice
}

// PurposeAttest is the purpose of an ordinary attestation.
const PurposeAttest = "attest"

// Bounds of a manifest.
const (
	maxManifest      = 16 << 10
	maxManifestKeys  = 8
	maxManifestItems = 16
)

// ErrManifest is wrapped by every error about a manifest.
var ErrManifest = errors.New("bad manifest")

// Key returns the manifest's key for a use.
func (m Manifest) Key(use string) (BoundKey, bool) { return keyOf(m.Keys, use) }

// Encode returns the canonical bytes: "assay/1", then every field as a 32-bit big-endian length and that many bytes,
// in the order of the struct; lists are a 32-bit count and their elements. It refuses what DecodeManifest would.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	b := appendField(nil, []byte(ProfileAssay))
	b = appendField(b, []byte(m.Purpose))
	b = appendField(b, []byte(m.Namespace))
	b = appendField(b, []byte(m.Node))
	b = appendField(b, []byte(m.Verifier.String()))
	b = appendField(b, m.Nonce)
	b = appendField(b, m.Instance)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Keys)))
	for _, k := range m.Keys {
		b = appendField(b, []byte(k.Use))
		b = appendField(b, k.Public)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Formats)))
	for _, f := range m.Formats {
		b = appendField(b, []byte(f))
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrManifest, len(b), maxManifest)
	}
	return b, nil
}

// Bind returns the binding of the manifest: profile assay/1, canonical bytes, SHA-256.
func (m Manifest) Bind() (Binding, error) {
	b, err := m.Encode()
	if err != nil {
		return Binding{}, err
	}
	return Binding{Profile: ProfileAssay, Manifest: b, UserData: SHA256(b).Sum}, nil
}

func (m Manifest) check() error {
	switch {
	case m.Purpose == "":
		return fmt.Errorf("%w: no purpose", ErrManifest)
	case m.Namespace == "" || m.Node == "":
		return fmt.Errorf("%w: no namespace or node", ErrManifest)
	case m.Verifier.Check() != nil:
		return fmt.Errorf("%w: verifier: %w", ErrManifest, m.Verifier.Check())
	case len(m.Nonce) != 32:
		return fmt.Errorf("%w: nonce of %d bytes, expected 32", ErrManifest, len(m.Nonce))
	case len(m.Instance) < 16 || len(m.Instance) > 64:
		return fmt.Errorf("%w: instance nonce of %d bytes, expected 16 to 64", ErrManifest, len(m.Instance))
	case len(m.Keys) > maxManifestKeys:
		return fmt.Errorf("%w: %d keys, at most %d", ErrManifest, len(m.Keys), maxManifestKeys)
	case len(m.Formats) == 0 || len(m.Formats) > maxManifestItems:
		return fmt.Errorf("%w: %d formats, expected 1 to %d", ErrManifest, len(m.Formats), maxManifestItems)
	}
	for i, k := range m.Keys {
		if k.Use == "" || len(k.Public) == 0 {
			return fmt.Errorf("%w: key %d has no use or no bytes", ErrManifest, i)
		}
		if i > 0 && m.Keys[i-1].Use >= k.Use {
			return fmt.Errorf("%w: keys are not in ascending order of use, or %q stands twice", ErrManifest, clip(k.Use))
		}
	}
	seen := make(map[Format]bool, len(m.Formats))
	for _, f := range m.Formats {
		if f == "" || seen[f] {
			return fmt.Errorf("%w: format %q is empty or stands twice", ErrManifest, clip(string(f)))
		}
		seen[f] = true
	}
	return nil
}

// DecodeManifest reads canonical bytes. It refuses other profiles, trailing bytes and every encoding but the one Encode
// makes, so that equal manifests have equal hashes.
func DecodeManifest(b []byte) (Manifest, error) {
	if len(b) > maxManifest {
		return Manifest{}, fmt.Errorf("%w: %d bytes, at most %d", ErrManifest, len(b), maxManifest)
	}
	r := &fields{rest: b}
	if p := r.next(); string(p) != ProfileAssay {
		return Manifest{}, fmt.Errorf("%w: profile %q, expected %q", ErrManifest, clip(string(p)), ProfileAssay)
	}
	m := Manifest{Purpose: string(r.next()), Namespace: string(r.next()), Node: string(r.next())}
	if err := m.Verifier.UnmarshalText(r.next()); err != nil {
		return Manifest{}, fmt.Errorf("%w: verifier: %w", ErrManifest, err)
	}
	m.Nonce, m.Instance = bytes.Clone(r.next()), bytes.Clone(r.next())
	for range r.count(maxManifestKeys) {
		m.Keys = append(m.Keys, BoundKey{Use: string(r.next()), Public: bytes.Clone(r.next())})
	}
	for range r.count(maxManifestItems) {
		m.Formats = append(m.Formats, Format(r.next()))
	}
	if r.bad || len(r.rest) != 0 {
		return Manifest{}, fmt.Errorf("%w: truncated, or followed by other bytes, at offset %d", ErrManifest, len(b)-len(r.rest))
	}
	return m, m.check()
}

func appendField(b, field []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
	return append(b, field...)
}

// fields reads length-prefixed fields; after the first error it yields nothing.
type fields struct {
	rest []byte
	bad  bool
}

func (r *fields) uint32() uint32 {
	if r.bad || len(r.rest) < 4 {
		r.bad = true
		return 0
	}
	n := binary.BigEndian.Uint32(r.rest)
	r.rest = r.rest[4:]
	return n
}

func (r *fields) next() []byte {
	n := r.uint32()
	if r.bad || uint64(n) > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	f := r.rest[:n]
	r.rest = r.rest[n:]
	return f
}

func (r *fields) count(limit int) int {
	n := r.uint32()
	if r.bad || uint64(n) > uint64(limit) {
		r.bad = true
		return 0
	}
	return int(n)
}
