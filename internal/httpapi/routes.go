package httpapi

import (
	"net/http"
	"time"

	"github.com/assay-attest/assay/api"
)

// Route is one row of the table of everything the API does.
type Route struct {
	Method  string
	Pattern string // of net/http's ServeMux; {ns} is the namespace
	Verb    string // what authorize is asked
	Who     []Kind // who may call it at all; empty: nobody
	Summary string
	In, Out any           // shapes for the OpenAPI file; nil: none
	Media   string        // of the request's body, if not JSON
	Body    int64         // bytes of a request's body, at most
	Time    time.Duration // for the whole request; zero: a stream without end
	handle  func(*API, *request) (any, error)
}

const (
	kib        = 1 << 10
	mib        = 1 << 20
	smallBody  = 64 * kib
	secretBody = 128 * kib
	policyBody = 1 * mib
	setBody    = 256 * mib
	// evidenceBody bounds a submission: a report of 100,000 files is about 12 MiB, half as much again in base64.
	evidenceBody = 48 * mib

	shortTime = 30 * time.Second
	longTime  = 3 * time.Minute
)

var (
	anybody = []Kind{Anonymous, NodeAgent, Reader, Admin}
	agents  = []Kind{NodeAgent}
	readers = []Kind{Reader, Admin}
	admins  = []Kind{Admin}
)

const ns = "/v1/namespaces/{ns}"

var notFound = Route{Verb: "public.none", Who: anybody, Time: shortTime, handle: (*API).noRoute}

// Routes returns the table.
func Routes() []Route {
	var all []Route
	for _, group := range [][]Route{publicRoutes, joinRoutes, agentRoutes, nodeRoutes, documentRoutes, secretRoutes, streamRoutes, hookRoutes} {
		all = append(all, group...)
	}
	return all
}

var publicRoutes = []Route{
	{Method: http.MethodGet, Pattern: "/healthz", Verb: "public.health", Who: anybody, Time: shortTime,
		Summary: "Whether the server and its database answer", handle: (*API).health},
	{Method: http.MethodGet, Pattern: "/v1/version", Verb: "public.version", Who: anybody, Time: shortTime, Out: api.Version{},
		Summary: "Version, protocol, verifier id and the server's clock", handle: (*API).version},
	{Method: http.MethodGet, Pattern: "/v1/ca", Verb: "public.ca", Who: anybody, Time: shortTime,
		Summary: "The pinned CA certificates, PEM", handle: (*API).ca},
	{Method: http.MethodGet, Pattern: "/v1/openapi.json", Verb: "public.openapi", Who: anybody, Time: shortTime,
		Summary: "This description", handle: (*API).openapi},
	{Method: http.MethodGet, Pattern: "/.well-known/jwks.json", Verb: "public.jwks", Who: anybody, Time: shortTime,
		Summary: "The keys that sign attestation results (RFC 7517)", handle: (*API).jwks},
	{Method: http.MethodGet, Pattern: "/.well-known/openid-configuration", Verb: "public.discovery", Who: anybody, Time: shortTime,
		Summary: "OpenID Connect discovery of the result issuer", handle: (*API).discovery},
	{Method: http.MethodGet, Pattern: "/metrics", Verb: "metrics.read", Who: readers, Time: shortTime,
		Summary: "Prometheus metrics", handle: (*API).metricsPage},
}

var joinRoutes = []Route{
	{Method: http.MethodPost, Pattern: ns + "/join", Verb: "join.begin", Who: anybody, Body: smallBody, Time: shortTime,
		In: api.JoinRequest{}, Out: api.JoinChallenge{}, Summary: "Join with a one-time token, first step", handle: (*API).joinBegin},
	{Method: http.MethodPost, Pattern: ns + "/join/finish", Verb: "join.finish", Who: anybody, Body: smallBody, Time: shortTime,
		In: api.JoinFinish{}, Out: api.Joined{}, Summary: "Join, second step: the credential was activated", handle: (*API).joinFinish},
	{Method: http.MethodPost, Pattern: ns + "/join-tokens", Verb: "token.create", Who: admins, Body: smallBody, Time: shortTime,
		In: api.TokenRequest{}, Out: api.Token{}, Summary: "Make a join token", handle: (*API).tokenCreate},
	{Method: http.MethodGet, Pattern: ns + "/join-tokens", Verb: "token.read", Who: admins, Time: shortTime,
		Out: tokenList{}, Summary: "List join tokens", handle: (*API).tokenList},
	{Method: http.MethodDelete, Pattern: ns + "/join-tokens/{id}", Verb: "token.delete", Who: admins, Time: shortTime,
		Summary: "Delete a join token", handle: (*API).tokenDelete},
}

