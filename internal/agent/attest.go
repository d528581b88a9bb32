package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

// The bounds of a challenge.
const (
	maxFormats = 16
	maxParams  = 1<<20 + 64<<10 // a plan of 1 MiB and its envelope
	maxToken   = 64 << 10
	maxTTL     = time.Minute // S02
)

// job is a challenge with the time after which an answer would be in vain, by this machine's clock.
type job struct {
	challenge api.Challenge
	until     time.Time
}

// enqueue replaces a challenge that waits: only the newest one can still count. There is one caller, so the send never
// blocks.
func (a *agent) enqueue(c api.Challenge) {
	select {
	case <-a.queue:
		a.log.Info("challenge replaced by a newer one before it was answered")
	default:
	}
	a.queue <- job{challenge: c, until: a.now().Add(ttl(c))}
}

// ttl is how long a challenge can be answered, by its own word and by ours.
func ttl(c api.Challenge) time.Duration {
	d, err := time.ParseDuration(c.TTL)
	if err != nil || d <= 0 || d > maxTTL {
		return maxTTL
	}
	return d
}

// work answers challenges, one at a time.
func (a *agent) work(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case j := <-a.queue:
			err := protocolError(a.attest(ctx, j))
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case codeOf(err) == string(CodeProtocol.Code):
				return err
			case err != nil:
				a.log.Warn("attestation not finished", "why", clip(j.challenge.Why), "code", codeOf(err), "error", text(err))
			}
		}
	}
}

// attest answers one challenge: with everything at once in the steady state, in two steps when cold.
func (a *agent) attest(ctx context.Context, j job) error {
	left := j.until.Sub(a.now())
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	c := j.challenge
	if err := a.checkChallenge(c); err != nil {
		return err
	}
	binding, err := a.bind(ctx, c)
	if err != nil {
		return err
	}
	answer, err := a.step(ctx, c, binding)
	if err != nil {
		return err
	}
	if next := answer.Next; next != nil {
		if err := checkNext(c, *next); err != nil {
			return err
		}
		if answer, err = a.step(ctx, *next, binding); err != nil {
			return err
		}
		if answer.Next != nil {
			return CodeChallenge.Bad("next", "a result", "a third step")
		}
	}
	if answer.Result == nil {
		return CodeChallenge.Bad("answer", "a result or a next step", "neither")
	}
	a.remember(*answer.Result, true)
	return nil
}

func (a *agent) checkChallenge(c api.Challenge) error {
	switch {
	case !c.Verifier.Equal(a.state.Verifier):
		return CodeVerifier.Bad("verifier", a.state.Verifier.String(), clip(c.Verifier.String()))
	case c.Purpose != rats.PurposeAttest:
		return CodeChallenge.Bad("purpose", rats.PurposeAttest, clip(c.Purpose))
	case len(c.Nonce) != 32:
		return CodeChallenge.Bad("nonce", "32 bytes", fmt.Sprintf("%d", len(c.Nonce)))
	case len(c.Token) == 0 || len(c.Token) > maxToken:
		return CodeChallenge.Bad("token", fmt.Sprintf("1 to %d bytes", maxToken), fmt.Sprintf("%d", len(c.Token)))
	case len(c.Formats) == 0 || len(c.Formats) > maxFormats:
		return CodeChallenge.Bad("formats", fmt.Sprintf("1 to %d", maxFormats), fmt.Sprintf("%d", len(c.Formats)))
	}
	return checkAsks(c)
}

func checkAsks(c api.Challenge) error {
	if len(c.Asks) == 0 {
		return CodeChallenge.Bad("asks", "at least one", "none")
	}
	seen := make(map[rats.Format]bool)
	for _, ask := range c.Asks {
		switch {
		case !slices.Contains(c.Formats, ask.Format):
			return CodeChallenge.Bad("asks", "formats of the manifest", clip(string(ask.Format)))
		case seen[ask.Format]:
			return CodeChallenge.Bad("asks", "each format once", clip(string(ask.Format)))
		case len(ask.Params) > maxParams:
			return CodeChallenge.Bad("asks", fmt.Sprintf("params of at most %d bytes", maxParams), fmt.Sprintf("%d", len(ask.Params)))
		}
		seen[ask.Format] = true
	}
	return nil
}

// checkNext refuses a second step that isn't about the same challenge: the manifest was bound to that one.
func checkNext(c, next api.Challenge) error {
	switch {
	case !bytes.Equal(next.Nonce, c.Nonce):
		return CodeChallenge.Bad("next.nonce", "the first step's", "another")
	case !slices.Equal(next.Formats, c.Formats):
		return CodeChallenge.Bad("next.formats", "the first step's", "others")
	case len(next.Token) == 0 || len(next.Token) > maxToken:
		return CodeChallenge.Bad("next.token", fmt.Sprintf("1 to %d bytes", maxToken), fmt.Sprintf("%d", len(next.Token)))
	}
	return checkAsks(next)
}

// bind makes the manifest of a challenge (S03).
func (a *agent) bind(ctx context.Context, c api.Challenge) (rats.Binding, error) {
	own, err := a.plat.enclave.Keys(ctx)
	if err != nil {
		return rats.Binding{}, fmt.Errorf("asking the enclave for its keys: %w", err)
	}
	keys := append(slices.Clone(own), rats.BoundKey{Use: rats.KeyTLS, Public: a.spki})
	slices.SortFunc(keys, func(x, y rats.BoundKey) int { return strings.Compare(x.Use, y.Use) })
	b, err := rats.Manifest{
		Purpose: c.Purpose, Namespace: a.state.Namespace, Node: a.state.Node, Verifier: c.Verifier,
		Nonce: c.Nonce, Instance: a.instance, Keys: keys, Formats: c.Formats,
	}.Bind()
	if err != nil {
		return rats.Binding{}, CodeChallenge.Bad("manifest", "a challenge that yields one", clip(err.Error()))
	}
	return b, nil
}

// step collects what one challenge asks for, in its order, and hands it in.
func (a *agent) step(ctx context.Context, c api.Challenge, b rats.Binding) (api.Answer, error) {
	s := api.Submission{Token: c.Token, Manifest: b.Manifest, Evidence: []rats.Evidence{}}
	for _, ask := range c.Asks {
		ask.Binding = b
		e, err := a.collect(ctx, ask)
		if _, coded := rats.ReasonOf(err); coded {
			// An attester that says why it can't is left out: an order to keys of an earlier run is met here, and the
			// server goes on with the steps of a cold start.
			a.log.Info("evidence left out", "format", string(ask.Format), "code", codeOf(err))
			continue
		}
		if err != nil {
			return api.Answer{}, fmt.Errorf("collecting %s: %w", ask.Format, err)
		}
		if e.MediaType == api.TypeSealed {
			s.Sealed = append(s.Sealed, api.Sealed{Format: e.Format, Data: e.Body})
			continue
		}
		s.Evidence = append(s.Evidence, e)
	}
	if len(s.Evidence)+len(s.Sealed) == 0 {
		return api.Answer{}, errors.New("none of the evidence asked for could be collected")
	}
	return a.upstream().Submit(ctx, a.state.Node, s)
}

func (a *agent) collect(ctx context.Context, ask rats.Ask) (rats.Evidence, error) {
	for _, at := range a.plat.attesters {
		if at.Descriptor().ID == ask.Format {
			return at.Collect(ctx, ask)
		}
	}
	return rats.Evidence{}, CodeNoAttester.Missing("ask", "a format this agent knows", clip(string(ask.Format)))
}
