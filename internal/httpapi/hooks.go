package httpapi

import (
	"math"
	"net/http"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/notify"
	"github.com/assay-attest/assay/internal/store"
)

const hookPath = ns + "/webhooks/{id}"

var hookRoutes = []Route{
	{Method: http.MethodPost, Pattern: ns + "/webhooks", Verb: "webhook.add", Who: admins, Body: smallBody, Time: shortTime,
		In: api.WebhookRequest{}, Out: api.Webhook{}, Summary: "Register a webhook, from the newest event on", handle: (*API).hookAdd},
	{Method: http.MethodGet, Pattern: ns + "/webhooks", Verb: "webhook.list", Who: admins, Time: shortTime,
		Out: api.WebhookList{}, Summary: "List webhooks and how they fare", handle: (*API).hookList},
	{Method: http.MethodDelete, Pattern: hookPath, Verb: "webhook.delete", Who: admins, Time: shortTime,
		Summary: "Delete a webhook and its dead letters", handle: (*API).hookDelete},
	{Method: http.MethodPost, Pattern: hookPath + "/test", Verb: "webhook.test", Who: admins, Body: smallBody, Time: shortTime,
		Out: api.WebhookTest{}, Summary: "Make a delivery now and say what came of it", handle: (*API).hookTest},
	{Method: http.MethodGet, Pattern: hookPath + "/dead", Verb: "webhook.dead", Who: admins, Time: shortTime,
		Out: api.DeadLetterList{}, Summary: "Events that could not be delivered (after, limit)", handle: (*API).hookDead},
	{Method: http.MethodPost, Pattern: hookPath + "/redeliver", Verb: "webhook.redeliver", Who: admins, Body: smallBody, Time: shortTime,
		In: api.Redeliver{}, Out: api.Redelivered{}, Summary: "Send dead letters again", handle: (*API).hookRedeliver},
	{Method: http.MethodPut, Pattern: ns + "/nodes/{node}/quarantine", Verb: "node.quarantine", Who: admins, Body: smallBody, Time: shortTime,
		In: api.Quarantine{}, Out: api.Node{}, Summary: "Put a node into quarantine (why)", handle: (*API).quarantine},
	{Method: http.MethodDelete, Pattern: ns + "/nodes/{node}/quarantine", Verb: "node.unquarantine", Who: admins, Body: smallBody, Time: shortTime,
		Summary: "Lift a node's quarantine (why)", handle: (*API).lift},
	{Method: http.MethodPost, Pattern: ns + "/nodes/{node}/wish", Verb: "node.wish", Who: agents, Body: smallBody, Time: shortTime,
		In: api.Wish{}, Summary: "Ask to be challenged, for something happened on the machine", handle: (*API).wish},
}

func (a *API) hookAdd(r *request) (any, error) {
	in, err := decode[api.WebhookRequest](r)
	defer clear(in.Secret)
	if err != nil {
		return nil, err
	}
	var out api.Webhook
	err = r.space.Update(r.Context(), func(tx store.Tx) (err error) {
		out, err = a.cfg.Notify.Add(tx, r.namespace, r.principal.Actor(), in)
		return err
	})
	return out, err
}

func (a *API) hookList(r *request) (any, error) {
	var out api.WebhookList
	err := r.view(func(tx store.Tx) (err error) { out.Webhooks, err = notify.List(tx); return err })
	return out, err
}

func (a *API) hookDelete(r *request) (any, error) {
	return nil, r.space.Update(r.Context(), func(tx store.Tx) error {
		return a.cfg.Notify.Remove(tx, r.principal.Actor(), r.PathValue("id"))
	})
}

func (a *API) hookTest(r *request) (any, error) {
	return a.cfg.Notify.Test(r.Context(), r.space, r.namespace, r.PathValue("id"))
}

func (a *API) hookDead(r *request) (any, error) {
	after, err := r.number("after", 0, math.MaxInt64, 0)
	if err != nil {
		return nil, err
	}
	limit, err := r.number("limit", 1, 1000, 100)
	if err != nil {
		return nil, err
	}
	var out api.DeadLetterList
	err = r.view(func(tx store.Tx) (err error) {
		out, err = notify.Dead(tx, r.PathValue("id"), after, int(limit))
		return err
	})
	return out, err
}

func (a *API) hookRedeliver(r *request) (any, error) {
	in, err := decode[api.Redeliver](r)
	if err != nil {
		return nil, err
	}
	var out api.Redelivered
	err = r.space.Update(r.Context(), func(tx store.Tx) (err error) {
		out.Due, err = a.cfg.Notify.Redeliver(tx, r.principal.Actor(), r.PathValue("id"), in.Seq)
		return err
	})
	return out, err
}

func (a *API) quarantine(r *request) (any, error) {
	in, err := decode[api.Quarantine](r)
	if err != nil {
		return nil, err
	}
	if in.Why == "" || len(in.Why) > 512 {
		return nil, CodeParameter.Bad("why", "a reason of at most 512 bytes", clip(in.Why))
	}
	err = r.space.Update(r.Context(), func(tx store.Tx) error {
		n, err := r.node(tx)
		if err != nil || n.Quarantine != nil {
			return err
		}
		err = notify.Quarantine(tx, &n, store.Quarantine{At: a.cfg.Now().UTC(), By: r.principal.Actor(), Why: in.Why})
		if err != nil {
			return err
		}
		return tx.Nodes().Put(n)
	})
	if err != nil {
		return nil, err
	}
	return a.nodeGet(r)
}

// lift ends a quarantine. The node is challenged at once, for what it is worth then is what a fresh result says.
func (a *API) lift(r *request) (any, error) {
	why := r.URL.Query().Get("why")
	if why == "" || len(why) > 512 {
		return nil, CodeParameter.Bad("why", "a reason of at most 512 bytes", clip(why))
	}
	id := ""
	err := r.space.Update(r.Context(), func(tx store.Tx) error {
		n, err := r.node(tx)
		if err != nil || n.Quarantine == nil {
			return err
		}
		id = n.ID
		if err := notify.Lift(tx, &n, r.principal.Actor(), why, a.cfg.Now().UTC()); err != nil {
			return err
		}
		return tx.Nodes().Put(n)
	})
	if err == nil && id != "" {
		a.cfg.Appraiser.Kick(r.Context(), r.namespace, id, "unquarantined")
	}
	return nil, err
}

func (a *API) wish(r *request) (any, error) {
	n, err := a.admitted(r)
	if err != nil {
		return nil, err
	}
	in, err := decode[api.Wish](r)
	if err != nil {
		return nil, err
	}
	return nil, a.cfg.Appraiser.Wish(r.Context(), r.namespace, n, in.Event)
}
