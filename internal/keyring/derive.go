package keyring

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
)

// deriveLabel keeps derived keys apart from every other use of the KEK.
const deriveLabel = "assay/derive/1"

// Derive returns a key for a label: the same on every server that shares these keys, unknown to everybody else, and of no
// use for what the keyring encrypts. A new KEK changes all of them.
func (k *Keyring) Derive(label string) ([32]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if len(k.kek) == 0 {
		return [32]byte{}, fmt.Errorf("deriving a key: %w", errClosed)
	}
	m := hmac.New(sha256.New, k.kek[0].key[:])
	m.Write(labelled(deriveLabel, []byte(label)))
	return [32]byte(m.Sum(nil)), nil
}
