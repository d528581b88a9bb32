package result_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/result"
)

var (
	now    = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	issuer = "https://verifier.example"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keySet(t testing.TB, keys ...*ecdsa.PrivateKey) []byte {
	t.Helper()
	var pubs []crypto.PublicKey
	for _, k := range keys {
		pubs = append(pubs, k.Public())
	}
	set, err := result.JWKS(pubs...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func trusted() rats.Result {
	var v rats.Vector
	v[rats.InstanceIdentity], v[rats.Executables], v[rats.Hardware] = rats.Affirming, rats.Warning, rats.Affirming
	return rats.Result{
		ID: "at_1", Namespace: "prod", Subject: "node/nd_1", Tier: rats.Warning, Vector: v,
		Demanded: []rats.Slot{rats.InstanceIdentity, rats.Executables},
		Parts: map[rats.Format]rats.PartResult{
			"one": {Vector: rats.Vector{rats.InstanceIdentity: rats.Affirming}, Claims: rats.SHA256([]byte("claims"))},
			"two": {Vector: rats.Vector{rats.Executables: rats.Warning}},
		},
		Reasons: []rats.Reason{
			{Code: "one.a.b", Title: "first", Slot: rats.Executables, Tier: rats.Warning, Path: "/bin/x", Expected: "this", Seen: "that"},
			{Code: "one.a.b", Title: "second", Slot: rats.Executables, Tier: rats.Warning, Path: "/bin/y"},
			{Code: "one.c.d", Slot: rats.Hardware, Tier: rats.Warning},
		},
		Policy:     rats.Ref{Name: "base", Version: 3, Digest: rats.SHA256([]byte("policy"))},
		Sets:       []rats.Ref{{Name: "debian", Version: 7, Digest: rats.SHA256([]byte("set"))}},
		Collection: rats.SHA256([]byte("evidence")),
		Keys:       []rats.BoundKey{{Use: rats.KeyHPKE, Public: bytes.Repeat([]byte{7}, 32)}},
		At:         now.Add(-time.Second), Expires: now.Add(time.Hour), Marks: []string{rats.MarkSimulated},
	}
}

func signOptions() result.SignOptions {
	return result.SignOptions{Issuer: issuer, Audience: "gate", Now: now, Rand: rand.Reader, Build: "v1"}
}

func verifyOptions() result.VerifyOptions {
	return result.VerifyOptions{Issuer: issuer, Audience: "gate", Now: now}
}

func sign(t testing.TB, r rats.Result, key *ecdsa.PrivateKey, opt result.SignOptions) string {
	t.Helper()
	token, err := result.Sign(r, key, opt)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func wantCode(t *testing.T, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Fatalf("got %v, expected %s", err, want.Code)
	}
}

// R145: the result is a signed EAR with expiry, policy id and version, evidence digest and reasons.
func TestASignedResultSaysWhatTheResultSays(t *testing.T) {
	key, r := newKey(t), trusted()
	opt := signOptions()
	opt.Full = true
	e, err := result.Verify(sign(t, r, key, opt), keySet(t, newKey(t), key), verifyOptions())
	if err != nil {
		t.Fatal(err)
	}
	kid, err := result.KeyID(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	policy := "base@3:" + r.Policy.Digest.String()
	want := result.EAR{
		Issuer: issuer, Audience: "gate", Subject: "node/nd_1", ID: e.ID, KeyID: kid,
		IssuedAt: now, NotBefore: now, Expires: now.Add(5 * time.Minute),
		Verifier: result.VerifierID{Developer: result.Developer, Build: "v1"},
		Tier:     rats.Warning, Vector: r.Vector, Word: "trusted (warning)", State: rats.StateWarning,
		Namespace: "prod", Result: "at_1", Evidence: r.Collection, Policy: r.Policy, Sets: r.Sets, Marks: r.Marks,
		Codes: []rats.Code{"one.a.b", "one.c.d"}, Reasons: r.Reasons, At: r.At, ValidTill: r.Expires,
		Parts: map[rats.Format]result.Part{
			"one": {Tier: rats.Affirming, Vector: r.Parts["one"].Vector, Policy: policy, Claims: r.Parts["one"].Claims},
			"two": {Tier: rats.Warning, Vector: r.Parts["two"].Vector, Policy: policy},
		},
	}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
	if len(e.ID) != 22 {
		t.Errorf("jti %q is not 128 bits", e.ID)
	}
	if v := e.Verdict(now); !v.Secrets || !v.OnlyIf {
		t.Errorf("verdict %+v", v)
	}
	if v := e.Verdict(e.Expires); v.State != rats.StateStale {
		t.Errorf("verdict at expiry %+v", v)
	}
}

// R145: an independent tool verifies it: here nothing but crypto/ecdsa and encoding/json.
func TestATokenVerifiesByThePlainRulesOfJWS(t *testing.T) {
	key := newKey(t)
	token := sign(t, trusted(), key, signOptions())
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(sig) != 64 {
		t.Fatalf("signature of %d bytes, %v", len(sig), err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(keySet(t, key), &set); err != nil {
		t.Fatal(err)
	}
	jwk := set.Keys[0]
	point := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil || len(b) != 32 {
			t.Fatalf("coordinate %q: %v", s, err)
		}
		return b
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, point(jwk["x"]), point(jwk["y"])))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Fatal("the signature is wrong")
	}
	thumb := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + jwk["x"] + `","y":"` + jwk["y"] + `"}`))
	header := part(t, parts[0])
	if want := map[string]any{"alg": "ES256", "typ": "JWT", "kid": base64.RawURLEncoding.EncodeToString(thumb[:])}; !reflect.DeepEqual(header, want) {
		t.Errorf("header %v, expected %v", header, want)
	}
	claims := part(t, parts[1])
	if claims["eat_profile"] != "tag:github.com,2023:veraison/ear" || claims["exp"].(float64)-claims["iat"].(float64) != 300 {
		t.Errorf("claims %v", claims)
	}
	sub := claims["submods"].(map[string]any)["assay"].(map[string]any)
	vector := sub["ear.trustworthiness-vector"].(map[string]any)
	if sub["ear.status"] != "warning" || vector["instance-identity"] != 2.0 || vector["executables"] != 32.0 || vector["storage-opaque"] != 0.0 || len(vector) != 8 {
		t.Errorf("submodule %v", sub)
	}
	if sub["ear.appraisal-policy-id"] != "base@3:"+trusted().Policy.Digest.String() || sub["assay.evidence"] != trusted().Collection.String() {
		t.Errorf("submodule %v", sub)
	}
}

func part(t *testing.T, s string) map[string]any {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAResultThatIsOverOrEmptyIsSignedAsNone(t *testing.T) {
	key := newKey(t)
	over, within := trusted(), trusted()
	over.Tier, over.Expires = rats.Affirming, now
	within.Tier, within.Expires = rats.Affirming, now.Add(999*time.Millisecond)
	unknown := trusted()
	unknown.Tier = 3
	for name, r := range map[string]rats.Result{"expired": over, "within this second": within, "zero": {}, "unknown tier": unknown} {
		t.Run(name, func(t *testing.T) {
			e, err := result.Verify(sign(t, r, key, signOptions()), keySet(t, key), verifyOptions())
			if err != nil {
				t.Fatal(err)
			}
			if e.Tier != rats.None || e.Verdict(now).Secrets || e.Verdict(now).Exit != rats.ExitUnknown {
				t.Errorf("tier %s, verdict %+v", e.Tier, e.Verdict(now))
			}
			if name != "unknown tier" && (e.State != rats.StateStale || e.Vector != rats.Vector{}) {
				t.Errorf("state %s, vector %v", e.State, e.Vector)
			}
			for f, p := range e.Parts {
				if name != "unknown tier" && (p.Tier != rats.None || p.Vector != rats.Vector{}) {
					t.Errorf("part %s: %+v", f, p)
				}
			}
		})
	}
	if v := (result.EAR{}).Verdict(now); v.Secrets || v.Tier != rats.None {
		t.Errorf("the zero EAR: %+v", v)
	}
}

func TestATokenNeverOutlivesItsResult(t *testing.T) {
	key, r := newKey(t), trusted()
	r.Expires = now.Add(90 * time.Second)
	e, err := result.Verify(sign(t, r, key, signOptions()), keySet(t, key), verifyOptions())
	if err != nil || !e.Expires.Equal(r.Expires) {
		t.Errorf("expires %s, %v", e.Expires, err)
	}
	opt := signOptions()
	opt.TTL = 10 * time.Second
	e, err = result.Verify(sign(t, r, key, opt), keySet(t, key), verifyOptions())
	if err != nil || !e.Expires.Equal(now.Add(opt.TTL)) {
		t.Errorf("expires %s, %v", e.Expires, err)
	}
}

// S48: a relying party learns codes, not values, and a subject of its own if the verifier makes one.
func TestRelyingPartiesLearnCodesOnly(t *testing.T) {
	key, opt := newKey(t), signOptions()
	opt.Subject = "node/pairwise"
	token := sign(t, trusted(), key, opt)
	e, err := result.Verify(token, keySet(t, key), verifyOptions())
	if err != nil {
		t.Fatal(err)
	}
	if e.Reasons != nil || len(e.Codes) != 2 || !e.Parts["one"].Claims.IsZero() || e.Subject != "node/pairwise" {
		t.Errorf("%+v", e)
	}
	payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	for _, secret := range []string{"/bin/x", "this", "that", "nd_1"} {
		if bytes.Contains(payload, []byte(secret)) {
			t.Errorf("the token tells %q", secret)
		}
	}
}

func TestATokenConfirmsOnlyAKeyTheResultBinds(t *testing.T) {
	key, r, opt := newKey(t), trusted(), signOptions()
	spki, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	tls := rats.BoundKey{Use: rats.KeyTLS, Public: spki}
	opt.Confirm = &tls
	if _, err := result.Sign(r, key, opt); err == nil {
		t.Fatal("confirmed a stranger's key")
	}
	r.Keys = append(r.Keys, tls)
	for _, k := range r.Keys {
		opt.Confirm = &k
		e, err := result.Verify(sign(t, r, key, opt), keySet(t, key), verifyOptions())
		if err != nil {
			t.Fatal(err)
		}
		if want, err := result.Thumbprint(k); err != nil || e.Confirm != want || len(want) != 43 {
			t.Errorf("%s: %q, expected %q, %v", k.Use, e.Confirm, want, err)
		}
	}
	r.Keys = []rats.BoundKey{{Use: rats.KeyTLS, Public: []byte("x")}, {Use: rats.KeyHPKE, Public: []byte("x")}}
	for _, k := range r.Keys {
		opt.Confirm = &k
		if _, err := result.Sign(r, key, opt); err == nil {
			t.Errorf("confirmed a malformed %s key", k.Use)
		}
	}
}

func TestSigningNeedsItsOptions(t *testing.T) {
	key := newKey(t)
	for name, change := range map[string]func(*result.SignOptions){
		"no issuer":     func(o *result.SignOptions) { o.Issuer = "" },
		"no audience":   func(o *result.SignOptions) { o.Audience = "" },
		"no time":       func(o *result.SignOptions) { o.Now = time.Time{} },
		"no randomness": func(o *result.SignOptions) { o.Rand = nil },
		"little of it":  func(o *result.SignOptions) { o.Rand = strings.NewReader("x") },
		"too long":      func(o *result.SignOptions) { o.TTL = 5*time.Minute + 1 },
		"negative":      func(o *result.SignOptions) { o.TTL = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			opt := signOptions()
			change(&opt)
			if _, err := result.Sign(trusted(), key, opt); err == nil {
				t.Error("signed")
			}
		})
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := result.Sign(trusted(), p384, signOptions()); err == nil {
		t.Error("signed with P-384")
	}
	r := trusted()
	r.Parts[result.Overall] = rats.PartResult{}
	if _, err := result.Sign(r, key, signOptions()); err == nil {
		t.Error("a format took the overall submodule's name")
	}
	r = trusted()
	opt := signOptions()
	opt.Full = true
	r.Reasons = []rats.Reason{{Code: "a.b.c", Seen: strings.Repeat("x", result.MaxToken)}}
	_, err = result.Sign(r, key, opt)
	wantCode(t, err, result.CodeSize)
}

func TestDiscoveryNamesTheKeySet(t *testing.T) {
	b, err := result.Discovery(issuer)
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	if d["issuer"] != issuer || d["jwks_uri"] != issuer+"/.well-known/jwks.json" {
		t.Errorf("%s", b)
	}
	for _, bad := range []string{"", "http://x.example", "https://", "https://x.example/", "https://x.example?a", "https://x.example#a", "https://u@x.example", "verifier", "https://x\x7f"} {
		if _, err := result.Discovery(bad); err == nil {
			t.Errorf("%q is an issuer", bad)
		}
	}
}

func TestAKeySetHoldsEachKeyOnceAndOnlyP256(t *testing.T) {
	key := newKey(t)
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(keySet(t, key, key), &set); err != nil || len(set.Keys) != 1 {
		t.Errorf("%v, %v", set, err)
	}
	if _, ok := set.Keys[0]["d"]; ok || set.Keys[0]["use"] != "sig" || set.Keys[0]["alg"] != "ES256" {
		t.Errorf("%v", set)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := result.JWKS(p384.Public()); err == nil {
		t.Error("published a P-384 key")
	}
	if _, err := result.JWKS(); err == nil {
		t.Error("published nothing")
	}
}
