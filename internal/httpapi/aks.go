package httpapi

import (
	"slices"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/rats"
)

// shown is a node as the caller may see it: relying parties see nothing that tells its hardware elsewhere (R117).
func (r *request) shown(n api.Node) api.Node {
	if r.principal.Kind == Admin {
		return n
	}
	return identity.ForReaders(n)
}

func (r *request) shownResult(v api.ResultView) api.ResultView {
	if r.principal.Kind != Admin {
		v.Reasons = identity.ReasonsForReaders(v.Reasons)
		v.Keys = slices.DeleteFunc(slices.Clone(v.Keys), func(k rats.BoundKey) bool { return k.Use == rats.KeyAK })
	}
	return v
}

func (a *API) akIssue(r *request) (any, error) {
	if _, err := a.admitted(r); err != nil {
		return nil, err
	}
	return a.cfg.Joiner.IssueAK(r.Context(), r.namespace, r.space, r.principal.Peer.Node)
}

func (a *API) akList(r *request) (any, error) {
	return a.cfg.Joiner.ListAKs(r.Context(), r.space)
}

func (a *API) akRevoke(r *request) (any, error) {
	return nil, a.cfg.Joiner.RevokeAK(r.Context(), r.space, r.principal.Actor(), r.PathValue("serial"))
}

func (a *API) akRevoked(r *request) (any, error) {
	der, err := a.cfg.Joiner.CRL(r.Context(), r.space)
	return raw{media: "application/pkix-crl", body: der}, err
}
