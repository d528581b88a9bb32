package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/assay-attest/assay/api"
)

// Version tells the server's version, protocol, verifier and clock: GET /v1/version.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	return call[api.Version](ctx, c, http.MethodGet, "/v1/version", nil, nil)
}

// Health is nil if the server is able to serve: GET /healthz.
func (c *Client) Health(ctx context.Context) error { return c.drop(ctx, http.MethodGet, "/healthz") }

// Metrics returns the server's metrics in the text form of Prometheus: GET /metrics.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, request{method: http.MethodGet, path: "/metrics", accept: "text/plain"}, maxAnswer)
}

// CreateToken makes a join token; it is told only in this answer.
func (c *Client) CreateToken(ctx context.Context, r api.TokenRequest) (api.Token, error) {
	return call[api.Token](ctx, c, http.MethodPost, c.path("join-tokens"), nil, r)
}

// TokenList is the answer of GET …/join-tokens.
type TokenList struct {
	Tokens []api.Token `json:"tokens"`
}

// ListTokens lists join tokens, without their secrets.
func (c *Client) ListTokens(ctx context.Context) ([]api.Token, error) {
	l, err := call[TokenList](ctx, c, http.MethodGet, c.path("join-tokens"), nil, nil)
	return l.Tokens, err
}

// DeleteToken makes a join token unusable.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	return c.drop(ctx, http.MethodDelete, c.path("join-tokens", id))
}

// ListNodes lists nodes by name, after a name (empty: from the first), at most limit (0: the server's own limit).
func (c *Client) ListNodes(ctx context.Context, after string, limit int) (api.NodeList, error) {
	return call[api.NodeList](ctx, c, http.MethodGet, c.path("nodes"), page(after, limit), nil)
}

// GetNode returns a node by id or name.
func (c *Client) GetNode(ctx context.Context, node string) (api.Node, error) {
	return call[api.Node](ctx, c, http.MethodGet, c.path("nodes", node), nil, nil)
}

// ApproveNode ends a node's pending enrolment.
func (c *Client) ApproveNode(ctx context.Context, node string) (api.Node, error) {
	return call[api.Node](ctx, c, http.MethodPost, c.path("nodes", node, "approve"), nil, nil)
}

// RevokeNode withdraws a node's enrolment: its certificate opens nothing any more.
func (c *Client) RevokeNode(ctx context.Context, node string) (api.Node, error) {
	return call[api.Node](ctx, c, http.MethodPost, c.path("nodes", node, "revoke"), nil, nil)
}

// DeleteNode removes a node.
func (c *Client) DeleteNode(ctx context.Context, node string) error {
	return c.drop(ctx, http.MethodDelete, c.path("nodes", node))
}

// Attest challenges a node now and waits for its result, for at most timeout (0: the server's default).
func (c *Client) Attest(ctx context.Context, node string, timeout time.Duration) (api.ResultView, error) {
	r := api.AttestRequest{}
	wait := 2 * time.Minute
	if timeout > 0 {
		r.Timeout, wait = timeout.String(), timeout
	}
	// The server's own time-out comes first: its answer says more than ours.
	ctx, cancel := context.WithTimeout(ctx, wait+connectTimeout)
	defer cancel()
	return call[api.ResultView](ctx, c, http.MethodPost, c.path("nodes", node, "attest"), nil, r)
}

// Status says whether a node is trusted now.
func (c *Client) Status(ctx context.Context, node string) (api.Status, error) {
	return call[api.Status](ctx, c, http.MethodGet, c.path("nodes", node, "status"), nil, nil)
}

// Results returns a node's newest results, newest first.
func (c *Client) Results(ctx context.Context, node string, limit int) ([]api.ResultView, error) {
	l, err := call[api.ResultList](ctx, c, http.MethodGet, c.path("nodes", node, "results"), page("", limit), nil)
	return l.Results, err
}

// Result returns one result.
func (c *Client) Result(ctx context.Context, id string) (api.ResultView, error) {
	return call[api.ResultView](ctx, c, http.MethodGet, c.path("results", id), nil, nil)
}

// ResultClaims returns one result with the claims of its formats.
func (c *Client) ResultClaims(ctx context.Context, id string) (api.ResultView, error) {
	return call[api.ResultView](ctx, c, http.MethodGet, c.path("results", id), url.Values{"claims": {"true"}}, nil)
}

// EAR returns a node's current result, signed for an audience (empty: none).
func (c *Client) EAR(ctx context.Context, node, audience string) (api.EAR, error) {
	q := url.Values{}
	if audience != "" {
		q.Set("aud", audience)
	}
	return call[api.EAR](ctx, c, http.MethodGet, c.path("nodes", node, "ear"), q, nil)
}

// PutPolicy stores a policy document (YAML) as the newest version of name.
func (c *Client) PutPolicy(ctx context.Context, name string, document []byte) (api.Policy, error) {
	return put[api.Policy](ctx, c, http.MethodPut, c.path("policies", name), api.TypePolicy, document)
}

