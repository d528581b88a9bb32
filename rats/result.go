package rats

import (
	"fmt"
	"strings"
	"time"
)

// Result is an Attestation Result. Its zero value is not trusted.
type Result struct {
	ID         string                `json:"id"`
	Namespace  string                `json:"namespace"`
	Subject    string                `json:"subject"` // node/…, session/…, file/…
	Tier       Tier                  `json:"tier"`
	Vector     Vector                `json:"vector"`
	Demanded   []Slot                `json:"demanded"`
	Parts      map[Format]PartResult `json:"parts"`
	Reasons    []Reason              `json:"reasons,omitempty"`
	Policy     Ref                   `json:"policy"`
	Sets       []Ref                 `json:"sets,omitempty"`
	Collection Digest                `json:"collection"`
	Keys       []BoundKey            `json:"keys,omitempty"` // what a release is sealed to
	Links      []Link                `json:"links,omitempty"`
	Boots      []Boot                `json:"boots,omitempty"`
	Challenged time.Time             `json:"challenged"`
	At         time.Time             `json:"at"`
	Expires    time.Time             `json:"expires"`
	Marks      []string              `json:"marks,omitempty"`
}

// PartResult is what one format contributes: an EAR submodule.
type PartResult struct {
	Vector     Vector      `json:"vector"`
	Claims     Digest      `json:"claims"`
	Highlights []Highlight `json:"highlights,omitempty"` // of the claims
}

// Verdict returns the row of the verdict table for this result at a time. A result without expiry is expired.
func (r Result) Verdict(now time.Time) Verdict { return VerdictOf(r.Tier, !now.Before(r.Expires)) }

// Key returns the result's key for a use.
func (r Result) Key(use string) (BoundKey, bool) { return keyOf(r.Keys, use) }

// The kinds of subjects.
const (
	SubjectNode    = "node"
	SubjectSession = "session"
	SubjectFile    = "file"
)

// Subject returns "kind/id".
func Subject(kind, id string) string { return kind + "/" + id }

// ParseSubject splits "kind/id" and refuses other kinds.
func ParseSubject(s string) (kind, id string, err error) {
	kind, id, ok := strings.Cut(s, "/")
	if !ok || id == "" || kind != SubjectNode && kind != SubjectSession && kind != SubjectFile {
		return "", "", fmt.Errorf("subject %q is not node/…, session/… or file/…", clip(s))
	}
	return kind, id, nil
}

// Worst returns the worst tier among reasons, Affirming if there are none.
func Worst(reasons []Reason) Tier {
	t := Affirming
	for _, r := range reasons {
		t = Worse(t, r.Tier)
	}
	return t
}
