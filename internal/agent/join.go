package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// JoinOptions say where and as what to join.
type JoinOptions struct {
	Server  string // https://host:port
	Token   string // join token (asj1.…)
	Name    string // proposed; empty: the host's name
	TPM     string // empty: found by itself
	Dir     string // state directory; made if it isn't there
	Replace bool   // replace the identity of an agent that has joined already

	Rand      io.Reader
	Now       func() time.Time
	Dialer    func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net.Dialer
	UserAgent string
}

// Joined is what joining yielded, for people.
type Joined struct {
	Server    string        `json:"server"`
	Namespace string        `json:"namespace"`
	Node      string        `json:"node"`
	Name      string        `json:"name"`
	Enrolment string        `json:"enrolment"` // approved or pending
	Expires   time.Time     `json:"expires"`   // of the certificate; it renews itself
	Reasons   []rats.Reason `json:"reasons,omitempty"`
}

// Join makes this machine a node: it proves to the server that AK and TLS key live in the TPM with this EK, and stores
// what the server answers. Nothing is stored unless every step succeeded.
func Join(ctx context.Context, o JoinOptions) (Joined, error) {
	token, err := api.ParseJoinToken(strings.TrimSpace(o.Token))
	if err != nil {
		return Joined{}, CodeToken.Bad("token", "asj1.…", clip(err.Error()))
	}
	defer clear(token.Secret)
	if err := prepare(o); err != nil {
		return Joined{}, err
	}
	release, err := lock(o.Dir)
	if err != nil {
		return Joined{}, err
	}
	defer release()
	name := o.Name
	if name == "" {
		name, _ = os.Hostname() // no name is no obstacle: the server then takes the token's or makes one
	}
	c, err := client.New(client.Options{
		Server: o.Server, CAHash: token.CA, Namespace: token.Namespace, Dialer: o.Dialer, Now: o.Now, UserAgent: o.UserAgent,
	})
	if err != nil {
		return Joined{}, err
	}
	defer c.Close()

	dev, err := openTPM(ctx, o.TPM)
	if err != nil {
		return Joined{}, err
	}
	defer dev.Close()
	s := State{
		Version: stateVersion, Server: c.Server(), TPM: o.TPM,
		AKUnique: make([]byte, uniqueSize), TLSUnique: make([]byte, uniqueSize),
	}
	for _, u := range [][]byte{s.AKUnique, s.TLSUnique} {
		if _, err := io.ReadFull(o.Rand, u); err != nil {
			return Joined{}, fmt.Errorf("reading randomness: %w", err)
		}
	}
	j, err := exchange(ctx, c, dev, s, api.JoinRequest{Token: strings.TrimSpace(o.Token), Name: name})
	if err != nil {
		return Joined{}, err
	}
	return s.accept(o.Dir, j)
}

// prepare makes the state directory, or looks at the one that is there.
func prepare(o JoinOptions) error {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	info, err := os.Stat(o.Dir)
	if err != nil {
		return fmt.Errorf("looking at the state directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return CodeStateOpen.Bad(o.Dir, "no access for group and others", info.Mode().Perm().String())
	}
	if o.Replace {
		return nil
	}
	_, err = LoadState(o.Dir)
	if r, ok := rats.ReasonOf(err); ok && r.Code == CodeStateMissing.Code {
		return nil
	}
	if err != nil {
		return err
	}
	return CodeStateExists.Bad(o.Dir, "no state", "the state of a joined agent")
}

func openTPM(ctx context.Context, path string) (*tpm.Device, error) {
	dev, err := tpm.Open(ctx, path)
	if err != nil {
		if _, ok := rats.ReasonOf(err); ok {
			return nil, err
		}
		return nil, CodeTPM.Missing("tpm "+path, "a TPM 2.0", clip(err.Error()))
	}
	return dev, nil
}

// exchange is the two steps of joining.
func exchange(ctx context.Context, c *client.Client, dev *tpm.Device, s State, r api.JoinRequest) (api.Joined, error) {
	fail := func(doing string, err error) (api.Joined, error) {
		return api.Joined{}, fmt.Errorf("joining: %s: %w", doing, err)
	}
	ek, err := dev.EK(ctx)
	if err != nil {
		return fail("reading the TPM's endorsement key", err)
	}
	ak, err := dev.AK(ctx, s.AKUnique)
	if err != nil {
		return fail("making the attestation key", err)
	}
	key, err := dev.SigningKey(ctx, s.TLSUnique)
	if err != nil {
		return fail("making the TLS key", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fail("encoding the TLS key", err)
	}
	r.EK, r.EKCert, r.AK, r.TLSKey, r.TLSTPM = ek.Public, slices.Concat(append([][]byte{ek.CertDER}, ek.Issuers...)...), ak.Public, spki, key.TPMPublic()

	challenge, err := c.JoinBegin(ctx, r)
	if err != nil {
		return fail("asking the server", protocolError(err))
	}
	activated, err := dev.Activate(ctx, ak, challenge.Credential, challenge.Secret)
	if err != nil {
		return fail("opening the server's credential with the TPM", err)
	}
	defer clear(activated)
	info, sig, err := dev.Certify(ctx, key, ak, challenge.Nonce)
	if err != nil {
		return fail("certifying the TLS key", err)
	}
	j, err := c.JoinFinish(ctx, api.JoinFinish{
		Request: r, Continue: challenge.Continue, Activated: activated, CertifyInfo: info, CertifySig: sig,
	})
	if err != nil {
		return fail("proving the keys to the server", protocolError(err))
	}
	if err := certificateFits(j.Certificate, spki, j.Node); err != nil {
		return api.Joined{}, CodeJoined.Bad("certificate", "one for this machine's key and node", clip(err.Error()))
	}
	return j, nil
}

// accept stores the server's answer.
func (s State) accept(dir string, j api.Joined) (Joined, error) {
	s.Namespace, s.Node, s.Name = j.Namespace, j.Node, j.Name
	s.Verifier, s.CAs, s.PlanSigner, s.Certificate = j.Verifier, j.CAs, j.PlanSigner, j.Certificate
	if err := s.check(); err != nil {
		return Joined{}, CodeJoined.Bad("answer", "everything an agent needs", clip(err.Error()))
	}
	cert, err := x509.ParseCertificate(j.Certificate)
	if err != nil {
		return Joined{}, CodeJoined.Bad("certificate", "DER", clip(err.Error()))
	}
	// The checkpoint of another identity says nothing about this one's server.
	if err := os.Remove(checkpointPath(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Joined{}, fmt.Errorf("removing the old checkpoint: %w", err)
	}
	if err := s.save(dir); err != nil {
		return Joined{}, err
	}
	return Joined{
		Server: s.Server, Namespace: j.Namespace, Node: j.Node, Name: j.Name, Enrolment: j.Enrolment,
		Expires: cert.NotAfter.UTC(), Reasons: j.Reasons,
	}, nil
}

// certificateFits says why a certificate isn't for this key and node.
func certificateFits(der, spki []byte, node string) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if _, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !bytes.Equal(cert.RawSubjectPublicKeyInfo, spki) {
		return errors.New("it is for another key")
	}
	if cert.Subject.CommonName != node {
		return fmt.Errorf("it is for %q", clip(cert.Subject.CommonName))
	}
	return nil
}
