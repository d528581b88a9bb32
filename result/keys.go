package result

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/assay-attest/assay/rats"
)

// Where a verifier publishes its keys, below the issuer's URL.
const (
	JWKSPath      = "/.well-known/jwks.json"
	DiscoveryPath = "/.well-known/openid-configuration"
)

// KeyID returns the RFC 7638 thumbprint (SHA-256, base64url) of an ECDSA P-256 public key: the kid of its tokens.
func KeyID(pub crypto.PublicKey) (string, error) {
	if k, ok := pub.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return "", fmt.Errorf("results are signed with ECDSA P-256 keys, not %T", pub)
	}
	return thumbprint(pub)
}

// Thumbprint returns the RFC 7638 thumbprint of a bound key, as the claim cnf.jkt holds it. hpke keys are 32 bytes
// X25519 (RFC 8037), all others a SubjectPublicKeyInfo.
func Thumbprint(k rats.BoundKey) (string, error) {
	if k.Use == rats.KeyHPKE {
		if len(k.Public) != 32 {
			return "", fmt.Errorf("an hpke key of %d bytes, expected 32", len(k.Public))
		}
		sum := sha256.Sum256([]byte(`{"crv":"X25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(k.Public) + `"}`))
		return base64.RawURLEncoding.EncodeToString(sum[:]), nil
	}
	pub, err := x509.ParsePKIXPublicKey(k.Public)
	if err != nil {
		return "", fmt.Errorf("reading the %s key: %w", k.Use, err)
	}
	return thumbprint(pub)
}

func thumbprint(pub crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: pub}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("hashing a public key: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// JWKS returns the JSON Web Key Set (RFC 7517) of the public keys, ECDSA P-256 each: the current key and those of
// tokens that are still out.
func JWKS(pubs ...crypto.PublicKey) ([]byte, error) {
	if len(pubs) == 0 {
		return nil, errors.New("a key set without keys")
	}
	set := jose.JSONWebKeySet{}
	for _, pub := range pubs {
		kid, err := KeyID(pub)
		if err != nil {
			return nil, err
		}
		if len(set.Key(kid)) == 0 {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: pub, KeyID: kid, Algorithm: string(jose.ES256), Use: "sig"})
		}
	}
	return json.Marshal(set)
}

// Discovery returns the OpenID Connect discovery document of an issuer, by which relying parties that know OpenID
// Connect find the keys. issuer is an https URL without query, fragment and final slash, the iss of every token. There
// is no authorization endpoint: tokens are handed out by the API.
func Discovery(issuer string) ([]byte, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.ContainsAny(issuer, "?#") || strings.HasSuffix(issuer, "/") {
		return nil, fmt.Errorf("issuer %q is not an https URL without query, fragment and final slash", issuer)
	}
	return json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		JWKSURI       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
		Claims        []string `json:"claims_supported"`
	}{
		Issuer: issuer, JWKSURI: issuer + JWKSPath,
		ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public", "pairwise"},
		Algorithms: []string{string(jose.ES256)},
		Claims:     []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti", "cnf", "eat_profile", "ear.verifier-id", "submods"},
	})
}
