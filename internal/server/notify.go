package server

import (
	"context"

	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/notify"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// newDispatcher returns what delivers webhooks and runs actions, by the policies in force.
func newDispatcher(o RunOptions, s Settings, keys *keyring.Keyring, db store.Store, views *refs.Cache) (*notify.Dispatcher, error) {
	cluster, _ := db.(store.Cluster) // nil: this is the only server
	return notify.New(notify.Config{
		Store: db, Cluster: cluster, Keys: keys, Signer: keys.Verifier(), Now: o.Now, Rand: o.Rand, Log: o.Log,
		Policy: func(ctx context.Context, namespace string, n store.Node) ([]policy.Action, rats.Ref, error) {
			view, err := views.Fresh(ctx, db.In(namespace), namespace)
			if err != nil {
				return nil, rats.Ref{}, err
			}
			active, why := view.Active(appraiser.NodeFacts(n))
			if len(why) > 0 {
				return nil, rats.Ref{}, nil // no policy, no actions
			}
			return active.Actions(), active.Ref, nil
		},
	}, s.Notify)
}