var agentRoutes = []Route{
	{Method: http.MethodGet, Pattern: ns + "/nodes/{node}/stream", Verb: "node.stream", Who: agents,
		Summary: "The agent's stream of challenges (server-sent events)", handle: (*API).stream},
	{Method: http.MethodPost, Pattern: ns + "/nodes/{node}/evidence", Verb: "node.evidence", Who: agents, Body: evidenceBody, Time: longTime,
		In: api.Submission{}, Out: api.Answer{}, Summary: "Answer a challenge", handle: (*API).evidence},
	{Method: http.MethodPost, Pattern: ns + "/nodes/{node}/secrets/{name...}", Verb: "node.secret", Who: agents, Body: smallBody, Time: shortTime,
		Out: api.Release{}, Summary: "Release a secret to the node", handle: (*API).release},
	{Method: http.MethodPost, Pattern: ns + "/nodes/{node}/certificate", Verb: "node.certificate", Who: agents, Body: smallBody, Time: shortTime,
		In: api.CertificateRequest{}, Out: api.Certificate{}, Summary: "Renew the node's certificate", handle: (*API).renew},
	{Method: http.MethodPost, Pattern: ns + "/nodes/{node}/ak-certificate", Verb: "node.ak", Who: agents, Body: smallBody, Time: shortTime,
		Out: api.AKCertificate{}, Summary: "A certificate for the node's attestation key", handle: (*API).akIssue},
}

var nodeRoutes = []Route{
	{Method: http.MethodGet, Pattern: ns + "/nodes", Verb: "node.list", Who: readers, Time: shortTime,
		Out: api.NodeList{}, Summary: "List nodes (after, limit)", handle: (*API).nodeList},
	{Method: http.MethodGet, Pattern: ns + "/nodes/{node}", Verb: "node.read", Who: readers, Time: shortTime,
		Out: api.Node{}, Summary: "One node, by id or name", handle: (*API).nodeGet},
	{Method: http.MethodDelete, Pattern: ns + "/nodes/{node}", Verb: "node.delete", Who: admins, Time: shortTime,
		Summary: "Delete a node", handle: (*API).nodeDelete},
	{Method: http.MethodPost, Pattern: ns + "/nodes/{node}/approve", Verb: "node.approve", Who: admins, Body: smallBody, Time: shortTime,
		Out: api.Node{}, Summary: "Vouch for a pending node's TPM", handle: (*API).nodeApprove},
	{Method: http.MethodPost, Pattern: ns + "/nodes/{node}/revoke", Verb: "node.revoke", Who: admins, Body: smallBody, Time: shortTime,
		Out: api.Node{}, Summary: "Revoke a node's credential", handle: (*API).nodeRevoke},
	{Method: http.MethodPost, Pattern: ns + "/nodes/{node}/attest", Verb: "node.attest", Who: admins, Body: smallBody, Time: longTime,
		In: api.AttestRequest{}, Out: api.ResultView{}, Summary: "Challenge a node now and wait for its result", handle: (*API).nodeAttest},
	{Method: http.MethodGet, Pattern: ns + "/nodes/{node}/status", Verb: "status.read", Who: readers, Time: shortTime,
		Out: api.Status{}, Summary: "Is it trusted now?", handle: (*API).nodeStatus},
	{Method: http.MethodGet, Pattern: ns + "/nodes/{node}/results", Verb: "result.read", Who: readers, Time: shortTime,
		Out: api.ResultList{}, Summary: "A node's results, newest first (limit)", handle: (*API).nodeResults},
	{Method: http.MethodGet, Pattern: ns + "/nodes/{node}/ear", Verb: "ear.read", Who: readers, Time: shortTime,
		Out: api.EAR{}, Summary: "The current result as a signed EAR for an audience (aud)", handle: (*API).nodeEAR},
	{Method: http.MethodGet, Pattern: ns + "/results/{id}", Verb: "result.read", Who: readers, Time: shortTime,
		Out: api.ResultView{}, Summary: "One result (claims=true: with claims, for administrators)", handle: (*API).resultGet},
	{Method: http.MethodGet, Pattern: ns + "/ak-certificates", Verb: "ak.read", Who: admins, Time: shortTime,
		Out: api.AKCertificateList{}, Summary: "List certificates of attestation keys, and those that were revoked", handle: (*API).akList},
	{Method: http.MethodDelete, Pattern: ns + "/ak-certificates/{serial}", Verb: "ak.revoke", Who: admins, Time: shortTime,
		Summary: "Revoke a certificate of an attestation key", handle: (*API).akRevoke},
	{Method: http.MethodGet, Pattern: ns + "/ak.crl", Verb: "public.ak-crl", Who: anybody, Time: shortTime,
		Summary: "The revoked certificates of attestation keys (RFC 5280 CRL, DER)", handle: (*API).akRevoked},
}

