// Package api holds the structs of the HTTP API, version 1, as they stand on the wire, the problem document, and the
// paths. Unknown fields in answers are ignored; digests are "alg:hex", times UTC RFC 3339, byte strings base64.
//
// Every path but /healthz, /metrics, /v1/version and /.well-known/… lies below /v1/namespaces/{namespace}.
package api

import (
	"net/url"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Protocol is the version of the exchange between agent and server. Both send it in HeaderProtocol; a server refuses
// one it doesn't speak.
const Protocol = "1"

// Headers and media types.
const (
	HeaderProtocol  = "Assay-Protocol"
	TypeProblem     = "application/problem+json"
	TypeEventStream = "text/event-stream"
	TypePolicy      = "application/yaml"
)

// Path returns the path of a resource in a namespace; the elements are escaped.
func Path(namespace string, elements ...string) string {
	p := "/v1/namespaces/" + url.PathEscape(namespace)
	for _, e := range elements {
		p += "/" + url.PathEscape(e)
	}
	return p
}

// Problem is an error answer (RFC 9457). Code is stable; Reasons are complete for owners, code and reference only for
// the judged node (S45).
type Problem struct {
	Type     string        `json:"type"` // "https://assay.dev/codes#<code>" is not fetched by anybody; it names the code
	Title    string        `json:"title"`
	Status   int           `json:"status"`
	Detail   string        `json:"detail,omitempty"`
	Code     rats.Code     `json:"code"`
	Path     string        `json:"path,omitempty"`
	Expected string        `json:"expected,omitempty"`
	Seen     string        `json:"seen,omitempty"`
	Hint     string        `json:"hint,omitempty"`
	Reasons  []rats.Reason `json:"reasons,omitempty"`
	Request  string        `json:"request,omitempty"` // id under which the server logged it
	RetryIn  string        `json:"retry_in,omitempty"`
}

// Version is the answer of GET /v1/version.
type Version struct {
	Version  string      `json:"version"`
	Protocol string      `json:"protocol"`
	Verifier rats.Digest `json:"verifier"` // SHA-256 of the verifier key's SubjectPublicKeyInfo
	Time     time.Time   `json:"time"`     // the server's clock: clients diagnose theirs by it
}

// ---- joining -------------------------------------------------------------------------------------------------------

// TokenRequest asks for a join token: POST …/join-tokens (admin).
type TokenRequest struct {
	Name   string            `json:"name,omitempty"`   // of the node; empty: the agent proposes its host name
	Kind   string            `json:"kind,omitempty"`   // host (default), vm, sandbox, enclave
	Parent string            `json:"parent,omitempty"` // name of the parent node
	Labels map[string]string `json:"labels,omitempty"`
	EK     rats.Digest       `json:"ek,omitzero"`   // SHA-256 of the one EK (TPMT_PUBLIC) that may use it
	TTL    string            `json:"ttl,omitempty"` // at most 1h (default)
	// Replace lets a TPM join that is a node already: that node is deleted.
	Replace bool `json:"replace,omitempty"`
}

// Token is a join token as told once (Secret set) or listed.
type Token struct {
	ID      string            `json:"id"`
	Token   string            `json:"token,omitempty"` // only in the answer to its creation
	Name    string            `json:"name,omitempty"`
	Kind    string            `json:"kind"`
	Labels  map[string]string `json:"labels,omitempty"`
	EK      rats.Digest       `json:"ek,omitzero"`
	Replace bool              `json:"replace,omitempty"`
	Expires time.Time         `json:"expires"`
	UsedAt  time.Time         `json:"used_at,omitzero"`
	UsedBy  string            `json:"used_by,omitempty"`
}

// JoinRequest is the first step of joining: POST …/join. The caller has no certificate yet.
type JoinRequest struct {
	Token  string `json:"token"`
	Name   string `json:"name,omitempty"`    // proposal, if the token names none
	EK     []byte `json:"ek"`                // TPM2B_PUBLIC
	EKCert []byte `json:"ek_cert,omitempty"` // DER, as found in NV
	AK     []byte `json:"ak"`                // TPM2B_PUBLIC
	TLSKey []byte `json:"tls_key"`           // SubjectPublicKeyInfo of the key the certificate is wanted for
	TLSTPM []byte `json:"tls_tpm"`           // TPM2B_PUBLIC of the same key
}

// JoinChallenge is the answer: a credential only the TPM with that EK can open for that AK (TPM 2.0 Part 1, 24).
type JoinChallenge struct {
	Continue   []byte `json:"continue"`   // to be sent back; authenticated by the server
	Credential []byte `json:"credential"` // TPM2B_ID_OBJECT
	Secret     []byte `json:"secret"`     // TPM2B_ENCRYPTED_SECRET
	Nonce      []byte `json:"nonce"`      // qualifying data of the certification of the TLS key by the AK
}

// JoinFinish is the second step: POST …/join/finish.
type JoinFinish struct {
	Request     JoinRequest `json:"request"` // as in the first step
	Continue    []byte      `json:"continue"`
	Activated   []byte      `json:"activated"`    // what ActivateCredential yielded
	CertifyInfo []byte      `json:"certify_info"` // TPMS_ATTEST of TPM2_Certify(TLS key, AK, nonce)
	CertifySig  []byte      `json:"certify_sig"`  // TPMT_SIGNATURE
}

// Joined is the answer: the node's identity.
type Joined struct {
	Node        string        `json:"node"`
	Name        string        `json:"name"`
	Namespace   string        `json:"namespace"`
	Enrolment   string        `json:"enrolment"`   // approved or pending
	Certificate []byte        `json:"certificate"` // DER, client certificate
	CAs         [][]byte      `json:"cas"`         // DER, the pinned set
	Verifier    rats.Digest   `json:"verifier"`
	PlanSigner  []byte        `json:"plan_signer"`       // SubjectPublicKeyInfo of the key whose plans are obeyed (S05)
	Reasons     []rats.Reason `json:"reasons,omitempty"` // why pending: code and hint
}

// CertificateRequest renews a node's certificate over its own connection: POST …/nodes/{node}/certificate.
type CertificateRequest struct {
	TLSKey []byte `json:"tls_key"` // must be the key the node joined with
}

// Certificate is the answer.
type Certificate struct {
	Certificate []byte   `json:"certificate"`
	CAs         [][]byte `json:"cas"`
}

// AKCertificate is a certificate of a node's attestation key: POST …/nodes/{node}/ak-certificate (the node). It doesn't show
// the endorsement key.
type AKCertificate struct {
	Node        string    `json:"node"`
	Serial      string    `json:"serial"` // hex
	Issued      time.Time `json:"issued"`
	Expires     time.Time `json:"expires"`
	Certificate []byte    `json:"certificate,omitempty"` // DER; not in lists
	CAs         [][]byte  `json:"cas,omitempty"`         // DER; not in lists
}

// RevokedAK is a certificate of an attestation key that was revoked before it ran out.
type RevokedAK struct {
	Serial  string    `json:"serial"`
	Node    string    `json:"node"`
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"` // of the certificate: then it leaves the list
	Why     string    `json:"why"`     // asked, deleted, revoked, replaced
}

// AKCertificateList is GET …/ak-certificates (admin).
type AKCertificateList struct {
	Certificates []AKCertificate `json:"certificates"`
	Revoked      []RevokedAK     `json:"revoked,omitempty"`
}

// ---- attestation ---------------------------------------------------------------------------------------------------

// Events on the agent's stream: GET …/nodes/{node}/stream (server-sent events; the event's name is one of these, its data
// the struct's JSON). The request carries HeaderInstance and, if known, HeaderBoot.
const (
	StreamChallenge = "challenge" // Challenge
	StreamResult    = "result"    // Told
	StreamBye       = "bye"       // Problem: the server ends this stream and says why
	HeaderInstance  = "Assay-Instance"
	HeaderBoot      = "Assay-Boot"
)

// Challenge asks for evidence.
type Challenge struct {
	Token    []byte        `json:"token"` // opaque; authenticated by the server
	Nonce    []byte        `json:"nonce"` // 32 bytes
	Purpose  string        `json:"purpose"`
	Verifier rats.Digest   `json:"verifier"`
	Expires  time.Time     `json:"expires"`       // server's clock
	TTL      string        `json:"ttl"`           // the same as a duration from now
	Formats  []rats.Format `json:"formats"`       // for the manifest, in order
	Asks     []rats.Ask    `json:"asks"`          // what to collect for this step; a planned format's params are its sealed order
	Why      string        `json:"why,omitempty"` // due, asked, joined, boot, release
}

// Submission is an answer to a challenge: POST …/nodes/{node}/evidence.
type Submission struct {
	Token    []byte          `json:"token"`
	Manifest []byte          `json:"manifest"` // canonical bytes
	Evidence []rats.Evidence `json:"evidence"`
	Sealed   []Sealed        `json:"sealed,omitempty"`
}

// TypeSealed is the media type of evidence an Attester hands over already sealed to the verifier: its body goes into
// Sealed.Data.
const TypeSealed = "application/vnd.assay.sealed"

// Sealed is evidence sealed to the verifier for transport (S04). Package plan opens it.
type Sealed struct {
	Format rats.Format `json:"format"`
	Data   []byte      `json:"data"`
}

// Answer is what a submission yields: a result, or the next step.
type Answer struct {
	Result *Told      `json:"result,omitempty"`
	Next   *Challenge `json:"next,omitempty"`
}

// Told is what a judged node is told of its result: no expected values (S45).
type Told struct {
	ID         string      `json:"id"`
	Verdict    string      `json:"verdict"` // the word
	State      rats.State  `json:"state"`
	At         time.Time   `json:"at"`
	Expires    time.Time   `json:"expires"`
	Codes      []rats.Code `json:"codes,omitempty"`
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"` // of the audit log (S47)
}

// Checkpoint is a head of the audit chain.
type Checkpoint struct {
	Seq  int64       `json:"seq"`
	Hash rats.Digest `json:"hash"`
}

// ---- nodes and results ----------------------------------------------------------------------------------------------

// Node is a node as owners see it.
type Node struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Kind       string            `json:"kind"`
	Parent     string            `json:"parent,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Enrolment  string            `json:"enrolment"`
	Connected  bool              `json:"connected"` // its stream is open
	State      rats.State        `json:"state"`
	Verdict    string            `json:"verdict"` // the word
	Since      time.Time         `json:"since,omitzero"`
	ValidUntil time.Time         `json:"valid_until,omitzero"`
	LastResult string            `json:"last_result,omitempty"`
	LastAt     time.Time         `json:"last_at,omitzero"`
	Marks      []string          `json:"marks,omitempty"`
	// Highlights are facts of the last result's evidence that belong to the verdict, by format.
	Highlights map[rats.Format][]rats.Highlight `json:"highlights,omitempty"`
	Reasons    []rats.Reason                    `json:"reasons,omitempty"` // why it isn't trusted
	Policy     *rats.Ref                        `json:"policy,omitempty"`
	EK         rats.Digest                      `json:"ek,omitzero"`
	CreatedAt  time.Time                        `json:"created_at"`
	Quarantine *Quarantine                      `json:"quarantine,omitempty"` // until an administrator lifts it
	Withheld   string                           `json:"withheld,omitempty"`   // the policy's action that keeps secrets from it
}

// NodeList is GET …/nodes?after=NAME&limit=N.
type NodeList struct {
	Nodes []Node `json:"nodes"`
	Next  string `json:"next,omitempty"` // pass as after
}

// Status is GET …/nodes/{node}/status: "is it trusted now?" for other systems (R015).
type Status struct {
	Node       string     `json:"node"`
	Name       string     `json:"name"`
	State      rats.State `json:"state"`
	Verdict    string     `json:"verdict"`
	Since      time.Time  `json:"since,omitzero"`
	ValidUntil time.Time  `json:"valid_until,omitzero"`
	At         time.Time  `json:"at"` // the server's clock when it answered
}

// AttestRequest is POST …/nodes/{node}/attest: challenge the node now and wait for its result.
type AttestRequest struct {
	Timeout string `json:"timeout,omitempty"` // default 30s, at most 2m
}

// ResultView is a result as owners see it: GET …/results/{id}, or one element of GET …/nodes/{node}/results.
type ResultView struct {
	rats.Result
	Verdict string                 `json:"verdict"`
	State   rats.State             `json:"state"`
	Node    string                 `json:"node,omitempty"` // name
	Formats []rats.Format          `json:"formats"`
	Claims  map[rats.Format][]byte `json:"claims_json,omitempty"` // only with ?claims=true
}

// ResultList is GET …/nodes/{node}/results?limit=N, newest first.
type ResultList struct {
	Results []ResultView `json:"results"`
}

// EAR is GET …/nodes/{node}/ear?aud=AUDIENCE: the current result as a signed Entity Attestation Result (a JWT).
type EAR struct {
	EAR     string    `json:"ear"`
	Expires time.Time `json:"expires"`
}

// ---- policies, reference sets, secrets ------------------------------------------------------------------------------

// Policy describes one version of a policy. The document itself is GET …/policies/{name}/document; PUT …/policies/{name}
// takes the YAML as its body.
type Policy struct {
	rats.Ref
	Selector string        `json:"selector"`
	Priority int           `json:"priority"`
	Formats  []rats.Format `json:"formats"`
	Every    string        `json:"every"`
	ValidFor string        `json:"valid_for"`
	Allow    []string      `json:"allow,omitempty"`
	Author   string        `json:"author"`
	At       time.Time     `json:"at"`
	Warnings []rats.Reason `json:"warnings,omitempty"` // of lint
}

// PolicyList is GET …/policies.
type PolicyList struct {
	Policies []Policy `json:"policies"`
}

// Lint is POST …/policies:lint with the YAML as its body: nothing is stored.
type Lint struct {
	OK      bool          `json:"ok"`
	Reasons []rats.Reason `json:"reasons"`
}

// RefSet describes one version of a reference set. PUT …/refsets/{name} takes the native form (package refvalue).
type RefSet struct {
	rats.Ref
	Entries int       `json:"entries"`
	Source  string    `json:"source,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	Author  string    `json:"author"`
	At      time.Time `json:"at"`
}