// LintPolicy judges a policy document; nothing is stored.
func (c *Client) LintPolicy(ctx context.Context, document []byte) (api.Lint, error) {
	return put[api.Lint](ctx, c, http.MethodPost, c.path("policy-lint"), api.TypePolicy, document)
}

// ListPolicies lists the newest version of every policy.
func (c *Client) ListPolicies(ctx context.Context) ([]api.Policy, error) {
	l, err := call[api.PolicyList](ctx, c, http.MethodGet, c.path("policies"), nil, nil)
	return l.Policies, err
}

// GetPolicy describes the newest version of a policy.
func (c *Client) GetPolicy(ctx context.Context, name string) (api.Policy, error) {
	return call[api.Policy](ctx, c, http.MethodGet, c.path("policies", name), nil, nil)
}

// PolicyDocument returns a policy's document as it was put; version 0 is the newest.
func (c *Client) PolicyDocument(ctx context.Context, name string, version int64) ([]byte, error) {
	return c.document(ctx, c.path("policies", name, "document"), version)
}

// DeletePolicy removes a policy.
func (c *Client) DeletePolicy(ctx context.Context, name string) error {
	return c.drop(ctx, http.MethodDelete, c.path("policies", name))
}

// PutRefSet stores a reference set (native form, package refvalue) as the newest version of name.
func (c *Client) PutRefSet(ctx context.Context, name string, document []byte) (api.RefSet, error) {
	return put[api.RefSet](ctx, c, http.MethodPut, c.path("refsets", name), "application/json", document)
}

// ListRefSets lists the newest version of every reference set.
func (c *Client) ListRefSets(ctx context.Context) ([]api.RefSet, error) {
	l, err := call[api.RefSetList](ctx, c, http.MethodGet, c.path("refsets"), nil, nil)
	return l.RefSets, err
}

// GetRefSet describes the newest version of a reference set.
func (c *Client) GetRefSet(ctx context.Context, name string) (api.RefSet, error) {
	return call[api.RefSet](ctx, c, http.MethodGet, c.path("refsets", name), nil, nil)
}

// RefSetDocument returns a reference set as it was put; version 0 is the newest.
func (c *Client) RefSetDocument(ctx context.Context, name string, version int64) ([]byte, error) {
	return c.document(ctx, c.path("refsets", name, "document"), version)
}

// DeleteRefSet removes a reference set.
func (c *Client) DeleteRefSet(ctx context.Context, name string) error {
	return c.drop(ctx, http.MethodDelete, c.path("refsets", name))
}

// PutSecret stores a secret. The encoded call is wiped once it was sent; the value stays the caller's to wipe.
func (c *Client) PutSecret(ctx context.Context, name string, s api.SecretPut) (api.Secret, error) {
	return call[api.Secret](ctx, c, http.MethodPut, c.path("secrets", name), nil, s)
}

// ListSecrets lists secrets, without their values.
func (c *Client) ListSecrets(ctx context.Context) ([]api.Secret, error) {
	l, err := call[api.SecretList](ctx, c, http.MethodGet, c.path("secrets"), nil, nil)
	return l.Secrets, err
}

// DeleteSecret removes a secret.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.drop(ctx, http.MethodDelete, c.path("secrets", name))
}

// Audit returns entries of the audit log after a sequence number, oldest first.
func (c *Client) Audit(ctx context.Context, after int64, limit int) ([]api.AuditEntry, error) {
	l, err := call[api.AuditList](ctx, c, http.MethodGet, c.path("audit"), page(strconv.FormatInt(after, 10), limit), nil)
	return l.Entries, err
}

// put sends a document as it is.
func put[T any](ctx context.Context, c *Client, method, path, media string, document []byte) (T, error) {
	if document == nil {
		document = []byte{}
	}
	return decode[T](c.bytes(ctx, request{
		method: method, path: path, body: document, media: media, accept: "application/json",
	}, maxAnswer))
}

func (c *Client) document(ctx context.Context, path string, version int64) ([]byte, error) {
	q := url.Values{}
	if version > 0 {
		q.Set("version", strconv.FormatInt(version, 10))
	}
	return c.bytes(ctx, request{method: http.MethodGet, path: path, query: q, accept: "*/*"}, maxDocument)
}

func page(after string, limit int) url.Values {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return q
}

// ListAKCertificates lists the certificates of attestation keys that are good, and those that were revoked.
func (c *Client) ListAKCertificates(ctx context.Context) (api.AKCertificateList, error) {
	return call[api.AKCertificateList](ctx, c, http.MethodGet, c.path("ak-certificates"), nil, nil)
}

// RevokeAKCertificate revokes a certificate of an attestation key by its serial.
func (c *Client) RevokeAKCertificate(ctx context.Context, serial string) error {
	return c.drop(ctx, http.MethodDelete, c.path("ak-certificates", serial))
}

// AKRevocations returns the list of revoked certificates of attestation keys: a CRL in DER. It needs no credential.
func (c *Client) AKRevocations(ctx context.Context) ([]byte, error) {
	return c.document(ctx, c.path("ak.crl"), 0)
}
