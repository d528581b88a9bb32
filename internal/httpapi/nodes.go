package httpapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/result"
)

// status derives a node's status, following its parents.
func (a *API) status(tx store.Tx, n store.Node) (node.Status, error) {
	return node.Resolve(tx.Nodes(), n, a.cfg.Now())
}

func (a *API) nodeView(tx store.Tx, namespace string, n store.Node) (api.Node, error) {
	s, err := a.status(tx, n)
	if err != nil {
		return api.Node{}, err
	}
	connected, err := a.cfg.Appraiser.Connected(tx, namespace, n.ID)
	if err != nil {
		return api.Node{}, err
	}
	v := api.Node{
		ID: n.ID, Name: n.Name, Kind: n.Kind, Parent: n.Parent, Labels: n.Labels, Enrolment: n.Enrolment,
		Connected: connected, State: s.State, Verdict: s.Verdict.Word, Since: s.Since,
		ValidUntil: s.ValidUntil, LastResult: n.Last, LastAt: n.LastAt, Reasons: s.Why, EK: identity.EKOf(n), Marks: n.Marks, CreatedAt: n.CreatedAt,
		Withheld: n.Withheld,
	}
	if q := n.Quarantine; q != nil {
		v.Quarantine = &api.Quarantine{At: q.At, By: q.By, Why: q.Why}
	}
	return v, nil
}

// nodeDetail adds what the last result and the policy in force say.
func (a *API) nodeDetail(tx store.Tx, view *refs.View, namespace string, n store.Node) (api.Node, error) {
	v, err := a.nodeView(tx, namespace, n)
	if err != nil {
		return v, err
	}
	active, why := view.Active(appraiser.NodeFacts(n))
	if len(why) > 0 {
		v.Reasons = append(v.Reasons, why...)
	} else {
		v.Policy = &active.Ref
	}
	if n.Last == "" {
		return v, nil
	}
	rec, err := tx.Records().Get(n.Last)
	if err != nil {
		return v, fmt.Errorf("reading the last result: %w", err)
	}
	v.Reasons = append(v.Reasons, rec.Result.Reasons...)
	for f, p := range rec.Result.Parts {
		if len(p.Highlights) > 0 {
			if v.Highlights == nil {
				v.Highlights = make(map[rats.Format][]rats.Highlight)
			}
			v.Highlights[f] = p.Highlights
		}
	}
	return v, nil
}

func (a *API) nodeList(r *request) (any, error) {
	limit, err := r.number("limit", 1, 1000, 200)
	if err != nil {
		return nil, err
	}
	out := api.NodeList{Nodes: []api.Node{}}
	err = r.view(func(tx store.Tx) error {
		nodes, err := tx.Nodes().List(r.URL.Query().Get("after"), int(limit)+1)
		if err != nil {
			return err
		}
		if len(nodes) > int(limit) {
			nodes = nodes[:limit]
			out.Next = nodes[limit-1].Name
		}
		for _, n := range nodes {
			v, err := a.nodeView(tx, r.namespace, n)
			if err != nil {
				return err
			}
			out.Nodes = append(out.Nodes, r.shown(v))
		}
		return nil
	})
	return out, err
}

func (a *API) nodeGet(r *request) (any, error) {
	view, err := a.cfg.Refs.Fresh(r.Context(), r.space, r.namespace)
	if err != nil {
		return nil, err
	}
	var out api.Node
	err = r.view(func(tx store.Tx) error {
		n, err := r.node(tx)
		if err != nil {
			return err
		}
		out, err = a.nodeDetail(tx, view, r.namespace, n)
		out = r.shown(out)
		return err
	})
	return out, err
}

// find returns the node a request names.
func (a *API) find(r *request) (store.Node, error) {
	var n store.Node
	err := r.view(func(tx store.Tx) (err error) {
		n, err = r.node(tx)
		return err
	})
	return n, err
}

func (a *API) nodeDelete(r *request) (any, error) {
	n, err := a.find(r)
	if err != nil {
		return nil, err
	}
	err = r.space.Update(r.Context(), func(tx store.Tx) error {
		n, err := tx.Nodes().Get(n.ID)
		if err != nil {
			return err
		}
		if err := a.cfg.Joiner.Forget(tx, n); err != nil {
			return err
		}
		if err := tx.Nodes().Delete(n.ID); err != nil {
			return err
		}
		subject := rats.Subject(rats.SubjectNode, n.ID)
		if _, err := tx.Events().Append(store.Event{At: a.cfg.Now(), Kind: "node.deleted", Subject: subject}); err != nil {
			return err
		}
		_, err = tx.Audit().Append(store.AuditEntry{At: a.cfg.Now(), Actor: r.principal.Actor(), Verb: "node.delete", Object: subject})
		return err
	})
	a.cfg.Appraiser.Drop(r.namespace, n.ID, appraiser.CodeNodeUnknown.Refuse("node", "a node", "one that was deleted"))
	return nil, err
}

func (a *API) nodeApprove(r *request) (any, error) {
	n, err := a.find(r)
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Joiner.Approve(r.Context(), r.space, r.principal.Actor(), n.ID); err != nil {
		return nil, err
	}
	a.cfg.Appraiser.Kick(r.Context(), r.namespace, n.ID, "approved")
	return a.nodeGet(r)
}

