package keyring

import (
	"crypto/ecdh"
	"errors"
	"fmt"
)

// The form of a stored secret: version, id of the KEK, the wrapped data key (nonce, 32 bytes, tag), then nonce,
// ciphertext and tag under the data key. Both encryptions are AES-256-GCM and authenticate header and context.
const (
	secretVersion = 1
	secretHeader  = 1 + 8
	wrappedKey    = keySize + overhead
	secretLabel   = "assay/secret/1"
	wrapLabel     = "assay/secret-key/1"

	// MaxSecret is the most bytes SealSecret encrypts.
	MaxSecret = 1 << 20
)

// errClosed says that the keys were wiped.
var errClosed = errors.New("the keyring is closed")

// SealSecret encrypts plaintext under a data key of its own, and wraps that under the KEK. context says where the
// envelope belongs ("namespace/name/version"); OpenSecret demands the same. At most MaxSecret bytes.
func (k *Keyring) SealSecret(context string, plaintext []byte) ([]byte, error) {
	if context == "" || len(context) > maxAAD {
		return nil, fmt.Errorf("encrypting a secret: a context of %d bytes, expected 1 to %d", len(context), maxAAD)
	}
	if len(plaintext) > MaxSecret {
		return nil, fmt.Errorf("encrypting a secret: %d bytes, at most %d", len(plaintext), MaxSecret)
	}
	dek, err := dataKey()
	if err != nil {
		return nil, fmt.Errorf("drawing a data key: %w", err)
	}
	defer clear(dek)
	k.mu.RLock()
	defer k.mu.RUnlock()
	if len(k.kek) == 0 {
		return nil, fmt.Errorf("encrypting a secret: %w", errClosed)
	}
	id := k.kek[0].id()
	env := append([]byte{secretVersion}, id[:]...)
	env = k.kek[0].aead().Seal(env, nil, dek, labelled(wrapLabel, env, []byte(context)))
	return aead(dek).Seal(env, nil, plaintext, labelled(secretLabel, env, []byte(context))), nil
}

// OpenSecret returns what SealSecret was given. It refuses another context, changed or cut bytes, another version of
// the form and another KEK. The caller wipes the answer after use.
func (k *Keyring) OpenSecret(context string, env []byte) ([]byte, error) {
	const body = secretHeader + wrappedKey
	switch {
	case len(env) == 0 || len(env) < body+overhead || len(env) > body+overhead+MaxSecret:
		return nil, CodeSecretForm.Bad("secret", fmt.Sprintf("%d to %d bytes", body+overhead, body+overhead+MaxSecret), fmt.Sprint(len(env)))
	case env[0] != secretVersion:
		return nil, CodeSecretVersion.Bad("secret", fmt.Sprint("version ", secretVersion), fmt.Sprint("version ", env[0]))
	case len(context) > maxAAD:
		return nil, CodeSecret.Bad("secret", "a context that can have been sealed", fmt.Sprintf("%d bytes", len(context)))
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if len(k.kek) == 0 {
		return nil, fmt.Errorf("decrypting a secret: %w", errClosed)
	}
	kek, ok := find(k.kek, env[1:secretHeader])
	if !ok {
		return nil, CodeSecretKey.Bad("secret", k.kek[0].id().String(), fmt.Sprintf("%x", env[1:secretHeader]))
	}
	dek, err := kek.aead().Open(nil, nil, env[secretHeader:body], labelled(wrapLabel, env[:secretHeader], []byte(context)))
	if err != nil {
		return nil, CodeSecret.Bad("secret", "the context it was sealed for", "another, or changed bytes")
	}
	defer clear(dek)
	plain, err := aead(dek).Open(nil, nil, env[body:], labelled(secretLabel, env[:body], []byte(context)))
	if err != nil {
		return nil, CodeSecret.Bad("secret", "the bytes that were sealed", "others")
	}
	return plain, nil
}

// dataKey draws 32 bytes from the generator of the standard library's own key generation: an X25519 private key is
// nothing but that, and no source of randomness needs to be carried to every call.
func dataKey() ([]byte, error) {
	key, err := ecdh.X25519().GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return key.Bytes(), nil
}
