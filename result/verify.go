package result

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // refuses an object that names a key twice; the standard library takes the last

	"github.com/assay-attest/assay/rats"
)

// VerifyOptions says what a token must be. Audience, Issuer and Now are required.
type VerifyOptions struct {
	Audience string
	Issuer   string
	Now      time.Time
	Leeway   time.Duration // by which clocks may differ; at most MaxLeeway
}

// MaxLeeway is the most that clocks may differ.
const MaxLeeway = time.Minute

const (
	maxHeader  = 1 << 10 // decoded
	maxJWKS    = 64 << 10
	maxKeys    = 64
	maxSubmods = 64
)

// Codes of a token that is refused.
var (
	CodeSize = rats.CodeInfo{
		Code: "result.token.size", Title: "the token is too long",
		Hint: "ask for the token without full reasons", Slot: rats.SourcedData,
	}
	CodeForm = rats.CodeInfo{
		Code: "result.token.malformed", Title: "not a JSON Web Token in compact form",
		Hint: "pass the token as the verifier gave it: three parts, separated by dots", Slot: rats.SourcedData,
	}
	CodeHeader = rats.CodeInfo{
		Code: "result.header.untrusted", Title: "the token's header wants to be believed about keys or extensions",
		Hint: "don't trust this token: results name their key by kid only, and keys come from the verifier's key set", Slot: rats.SourcedData,
	}
	CodeAlgorithm = rats.CodeInfo{
		Code: "result.header.algorithm", Title: "the token isn't signed with ES256",
		Hint: "don't trust this token: results are signed with ES256 only", Slot: rats.SourcedData,
	}
	CodeKey = rats.CodeInfo{
		Code: "result.key.unknown", Title: "the token's key is not in the key set",
		Hint: "fetch the verifier's key set again; if the key still isn't there, the token is of another verifier", Slot: rats.SourcedData,
	}
	CodeKeySet = rats.CodeInfo{
		Code: "result.keyset.malformed", Title: "not a set of public keys",
		Hint: "pass the verifier's " + JWKSPath + " as it is", Slot: rats.SourcedData,
	}
	CodeSignature = rats.CodeInfo{
		Code: "result.signature.bad", Title: "the token's signature is wrong",
		Hint: "don't trust this token: it was changed or forged", Slot: rats.SourcedData,
	}
	CodeClaims = rats.CodeInfo{
		Code: "result.claims.malformed", Title: "the token's claims are not those of an attestation result",
		Hint: "ask the verifier for a new token; if that fails too, its version is not one this program knows", Slot: rats.SourcedData,
	}
	CodeProfile = rats.CodeInfo{
		Code: "result.profile.unknown", Title: "the token is not an attestation result of the known profile",
		Hint: "pass a token of the verifier's EAR endpoint", Slot: rats.SourcedData,
	}
	CodeIssuer = rats.CodeInfo{
		Code: "result.issuer.mismatch", Title: "the token is of another issuer",
		Hint: "compare the issuer you expect with the verifier's discovery document", Slot: rats.SourcedData,
	}
	CodeAudience = rats.CodeInfo{
		Code: "result.audience.mismatch", Title: "the token is for another audience",
		Hint: "the caller must ask the verifier for a token with your audience; don't accept tokens made for others", Slot: rats.SourcedData,
	}
	CodeExpired = rats.CodeInfo{
		Code: "result.token.expired", Title: "the token has expired",
		Hint: "ask the verifier for a new token, and compare this machine's clock with it", Slot: rats.SourcedData,
	}
	CodeEarly = rats.CodeInfo{
		Code: "result.token.early", Title: "the token is not valid yet",
		Hint: "compare this machine's clock with the verifier's", Slot: rats.SourcedData,
	}
	CodeLifetime = rats.CodeInfo{
		Code: "result.token.lifetime", Title: "the token would live longer than a result may",
		Hint: "don't trust this token: results live five minutes at most", Slot: rats.SourcedData,
	}
	CodeID = rats.CodeInfo{
		Code: "result.token.unnamed", Title: "the token has no id",
		Hint: "don't trust this token: every result's token has an id (jti)", Slot: rats.SourcedData,
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeSize, CodeForm, CodeHeader, CodeAlgorithm, CodeKey, CodeKeySet, CodeSignature, CodeClaims, CodeProfile,
	CodeIssuer, CodeAudience, CodeExpired, CodeEarly, CodeLifetime, CodeID,
}

// Verify returns the result that a token carries if a key of the verifier's JSON Web Key Set signed it for this
// audience, and it is valid now. Whether the node is trusted is for the answer's Verdict to say. Keys, key addresses
// and extensions in the token's header are refused, not ignored. The audience is a single string.
func Verify(token string, jwks []byte, opt VerifyOptions) (EAR, error) {
	switch {
	case opt.Audience == "" || opt.Issuer == "":
		return EAR{}, errors.New("verifying a result: no audience or no issuer given")
	case opt.Now.IsZero():
		return EAR{}, errors.New("verifying a result: no time given")
	case opt.Leeway < 0 || opt.Leeway > MaxLeeway:
		return EAR{}, fmt.Errorf("verifying a result: a leeway of %s, at most %s", opt.Leeway, MaxLeeway)
	}
	kid, err := readHeader(token)
	if err != nil {
		return EAR{}, err
	}
	key, err := findKey(jwks, kid)
	if err != nil {
		return EAR{}, err
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return EAR{}, CodeForm.Bad("token", "a JWS in compact form", err.Error())
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return EAR{}, CodeSignature.Bad("token", "a signature by key "+kid, "another")
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return EAR{}, CodeClaims.Bad("claims", "the claims of an EAR", err.Error())
	}
	if err := c.check(opt); err != nil {
		return EAR{}, err
	}
	return c.decode(kid)
}

// readHeader returns the kid of a well-formed token whose header asks for nothing but ES256.
func readHeader(token string) (string, error) {
	if len(token) > MaxToken {
		return "", CodeSize.Bad("token", fmt.Sprintf("at most %d bytes", MaxToken), fmt.Sprint(len(token)))
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", CodeForm.Bad("token", "3 parts", fmt.Sprint(len(parts)))
	}
	var header []byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(p)
		if err != nil || strings.ContainsAny(p, "\r\n") || i == 0 && len(b) > maxHeader {
			return "", CodeForm.Bad("token", "base64url without padding, and a short header", fmt.Sprintf("part %d isn't", i+1))
		}
		if i == 0 {
			header = b
		}
	}
	var fields map[string]any
	if err := json.Unmarshal(header, &fields); err != nil {
		return "", CodeForm.Bad("header", "a JSON object", err.Error())
	}
	for name := range fields {
		if name != "alg" && name != "kid" && name != "typ" {
			return "", CodeHeader.Bad("header", "alg, kid and typ only", clip(name))
		}
	}
	if alg, _ := fields["alg"].(string); alg != string(jose.ES256) {
		return "", CodeAlgorithm.Bad("header.alg", string(jose.ES256), clip(fmt.Sprint(fields["alg"])))
	}
	if typ, ok := fields["typ"]; ok && typ != "JWT" {
		return "", CodeForm.Bad("header.typ", "JWT", clip(fmt.Sprint(typ)))
	}
	kid, _ := fields["kid"].(string)
	if kid == "" {
		return "", CodeKey.Bad("header.kid", "a key's thumbprint", "none")
	}
	return kid, nil
}