// RefSetList is GET …/refsets.
type RefSetList struct {
	RefSets []RefSet `json:"refsets"`
}

// SecretPut is PUT …/secrets/{name}.
type SecretPut struct {
	Value         []byte `json:"value"` // at most 64 KiB
	Rule          string `json:"rule"`  // the release condition; empty denies
	AcceptWarning bool   `json:"accept_warning,omitempty"`
	MaxResultAge  string `json:"max_result_age,omitempty"` // default 60s (S42)
}

// Secret describes a secret; its value is never told to owners.
type Secret struct {
	Name          string    `json:"name"`
	Version       int64     `json:"version"`
	Rule          string    `json:"rule"`
	AcceptWarning bool      `json:"accept_warning,omitempty"`
	MaxResultAge  string    `json:"max_result_age"`
	CreatedAt     time.Time `json:"created_at"`
}

// SecretList is GET …/secrets.
type SecretList struct {
	Secrets []Secret `json:"secrets"`
}

// Release is the answer to POST …/nodes/{node}/secrets/{name}: the secret, sealed to the hpke key of Result.
type Release struct {
	Name    string `json:"name"`
	Version int64  `json:"version"`
	Result  string `json:"result"`
	Sealed  []byte `json:"sealed"` // HPKE: 32 bytes encapsulated key, then ciphertext; info per ReleaseInfo
}

