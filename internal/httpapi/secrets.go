package httpapi

import (
	"errors"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/broker"
	"github.com/assay-attest/assay/rats"
)

func (a *API) secretList(r *request) (any, error) {
	l, err := a.cfg.Broker.List(r.Context(), r.space)
	return api.SecretList{Secrets: append([]api.Secret{}, l...)}, err
}

func (a *API) secretPut(r *request) (any, error) {
	in, err := decode[api.SecretPut](r)
	defer clear(in.Value)
	if err != nil {
		return nil, err
	}
	return a.cfg.Broker.Put(r.Context(), r.space, r.namespace, r.principal.Actor(), r.PathValue("name"), in)
}

func (a *API) secretDelete(r *request) (any, error) {
	return nil, a.cfg.Broker.Delete(r.Context(), r.space, r.principal.Actor(), r.PathValue("name"))
}

// release hands a node a secret. If its result is too old, it is asked to attest at once and to try again.
func (a *API) release(r *request) (any, error) {
	n, err := a.admitted(r)
	if err != nil {
		return nil, err
	}
	view, err := a.cfg.Refs.Fresh(r.Context(), r.space, r.namespace)
	if err != nil {
		return nil, err
	}
	out, err := a.cfg.Broker.Release(r.Context(), r.space, broker.ReleaseRequest{
		Namespace: r.namespace, Node: n.ID, Name: r.PathValue("name"), Requester: r.principal.Peer.TLSKey, Epoch: view.Epoch,
	})
	if broker.AttestFirst(err) {
		a.cfg.Appraiser.Kick(r.Context(), r.namespace, n.ID, "release")
	}
	var refusal *broker.Refusal
	if errors.As(err, &refusal) {
		told := refusal.Told()
		return nil, &toldRefusal{code: told, reference: refusal.Reference, err: err}
	}
	return out, err
}

// toldRefusal is a refusal whose reason the caller may not know: it gets another code and the reference under which the
// owner finds the rest (S45).
type toldRefusal struct {
	code      rats.CodeInfo
	reference string
	err       error
}

func (e *toldRefusal) Error() string { return e.err.Error() }

func (e *toldRefusal) Unwrap() error { return &rats.BadEvidence{Reason: e.code.Refuse("", "", "")} }
