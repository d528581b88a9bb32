// Package store says what the server keeps and what it demands of a database: everything belongs to a namespace,
// everything is written in one durable transaction or not at all (S41), and a judgement commits only under the epoch it
// was made under (S40).
//
// Implementations are internal/store/sqlite (one server) and internal/store/postgres (several); internal/store/storetest is
// the one conformance suite for both. The package holds no SQL and no policy.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflict")                    // the id or name is taken, or the version is not the expected one
	ErrSpent    = errors.New("already spent")               // a token or challenge was used before
	ErrTooOld   = errors.New("older than the purge")        // a token from before the purge's high-water time (S06)
	ErrEpoch    = errors.New("judged under an older epoch") // policy or references changed meanwhile (S40)
	ErrSchema   = errors.New("database schema version differs")
	// ErrUnavailable: the database doesn't answer, or no longer counts this server among its own. Nothing is known; retry.
	ErrUnavailable = errors.New("database unavailable")
)

// Store is one database.
type Store interface {
	// Migrate brings the schema to this binary's version; a newer schema is ErrSchema.
	Migrate(context.Context) error
	// Create makes a namespace; ErrConflict if it exists.
	Create(ctx context.Context, namespace string) error
	Namespaces(context.Context) ([]string, error)
	In(namespace string) Space
	Close() error
}

// Space is one namespace of a store.
type Space interface {
	// View runs f over one consistent snapshot.
	View(ctx context.Context, f func(Tx) error) error
	// Update runs f in a transaction that is durable when Update returns nil. Updates of many callers commit
	// together; f may run twice and must have no effect besides the transaction. An error of f undoes f alone.
	Update(ctx context.Context, f func(Tx) error) error
	// Tail yields the events after a sequence number, then waits for more until ctx ends.
	Tail(ctx context.Context, after int64) iter.Seq2[Event, error]
}

// Tx is a transaction in one namespace.
type Tx interface {
	Epochs() Epochs
	Nodes() Nodes
	Records() Records
	Events() Events
	Blobs() Blobs
	Documents() Documents
	Secrets() Secrets
	Tokens() Tokens
	Audit() Audit
	Streams() Streams
	Purges() Purges
	Shelf() Shelf
}

// Cluster is what a Store adds that several servers share. Servers are told apart by leases in database time: one that
// could not renew its lease in time knows so by its own clock before the others take over, and the database refuses its
// commits from then on (S41).
type Cluster interface {
	// Server is this process's id among the servers.
	Server() string
	// Alive is nil while this server's lease holds, else an ErrUnavailable.
	Alive() error
	// Now is the database's time as this server knows it: every server's schedules and expiries go by one clock.
	Now() time.Time
}

// Stream is an agent's stream that is open on a server.
type Stream struct {
	Node     string
	Instance rats.Digest // of the agent process's instance nonce
	Server   string
	Fence    int64 // grows with every stream that is opened in the namespace
}

// Streams says which agents' streams are open, on this server or another (S07). What a dead server held is not open.
type Streams interface {
	// Open notes a stream on this server, in place of an older one of the same instance wherever that is. It returns the
	// stream with its fence, and the live streams of other instances of the node.
	Open(node string, instance rats.Digest) (Stream, []Stream, error)
	// Close forgets a stream, unless a newer one took its place.
	Close(s Stream) error
	// Of returns the live streams of a node, ascending by fence.
	Of(node string) ([]Stream, error)
}

// Epochs guards acceptance (S40).
type Epochs interface {
	Get() (int64, error)
	// Hold fails with ErrEpoch unless the namespace's epoch is still e; it stays so until the transaction ends.
	Hold(e int64) error
	// Bump raises the epoch: whatever was judged before can no longer commit.
	Bump() (int64, error)
}

