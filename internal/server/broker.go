package server

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/broker"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// newBroker returns a broker whose release rules are policy conditions over the claims of the node's newest result.
func newBroker(keys *keyring.Keyring, ds []*rats.Descriptor, now func() time.Time) (*broker.Broker, error) {
	return broker.New(broker.Config{
		Keys: keys,
		Now:  now,
		Compile: func(rule string) []rats.Reason {
			_, reasons := policy.CompileCondition(rule, ds)
			return reasons
		},
		Eval: func(q broker.Question) (bool, []rats.Reason, error) {
			c, reasons := policy.CompileCondition(q.Rule, ds)
			if c == nil {
				return false, reasons, nil
			}
			set, err := storedSet(q.Tx, q.Record, ds)
			if err != nil {
				return false, nil, err
			}
			ok, reasons := c.Eval(policy.Env{Node: appraiser.NodeFacts(q.Node), Set: set, Result: &q.Record.Result, Now: q.Now})
			if len(reasons) == 1 && reasons[0].Code == policy.CodeConditionFalse.Code {
				return false, nil, nil
			}
			return ok, reasons, nil
		},
		State: func(tx store.Tx, n store.Node, at time.Time) (rats.State, error) {
			s, err := node.Resolve(tx.Nodes(), n, at)
			return s.State, err
		},
	})
}

// storedSet reads a record's claims back, so that conditions can be evaluated on them.
func storedSet(tx store.Tx, rec store.Record, ds []*rats.Descriptor) (rats.Set, error) {
	set := rats.Set{Verified: map[rats.Format]rats.Verified{}, Links: rec.Result.Links}
	for _, d := range ds {
		digest, ok := rec.Claims[d.ID]
		if !ok || rec.ClaimsVersion[d.ID] != d.ClaimsVersion {
			continue // absent claims make a condition on them refuse
		}
		b, err := rec.Piece(tx, digest)
		if err != nil {
			return set, fmt.Errorf("reading the claims of %s: %w", d.ID, err)
		}
		claims := d.NewClaims()
		if err := json.Unmarshal(b, claims); err != nil {
			return set, fmt.Errorf("decoding the claims of %s: %w", d.ID, err)
		}
		set.Verified[d.ID] = rats.Verified{Claims: claims}
	}
	return set, nil
}
