package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ServerCertificates is the server's own certificate, issued in this process for a key that never leaves it and
// renewed when a third of its life is left. It is safe for concurrent use.
type ServerCertificates struct {
	ca    *CA
	hosts []string

	mu    sync.Mutex
	cert  *tls.Certificate
	until time.Time
}

// ServerCertificates issues the first certificate for the names and IP addresses under which the server is reached.
func (c *CA) ServerCertificates(hosts []string) (*ServerCertificates, error) {
	s := &ServerCertificates{ca: c, hosts: append([]string(nil), hosts...)}
	_, err := s.Get(nil)
	return s, err
}

// Get is a tls.Config.GetCertificate. The chain it sends is leaf and CA: one who joins knows only the CA's hash and
// needs its certificate to check the leaf.
func (s *ServerCertificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.ca.cfg.Now()
	if s.cert != nil && now.Before(s.until.Add(-serverLifetime/3)) {
		return s.cert, nil
	}
	fresh, err := s.issue()
	switch {
	case err == nil:
		s.cert, s.until = fresh, fresh.Leaf.NotAfter
	case s.cert == nil || !now.Before(s.until):
		return nil, err
	}
	// With renewal impossible for now, the old certificate serves on while it is valid.
	return s.cert, nil
}

func (s *ServerCertificates) issue() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), s.ca.cfg.Rand)
	if err != nil {
		return nil, fmt.Errorf("making the server's TLS key: %w", err)
	}
	der, err := s.ca.ServerCertificate(s.hosts, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the server's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, s.ca.DER()}, PrivateKey: key, Leaf: leaf}, nil
}

// ServerTLS returns the server's TLS configuration (R031, R077, S08): TLS 1.3 only, a client certificate asked for but
// not demanded (who joins has none yet, administrators use bearer credentials), and one that is shown must pass
// Pins.Verify or the handshake fails. There is no session resumption: each connection proves its key anew.
func ServerTLS(pins *Pins, certs *ServerCertificates) (*tls.Config, error) {
	if pins == nil || certs == nil {
		return nil, errors.New("server TLS lacks pinned CAs or certificates")
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2", "http/1.1"},
		GetCertificate:         certs.Get,
		ClientAuth:             tls.RequestClientCert,
		ClientCAs:              pins.pool(),
		Time:                   pins.now,
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			_, err := pins.Verify(state.PeerCertificates)
			return err
		},
	}, nil
}
