package sdk

import (
	"crypto/subtle"
	"errors"
	"fmt"
)

// Secret holds bytes that are wiped when they are not needed any more, and that no print shows. The zero value is empty.
type Secret struct{ b []byte }

// NewSecret takes bytes over: it copies them and wipes the original.
func NewSecret(b []byte) *Secret {
	s := &Secret{append(make([]byte, 0, len(b)), b...)}
	clear(b)
	return s
}

// Use lends the bytes to f, which keeps no reference to them.
func (s *Secret) Use(f func(b []byte)) { f(s.b) }

// Len returns how many bytes it has.
func (s *Secret) Len() int { return len(s.b) }

// Equal compares in constant time.
func (s *Secret) Equal(b []byte) bool { return subtle.ConstantTimeCompare(s.b, b) == 1 }

// Wipe overwrites the bytes and forgets them. It may be called again.
func (s *Secret) Wipe() {
	clear(s.b)
	s.b = nil
}

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("sdk.Secret")) }

// MarshalText refuses: a secret leaves an enclave sealed, or by its author's own hand.
func (s Secret) MarshalText() ([]byte, error) { return nil, errors.New("a secret has no text") }

// MarshalBinary refuses.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errors.New("a secret has no encoding") }
