package notify

import (
	"context"
	"errors"
	"time"

	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// sweeps looks for nodes whose result expired: nobody writes that when it happens, for a state is derived from the time.
// Silence is what whoever cuts a node off wants to look like nothing.
func (u *duty) sweeps(ctx context.Context) {
	for ctx.Err() == nil {
		err := u.sweep(ctx)
		if errors.Is(err, errLost) {
			return
		}
		if err != nil && ctx.Err() == nil {
			u.cfg.Log.Error("looking for silent nodes", "namespace", u.namespace, "error", err)
		}
		pause(ctx, u.pace.sweep, nil)
	}
}

func (u *duty) sweep(ctx context.Context) error {
	for after, more := "", true; more; {
		var nodes []store.Node
		err := u.space.View(ctx, func(tx store.Tx) (err error) { nodes, err = tx.Nodes().List(after, pageSize); return err })
		if err != nil {
			return err
		}
		more = len(nodes) == pageSize
		for _, n := range nodes {
			after = n.Name
			if !silent(n, u.cfg.Now()) {
				continue
			}
			if err := u.silence(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// silent says whether a node had a result that ran out.
func silent(n store.Node, now time.Time) bool {
	return n.Enrolment == store.EnrolmentApproved && n.Last != "" && n.Withdrawn == "" && !now.Before(n.Expires)
}

// silence tells that a node went silent, once per result, and moves its policy's actions on.
func (u *duty) silence(ctx context.Context, n store.Node) error {
	actions, ref, err := u.cfg.Policy(ctx, u.namespace, n)
	if err != nil {
		return err
	}
	if n.Silent == n.Last && len(actions) == 0 {
		return nil
	}
	if n.Silent == n.Last { // told; does an action move? Most often not, and nothing is to be written
		if !moves(actions, n, u.cfg.Now()) {
			return nil
		}
	}
	return u.update(ctx, func(tx store.Tx) error {
		now := u.cfg.Now()
		cur, err := tx.Nodes().Get(n.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && !silent(cur, now) {
			return nil
		}
		if err != nil {
			return err
		}
		status := node.StatusOf(cur, nil, now)
		changed, err := Judge(tx, actions, &cur, Observation{At: now, State: rats.StateStale, Reasons: status.Why, Policy: ref})
		if err != nil {
			return err
		}
		if cur.Silent != cur.Last {
			cur.Silent, changed = cur.Last, true
			err := emit(tx, now, EventState, cur.ID, map[string]any{
				"node": cur.ID, "name": cur.Name, "result": cur.Last, "before": rats.VerdictOf(cur.LastTier, false).State,
				"state": status.State, "verdict": status.Verdict.Word, "valid_until": cur.Expires, "findings": Findings(status.Why),
			})
			if err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		return tx.Nodes().Put(cur)
	})
}

// moves says whether an observation of silence would change anything.
func moves(actions []policy.Action, n store.Node, now time.Time) bool {
	codes := Observation{Reasons: node.StatusOf(n, nil, now).Why}.codes()
	for _, a := range actions {
		before := n.Acting[a.Name]
		after, fires, ends := Step(a, before, a.Meets(rats.StateStale, codes), false, now)
		if fires || ends || after != before {
			return true
		}
	}
	return false
}
