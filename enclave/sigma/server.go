package sigma

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// ServerConfig is what a server brings into its exchanges. All of it but Suites, Once and AEAD is required.
type ServerConfig struct {
	Suites  []Suite       // that are accepted; empty: X25519
	Purpose string        // what the channels are for
	Key     crypto.Signer // ECDSA P-256, known to the enclaves by its KeyID
	// Appraise says whether the quote is bound to data (all 64 bytes) and of an enclave that may have a channel. Its refusal
	// is the exchange's. It is asked after signature and MAC were found good.
	Appraise func(ctx context.Context, quote []byte, data [64]byte) error
	Once     *Once // shares that were used; nil: a repeated message 1 begins another exchange, which nobody can finish
	AEAD     AEAD  // nil: Go's own
	Rand     io.Reader
}

// Server answers exchanges. It is safe for concurrent use if its parts are.
type Server struct {
	c    ServerConfig
	spki []byte
}

// NewServer refuses a configuration with something missing.
func NewServer(c ServerConfig) (*Server, error) {
	if c.Purpose == "" || len(c.Purpose) > MaxPurpose || c.Key == nil || c.Appraise == nil || c.Rand == nil {
		return nil, errors.New("a server of key exchanges needs a purpose, a key, an appraisal and randomness")
	}
	if len(c.Suites) == 0 {
		c.Suites = []Suite{X25519}
	}
	for _, s := range c.Suites {
		if curve, _ := s.curve(); curve == nil {
			return nil, fmt.Errorf("a server of key exchanges: there is no suite %d", s)
		}
	}
	spki, err := publicOf(c.Key)
	if err != nil {
		return nil, err
	}
	return &Server{c, spki}, nil
}

// KeyID is what enclaves pin.
func (s *Server) KeyID() [32]byte { return KeyID(s.spki) }

// Exchange is the server's side of one exchange, after message 2. It is not safe for concurrent use.
type Exchange struct {
	s           *Server
	h           *handshake
	suite       Suite
	peer, share []byte
}

// Answer takes message 1 and returns message 2. It says nothing secret: whoever sent message 1 is not known yet.
func (s *Server) Answer(first []byte) (second []byte, x *Exchange, err error) {
	m, err := parseHello(first)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(s.c.Suites, m.suite) {
		return nil, nil, CodeSuite.Bad("message.suite", fmt.Sprint(s.c.Suites), fmt.Sprint(m.suite))
	}
	if m.purpose != s.c.Purpose {
		return nil, nil, CodePurpose.Bad("message.purpose", s.c.Purpose, fmt.Sprintf("%q", m.purpose))
	}
	curve, _ := m.suite.curve()
	share, err := newShare(curve, s.c.Rand)
	if err != nil {
		return nil, nil, err
	}
	h, open, err := s.begin(curve, share, m, first)
	if err != nil {
		return nil, nil, err
	}
	if s.c.Once != nil && !s.c.Once.Use(m.share) {
		return nil, nil, CodeReused.Bad("message.share", "a new share", "one of an exchange before")
	}
	p := proof{key: s.spki}
	if p.sig, err = sign(s.c.Rand, s.c.Key, hash("server signs", h.th[:])); err != nil {
		return nil, nil, err
	}
	p.mac = h.tag(serverRole, p.key, p.sig)
	box, err := h.seal(s.c.AEAD, serverRole, p)
	if err != nil {
		return nil, nil, err
	}
	h.next("server", p.encode())
	x = &Exchange{s: s, h: h, suite: m.suite, peer: bytes.Clone(m.share), share: share.PublicKey().Bytes()}
	return append(open, box...), x, nil
}

// begin derives the exchange's keys.
func (s *Server) begin(curve ecdh.Curve, share *ecdh.PrivateKey, m hello, first []byte) (*handshake, []byte, error) {
	own := share.PublicKey().Bytes()
	if bytes.Equal(own, m.share) {
		return nil, nil, CodeReflected.Bad("message.share", "the enclave's share", "the server's own")
	}
	open := append(header(2, m.suite), own...)
	h, err := newHandshake(curve, share, m.share, first, open)
	return h, open, err
}

// Finish takes message 3, has the quote appraised, and returns the channel. It succeeds or fails once.
func (x *Exchange) Finish(ctx context.Context, third []byte) (*Session, error) {
	if x.h == nil {
		return nil, CodeOrder.Bad("exchange", "message 3 once", "another one")
	}
	h := x.h
	x.h = nil
	defer h.wipe()
	box, suite, err := body(third, 3, headerSize+2+maxKey+sigSize+macSize+MaxQuote+tagSize)
	if err != nil {
		return nil, err
	}
	if suite != x.suite {
		return nil, CodeSuite.Bad("message.suite", fmt.Sprint(x.suite), fmt.Sprint(suite))
	}
	plain, err := h.open(x.s.c.AEAD, enclaveRole, box)
	if err != nil {
		return nil, err
	}
	p, err := parseProof(plain, true)
	if err != nil {
		return nil, err
	}
	if err := verify(p.key, p.sig, hash("enclave signs", h.th[:], p.quote)); err != nil {
		return nil, err
	}
	if !hmac.Equal(p.mac, h.tag(enclaveRole, p.key, p.sig, p.quote)) {
		return nil, CodeMAC.Bad("proof.mac", "that of the enclave's key, signature and quote", "another")
	}
	if err := x.s.c.Appraise(ctx, p.quote, h.bound(x.peer, x.share, x.s.c.Purpose, x.s.spki, p.key)); err != nil {
		return nil, err
	}
	h.next("enclave", plain)
	return newSession(h, x.s.c.AEAD, serverRole, enclaveRole, bytes.Clone(p.key), x.suite)
}

// Once remembers the shares of the last exchanges, so that none is used again. It is safe for concurrent use.
type Once struct {
	mu   sync.Mutex
	seen map[[32]byte]bool
	ring [][32]byte
	at   int
}

// NewOnce remembers so many shares.
func NewOnce(size int) *Once {
	return &Once{seen: make(map[[32]byte]bool), ring: make([][32]byte, max(size, 1))}
}

// Use says whether the share is new, and remembers it.
func (o *Once) Use(share []byte) bool {
	id := hash("once", share)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen[id] {
		return false
	}
	delete(o.seen, o.ring[o.at])
	o.ring[o.at], o.seen[id] = id, true
	o.at = (o.at + 1) % len(o.ring)
	return true
}