// findKey returns the one key of the set with this id. Keys of other kinds may stand beside it.
func findKey(jwks []byte, kid string) (*jose.JSONWebKey, error) {
	if len(jwks) > maxJWKS {
		return nil, CodeKeySet.Bad("jwks", fmt.Sprintf("at most %d bytes", maxJWKS), fmt.Sprint(len(jwks)))
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil || len(set.Keys) > maxKeys {
		return nil, CodeKeySet.Bad("jwks", fmt.Sprintf("a JSON Web Key Set of at most %d keys", maxKeys), "something else")
	}
	var found *jose.JSONWebKey
	for i, raw := range set.Keys {
		var about struct {
			Kind    string `json:"kty"`
			Curve   string `json:"crv"`
			ID      string `json:"kid"`
			Use     string `json:"use"`
			Alg     string `json:"alg"`
			Private any    `json:"d"`
		}
		path := fmt.Sprintf("jwks.keys[%d]", i)
		if err := json.Unmarshal(raw, &about); err != nil {
			return nil, CodeKeySet.Bad(path, "a JSON Web Key", "something else")
		}
		if about.Private != nil {
			return nil, CodeKeySet.Bad(path, "a public key", "a private one")
		}
		if about.ID != kid || about.Kind != "EC" || about.Curve != "P-256" ||
			about.Use != "" && about.Use != "sig" || about.Alg != "" && about.Alg != string(jose.ES256) {
			continue
		}
		if found != nil {
			return nil, CodeKeySet.Bad(path, "key ids that differ", clip(kid)+" twice")
		}
		k := new(jose.JSONWebKey)
		if err := json.Unmarshal(raw, k); err != nil || !k.IsPublic() || !k.Valid() {
			return nil, CodeKeySet.Bad(path, "a P-256 public key", "something else")
		}
		found = k
	}
	if found == nil {
		return nil, CodeKey.Bad("header.kid", "a P-256 signing key of the set", clip(kid))
	}
	return found, nil
}

// check compares the claims with what was asked.
func (c claims) check(opt VerifyOptions) error {
	switch {
	case c.Profile != Profile:
		return CodeProfile.Bad("eat_profile", Profile, clip(c.Profile))
	case c.Issuer != opt.Issuer:
		return CodeIssuer.Bad("iss", opt.Issuer, clip(c.Issuer))
	case c.Audience != opt.Audience:
		return CodeAudience.Bad("aud", opt.Audience, clip(c.Audience))
	case c.IssuedAt == nil || c.NotBefore == nil || c.Expires == nil:
		return CodeClaims.Bad("iat, nbf, exp", "all three", "not all")
	case c.ID == "":
		return CodeID.Bad("jti", "an id", "none")
	}
	// Numbers first: as times, huge ones wrap around.
	iat, nbf, exp := *c.IssuedAt, *c.NotBefore, *c.Expires
	const latest = 253402300799 // 9999-12-31T23:59:59Z
	if iat < 0 || nbf < iat || exp < nbf || exp > latest {
		return CodeClaims.Bad("iat, nbf, exp", "times in this order", fmt.Sprintf("%d, %d, %d", iat, nbf, exp))
	}
	if life := exp - iat; life > int64(MaxTTL/time.Second) {
		return CodeLifetime.Bad("exp", fmt.Sprintf("at most %s after iat", MaxTTL), fmt.Sprintf("%d seconds", life))
	}
	if at := opt.Now.Add(opt.Leeway); at.Before(time.Unix(nbf, 0)) {
		return CodeEarly.Bad("nbf", "not after "+opt.Now.UTC().Format(time.RFC3339), time.Unix(nbf, 0).UTC().Format(time.RFC3339))
	}
	if at := opt.Now.Add(-opt.Leeway); !at.Before(time.Unix(exp, 0)) {
		return CodeExpired.Bad("exp", "after "+opt.Now.UTC().Format(time.RFC3339), time.Unix(exp, 0).UTC().Format(time.RFC3339))
	}
	return nil
}

// decode returns the typed form of claims that were checked, and refuses those that contradict themselves.
func (c claims) decode(kid string) (EAR, error) {
	if len(c.Submods) > maxSubmods {
		return EAR{}, CodeClaims.Bad("submods", fmt.Sprintf("at most %d", maxSubmods), fmt.Sprint(len(c.Submods)))
	}
	all, ok := c.Submods[Overall]
	if !ok || all.Status == nil {
		return EAR{}, CodeClaims.Bad("submods."+Overall, "an overall appraisal with ear.status", "none")
	}
	v := rats.VerdictOfState(all.State)
	if v.State != all.State || v.Tier != *all.Status || v.Word != all.Word || all.Subject != c.Subject {
		return EAR{}, CodeClaims.Bad("submods."+Overall, "status, state, verdict and subject that agree", "others")
	}
	e := EAR{
		Issuer: c.Issuer, Audience: c.Audience, Subject: c.Subject, ID: c.ID, KeyID: kid, Verifier: c.Verifier,
		IssuedAt: time.Unix(*c.IssuedAt, 0).UTC(), NotBefore: time.Unix(*c.NotBefore, 0).UTC(), Expires: time.Unix(*c.Expires, 0).UTC(),
		Tier: *all.Status, Word: all.Word, State: all.State, Namespace: all.Namespace, Result: all.Result,
		Sets: all.Sets, Marks: all.Marks, Codes: all.Codes, Reasons: all.Reasons,
		Parts: make(map[rats.Format]Part, len(c.Submods)-1),
	}
	if c.Confirm != nil {
		if e.Confirm = c.Confirm.Thumbprint; e.Confirm == "" {
			return EAR{}, CodeClaims.Bad("cnf", "a thumbprint (jkt)", "another confirmation") // not to be taken for a bearer token
		}
	}
	if all.Evidence != nil {
		e.Evidence = *all.Evidence
	}
	if all.Ref != nil {
		e.Policy = *all.Ref
	}
	if all.At != nil {
		e.At = *all.At
	}
	if all.ValidTill != nil {
		e.ValidTill = *all.ValidTill
	}
	for name, a := range c.Submods {
		vector, err := decodeVector(a.Vector)
		if err != nil || a.Status == nil {
			return EAR{}, CodeClaims.Bad("submods."+clip(name), "a status and AR4SI slots", "something else")
		}
		if name == Overall {
			e.Vector = vector
			continue
		}
		p := Part{Tier: *a.Status, Vector: vector, Policy: a.Policy}
		if a.Claims != nil {
			p.Claims = *a.Claims
		}
		e.Parts[rats.Format(name)] = p
	}
	return e, nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
