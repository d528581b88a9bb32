package sdk

import (
	"crypto/cipher"
	"errors"
	"slices"

	"github.com/assay-attest/assay/enclave/sigma"
)

// KeyExchange begins an exchange of keys with a server (package sigma) for a purpose. The servers that are trusted are
// those given, by their sigma.KeyID: code names them where it is built. With none given it is the one in the first half of
// the launch configuration (CONFIGID), which stands in the quote: then the operator chooses, and the server sees what was
// chosen. complete makes of the monitor's quote what the server appraises, by an OCALL perhaps; nil: the quote as it is.
// Nobody is trusted if there is neither.
func KeyExchange(purpose string, complete func(quote []byte) ([]byte, error), servers ...[32]byte) (*sigma.Enclave, error) {
	if len(servers) == 0 {
		body, err := Self()
		if err != nil {
			return nil, err
		}
		if id := [32]byte(body.ConfigID[:32]); id != [32]byte{} {
			servers = [][32]byte{id}
		}
	}
	return sigma.NewEnclave(sigma.EnclaveConfig{
		Purpose: purpose, Servers: servers, Rand: randomness{}, AEAD: leafAEAD,
		Quote: func(data [64]byte) ([]byte, error) {
			q, err := Quote(data)
			if err != nil || complete == nil {
				return q, err
			}
			return complete(q)
		},
	})
}

// randomness reads the monitor's.
type randomness struct{}

func (randomness) Read(b []byte) (int, error) {
	Random(b)
	return len(b), nil
}

// leafCipher is AES-GCM as the leaf functions have it. Its nonces are its user's business.
type leafCipher struct{ key *Secret }

func leafAEAD(key []byte) (cipher.AEAD, error) {
	return leafCipher{NewSecret(slices.Clone(key))}, nil
}

// NonceSize implements cipher.AEAD.
func (leafCipher) NonceSize() int { return NonceSize }

// Overhead implements cipher.AEAD.
func (leafCipher) Overhead() int { return tagSize }

// Seal implements cipher.AEAD. It panics where there are no leaf functions: nothing was encrypted.
func (c leafCipher) Seal(dst, nonce, plaintext, extra []byte) []byte {
	b, err := SealWith(c.key, [NonceSize]byte(nonce), extra, plaintext)
	if err != nil {
		panic(err)
	}
	return append(dst, b...)
}

// Open implements cipher.AEAD.
func (c leafCipher) Open(dst, nonce, box, extra []byte) ([]byte, error) {
	if len(nonce) != NonceSize {
		return nil, errors.New("opening: a nonce of another size")
	}
	b, err := OpenWith(c.key, [NonceSize]byte(nonce), extra, box)
	if err != nil {
		return nil, err
	}
	return append(dst, b...), nil
}

// Wipe forgets the key: sigma.Session.Wipe calls it.
func (c leafCipher) Wipe() { c.key.Wipe() }
