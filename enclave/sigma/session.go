package sigma

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// maxRecords bounds how many records a direction carries: far below what AES-GCM allows a key (NIST SP 800-38D).
const maxRecords = 1 << 32

// Session is the channel of a finished exchange: two keys of AES-256-GCM, one for each direction, and an exporter. It is
// not safe for concurrent use. That the enclave has a Session doesn't say that the server took message 3: the first record
// it opens does.
type Session struct {
	send, receive cipher.AEAD
	sent, got     uint64
	exporter      []byte
	peer          []byte
	suite         Suite
	id            [32]byte
	ended         bool
}

func newSession(h *handshake, f AEAD, role, other string, peer []byte, suite Suite) (s *Session, err error) {
	s = &Session{peer: peer, suite: suite, id: hash("session", h.th[:])}
	if s.send, err = h.records(f, role); err != nil {
		return nil, err
	}
	if s.receive, err = h.records(f, other); err != nil {
		return nil, err
	}
	if s.exporter, err = h.derive("exporter"); err != nil {
		return nil, err
	}
	return s, nil
}

// records makes the cipher of what a role sends.
func (h *handshake) records(f AEAD, role string) (cipher.AEAD, error) {
	k, err := h.derive("records of the " + role)
	if err != nil {
		return nil, err
	}
	defer clear(k)
	return f.of(k)
}

// Peer returns the other side's SubjectPublicKeyInfo.
func (s *Session) Peer() []byte { return s.peer }

// Suite returns the suite that was used.
func (s *Session) Suite() Suite { return s.suite }

// ID is the hash of the whole exchange: equal on both sides, another for every exchange, and no secret.
func (s *Session) ID() [32]byte { return s.id }

// String keeps keys out of logs.
func (s *Session) String() string { return fmt.Sprintf("sigma.Session(%x)", s.id[:4]) }

// GoString keeps keys out of logs.
func (s *Session) GoString() string { return s.String() }

func nonce(n uint64) []byte {
	b := make([]byte, 12)
	binary.BigEndian.PutUint64(b[4:], n)
	return b
}

// Seal encrypts the next record to the other side. extra is authenticated and not sent.
func (s *Session) Seal(extra, plaintext []byte) ([]byte, error) {
	if s.ended || s.sent >= maxRecords {
		return nil, CodeExhausted.Bad("channel", fmt.Sprintf("at most %d records", uint64(maxRecords)), "more, or after its end")
	}
	s.sent++
	return s.send.Seal(nil, nonce(s.sent-1), plaintext, extra), nil
}

// Open decrypts the next record of the other side. A record that isn't the next one is refused and changes nothing.
func (s *Session) Open(extra, record []byte) ([]byte, error) {
	if s.ended || s.got >= maxRecords {
		return nil, CodeExhausted.Bad("channel", fmt.Sprintf("at most %d records", uint64(maxRecords)), "more, or after its end")
	}
	b, err := s.receive.Open(nil, nonce(s.got), record, extra)
	if err != nil {
		return nil, CodeRecord.Bad("record", fmt.Sprintf("record %d of the other side", s.got), "other bytes")
	}
	s.got++
	return b, nil
}

// Export derives n bytes for another protocol; both sides get the same for the same use.
func (s *Session) Export(use string, n int) ([]byte, error) {
	if s.ended {
		return nil, CodeExhausted.Bad("channel", "a live one", "after its end")
	}
	b, err := hkdf.Expand(sha256.New, s.exporter, label+"export\x00"+use, n)
	if err != nil {
		return nil, fmt.Errorf("exporting from a channel: %w", err)
	}
	return b, nil
}

// Wipe ends the channel. It may be called again.
func (s *Session) Wipe() {
	clear(s.exporter)
	for _, a := range []cipher.AEAD{s.send, s.receive} {
		if w, ok := a.(interface{ Wipe() }); ok {
			w.Wipe()
		}
	}
	s.send, s.receive, s.ended = nil, nil, true
}
