package appraiser

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Why an agent's wish for an attestation is not granted. Nothing is lost: the node is challenged when it is due.
var (
	CodeWishRate = rats.CodeInfo{
		Code: "node.wish.rate", Title: "the node asked for an attestation too soon after the last time", Slot: rats.InstanceIdentity,
		Hint: "the agent asks again by itself, and the node is challenged when it is due in any case",
	}
	CodeWishUnwanted = rats.CodeInfo{
		Code: "node.wish.unwanted", Title: "the policy wants no attestation for this event", Slot: rats.Configuration,
		Hint: "list the event under 'on' in the policy if the node is to be challenged for it",
	}
)

// WishEvery is how often a node's wish is granted at most: what an agent can have the server do must stay small.
const WishEvery = 10 * time.Second

// Wish challenges a node whose agent noticed an event, if its policy names it. The claim proves nothing and needn't: all
// it leads to is a challenge, and an agent that keeps silent is challenged when its period is over.
func (a *Appraiser) Wish(ctx context.Context, namespace string, n store.Node, event string) error {
	view, err := a.cfg.Refs.Fresh(ctx, a.cfg.Store.In(namespace), namespace)
	if err != nil {
		return err
	}
	active, why := view.Active(NodeFacts(n))
	if len(why) > 0 {
		return &rats.BadEvidence{Reason: why[0]}
	}
	if on := active.On(); !slices.Contains(on, event) {
		return CodeWishUnwanted.Bad("event", "one of: "+strings.Join(on, ", "), fmt.Sprintf("%.40q", event))
	}
	if !a.hub.wish(namespace, n.ID, a.cfg.Now()) {
		return CodeWishRate.Missing("event", "at most one in "+WishEvery.String(), "another")
	}
	if !a.Kick(ctx, namespace, n.ID, "event: "+event) {
		return CodeNotConnected.Missing("node", "an open stream", "none")
	}
	return nil
}

// wish takes the node's turn, if it is its turn.
func (h *hub) wish(namespace, node string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.get(nodeKey{namespace, node})
	if !n.wished.IsZero() && now.Sub(n.wished) < WishEvery && !now.Before(n.wished) {
		return false
	}
	n.wished = now
	return true
}