// Node is what gets a verdict. State is derived (internal/node), never stored.
type Node struct {
	ID        string            `json:"id"`               // nd_…
	Name      string            `json:"name"`             // unique in the namespace
	Kind      string            `json:"kind"`             // host, vm, sandbox, enclave
	Parent    string            `json:"parent,omitempty"` // id
	Labels    map[string]string `json:"labels,omitempty"`
	Enrolment string            `json:"enrolment"` // pending, approved, revoked
	// Endorsements are the records the enrolment authority made of this node at join (which AK, which EK).
	Endorsements []rats.Endorsement `json:"endorsements,omitempty"`
	TLSKey       rats.Digest        `json:"tls_key"` // of the SubjectPublicKeyInfo its credential was issued for
	Serial       string             `json:"serial"`  // of its current client certificate
	AKCerts      []AKCert           `json:"ak_certs,omitempty"`
	CreatedAt    time.Time          `json:"created_at"`
	// Boot is the boot the agent claimed when it last opened its stream: it can only lower trust.
	Boot      rats.Digest `json:"boot,omitzero"`
	BootSeen  time.Time   `json:"boot_seen,omitzero"`
	Last      string      `json:"last,omitempty"` // id of the newest result
	LastTier  rats.Tier   `json:"last_tier"`
	LastAt    time.Time   `json:"last_at,omitzero"`
	Expires   time.Time   `json:"expires,omitzero"`
	LastBoot  rats.Digest `json:"last_boot,omitzero"`
	Since     time.Time   `json:"since,omitzero"`      // when the tier last changed
	Marks     []string    `json:"marks,omitempty"`     // of the newest result
	Withdrawn string      `json:"withdrawn,omitempty"` // why the last result no longer counts: a rats.Code
	// Resume is what each format's Verifier wants back next time; what is large stands in a blob.
	Resume     map[rats.Format][]byte      `json:"resume,omitempty"`
	ResumeBlob map[rats.Format]rats.Digest `json:"resume_blob,omitempty"`

	// Quarantine stands until an administrator lifts it, whatever results say; nil: there is none.
	Quarantine *Quarantine `json:"quarantine,omitempty"`
	// Withheld is the policy's action that keeps secrets from the node while its condition holds.
	Withheld string            `json:"withheld,omitempty"`
	Acting   map[string]Acting `json:"acting,omitempty"` // by action: where its condition stands
	Silent   string            `json:"silent,omitempty"` // the result whose expiry was told
}

// Quarantine is who set a node apart, when and why.
type Quarantine struct {
	At  time.Time `json:"at"`
	By  string    `json:"by"` // admin:…, or action:NAME of the policy
	Why string    `json:"why,omitempty"`
}

// Acting is where the condition of one of the policy's actions stands for a node.
type Acting struct {
	Held  int       `json:"held,omitempty"` // results in a row for which it held
	Since time.Time `json:"since,omitzero"` // of the first of them
	Fired time.Time `json:"fired,omitzero"` // zero: not yet
	Gone  int       `json:"gone,omitempty"` // results in a row for which it didn't hold, since it fired
	Away  time.Time `json:"away,omitzero"`  // of the first of them
}

