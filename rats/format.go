package rats

import (
	"context"
	"crypto/x509"
	"iter"
	"time"
)

// Inputs is everything a verification depends on besides the evidence: values per call, so a Verifier can be shared.
type Inputs struct {
	Binding      Binding
	Now          time.Time
	Anchors      *x509.CertPool // nil: the format's built-in roots only
	Endorsements []Endorsement
	Facts        Facts  // of the formats in Needs, same collection
	Params       []byte // what was asked of the format
	Resume       []byte // from the last accepted verification
}

// Claims is the typed statement a format yields: a pointer to a struct with json tags.
type Claims interface{ ClaimsOf() Format }

// Highlighter is implemented by Claims with facts that whoever reads a verdict must see without looking for them: few, and
// short.
type Highlighter interface{ Highlights() []Highlight }

// Highlight is a fact with its name, for people.
type Highlight struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Verified is what is true of one piece of evidence. It says nothing about whether that is acceptable.
type Verified struct {
	Claims Claims
	Facts  Facts
	Links  []Link
	Marks  []string // what policy must name to accept (MarkSimulated, …)
	Resume []byte
	Until  time.Time // after which the verification must not be relied on; zero: no such bound
}

// Verifier checks authenticity: signature, chain, freshness, binding. It is immutable, safe for concurrent use and a
// pure function of its arguments. Its errors are *BadEvidence, *MissingInput, or a malfunction.
type Verifier interface {
	Descriptor() *Descriptor
	Verify(context.Context, Evidence, Inputs) (Verified, error)
}

// Continuer is implemented by Verifiers of evidence that grows (logs): what an earlier verification covered need not be
// sent again.
type Continuer interface {
	// Continue returns the params that ask for what comes after resume; nil asks for everything.
	Continue(params, resume []byte) []byte
}

// Attester collects evidence of one format on this machine.
type Attester interface {
	Descriptor() *Descriptor
	Probe(context.Context) Readiness
	Collect(context.Context, Ask) (Evidence, error)
}

// Readiness says whether this machine can make a kind of evidence and, if not, why and how to mend it.
type Readiness struct {
	OK  bool   `json:"ok"`
	Why string `json:"why,omitempty"`
	Fix string `json:"fix,omitempty"`
}

// Descriptor is how a format introduces itself to everything that knows no format by name.
type Descriptor struct {
	ID            Format
	Title         string // a few words for tables
	Doc           string // path of its page below docs/
	MediaTypes    []string
	Needs         []Format // verified before it; their Facts are its Inputs.Facts
	Hardware      bool     // whether genuine evidence of this format proves hardware
	NewClaims     func() Claims
	ClaimsVersion int // raised when a field's meaning changes
	NewRules      func() Rules
	Codes         []CodeInfo
}

// Rules is a format's section of a policy: a pointer to a struct with yaml tags, decoded strictly by package policy.
// It is pure, and immutable after Lint.
type Rules interface {
	// Lint says what is wrong with the section itself; none means usable. Called once, before anything else.
	Lint() []Reason
	// Slots lists the AR4SI slots that Check judges, given what the section sets: a slot is affirmed only if it is
	// listed here and no reason lowers it.
	Slots() []Slot
	// Check compares claims with the section. No reasons means nothing speaks against the claims.
	Check(Claims, Lookup, time.Time) []Reason
	// Params is what must be asked of the Attester for Check to be answerable; the format's own JSON.
	Params() []byte
}

// EnrolmentRules is implemented by Rules that can vouch for a node that joins, by the enrolment record made of it.
type EnrolmentRules interface {
	Vouch(Endorsement, time.Time) []Reason
}

// Lookup finds reference values. Implementations return MissingInput for a set that doesn't exist.
type Lookup interface {
	// Find looks a value up by set, name and digest.
	Find(set, name string, d Digest) (RefHit, error)
	// Names yields the names of a set that start with prefix, in ascending order.
	Names(set, prefix string) (iter.Seq[string], error)
	// Ref names the version of the set that answers.
	Ref(set string) (Ref, error)
}

// RefHit is the answer to one look-up.
type RefHit struct {
	Set      string
	Version  int64
	Known    bool      // the name has this digest in the set
	Expected []Digest  // what the set holds for the name; empty: the name is not in the set
	Expires  time.Time // zero: never
}

// Set is what was verified of a collection, and what could not be.
type Set struct {
	Verified map[Format]Verified
	Links    []Link
	Refused  []Reason
}
