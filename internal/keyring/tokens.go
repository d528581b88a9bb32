package keyring

import (
	"fmt"
	"io"
)

// The form of a token: version, id of its key, then nonce, ciphertext and tag of AES-256-GCM.
const (
	tokenVersion = 1
	tokenHeader  = 1 + 8
	maxToken     = 64 << 10
	tokenLabel   = "assay/token/1"
)

// TokenKeys seals and opens opaque tokens: state the server hands out and gets back (challenges, continuations), which
// nobody else can read or make.
type TokenKeys struct{ ring *Keyring }

// Seal encrypts and authenticates plaintext, and authenticates aad. The token can be opened until the key was rotated
// twice. It panics after Close: handing out a token nobody protects would be worse.
func (t TokenKeys) Seal(aad, plaintext []byte) []byte {
	t.ring.mu.RLock()
	defer t.ring.mu.RUnlock()
	if len(t.ring.tokens) == 0 {
		panic("keyring: sealing a token after Close")
	}
	k := t.ring.tokens[0]
	id := k.id()
	header := append([]byte{tokenVersion}, id[:]...)
	return k.aead().Seal(header, nil, plaintext, labelled(tokenLabel, header, aad))
}

// Open returns what Seal was given, if the token was made here under the same aad by the current or previous key. Every
// refusal is CodeToken: what was wrong with it is nobody's business.
func (t TokenKeys) Open(aad, token []byte) ([]byte, error) {
	if len(token) < tokenHeader+overhead || len(token) > maxToken || token[0] != tokenVersion {
		return nil, CodeToken.Bad("token", "a token of this server", fmt.Sprintf("%d other bytes", len(token)))
	}
	t.ring.mu.RLock()
	defer t.ring.mu.RUnlock()
	header, body := token[:tokenHeader], token[tokenHeader:]
	k, ok := find(t.ring.tokens, header[1:])
	if !ok {
		return nil, CodeToken.Bad("token", "the current or previous key", "another key")
	}
	plain, err := k.aead().Open(nil, nil, body, labelled(tokenLabel, header, aad))
	if err != nil {
		return nil, CodeToken.Bad("token", "the bytes and the purpose it was made with", "others")
	}
	return plain, nil
}

// Rotate makes a new current key and keeps the last one for tokens that are out; the one before is wiped. Call it at
// least weekly, and never faster than tokens live. rand must be a cryptographic source.
func (t TokenKeys) Rotate(rand io.Reader) error {
	fresh, err := randomKey(rand)
	if err != nil {
		return fmt.Errorf("drawing a token key: %w", err)
	}
	t.ring.mu.Lock()
	defer t.ring.mu.Unlock()
	next := []symmetric{fresh}
	if len(t.ring.tokens) > 0 {
		next = append(next, t.ring.tokens[0])
	}
	if err := replaceFile(t.ring.dir, fileTokens, encodeSymmetric(typeTokens, next)); err != nil {
		return fmt.Errorf("storing the rotated token keys: %w", err)
	}
	if len(t.ring.tokens) > 1 {
		wipe(t.ring.tokens[1:])
	}
	t.ring.tokens = next
	return nil
}

// Void replaces both token keys: every token that is out is refused from now on, as after a restored backup (S44).
func (t TokenKeys) Void(rand io.Reader) error {
	for range 2 {
		if err := t.Rotate(rand); err != nil {
			return err
		}
	}
	return nil
}

// Format keeps the keys out of every print.
func (t TokenKeys) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "keyring(%s tokens)", t.ring.dir)
}

func randomKey(rand io.Reader) (symmetric, error) {
	b := make([]byte, keySize)
	defer clear(b)
	if _, err := io.ReadFull(rand, b); err != nil {
		return symmetric{}, err
	}
	k, ok := newSymmetric(b)
	if !ok {
		return symmetric{}, fmt.Errorf("the random source yields zeros")
	}
	return k, nil
}

var _ interface {
	Seal(aad, plaintext []byte) []byte
	Open(aad, token []byte) ([]byte, error)
} = TokenKeys{}