// AKCert is a certificate of a node's attestation key that was issued and not revoked.
type AKCert struct {
	Serial  string    `json:"serial"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
}

// The states of enrolment.
const (
	EnrolmentPending  = "pending"
	EnrolmentApproved = "approved"
	EnrolmentRevoked  = "revoked"
)

// Nodes holds nodes.
type Nodes interface {
	Put(Node) error // inserts or replaces by ID; ErrConflict if another node has the name
	Get(id string) (Node, error)
	ByName(name string) (Node, error)
	List(afterName string, limit int) ([]Node, error) // ascending by name
	Delete(id string) error
}

// Record is one attestation, complete enough to appraise and to verify again.
type Record struct {
	Result        rats.Result                   `json:"result"`
	Binding       rats.Binding                  `json:"binding"`
	Evidence      map[rats.Format][]rats.Digest `json:"evidence"` // pieces: first the index (EvidenceIndex JSON), then body and parts
	Claims        map[rats.Format]rats.Digest   `json:"claims"`   // pieces: the claims' JSON
	ClaimsVersion map[rats.Format]int           `json:"claims_version"`
	Inputs        []rats.Digest                 `json:"inputs"` // blobs: endorsements (JSON of rats.Endorsement)
	Params        map[rats.Format][]byte        `json:"params,omitempty"`
	Epoch         int64                         `json:"epoch"`
	Pack          Pack                          `json:"pack,omitempty"` // the smaller of these blobs: see Piece
}

// EvidenceIndex says how the blobs of one format make up its rats.Evidence again.
type EvidenceIndex struct {
	MediaType string      `json:"media_type"`
	Body      rats.Digest `json:"body"`
	Parts     []PartIndex `json:"parts,omitempty"`
}

// PartIndex is one part of an EvidenceIndex.
type PartIndex struct {
	Name   string      `json:"name"`
	Offset int64       `json:"offset,omitempty"`
	Data   rats.Digest `json:"data"`
}

// Records holds attestations and spent challenges.
type Records interface {
	Put(Record) error
	Get(resultID string) (Record, error)
	// Since yields a subject's records from t on, oldest first; limit ≤ 0 means all.
	Since(subject string, t time.Time, limit int) ([]Record, error)
	// Latest returns a subject's newest records, newest first.
	Latest(subject string, limit int) ([]Record, error)
	// Spend uses up a challenge or continuation id. ErrSpent if it was used before; ErrTooOld if until lies before
	// the purge's high-water time. Ids may be forgotten after until, raising that time.
	Spend(id [16]byte, until, now time.Time) error
}

// Event is one row of the outbox.
type Event struct {
	Seq     int64           `json:"seq"`
	At      time.Time       `json:"at"`
	Kind    string          `json:"kind"` // node.state, secret.released, …
	Subject string          `json:"subject"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// Events is the outbox: rows written in the transaction that caused them.
type Events interface {
	Append(Event) (int64, error) // sets Seq
	After(seq int64, limit int) ([]Event, error)
	Last() (int64, error)
}

// Blobs is content-addressed storage.
type Blobs interface {
	// Put returns the SHA-256. Storing twice is storing once, and lets the blob count as new again for Purges.
	Put([]byte) (rats.Digest, error)
	Get(rats.Digest) ([]byte, error)
}

// The kinds of documents.
const (
	DocPolicy = "policy"
	// DocAKRevocations holds the serials of attestation keys' certificates that were revoked before they ran out.
	DocAKRevocations = "ak-revocations"
	DocSet           = "refset"
)

// Document is one version of a policy or reference set: bytes as received, with digest and optional signatures.
type Document struct {
	Kind       string          `json:"kind"`
	Name       string          `json:"name"`
	Version    int64           `json:"version"` // 1, 2, … given by Put
	Digest     rats.Digest     `json:"digest"`  // of Body
	Body       []byte          `json:"-"`
	Signatures json.RawMessage `json:"signatures,omitempty"` // of a DSSE envelope
	Author     string          `json:"author"`
	At         time.Time       `json:"at"`
	Deleted    bool            `json:"deleted,omitempty"` // a tombstone: the name is not in force
}

// Ref returns the document's reference.
func (d Document) Ref() rats.Ref { return rats.Ref{Name: d.Name, Version: d.Version, Digest: d.Digest} }

// Documents holds policies and reference sets. Every Put and Delete bumps the epoch.
type Documents interface {
	Put(Document) (Document, error)
	Get(kind, name string, version int64) (Document, error) // version 0: the newest; tombstones are ErrNotFound
	List(kind string) ([]Document, error)                   // the newest version of each name in force, without Body
	Versions(kind, name string) ([]Document, error)         // newest first, without Body
	Delete(kind, name, author string, at time.Time) error
}

// Secret is one version of a secret, envelope-encrypted.
type Secret struct {
	Name      string        `json:"name"`
	Version   int64         `json:"version"`
	Sealed    []byte        `json:"-"`       // internal/keyring's envelope
	Rule      string        `json:"rule"`    // the release condition
	Warning   bool          `json:"warning"` // released to trusted (warning) too
	MaxAge    time.Duration `json:"max_age"` // of the result it is released to
	CreatedAt time.Time     `json:"created_at"`
	Deleted   bool          `json:"deleted,omitempty"`
}

// Secrets holds secrets.
type Secrets interface {
	Put(Secret) (Secret, error) // gives Version
	Get(name string) (Secret, error)
	List() ([]Secret, error)                // without Sealed
	Delete(name string, at time.Time) error // leaves a tombstone and forgets Sealed of all versions
}

// JoinToken lets one agent join as one node (S07). Only its hash is stored.
type JoinToken struct {
	ID      string            `json:"id"` // jt_…
	Hash    rats.Digest       `json:"hash"`
	Name    string            `json:"name,omitempty"` // of the node; empty: the agent's proposal
	Kind    string            `json:"kind"`
	Parent  string            `json:"parent,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	EK      rats.Digest       `json:"ek,omitzero"`       // the one EK that may use it
	Replace bool              `json:"replace,omitempty"` // nodes of the same EK are deleted
	Expires time.Time         `json:"expires"`
	UsedAt  time.Time         `json:"used_at,omitzero"`
	UsedBy  string            `json:"used_by,omitempty"` // node id
}

// Tokens holds join tokens.
type Tokens interface {
	Put(JoinToken) error
	Get(id string) (JoinToken, error)
	Use(id, node string, at time.Time) error // ErrSpent if used before
	List() ([]JoinToken, error)
	Delete(id string) error
}

// AuditEntry is one leaf of the audit chain.
type AuditEntry struct {
	Seq    int64           `json:"seq"`
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"` // admin:…, node:nd_…, server
	Verb   string          `json:"verb"`  // policy.apply, secret.release, …
	Object string          `json:"object"`
	Detail json.RawMessage `json:"detail,omitempty"`
	Prev   rats.Digest     `json:"prev"`
	Hash   rats.Digest     `json:"hash"` // over Prev and all of the above
}

// Audit is the hash-chained log.
type Audit interface {
	Append(AuditEntry) (AuditEntry, error) // sets Seq, Prev and Hash
	Head() (AuditEntry, error)             // ErrNotFound if empty
	After(seq int64, limit int) ([]AuditEntry, error)
}
