// Package provisioner is the server that fills counter vaults on machines it has never seen: by a key exchange that begins
// inside the vault, whose quote a policy judges, and through the channel that it leaves.
//
// It guarantees that contents leave only encrypted to a vault that the policy affirms, and that the vault knows whom it has
// them from. It keeps nothing on disk, knows nobody by name, and gives the contents to every vault that policy affirms.
package provisioner

import (
	"context"
	"crypto"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/enclave/sigma"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/examples/vault"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// CodeEvidence refuses what stands where the quote should be.
var CodeEvidence = rats.CodeInfo{Code: "vault.provision.evidence", Slot: rats.InstanceIdentity,
	Title: "what surrounds the quote is not evidence", Hint: "the application completes the vault's quote: JSON of one to four pieces of evidence"}

// Codes are all reasons that this package gives itself; policy and formats give theirs.
var Codes = []rats.CodeInfo{CodeEvidence}

// Config is what a Server works with. All of it is required.
type Config struct {
	Key    crypto.Signer // ECDSA P-256; vaults are started with its sigma.KeyID
	Policy []byte        // which vaults get the contents
	Rand   io.Reader
	Now    func() time.Time
}

// Server provisions vaults. It is safe for concurrent use.
type Server struct {
	*sigma.Server
	policy *policy.Policy
	engine *appraise.Engine
	now    func() time.Time
}

// New refuses a policy with mistakes.
func New(c Config) (*Server, error) {
	if c.Now == nil {
		return nil, errors.New("a provisioner needs a clock")
	}
	s := &Server{engine: appraise.New(all.Verifiers()...), now: c.Now}
	p, reasons := policy.Compile(c.Policy, s.engine.Descriptors())
	if p == nil {
		return nil, fmt.Errorf("compiling the policy: %v", reasons)
	}
	s.policy = p
	var err error
	s.Server, err = sigma.NewServer(sigma.ServerConfig{
		Purpose: vault.Provision, Key: c.Key, Appraise: s.appraise, Once: sigma.NewOnce(10000), Rand: c.Rand,
	})
	return s, err
}

// maxEvidence is how many pieces of evidence may surround a quote.
const maxEvidence = 4

// appraise judges what a vault sent as its quote: all of it must be bound to data, the one thing that the vault chose.
func (s *Server) appraise(ctx context.Context, quote []byte, data [64]byte) error {
	var evidence []rats.Evidence
	if err := json.Unmarshal(quote, &evidence); err != nil || len(evidence) == 0 || len(evidence) > maxEvidence {
		return CodeEvidence.Bad("quote", fmt.Sprintf("1 to %d pieces of evidence", maxEvidence), fmt.Sprintf("%d", len(evidence)))
	}
	asks := make(map[rats.Format][]byte)
	var formats []rats.Format
	for _, a := range s.policy.Asks() {
		asks[a.Format] = a.Params
		formats = append(formats, a.Format)
	}
	c := rats.Collection{Binding: rats.Binding{Profile: rats.ProfileRaw, UserData: data[:]}, Evidence: evidence}
	set, err := s.engine.Verify(ctx, c, formats, func(f rats.Format) rats.Inputs {
		return rats.Inputs{Now: s.now(), Params: asks[f]}
	})
	if err != nil {
		return err
	}
	now := s.now() // the quote is bound to a share that is seconds old
	r := s.policy.Appraise(policy.In{Set: set, Lookup: refvalue.NewIndex(nil), Now: now, Challenged: now, Received: now})
	if r.Tier == rats.Affirming {
		return nil
	}
	for _, why := range r.Reasons {
		return &rats.BadEvidence{Reason: why}
	}
	return errors.New("appraising a vault: not affirmed, and nobody says why")
}

// Deliver takes message 3 of an exchange and returns the contents as a record for the vault alone, and the channel, for
// Confirm.
func Deliver(ctx context.Context, x *sigma.Exchange, third []byte, c vault.Contents) (record []byte, channel *sigma.Session, err error) {
	if channel, err = x.Finish(ctx, third); err != nil {
		return nil, nil, err
	}
	b, err := boundary.Encode(c)
	if err != nil {
		return nil, nil, err
	}
	defer clear(b)
	record, err = channel.Seal([]byte(vault.Receive), b)
	return record, channel, err
}

// Confirm opens the vault's answer: how often it will show the secret. It ends the channel.
func Confirm(channel *sigma.Session, record []byte) (vault.Left, error) {
	defer channel.Wipe()
	b, err := channel.Open([]byte(vault.Receive), record)
	if err != nil {
		return vault.Left{}, err
	}
	var left vault.Left
	return left, boundary.Decode(b, &left)
}

// Serve fills one vault over a connection: three messages come, three go, each with its length before it. The contents'
// bytes are the caller's to wipe.
func (s *Server) Serve(ctx context.Context, conn io.ReadWriter, contents vault.Contents) (vault.Left, error) {
	first, err := Receive(conn)
	if err != nil {
		return vault.Left{}, err
	}
	second, x, err := s.Answer(first)
	if err == nil {
		err = Send(conn, second)
	}
	if err != nil {
		return vault.Left{}, err
	}
	third, err := Receive(conn)
	if err != nil {
		return vault.Left{}, err
	}
	record, channel, err := Deliver(ctx, x, third, contents)
	if err == nil {
		err = Send(conn, record)
	}
	if err != nil {
		return vault.Left{}, err
	}
	reply, err := Receive(conn)
	if err != nil {
		return vault.Left{}, err
	}
	left, err := Confirm(channel, reply)
	if err != nil {
		return left, err
	}
	return left, Send(conn, nil) // a confirmation is answered by nothing
}

// maxFrame bounds a message on a connection.
const maxFrame = 128 << 10

// Send writes a message with its length before it.
func Send(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...))
	if err != nil {
		return fmt.Errorf("sending a message: %w", err)
	}
	return nil
}

// Receive reads what Send wrote.
func Receive(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, fmt.Errorf("receiving a message: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("receiving a message: it has %d bytes, at most %d are read", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("receiving a message: %w", err)
	}
	return b, nil
}
