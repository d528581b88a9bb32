package httpapi

import (
	"context"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Secrets is what the API needs of a key broker (internal/broker).
type Secrets interface {
	Put(ctx context.Context, space store.Space, namespace, actor, name string, in api.SecretPut) (api.Secret, error)
	List(ctx context.Context, space store.Space) ([]api.Secret, error)
	Delete(ctx context.Context, space store.Space, actor, name string) error
	Release(ctx context.Context, space store.Space, namespace, node, name string) (api.Release, error)
}

// codeStale is the broker's word that the node must attest before a release (S42).
const codeStale rats.Code = "broker.result.stale"

func (a *API) secretList(r *request) (any, error) {
	l, err := a.cfg.Secrets.List(r.Context(), r.space)
	if l == nil {
		l = []api.Secret{}
	}
	return api.SecretList{Secrets: l}, err
}

func (a *API) secretPut(r *request) (any, error) {
	in, err := decode[api.SecretPut](r)
	defer clear(in.Value)
	if err != nil {
		return nil, err
	}
	return a.cfg.Secrets.Put(r.Context(), r.space, r.namespace, r.principal.Actor(), r.PathValue("name"), in)
}

func (a *API) secretDelete(r *request) (any, error) {
	return nil, a.cfg.Secrets.Delete(r.Context(), r.space, r.principal.Actor(), r.PathValue("name"))
}

// release hands a node a secret. If its result is too old, it is asked to attest at once and to try again.
func (a *API) release(r *request) (any, error) {
	n, err := a.admitted(r)
	if err != nil {
		return nil, err
	}
	out, err := a.cfg.Secrets.Release(r.Context(), r.space, r.namespace, n.ID, r.PathValue("name"))
	if reason, ok := rats.ReasonOf(err); ok && reason.Code == codeStale {
		a.cfg.Appraiser.Kick(r.namespace, n.ID, "release")
	}
	return out, err
}
