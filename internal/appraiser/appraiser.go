// Package appraiser runs the exchange with a node: it issues challenges, takes evidence, has it verified and appraised,
// and commits the result (challenge → appraise → store → tell).
//
// It guarantees that a result is accepted only in the transaction that spends its challenge, stores the record, the
// node's new state, the event and the audit leaf, under the epoch it was judged by (S06, S40, S41); that evidence that is
// not authentic changes no verdict (S07); and that nothing is stored when a challenge is issued. It knows no format by
// name and no HTTP.
package appraiser

import (
	"context"
	"crypto"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

// TokenKeys authenticate challenges (S06).
type TokenKeys interface {
	Seal(aad, plaintext []byte) []byte
	Open(aad, token []byte) ([]byte, error)
}

// Config is what an Appraiser needs. Every field but Cluster, Collateral and the durations is required.
type Config struct {
	Store      store.Store
	Engine     *appraise.Engine
	Refs       *refs.Cache
	Tokens     TokenKeys
	Results    *sealed.Key // opens what enclaves seal to the verifier
	PlanSigner crypto.Signer
	PlanSPKI   []byte // SubjectPublicKeyInfo of PlanSigner
	Verifier   rats.Digest
	Cluster    store.Cluster // the servers that share Store; nil: this is the only one
	Collateral Source        // what vendors say of the platforms that evidence names; nil: nothing
	Now        func() time.Time
	Rand       io.Reader
	Log        *slog.Logger
	// Derive returns a key that servers share and nodes don't know: by it tests take turns. Nil: all are in every plan.
	Derive  func(label string) ([32]byte, error)
	TTL     time.Duration // of a challenge; zero: 30 s, at most 60 s (S02)
	StepTTL time.Duration // of a continuation; zero: 60 s
	// Takeover is how long another server may need to take a node over. Challenges come that much before a node's period is
	// over, but at most a quarter of it, so that the period holds although a server dies.
	Takeover time.Duration
}

// Source hands out collateral; internal/endorse has it. What it doesn't have is missing from the answer.
type Source interface {
	Endorsements(context.Context, []rats.Evidence) []rats.Endorsement
}

// Appraiser runs the exchange. It is safe for concurrent use.
type Appraiser struct {
	cfg     Config
	hub     *hub
	asks    *asks          // of other servers
	senders sealed.Senders // to enclaves
}

// maxTTL bounds a challenge's life (S02).
const maxTTL = 60 * time.Second

// New returns an Appraiser.
func New(cfg Config) *Appraiser {
	if cfg.TTL <= 0 || cfg.TTL > maxTTL {
		cfg.TTL = 30 * time.Second
	}
	if cfg.StepTTL <= 0 || cfg.StepTTL > maxTTL {
		cfg.StepTTL = maxTTL
	}
	return &Appraiser{cfg: cfg, hub: newHub(), asks: newAsks()}
}

// Descriptors returns the formats this appraiser can verify.
func (a *Appraiser) Descriptors() []*rats.Descriptor { return a.cfg.Engine.Descriptors() }

// NodeFacts is what policies and conditions may ask of a node.
func NodeFacts(n store.Node) policy.NodeFacts {
	return policy.NodeFacts{Name: n.Name, Kind: n.Kind, Parent: n.Parent, Labels: n.Labels}
}

func (a *Appraiser) random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(a.cfg.Rand, b); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	return b, nil
}

// newID returns prefix followed by 16 random bytes in hex.
func (a *Appraiser) newID(prefix string) (string, error) {
	b, err := a.random(16)
	if err != nil {
		return "", err
	}
	return prefix + hex.EncodeToString(b), nil
}
