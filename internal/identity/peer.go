package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Why a connection's peer is not a node.
var (
	CodePeerPlain = rats.CodeInfo{
		Code:  "tls.connection.plain",
		Title: "the connection is not TLS 1.3 of this server",
		Hint:  "connect with TLS 1.3; a balancer in between must pass TLS through, not terminate it",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerMissing = rats.CodeInfo{
		Code:  "tls.peer.missing",
		Title: "the peer showed no client certificate",
		Hint:  "join first (assay agent join); if the node has joined, a balancer in between terminates TLS: let it pass TLS through",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerChain = rats.CodeInfo{
		Code:  "tls.peer.chain",
		Title: "the client certificate comes with an intermediate",
		Hint:  "only certificates signed directly by a pinned CA count; send the leaf alone",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerCA = rats.CodeInfo{
		Code:  "tls.peer.ca",
		Title: "the client certificate is not signed by a pinned CA",
		Hint:  "the node belongs to another server, or its CA was removed from the pinned set: join it again",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerExpired = rats.CodeInfo{
		Code:  "tls.peer.expired",
		Title: "the client certificate or its CA is not valid at this time",
		Hint:  "compare the clocks of node and server; a node that was off for more than 30 days must join again",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerUsage = rats.CodeInfo{
		Code:  "tls.peer.usage",
		Title: "the certificate is not one for client authentication",
		Hint:  "use the certificate that the node got when it joined",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerName = rats.CodeInfo{
		Code:  "tls.peer.name",
		Title: "the client certificate does not name a node",
		Hint:  "use the certificate that the node got when it joined",
		Slot:  rats.InstanceIdentity,
	}
)

// Peer is who stands at the other end of a connection.
type Peer struct {
	Namespace string
	Node      string      // id
	Serial    string      // of its certificate, 32 hex digits
	TLSKey    rats.Digest // SHA-256 of SPKI
	SPKI      []byte      // SubjectPublicKeyInfo of the connection's peer key
}

// Pins is the set of pinned CAs, more than one while a CA is being replaced: each stands at depth 1 (S08). It is
// safe for concurrent use, and what it pins doesn't change.
type Pins struct {
	cas []*x509.Certificate
	now func() time.Time

	mu     sync.RWMutex
	issued map[[sha256.Size]byte]*x509.Certificate // who signed a certificate, by its hash
}

// maxIssued bounds how many certificates' issuers are remembered: a signature is checked once, not with every request.
const maxIssued = 1 << 16

// NewPins reads the pinned CA certificates (DER). At least one is needed.
func NewPins(cas [][]byte, now func() time.Time) (*Pins, error) {
	if len(cas) == 0 || now == nil {
		return nil, errors.New("pinning CAs: no CA or no clock")
	}
	p := &Pins{now: now, issued: map[[sha256.Size]byte]*x509.Certificate{}}
	for i, der := range cas {
		c, err := parseCA(der)
		if err != nil {
			return nil, fmt.Errorf("pinning CA %d: %w", i, err)
		}
		p.cas = append(p.cas, c)
	}
	return p, nil
}

// DER returns the pinned certificates.
func (p *Pins) DER() [][]byte {
	var all [][]byte
	for _, c := range p.cas {
		all = append(all, bytes.Clone(c.Raw))
	}
	return all
}

func (p *Pins) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range p.cas {
		pool.AddCert(c)
	}
	return pool
}

// Peer returns the node at the other end of a connection. It checks the certificate again, so that one which expired
// while the connection was open no longer counts, and a state from anywhere but ServerTLS gains nothing.
func (p *Pins) Peer(state *tls.ConnectionState) (Peer, error) {
	if state == nil || state.Version != tls.VersionTLS13 || !state.HandshakeComplete {
		return Peer{}, CodePeerPlain.Bad("connection", "TLS 1.3", "none, or an older version")
	}
	return p.Verify(state.PeerCertificates)
}

// Verify checks a client's certificates as received: the leaf, signed directly by a pinned CA (R031), optionally
// followed by that CA and nothing else; valid now, for client authentication, and naming one node. Path building is
// not used: there is only one path that counts.
func (p *Pins) Verify(chain []*x509.Certificate) (Peer, error) {
	if len(chain) == 0 {
		return Peer{}, CodePeerMissing.Bad("client certificate", "a node's certificate", "none")
	}
	leaf := chain[0]
	ca, err := p.issuer(leaf)
	if err != nil {
		return Peer{}, err
	}
	if len(chain) > 2 || len(chain) == 2 && !bytes.Equal(chain[1].Raw, ca.Raw) {
		return Peer{}, CodePeerChain.Bad("client certificate", "the leaf, or leaf and pinned CA",
			fmt.Sprintf("%d certificates", len(chain)))
	}
	now := p.now()
	for _, c := range []*x509.Certificate{leaf, ca} {
		if !validAt(c, now) {
			return Peer{}, CodePeerExpired.Bad("client certificate", "validity at "+now.UTC().Format(time.RFC3339),
				c.NotBefore.UTC().Format(time.RFC3339)+" to "+c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if leaf.IsCA || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) ||
		len(leaf.UnknownExtKeyUsage) > 0 || leaf.KeyUsage != x509.KeyUsageDigitalSignature ||
		len(leaf.UnhandledCriticalExtensions) > 0 {
		return Peer{}, CodePeerUsage.Bad("client certificate", "client authentication only", "other usages")
	}
	return peerOf(leaf)
}

// issuer returns the pinned CA that signed the leaf.
func (p *Pins) issuer(leaf *x509.Certificate) (*x509.Certificate, error) {
	sum := sha256.Sum256(leaf.Raw)
	p.mu.RLock()
	known := p.issued[sum]
	p.mu.RUnlock()
	if known != nil {
		return known, nil
	}
	for _, ca := range p.cas {
		if bytes.Equal(leaf.Raw, ca.Raw) || !bytes.Equal(leaf.RawIssuer, ca.RawSubject) {
			continue
		}
		// Two CAs in rotation bear the same name: the signature decides.
		if leaf.CheckSignatureFrom(ca) == nil {
			p.mu.Lock()
			if len(p.issued) >= maxIssued {
				clear(p.issued)
			}
			p.issued[sum] = ca
			p.mu.Unlock()
			return ca, nil
		}
	}
	return nil, CodePeerCA.Bad("client certificate", "signed directly by one of the pinned CAs",
		"issuer "+clip(leaf.Issuer.CommonName))
}

// peerOf reads the node's name: exactly one subject alternative name, a URI as nodeURI makes it, whose id is the common
// name.
func peerOf(leaf *x509.Certificate) (Peer, error) {
	const want = "one URI assay://NAMESPACE/node/ID"
	if len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 {
		return Peer{}, CodePeerName.Bad("subject alternative name", want, "other names")
	}
	uri := leaf.URIs[0].String() // escapes what nodeURI never makes, so that it is refused
	namespace, node, err := parseNodeURI(uri)
	if err != nil {
		return Peer{}, err
	}
	if leaf.Subject.CommonName != node {
		return Peer{}, CodePeerName.Bad("common name", node, clip(leaf.Subject.CommonName))
	}
	return Peer{
		Namespace: namespace, Node: node, Serial: serialText(leaf.SerialNumber),
		TLSKey: rats.SHA256(leaf.RawSubjectPublicKeyInfo), SPKI: bytes.Clone(leaf.RawSubjectPublicKeyInfo),
	}, nil
}

func parseNodeURI(uri string) (namespace, node string, err error) {
	rest, ok := strings.CutPrefix(uri, "assay://")
	namespace, node, cut := strings.Cut(rest, "/node/")
	if !ok || !cut || !validNamespace(namespace) || !validNodeID(node) {
		return "", "", CodePeerName.Bad("subject alternative name", "assay://NAMESPACE/node/ID", clip(uri))
	}
	return namespace, node, nil
}

// Why a node that showed a good certificate may still not act.
var (
	CodePeerNamespace = rats.CodeInfo{
		Code:  "identity.namespace.other",
		Title: "the certificate is for another namespace",
		Hint:  "a node acts only in the namespace it joined",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerNode = rats.CodeInfo{
		Code:  "identity.node.other",
		Title: "the certificate is for another node",
		Hint:  "a node acts only for itself",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerKey = rats.CodeInfo{
		Code:  "identity.key.other",
		Title: "the connection's key is not the one the node joined with",
		Hint:  "the node was joined again since: use its new certificate",
		Slot:  rats.InstanceIdentity,
	}
	CodePeerRevoked = rats.CodeInfo{
		Code:  "identity.node.revoked",
		Title: "the node's enrolment was revoked",
		Hint:  "delete the node and join it again, if it is to come back",
		Slot:  rats.InstanceIdentity,
	}
)

// Admit says whether the peer may act as node n of a namespace: same namespace, same node, the key it joined with, not
// revoked. A pending node is admitted (it may ask how it stands); what it gets is the caller's decision. The serial is
// not compared: a node whose renewal got lost on the way still has its old certificate for the same key.
func Admit(namespace string, n store.Node, p Peer) error {
	switch {
	case p.Namespace != namespace:
		return CodePeerNamespace.Bad("client certificate", namespace, clip(p.Namespace))
	case p.Node != n.ID:
		return CodePeerNode.Bad("client certificate", n.ID, clip(p.Node))
	case !p.TLSKey.Equal(n.TLSKey):
		return CodePeerKey.Bad("client certificate", n.TLSKey.String(), p.TLSKey.String())
	case n.Enrolment != store.EnrolmentPending && n.Enrolment != store.EnrolmentApproved:
		return CodePeerRevoked.Bad("enrolment", store.EnrolmentApproved, clip(n.Enrolment))
	}
	return nil
}