func (a *API) nodeRevoke(r *request) (any, error) {
	n, err := a.find(r)
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Joiner.Revoke(r.Context(), r.space, r.principal.Actor(), n.ID); err != nil {
		return nil, err
	}
	a.cfg.Appraiser.Drop(r.namespace, n.ID, node.CodeEnrolmentRevoked.Refuse("node", "an approved node", "a revoked one"))
	return a.nodeGet(r)
}

func (a *API) nodeAttest(r *request) (any, error) {
	in, err := decode[api.AttestRequest](r)
	if err != nil {
		return nil, err
	}
	timeout, err := duration("timeout", in.Timeout, time.Second, 2*time.Minute, 30*time.Second)
	if err != nil {
		return nil, err
	}
	n, err := a.find(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	id, err := a.cfg.Appraiser.Attest(ctx, r.namespace, n.ID, "asked")
	if err != nil {
		return nil, err
	}
	return a.resultView(r, id, false)
}

func (a *API) nodeStatus(r *request) (any, error) {
	var out api.Status
	err := r.view(func(tx store.Tx) error {
		n, err := r.node(tx)
		if err != nil {
			return err
		}
		s, err := a.status(tx, n)
		if err != nil {
			return err
		}
		out = api.Status{
			Node: n.ID, Name: n.Name, State: s.State, Verdict: s.Verdict.Word, Since: s.Since,
			ValidUntil: s.ValidUntil, At: a.cfg.Now().UTC(),
		}
		return nil
	})
	return out, err
}

func (a *API) nodeResults(r *request) (any, error) {
	limit, err := r.number("limit", 1, 1000, 20)
	if err != nil {
		return nil, err
	}
	out := api.ResultList{Results: []api.ResultView{}}
	err = r.view(func(tx store.Tx) error {
		n, err := r.node(tx)
		if err != nil {
			return err
		}
		records, err := tx.Records().Latest(rats.Subject(rats.SubjectNode, n.ID), int(limit))
		if err != nil {
			return err
		}
		for _, rec := range records {
			out.Results = append(out.Results, r.shownResult(a.viewOf(rec, n.Name)))
		}
		return nil
	})
	return out, err
}

func (a *API) viewOf(rec store.Record, name string) api.ResultView {
	v := rec.Result.Verdict(a.cfg.Now())
	return api.ResultView{
		Result: rec.Result, Verdict: rats.VerdictOf(rec.Result.Tier, false).Word, State: v.State, Node: name,
		Formats: slices.Sorted(maps.Keys(rec.Evidence)),
	}
}

func (a *API) resultGet(r *request) (any, error) {
	claims := r.URL.Query().Get("claims") == "true"
	if claims && r.principal.Kind != Admin { // they name the hardware (R117)
		return nil, CodeAccessDenied.Bad("result.claims", fmt.Sprint(admins), r.principal.Actor())
	}
	return a.resultView(r, r.PathValue("id"), claims)
}

func (a *API) resultView(r *request, id string, claims bool) (api.ResultView, error) {
	var out api.ResultView
	err := r.view(func(tx store.Tx) error {
		rec, err := tx.Records().Get(id)
		if err != nil {
			return err
		}
		name := ""
		if kind, nodeID, err := rats.ParseSubject(rec.Result.Subject); err == nil && kind == rats.SubjectNode {
			if n, err := tx.Nodes().Get(nodeID); err == nil {
				name = n.Name
			}
		}
		out = r.shownResult(a.viewOf(rec, name))
		if !claims {
			return nil
		}
		out.Claims = map[rats.Format][]byte{}
		for f, d := range rec.Claims {
			if out.Claims[f], err = rec.Piece(tx, d); err != nil {
				return fmt.Errorf("reading claims: %w", err)
			}
		}
		return nil
	})
	return out, err
}

// maxEAR bounds a signed result's life (S43).
const maxEAR = 5 * time.Minute

func (a *API) nodeEAR(r *request) (any, error) {
	aud := r.URL.Query().Get("aud")
	if aud == "" || len(aud) > 512 {
		return nil, CodeParameter.Bad("aud", "the relying party the result is for", clip(aud))
	}
	var res rats.Result
	var st node.Status
	err := r.view(func(tx store.Tx) error {
		n, err := r.node(tx)
		if err != nil {
			return err
		}
		if st, err = a.status(tx, n); err != nil || n.Last == "" {
			return err
		}
		rec, err := tx.Records().Get(n.Last)
		res = rec.Result
		return err
	})
	if err != nil {
		return nil, err
	}
	now := a.cfg.Now()
	if rats.Worse(st.Verdict.Tier, res.Tier) != res.Tier {
		res.Tier = st.Verdict.Tier // a reboot, a revocation or an untrusted parent outranks the last result
		res.Reasons = append(slices.Clone(res.Reasons), st.Why...)
	}
	text, err := result.Sign(res, a.cfg.Keys.Verifier(), result.SignOptions{
		Issuer: a.cfg.Issuer, Audience: aud, Now: now, TTL: maxEAR, Rand: a.cfg.Rand, Build: a.cfg.Version,
	})
	expires := now.Add(maxEAR)
	if !res.Expires.IsZero() && res.Expires.Before(expires) {
		expires = res.Expires
	}
	return api.EAR{EAR: text, Expires: expires.UTC()}, err
}
