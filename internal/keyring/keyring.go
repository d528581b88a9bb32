// Package keyring holds every private key the server owns: the certificate authority, the verifier that signs
// Attestation Results, the signer of plans, the HPKE key that reports are sealed to, the keys of opaque tokens, and the
// key-encryption key (KEK) under which secrets are stored.
//
// It guarantees that keys lie in files only their owner can read, that a directory is either complete or not there, and
// that no key appears in a log line: what it hands out signs, opens and seals, and prints as its name. Secrets are
// encrypted each under a key of its own, which the KEK wraps together with the place the secret belongs to, so a stored
// secret can't be moved to another name, version or namespace.
//
// It doesn't protect against somebody who reads the server's memory or becomes its user: the KEK is a file
// ("file (development)" in [Keyring.Describe]); a TPM, KMS or HSM in its place is future work. Go may copy keys while it
// moves memory, so wiping is as good as the language allows, not better.
package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

// KindFile is the only kind of KEK so far, as Describe says it.
const KindFile = "file (development)"

// Keyring is an open set of keys. It is safe for concurrent use. Close wipes what can be wiped.
type Keyring struct {
	dir        string
	ca         *signer
	verifier   *signer
	planSigner *signer
	results    *sealed.Key

	mu     sync.RWMutex
	tokens []symmetric // current first, then the previous one
	kek    []symmetric // current first
}

// Description is what may be told about a keyring: no secret, nothing that helps to guess one.
type Description struct {
	KEK        string      `json:"kek"`         // the kind of key-encryption key: KindFile
	KEKID      string      `json:"kek_id"`      // hex
	TokenIDs   []string    `json:"token_ids"`   // hex, current first
	Verifier   rats.Digest `json:"verifier"`    // SHA-256 of the SubjectPublicKeyInfo
	PlanSigner rats.Digest `json:"plan_signer"` // SHA-256 of the SubjectPublicKeyInfo
	CA         rats.Digest `json:"ca"`          // SHA-256 of the SubjectPublicKeyInfo
}

// CA returns the key of the certificate authority, ECDSA P-256.
func (k *Keyring) CA() crypto.Signer { return k.ca }

// Verifier returns the key that signs Attestation Results, ECDSA P-256.
func (k *Keyring) Verifier() crypto.Signer { return k.verifier }

// VerifierID returns the SHA-256 of the verifier key's SubjectPublicKeyInfo: the name of this verifier in manifests.
func (k *Keyring) VerifierID() rats.Digest { return rats.SHA256(k.verifier.spki) }

// PlanSigner returns the key that signs plans, ECDSA P-256 (S05).
func (k *Keyring) PlanSigner() crypto.Signer { return k.planSigner }

// PlanSignerSPKI returns the plan signer's SubjectPublicKeyInfo, DER.
func (k *Keyring) PlanSignerSPKI() []byte { return append([]byte(nil), k.planSigner.spki...) }

// Results returns the HPKE key to which nodes seal their reports (S04).
func (k *Keyring) Results() *sealed.Key { return k.results }

// ResultsPublic returns the public half of Results: 32 bytes, X25519.
func (k *Keyring) ResultsPublic() []byte { return k.results.Public() }

// Tokens returns the keys of opaque tokens.
func (k *Keyring) Tokens() TokenKeys { return TokenKeys{k} }

// Describe says which keys these are, by public digests and key ids.
func (k *Keyring) Describe() Description {
	k.mu.RLock()
	defer k.mu.RUnlock()
	d := Description{
		KEK:        KindFile,
		Verifier:   k.VerifierID(),
		PlanSigner: rats.SHA256(k.planSigner.spki),
		CA:         rats.SHA256(k.ca.spki),
	}
	if len(k.kek) > 0 {
		d.KEKID = k.kek[0].id().String()
	}
	for _, t := range k.tokens {
		d.TokenIDs = append(d.TokenIDs, t.id().String())
	}
	return d
}

// Close wipes the symmetric keys. Tokens and secrets can be neither made nor opened afterwards. The signing keys stay in
// memory until they are collected: crypto/ecdsa offers no way to wipe one.
func (k *Keyring) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	wipe(k.tokens)
	wipe(k.kek)
	k.tokens, k.kek = nil, nil
	return nil
}

// Format prints the directory, whatever the verb: fmt and log never see a key.
func (k *Keyring) Format(s fmt.State, _ rune) { _, _ = fmt.Fprintf(s, "keyring(%s)", k.dir) }

// LogValue implements slog.LogValuer.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue("keyring(" + k.dir + ")") }

// signer is a private key that can sign and nothing else: it can't be type-asserted back to the key or printed.
type signer struct {
	use  string
	spki []byte
	key  *ecdsa.PrivateKey
}

func newSigner(use string, key *ecdsa.PrivateKey) (*signer, error) {
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encoding the public %s key: %w", use, err)
	}
	return &signer{use: use, spki: spki, key: key}, nil
}

// Public implements crypto.Signer; the key is an *ecdsa.PublicKey.
func (s *signer) Public() crypto.PublicKey {
	pub := s.key.PublicKey
	return &pub
}

// Sign implements crypto.Signer: ASN.1 DER of (r, s). A nil rand makes deterministic signatures (RFC 6979).
func (s *signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.Sign(rand, digest, opts)
}

// Format prints the use of the key only.
func (s *signer) Format(st fmt.State, _ rune) { _, _ = fmt.Fprintf(st, "keyring(%s key)", s.use) }

// LogValue implements slog.LogValuer.
func (s *signer) LogValue() slog.Value { return slog.StringValue("keyring(" + s.use + " key)") }

var curve = elliptic.P256()
