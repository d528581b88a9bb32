package httpapi

import (
	"bytes"
	"encoding/pem"
	"net/http"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/result"
)

func (a *API) noRoute(r *request) (any, error) {
	return nil, CodeNotFound.Bad(r.URL.Path, "a path of /v1/openapi.json", r.Method+" "+clip(r.URL.Path))
}

func (a *API) health(r *request) (any, error) {
	if _, err := a.cfg.Store.Namespaces(r.Context()); err != nil {
		a.cfg.Log.Error("health", "error", err)
		return nil, CodeUnavailable.Missing("database", "an answer", "none")
	}
	return map[string]string{"status": "ok"}, nil
}

func (a *API) version(*request) (any, error) {
	return api.Version{Version: a.cfg.Version, Protocol: api.Protocol, Verifier: a.cfg.Keys.VerifierID(), Time: a.cfg.Now().UTC()}, nil
}

func (a *API) ca(*request) (any, error) {
	var b bytes.Buffer
	for _, der := range a.cfg.Pins.DER() {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, err
		}
	}
	return raw{media: "application/x-pem-file", body: b.Bytes()}, nil
}

func (a *API) openapi(*request) (any, error) {
	return raw{media: "application/json", body: a.openAPI}, nil
}

func (a *API) jwks(*request) (any, error) {
	b, err := result.JWKS(a.cfg.Keys.Verifier().Public())
	return raw{media: "application/jwk-set+json", body: b}, err
}

func (a *API) discovery(*request) (any, error) {
	b, err := result.Discovery(a.cfg.Issuer)
	return raw{media: "application/json", body: b}, err
}

// node finds a node by id or name.
func (r *request) node(tx store.Tx) (store.Node, error) { return findNode(tx, r.PathValue("node")) }

func findNode(tx store.Tx, key string) (store.Node, error) {
	n, err := tx.Nodes().Get(key)
	if err == nil {
		return n, nil
	}
	n, err = tx.Nodes().ByName(key)
	if err != nil {
		return n, nodeError(err, key)
	}
	return n, nil
}

var _ http.Handler = (*API)(nil)
