package sdk

import "encoding/binary"

// Shelf lets an enclave put intermediate results outside and free its memory (R036): they are encrypted, and what comes
// back must be the newest that was put under its name. Its key lives as long as the Shelf: nothing survives the enclave.
type Shelf struct {
	key    *Secret
	next   uint64
	newest map[string]uint64
}

// NewShelf makes an empty shelf.
func NewShelf() *Shelf {
	key := make([]byte, 32)
	Random(key)
	return &Shelf{key: &Secret{key}, newest: make(map[string]uint64)}
}

// Put returns the sealed form of b, for the application to keep, and makes it the one that Get accepts under the name.
func (s *Shelf) Put(name string, b []byte) ([]byte, error) {
	s.next++
	box, err := SealWith(s.key, nonceOf(s.next), []byte(name), b)
	if err == nil {
		s.newest[name] = s.next
	}
	return box, err
}

// Get opens what the application gave back.
func (s *Shelf) Get(name string, box []byte) ([]byte, error) {
	n, ok := s.newest[name]
	if !ok {
		return nil, CodeShelf.Bad("name", "a name that was put", "another")
	}
	b, err := OpenWith(s.key, nonceOf(n), []byte(name), box)
	if err != nil {
		return nil, CodeShelf.Bad("sealed", "the newest that was put under the name", "others")
	}
	return b, nil
}

// Wipe ends the shelf.
func (s *Shelf) Wipe() {
	s.key.Wipe()
	s.newest = nil
}

// nonceOf never repeats under a key.
func nonceOf(n uint64) (nonce [NonceSize]byte) {
	binary.BigEndian.PutUint64(nonce[4:], n)
	return nonce
}