var documentRoutes = []Route{
	{Method: http.MethodPost, Pattern: ns + "/policy-lint", Verb: "policy.lint", Who: readers, Body: policyBody, Time: shortTime,
		Media: api.TypePolicy, Out: api.Lint{}, Summary: "Check a policy; nothing is stored", handle: (*API).policyLint},
	{Method: http.MethodGet, Pattern: ns + "/policies", Verb: "policy.read", Who: readers, Time: shortTime,
		Out: api.PolicyList{}, Summary: "List policies", handle: (*API).policyList},
	{Method: http.MethodPut, Pattern: ns + "/policies/{name}", Verb: "policy.apply", Who: admins, Body: policyBody, Time: shortTime,
		Media: api.TypePolicy, Out: api.Policy{}, Summary: "Put a policy in force", handle: (*API).policyPut},
	{Method: http.MethodGet, Pattern: ns + "/policies/{name}", Verb: "policy.read", Who: readers, Time: shortTime,
		Out: api.Policy{}, Summary: "One policy", handle: (*API).policyGet},
	{Method: http.MethodGet, Pattern: ns + "/policies/{name}/document", Verb: "policy.read", Who: readers, Time: shortTime,
		Summary: "The policy's bytes as received (version)", handle: (*API).policyDocument},
	{Method: http.MethodDelete, Pattern: ns + "/policies/{name}", Verb: "policy.delete", Who: admins, Time: shortTime,
		Summary: "Take a policy out of force", handle: (*API).policyDelete},
	{Method: http.MethodGet, Pattern: ns + "/refsets", Verb: "refset.read", Who: readers, Time: shortTime,
		Out: api.RefSetList{}, Summary: "List reference sets", handle: (*API).setList},
	{Method: http.MethodPut, Pattern: ns + "/refsets/{name}", Verb: "refset.put", Who: admins, Body: setBody, Time: longTime,
		Media: "application/json", Out: api.RefSet{}, Summary: "Put a reference set in force", handle: (*API).setPut},
	{Method: http.MethodGet, Pattern: ns + "/refsets/{name}", Verb: "refset.read", Who: readers, Time: shortTime,
		Out: api.RefSet{}, Summary: "One reference set", handle: (*API).setGet},
	{Method: http.MethodGet, Pattern: ns + "/refsets/{name}/document", Verb: "refset.read", Who: readers, Time: longTime,
		Summary: "The set's bytes as received (version)", handle: (*API).setDocument},
	{Method: http.MethodDelete, Pattern: ns + "/refsets/{name}", Verb: "refset.delete", Who: admins, Time: shortTime,
		Summary: "Take a reference set out of force", handle: (*API).setDelete},
}

var secretRoutes = []Route{
	{Method: http.MethodGet, Pattern: ns + "/secrets", Verb: "secret.list", Who: admins, Time: shortTime,
		Out: api.SecretList{}, Summary: "List secrets, never their values", handle: (*API).secretList},
	{Method: http.MethodPut, Pattern: ns + "/secrets/{name...}", Verb: "secret.put", Who: admins, Body: secretBody, Time: shortTime,
		In: api.SecretPut{}, Out: api.Secret{}, Summary: "Store a secret with its release rule", handle: (*API).secretPut},
	{Method: http.MethodDelete, Pattern: ns + "/secrets/{name...}", Verb: "secret.delete", Who: admins, Time: shortTime,
		Summary: "Delete a secret for good", handle: (*API).secretDelete},
}

var streamRoutes = []Route{
	{Method: http.MethodGet, Pattern: ns + "/events", Verb: "event.read", Who: readers,
		Summary: "Events as they happen (server-sent events; after, or Last-Event-ID; kind, node, severity)", handle: (*API).events},
	{Method: http.MethodGet, Pattern: ns + "/audit", Verb: "audit.read", Who: readers, Time: shortTime,
		Out: api.AuditList{}, Summary: "The audit log (after, limit)", handle: (*API).auditList},
}
