// Package wire is an agent driven by hand: it joins and attests over the real API with real cryptography, one step at a
// time, so that tests can replay, reorder and forge between the steps, and load generators can run thousands of nodes in
// one process. Its TPM is softtpm; nothing of it is fit for production.
package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

// Options say how a machine joins. Server, Token, Rand, Now and System are required.
type Options struct {
	Server string
	Token  string
	Name   string
	Rand   io.Reader
	Now    func() time.Time
	System measure.System
	TPM    *softtpm.TPM // made if nil
	// Change may forge the finishing step of joining.
	Change func(*api.JoinRequest)
}

// Machine is a node.
type Machine struct {
	// Attesters collect formats besides the TPM's quote, after it.
	Attesters []rats.Attester
	// Keys are those of an enclave that is used instead of Enclave; an Attester runs its plans.
	Keys []rats.BoundKey

	opt      Options
	TPM      *softtpm.TPM
	Client   *client.Client // mTLS
	Enclave  *measure.Enclave
	Joined   api.Joined
	Instance []byte
	TLS      tls.Certificate
}

// Join makes a machine of a token.
func Join(ctx context.Context, o Options) (*Machine, error) {
	m := &Machine{opt: o, TPM: o.TPM, Instance: make([]byte, 32)}
	if m.TPM == nil {
		m.TPM = softtpm.New(o.Rand)
	}
	if _, err := io.ReadFull(o.Rand, m.Instance); err != nil {
		return nil, err
	}
	token, err := api.ParseJoinToken(o.Token)
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Options{Server: o.Server, CAHash: token.CA, Namespace: token.Namespace, Now: o.Now})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	spki, err := x509.MarshalPKIXPublicKey(m.TPM.TLSKey().Public())
	if err != nil {
		return nil, err
	}
	r := api.JoinRequest{
		Token: o.Token, Name: o.Name, EK: m.TPM.EKPublic(), EKCert: m.TPM.EKCert(), AK: m.TPM.AKPublic(),
		TLSKey: spki, TLSTPM: m.TPM.TLSPublic(),
	}
	if o.Change != nil {
		o.Change(&r)
	}
	ch, err := c.JoinBegin(ctx, r)
	if err != nil {
		return nil, err
	}
	secret, err := m.TPM.Activate(ch.Credential, ch.Secret)
	if err != nil {
		return nil, err
	}
	info, sig, err := m.TPM.Certify(ch.Nonce)
	if err != nil {
		return nil, err
	}
	m.Joined, err = c.JoinFinish(ctx, api.JoinFinish{Request: r, Continue: ch.Continue, Activated: secret, CertifyInfo: info, CertifySig: sig})
	if err != nil {
		return nil, err
	}
	m.TLS = tls.Certificate{Certificate: [][]byte{m.Joined.Certificate}, PrivateKey: m.TPM.TLSKey()}
	if m.Client, err = client.New(client.Options{
		Server: o.Server, CAs: m.Joined.CAs, Certificate: &m.TLS, Namespace: m.Joined.Namespace, Now: o.Now,
	}); err != nil {
		return nil, err
	}
	return m, m.Restart()
}

// Restart gives the machine a new enclave, as a restart of the agent does.
func (m *Machine) Restart() error {
	e, err := measure.NewEnclave(measure.Config{
		System: m.opt.System, Rand: m.opt.Rand, Now: m.opt.Now, PlanSigner: m.Joined.PlanSigner,
		Namespace: m.Joined.Namespace, Node: m.Joined.Node, Workers: 1,
	})
	m.Enclave = e
	return err
}

// Boot is the boot the machine's TPM is in.
func (m *Machine) Boot() rats.Digest { return m.TPM.BootID() }

// Stream opens the machine's stream.
func (m *Machine) Stream(ctx context.Context) iter.Seq2[client.StreamEvent, error] {
	return m.Client.Stream(ctx, m.Joined.Node, m.Instance, m.Boot())
}

