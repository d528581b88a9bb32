// Package result encodes Attestation Results for Relying Parties: an Entity Attestation Result (EAR,
// draft-ietf-rats-ear) as a JSON Web Token signed with ES256. It is what a Relying Party imports: [Verify] with the
// verifier's published keys, then [EAR.Verdict].
//
// It guarantees that a token names one audience, lives five minutes at most and never longer than its result, that the
// verification key is never taken from the token (S43), and that an expired or empty result yields the tier none. It
// doesn't say whether a node is still trusted: that may end before the token does, so whoever hands out access asks
// the server's status as well, and it remembers no jti: whoever must accept a token only once keeps the ids of five
// minutes.
//
// The package does no input or output, reads no clock, and builds for js/wasm.
package result

import (
	"fmt"
	"time"

	"github.com/assay-attest/assay/rats"
)

const (
	// Profile is the EAR profile of the tokens (claim eat_profile).
	Profile = "tag:github.com,2023:veraison/ear"

	// MaxTTL is the longest a token lives (S43).
	MaxTTL = 5 * time.Minute

	// MaxToken is the most bytes of a token.
	MaxToken = 256 << 10

	// Overall is the name of the submodule that holds the overall appraisal; the others are named by format.
	Overall = "assay"

	// Developer is what ear.verifier-id names as the developer of this verifier.
	Developer = "https://github.com/assay-attest/assay"
)

// EAR is a verified Attestation Result. Its zero value is not trusted.
type EAR struct {
	Issuer    string
	Audience  string
	Subject   string // pairwise if the verifier was told so; else node/…, session/…, file/…
	ID        string // jti, unique per token
	KeyID     string // RFC 7638 thumbprint of the key that signed
	IssuedAt  time.Time
	NotBefore time.Time
	Expires   time.Time // of the token
	Verifier  VerifierID
	Confirm   string // RFC 7638 thumbprint of the key whose holder may use the token (cnf.jkt); empty: a bearer token

	Tier      rats.Tier // overall
	Vector    rats.Vector
	Word      string // the verdict for people
	State     rats.State
	Namespace string
	Result    string      // id of the result
	Evidence  rats.Digest // of the collection
	Policy    rats.Ref
	Sets      []rats.Ref
	Marks     []string
	Codes     []rats.Code   // of the reasons, in their order, none twice
	Reasons   []rats.Reason // only if signed in full
	At        time.Time     // when it was judged
	ValidTill time.Time     // expiry of the result
	Parts     map[rats.Format]Part
}

// Part is what one format contributed.
type Part struct {
	Tier   rats.Tier // the worst of the slots it judged
	Vector rats.Vector
	Policy string      // name@version:digest
	Claims rats.Digest // of the claims' JSON; only if signed in full
}

// VerifierID is the claim ear.verifier-id.
type VerifierID struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

// Verdict returns the row of the verdict table for the token at a time; an expired token is stale.
func (e EAR) Verdict(now time.Time) rats.Verdict {
	if !now.Before(e.Expires) {
		return rats.VerdictOf(e.Tier, true)
	}
	return rats.VerdictOfState(e.State)
}

// claims is the token's payload. Times are pointers so that a missing one is seen.
type claims struct {
	Profile   string               `json:"eat_profile"`
	Issuer    string               `json:"iss"`
	Subject   string               `json:"sub"`
	Audience  string               `json:"aud"`
	IssuedAt  *int64               `json:"iat"`
	NotBefore *int64               `json:"nbf"`
	Expires   *int64               `json:"exp"`
	ID        string               `json:"jti"`
	Confirm   *confirm             `json:"cnf,omitempty"`
	Verifier  VerifierID           `json:"ear.verifier-id"`
	Submods   map[string]appraisal `json:"submods"`
}

// confirm is the claim cnf with a thumbprint (RFC 9449 section 6.1).
type confirm struct {
	Thumbprint string `json:"jkt"`
}

// appraisal is one submodule. The claims "assay.*" but assay.claims stand in the overall one only.
type appraisal struct {
	Status *rats.Tier     `json:"ear.status"`
	Vector map[string]int `json:"ear.trustworthiness-vector,omitempty"`
	Policy string         `json:"ear.appraisal-policy-id,omitempty"`

	Claims    *rats.Digest  `json:"assay.claims,omitempty"`
	Namespace string        `json:"assay.namespace,omitempty"`
	Subject   string        `json:"assay.subject,omitempty"`
	Result    string        `json:"assay.result,omitempty"`
	Word      string        `json:"assay.verdict,omitempty"`
	State     rats.State    `json:"assay.state,omitempty"`
	Evidence  *rats.Digest  `json:"assay.evidence,omitempty"`
	Ref       *rats.Ref     `json:"assay.policy,omitempty"`
	Sets      []rats.Ref    `json:"assay.sets,omitempty"`
	Marks     []string      `json:"assay.marks,omitempty"`
	Codes     []rats.Code   `json:"assay.codes,omitempty"`
	Reasons   []rats.Reason `json:"assay.reasons,omitempty"`
	At        *time.Time    `json:"assay.at,omitempty"`
	ValidTill *time.Time    `json:"assay.expires,omitempty"`
}

// encodeVector writes every slot with its AR4SI number (draft-ietf-rats-ar4si section 2.3.2).
func encodeVector(v rats.Vector) map[string]int {
	m := make(map[string]int, len(v))
	for i, t := range v {
		m[rats.Slot(i).String()] = int(t)
	}
	return m
}

// decodeVector refuses slots and numbers that are not ours; a missing slot is none.
func decodeVector(m map[string]int) (rats.Vector, error) {
	var v rats.Vector
	for name, n := range m {
		var s rats.Slot
		if err := s.UnmarshalText([]byte(name)); err != nil {
			return rats.Vector{}, err
		}
		t := rats.None
		switch n {
		case int(rats.None):
		case int(rats.Affirming):
			t = rats.Affirming
		case int(rats.Warning):
			t = rats.Warning
		case int(rats.Contraindicated):
			t = rats.Contraindicated
		default:
			return rats.Vector{}, fmt.Errorf("slot %s holds %d, expected 0, 2, 32 or 96", s, n)
		}
		v[s] = t
	}
	return v, nil
}

// judged returns the worst tier among the slots somebody judged, none if nobody did.
func judged(v rats.Vector) rats.Tier {
	t, some := rats.Affirming, false
	for _, x := range v {
		if x != rats.None {
			t, some = rats.Worse(t, x), true
		}
	}
	if !some {
		return rats.None
	}
	return t
}

// policyID returns the text of ear.appraisal-policy-id, "name@version:digest", and "" for no policy.
func policyID(r rats.Ref) string {
	if r.Name == "" {
		return ""
	}
	return fmt.Sprintf("%s@%d:%s", r.Name, r.Version, r.Digest)
}
