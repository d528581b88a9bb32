package sigma

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"slices"
)

// EnclaveConfig is what an enclave brings into an exchange. Purpose, Servers, Quote and Rand are required.
type EnclaveConfig struct {
	Suite   Suite      // zero: X25519
	Purpose string     // what the channel is for, 1 to 255 bytes; the server must be for the same
	Servers [][32]byte // KeyID of the servers that are trusted; none: nobody is
	Quote   func(data [64]byte) ([]byte, error)
	Key     *ecdsa.PrivateKey // P-256, never outside the enclave; nil: a new one for this exchange
	AEAD    AEAD              // nil: Go's own
	Rand    io.Reader
}

// Enclave is the enclave's side of one exchange. It is not safe for concurrent use.
type Enclave struct {
	c       EnclaveConfig
	curve   ecdh.Curve
	share   *ecdh.PrivateKey
	first   []byte
	started bool
}

// NewEnclave prepares an exchange with a new share.
func NewEnclave(c EnclaveConfig) (*Enclave, error) {
	if c.Suite == 0 {
		c.Suite = X25519
	}
	curve, _ := c.Suite.curve()
	if curve == nil || c.Purpose == "" || len(c.Purpose) > MaxPurpose || c.Quote == nil || c.Rand == nil {
		return nil, errors.New("a key exchange of an enclave needs a known suite, a purpose, a quote and randomness")
	}
	if len(c.Servers) == 0 {
		return nil, CodeServer.Missing("servers", "the keys of servers that are trusted", "none")
	}
	if c.Key == nil {
		k, err := newIdentity(c.Rand)
		if err != nil {
			return nil, err
		}
		c.Key = k
	}
	share, err := newShare(curve, c.Rand)
	if err != nil {
		return nil, err
	}
	e := &Enclave{c: c, curve: curve, share: share}
	e.first = hello{c.Suite, c.Purpose, share.PublicKey().Bytes()}.encode()
	return e, nil
}

// Hello returns message 1. It is the same at every call: there is one share.
func (e *Enclave) Hello() []byte {
	e.started = true
	return bytes.Clone(e.first)
}

// Finish takes message 2: it authenticates the server, and only then has a quote made, and returns message 3 and the
// channel (R110). It succeeds or fails once: whoever may ask again and again could play one share against many answers.
func (e *Enclave) Finish(second []byte) (third []byte, s *Session, err error) {
	if !e.started || e.share == nil {
		return nil, nil, CodeOrder.Bad("exchange", "message 1, and then message 2 once", "another order")
	}
	share := e.share
	e.share = nil
	suite, open, peer, box, err := parseAnswer(second)
	if err != nil {
		return nil, nil, err
	}
	if suite != e.c.Suite {
		return nil, nil, CodeSuite.Bad("message.suite", fmt.Sprint(e.c.Suite), fmt.Sprint(suite))
	}
	own := share.PublicKey().Bytes()
	if bytes.Equal(own, peer) {
		return nil, nil, CodeReflected.Bad("message.share", "the server's share", "the enclave's own")
	}
	h, err := newHandshake(e.curve, share, peer, e.first, open)
	if err != nil {
		return nil, nil, err
	}
	defer h.wipe()
	server, err := e.authenticate(h, box)
	if err != nil {
		return nil, nil, err
	}
	third, err = e.prove(h, own, peer, server)
	if err != nil {
		return nil, nil, err
	}
	s, err = newSession(h, e.c.AEAD, enclaveRole, serverRole, server, e.c.Suite)
	return third, s, err
}

// authenticate checks who the server is: one that is trusted, that signed both shares, and that shares keys with this
// enclave under its name. It returns the server's key.
func (e *Enclave) authenticate(h *handshake, box []byte) ([]byte, error) {
	plain, err := h.open(e.c.AEAD, serverRole, box)
	if err != nil {
		return nil, err
	}
	p, err := parseProof(plain, false)
	if err != nil {
		return nil, err
	}
	id := KeyID(p.key)
	if !slices.Contains(e.c.Servers, id) {
		return nil, CodeServer.Bad("proof.key", "the key of a trusted server", fmt.Sprintf("sha256:%x", id))
	}
	if err := verify(p.key, p.sig, hash("server signs", h.th[:])); err != nil {
		return nil, err
	}
	if !hmac.Equal(p.mac, h.tag(serverRole, p.key, p.sig)) {
		return nil, CodeMAC.Bad("proof.mac", "that of the server's key and signature", "another")
	}
	h.next("server", plain)
	return bytes.Clone(p.key), nil
}

// prove makes message 3.
func (e *Enclave) prove(h *handshake, own, peer, server []byte) ([]byte, error) {
	key, err := publicOf(e.c.Key)
	if err != nil {
		return nil, err
	}
	p := proof{key: key}
	if p.quote, err = e.c.Quote(h.bound(own, peer, e.c.Purpose, server, key)); err != nil {
		return nil, err
	}
	if len(p.quote) == 0 || len(p.quote) > MaxQuote {
		return nil, CodeMessage.Bad("quote", fmt.Sprintf("1 to %d bytes", MaxQuote), fmt.Sprintf("%d bytes", len(p.quote)))
	}
	if p.sig, err = sign(e.c.Rand, e.c.Key, hash("enclave signs", h.th[:], p.quote)); err != nil {
		return nil, err
	}
	p.mac = h.tag(enclaveRole, p.key, p.sig, p.quote)
	box, err := h.seal(e.c.AEAD, enclaveRole, p)
	if err != nil {
		return nil, err
	}
	h.next("enclave", p.encode())
	return append(header(3, e.c.Suite), box...), nil
}
