package result

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"

	"github.com/assay-attest/assay/rats"
)

// SignOptions says how a result becomes a token. Issuer, Audience, Now and one of ID and Rand are required.
type SignOptions struct {
	Issuer   string
	Audience string
	Now      time.Time
	TTL      time.Duration // of the token; zero: MaxTTL, which is also the most. Never beyond the result's expiry
	ID       string        // jti; empty: 128 bits of Rand
	Rand     io.Reader     // cryptographic
	Build    string        // of ear.verifier-id; empty: "devel"

	// Subject replaces the result's subject, for a relying party that must not recognise a node across audiences
	// (S48). Empty: the result's own.
	Subject string
	// Confirm is the key whose holder alone may use the token; it must be one the result binds. Nil: bearer.
	Confirm *rats.BoundKey
	// Full adds the complete reasons and the digests of claims: for owners. Otherwise a relying party learns codes
	// only, and nothing by which to recognise a machine.
	Full bool
}

// Sign returns the result as a signed EAR in JWS compact form. signer is an ECDSA P-256 key. A result that has expired,
// or is empty, is signed with tier none.
func Sign(r rats.Result, signer crypto.Signer, opt SignOptions) (string, error) {
	c, err := claimsOf(r, opt)
	if err != nil {
		return "", fmt.Errorf("signing a result: %w", err)
	}
	kid, err := KeyID(signer.Public())
	if err != nil {
		return "", fmt.Errorf("signing a result: %w", err)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encoding a result: %w", err)
	}
	s, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: cryptosigner.Opaque(signer)},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", kid),
	)
	if err != nil {
		return "", fmt.Errorf("signing a result: %w", err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing a result: %w", err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("encoding a result: %w", err)
	}
	if len(token) > MaxToken {
		return "", CodeSize.Bad("token", fmt.Sprintf("at most %d bytes", MaxToken), fmt.Sprint(len(token)))
	}
	return token, nil
}

func claimsOf(r rats.Result, opt SignOptions) (claims, error) {
	id, err := opt.check()
	if err != nil {
		return claims{}, err
	}
	iat := opt.Now.Unix()
	// Whole seconds: what expires within this one is over, since the token couldn't live.
	stale := r.Expires.Unix() <= iat
	v := rats.VerdictOf(r.Tier, stale)
	exp := opt.Now.Add(opt.ttl()).Unix()
	if !stale {
		exp = min(exp, r.Expires.Unix())
	}
	c := claims{
		Profile: Profile, Issuer: opt.Issuer, Audience: opt.Audience, ID: id,
		Subject:  r.Subject,
		IssuedAt: &iat, NotBefore: &iat, Expires: &exp,
		Verifier: VerifierID{Developer: Developer, Build: "devel"},
		Submods:  make(map[string]appraisal, len(r.Parts)+1),
	}
	if opt.Subject != "" {
		c.Subject = opt.Subject
	}
	if opt.Build != "" {
		c.Verifier.Build = opt.Build
	}
	if opt.Confirm != nil {
		if c.Confirm, err = confirmation(r, *opt.Confirm); err != nil {
			return claims{}, err
		}
	}
	overall := overallOf(r, v, opt.Full)
	overall.Subject = c.Subject
	for f, p := range r.Parts {
		if f == Overall {
			return claims{}, fmt.Errorf("a format called %q", Overall)
		}
		c.Submods[string(f)] = partOf(p, r.Policy, v.State == rats.StateStale, opt.Full)
	}
	c.Submods[Overall] = overall
	return c, nil
}

func overallOf(r rats.Result, v rats.Verdict, full bool) appraisal {
	a := appraisal{
		Status: &v.Tier, Vector: encodeVector(fresh(r.Vector, v.State == rats.StateStale)), Policy: policyID(r.Policy),
		Namespace: r.Namespace, Result: r.ID, Word: v.Word, State: v.State,
		Sets: r.Sets, Marks: r.Marks, Codes: codesOf(r.Reasons),
	}
	if !r.Collection.IsZero() {
		a.Evidence = &r.Collection
	}
	if r.Policy.Name != "" {
		a.Ref = &r.Policy
	}
	if !r.At.IsZero() {
		at := r.At.UTC()
		a.At = &at
	}
	if !r.Expires.IsZero() {
		till := r.Expires.UTC()
		a.ValidTill = &till
	}
	if full {
		a.Reasons = r.Reasons
	}
	return a
}

func partOf(p rats.PartResult, policy rats.Ref, stale, full bool) appraisal {
	v := fresh(p.Vector, stale)
	t := judged(v)
	a := appraisal{Status: &t, Vector: encodeVector(v), Policy: policyID(policy)}
	if full && !p.Claims.IsZero() {
		a.Claims = &p.Claims
	}
	return a
}

// fresh returns the vector, and an empty one if it is stale: whoever reads slots only must see none, too.
func fresh(v rats.Vector, stale bool) rats.Vector {
	if stale {
		return rats.Vector{}
	}
	return v
}

func codesOf(reasons []rats.Reason) []rats.Code {
	var codes []rats.Code
	seen := make(map[rats.Code]bool, len(reasons))
	for _, r := range reasons {
		if !seen[r.Code] {
			seen[r.Code] = true
			codes = append(codes, r.Code)
		}
	}
	return codes
}

func (o SignOptions) ttl() time.Duration {
	if o.TTL == 0 {
		return MaxTTL
	}
	return o.TTL
}

// check returns the token's id.
func (o SignOptions) check() (string, error) {
	switch {
	case o.Issuer == "":
		return "", errors.New("no issuer given")
	case o.Audience == "":
		return "", errors.New("no audience given")
	case o.Now.IsZero():
		return "", errors.New("no time given")
	case o.TTL < 0 || o.TTL > MaxTTL:
		return "", fmt.Errorf("a lifetime of %s, at most %s", o.TTL, MaxTTL)
	case o.ID != "":
		return o.ID, nil
	case o.Rand == nil:
		return "", errors.New("no token id and no randomness given")
	}
	var b [16]byte
	if _, err := io.ReadFull(o.Rand, b[:]); err != nil {
		return "", fmt.Errorf("drawing a token id: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// confirmation refuses a key the result doesn't bind: the token would vouch for a stranger.
func confirmation(r rats.Result, k rats.BoundKey) (*confirm, error) {
	bound, ok := r.Key(k.Use)
	if !ok || string(bound.Public) != string(k.Public) {
		return nil, fmt.Errorf("the result binds no such %s key", k.Use)
	}
	t, err := Thumbprint(k)
	if err != nil {
		return nil, err
	}
	return &confirm{Thumbprint: t}, nil
}