// Manifest is what an honest agent binds for a challenge.
func (m *Machine) Manifest(c api.Challenge) (rats.Manifest, error) {
	spki, err := x509.MarshalPKIXPublicKey(m.TPM.TLSKey().Public())
	if err != nil {
		return rats.Manifest{}, err
	}
	own := m.Keys
	if own == nil {
		own = m.Enclave.Keys()
	}
	return rats.Manifest{
		Purpose: c.Purpose, Namespace: m.Joined.Namespace, Node: m.Joined.Node, Verifier: c.Verifier, Nonce: c.Nonce,
		Instance: m.Instance, Keys: append(slices.Clone(own), rats.BoundKey{Use: rats.KeyTLS, Public: spki}), Formats: c.Formats,
	}, nil
}

// Answer makes the submission an honest agent makes. change, if not nil, may alter the manifest before it is bound.
func (m *Machine) Answer(ctx context.Context, c api.Challenge, change func(*rats.Manifest)) (api.Submission, error) {
	man, err := m.Manifest(c)
	if err != nil {
		return api.Submission{}, err
	}
	if change != nil {
		change(&man)
	}
	b, err := man.Bind()
	if err != nil {
		return api.Submission{}, err
	}
	return m.AnswerBound(ctx, c, b)
}

// AnswerBound collects what a challenge asks under a given binding.
func (m *Machine) AnswerBound(ctx context.Context, c api.Challenge, b rats.Binding) (api.Submission, error) {
	s := api.Submission{Token: c.Token, Manifest: b.Manifest}
	for _, ask := range c.Asks {
		if i := slices.IndexFunc(m.Attesters, func(a rats.Attester) bool { return a.Descriptor().ID == ask.Format }); i >= 0 {
			ask.Binding = b
			e, err := m.Attesters[i].Collect(ctx, ask)
			if err != nil {
				return s, err
			}
			if e.MediaType == api.TypeSealed {
				s.Sealed = append(s.Sealed, api.Sealed{Format: e.Format, Data: e.Body})
				continue
			}
			s.Evidence = append(s.Evidence, e)
			continue
		}
		if ask.Format != tpm.Format {
			box, err := m.Enclave.Run(ctx, b.Manifest, ask.Params)
			if err != nil {
				return s, fmt.Errorf("running the plan: %w", err)
			}
			s.Sealed = append(s.Sealed, api.Sealed{Format: ask.Format, Data: box})
			continue
		}
		var p tpm.Params
		if err := json.Unmarshal(ask.Params, &p); err != nil {
			return s, err
		}
		e, err := m.TPM.Quote(p.Bank, p.PCRs, b.UserData)
		if err != nil {
			return s, err
		}
		s.Evidence = append(s.Evidence, e)
	}
	return s, nil
}

// Attest answers a challenge honestly, and its continuation if there is one, with the same manifest.
func (m *Machine) Attest(ctx context.Context, c api.Challenge) (api.Told, error) {
	man, err := m.Manifest(c)
	if err != nil {
		return api.Told{}, err
	}
	b, err := man.Bind()
	if err != nil {
		return api.Told{}, err
	}
	for range 2 {
		s, err := m.AnswerBound(ctx, c, b)
		if err != nil {
			return api.Told{}, err
		}
		a, err := m.Client.Submit(ctx, m.Joined.Node, s)
		if err != nil {
			return api.Told{}, err
		}
		if a.Result != nil {
			return *a.Result, nil
		}
		if a.Next == nil {
			break
		}
		c = *a.Next
	}
	return api.Told{}, fmt.Errorf("the server asks for more than two steps")
}

// Challenge opens the stream, takes its first challenge and leaves the stream open until ctx ends.
func (m *Machine) Challenge(ctx context.Context) (api.Challenge, error) {
	type got struct {
		c   api.Challenge
		err error
	}
	ch := make(chan got, 1)
	go func() {
		for e, err := range m.Stream(ctx) {
			if err != nil {
				select {
				case ch <- got{err: err}:
				default:
				}
				return
			}
			if e.Challenge != nil {
				select {
				case ch <- got{c: *e.Challenge}:
				default:
				}
			}
		}
	}()
	select {
	case g := <-ch:
		return g.c, g.err
	case <-ctx.Done():
		return api.Challenge{}, ctx.Err()
	}
}
