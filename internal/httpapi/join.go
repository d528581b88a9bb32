package httpapi

import (
	"github.com/assay-attest/assay/api"
)

type tokenList struct {
	Tokens []api.Token `json:"tokens"`
}

func (a *API) joinBegin(r *request) (any, error) {
	in, err := decode[api.JoinRequest](r)
	if err != nil {
		return nil, err
	}
	return a.cfg.Joiner.Begin(r.Context(), r.namespace, r.space, in)
}

func (a *API) joinFinish(r *request) (any, error) {
	in, err := decode[api.JoinFinish](r)
	if err != nil {
		return nil, err
	}
	return a.cfg.Joiner.Finish(r.Context(), r.namespace, r.space, in)
}

func (a *API) tokenCreate(r *request) (any, error) {
	in, err := decode[api.TokenRequest](r)
	if err != nil {
		return nil, err
	}
	return a.cfg.Joiner.CreateToken(r.Context(), r.namespace, r.space, r.principal.Actor(), in)
}

func (a *API) tokenList(r *request) (any, error) {
	l, err := a.cfg.Joiner.ListTokens(r.Context(), r.space)
	return tokenList{Tokens: l}, err
}

func (a *API) tokenDelete(r *request) (any, error) {
	return nil, a.cfg.Joiner.DeleteToken(r.Context(), r.space, r.principal.Actor(), r.PathValue("id"))
}