// ReleaseInfo is the HPKE info a release is sealed under: it ties the bytes to secret, version, node and result.
func ReleaseInfo(namespace, node, name string, version int64, result string) []byte {
	return rats.SHA256([]byte("assay/release/1\x00"), field(namespace), field(node), field(name), field(result), []byte{
		byte(version >> 56), byte(version >> 48), byte(version >> 40), byte(version >> 32),
		byte(version >> 24), byte(version >> 16), byte(version >> 8), byte(version),
	}).Sum
}

func field(s string) []byte {
	n := len(s)
	return append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, s...)
}

// Event is one event of GET …/events?after=SEQ (server-sent events; id is Seq) for other systems.
type Event struct {
	Seq     int64     `json:"seq"`
	At      time.Time `json:"at"`
	Kind    string    `json:"kind"`
	Subject string    `json:"subject"`
	Data    any       `json:"data,omitempty"`
}

// AuditEntry is one leaf of GET …/audit?after=SEQ.
type AuditEntry struct {
	Seq    int64       `json:"seq"`
	At     time.Time   `json:"at"`
	Actor  string      `json:"actor"`
	Verb   string      `json:"verb"`
	Object string      `json:"object"`
	Detail any         `json:"detail,omitempty"`
	Prev   rats.Digest `json:"prev"`
	Hash   rats.Digest `json:"hash"`
}

// AuditList is GET …/audit.
type AuditList struct {
	Entries []AuditEntry `json:"entries"`
}
