package result_test

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/result"
)

var b64 = base64.RawURLEncoding.EncodeToString

// forge signs any header and payload by hand.
func forge(t testing.TB, key *ecdsa.PrivateKey, header, payload string) string {
	t.Helper()
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + b64(sig)
}

func open(t testing.TB, token string) (header, payload string) {
	t.Helper()
	parts := strings.Split(token, ".")
	h, err1 := base64.RawURLEncoding.DecodeString(parts[0])
	p, err2 := base64.RawURLEncoding.DecodeString(parts[1])
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return string(h), string(p)
}

// edit returns the JSON object with one member replaced, or removed if value is empty. The path's elements are
// separated by spaces, since names hold dots.
func edit(t testing.TB, object, path, value string) string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &m); err != nil {
		t.Fatal(err)
	}
	name, rest, deeper := strings.Cut(path, " ")
	switch {
	case deeper:
		m[name] = json.RawMessage(edit(t, string(m[name]), rest, value))
	case value == "":
		delete(m, name)
	default:
		m[name] = json.RawMessage(value)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestTokensWithOneThingChangedAreRefused is the refusal matrix of claims: every token is signed by the right key.
func TestTokensWithOneThingChangedAreRefused(t *testing.T) {
	key := newKey(t)
	header, payload := open(t, sign(t, trusted(), key, signOptions()))
	set := keySet(t, key)
	if _, err := result.Verify(forge(t, key, header, payload), set, verifyOptions()); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
	at := func(d time.Duration) string { return fmt.Sprint(now.Add(d).Unix()) }
	for _, c := range []struct {
		path, value string
		want        rats.CodeInfo
	}{
		{"eat_profile", `"tag:example,2026:other"`, result.CodeProfile},
		{"eat_profile", ``, result.CodeProfile},
		{"iss", `"https://other.example"`, result.CodeIssuer},
		{"iss", ``, result.CodeIssuer},
		{"aud", `"other"`, result.CodeAudience},
		{"aud", ``, result.CodeAudience},
		{"aud", `["gate","other"]`, result.CodeClaims},
		{"exp", at(-time.Second), result.CodeClaims}, // before nbf
		{"exp", at(301 * time.Second), result.CodeLifetime},
		{"exp", at(0), result.CodeExpired},
		{"exp", ``, result.CodeClaims},
		{"exp", `"soon"`, result.CodeClaims},
		{"exp", `1e400`, result.CodeClaims},
		{"exp", `9223372036854775807`, result.CodeClaims},
		{"iat", at(-time.Hour), result.CodeLifetime},
		{"iat", at(time.Second), result.CodeClaims}, // after nbf
		{"iat", `-9223372036854775808`, result.CodeClaims},
		{"iat", ``, result.CodeClaims},
		{"nbf", at(time.Second), result.CodeEarly},
		{"nbf", ``, result.CodeClaims},
		{"jti", ``, result.CodeID},
		{"jti", `""`, result.CodeID},
		{"jti", `7`, result.CodeClaims},
		{"sub", `"node/nd_2"`, result.CodeClaims},
		{"cnf", `{"jwk":{}}`, result.CodeClaims},
		{"submods", ``, result.CodeClaims},
		{"submods", `{}`, result.CodeClaims},
		{"submods assay", ``, result.CodeClaims},
		{"submods assay ear.status", ``, result.CodeClaims},
		{"submods assay ear.status", `"affirming"`, result.CodeClaims},
		{"submods assay ear.status", `"fine"`, result.CodeClaims},
		{"submods assay ear.status", `2`, result.CodeClaims},
		{"submods assay assay.state", `"trusted"`, result.CodeClaims},
		{"submods assay assay.state", `"great"`, result.CodeClaims},
		{"submods assay assay.verdict", `"trusted"`, result.CodeClaims},
		{"submods assay assay.evidence", `"sha256:00"`, result.CodeClaims},
		{"submods assay ear.trustworthiness-vector hardware", `3`, result.CodeClaims},
		{"submods assay ear.trustworthiness-vector goodness", `2`, result.CodeClaims},
		{"submods one ear.status", ``, result.CodeClaims},
		{"submods one ear.trustworthiness-vector executables", `-1`, result.CodeClaims},
	} {
		t.Run(c.path+" "+c.value, func(t *testing.T) {
			_, err := result.Verify(forge(t, key, header, edit(t, payload, c.path, c.value)), set, verifyOptions())
			wantCode(t, err, c.want)
		})
	}
	for name, p := range map[string]string{
		"claim twice":            `{"aud":"gate",` + payload[1:],
		"claim twice, deep down": strings.Replace(payload, `"ear.status":"warning"`, `"ear.status":"warning","ear.status":"warning"`, 1),
		"not JSON":               "x",
		"no object":              "[]",
		"more after it":          payload + "{}",
		"many submodules":        edit(t, payload, "submods", manySubmods()),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := result.Verify(forge(t, key, header, p), set, verifyOptions())
			wantCode(t, err, result.CodeClaims)
		})
	}
}

func manySubmods() string {
	var b strings.Builder
	for i := range 65 {
		fmt.Fprintf(&b, `,"f%d":{"ear.status":"none"}`, i)
	}
	return "{" + b.String()[1:] + "}"
}

// S43: the key is never taken from the header.
func TestHeadersThatWantToBeBelievedAreRefused(t *testing.T) {
	key, thief := newKey(t), newKey(t)
	header, payload := open(t, sign(t, trusted(), key, signOptions()))
	set := keySet(t, key)
	var published struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(keySet(t, thief), &published); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, value string
		want        rats.CodeInfo
	}{
		{"jwk", string(published.Keys[0]), result.CodeHeader},
		{"jku", `"https://thief.example/jwks"`, result.CodeHeader},
		{"x5u", `"https://thief.example/cert"`, result.CodeHeader},
		{"x5c", `["AAAA"]`, result.CodeHeader},
		{"x5t", `"AAAA"`, result.CodeHeader},
		{"crit", `["b64"]`, result.CodeHeader},
		{"b64", `false`, result.CodeHeader},
		{"zip", `"DEF"`, result.CodeHeader},
		{"alg", `"none"`, result.CodeAlgorithm},
		{"alg", `"HS256"`, result.CodeAlgorithm},
		{"alg", `"ES384"`, result.CodeAlgorithm},
		{"alg", `"es256"`, result.CodeAlgorithm},
		{"alg", ``, result.CodeAlgorithm},
		{"alg", `7`, result.CodeAlgorithm},
		{"typ", `"JOSE"`, result.CodeForm},
		{"kid", `"other"`, result.CodeKey},
		{"kid", ``, result.CodeKey},
		{"kid", `["x"]`, result.CodeKey},
	} {
		for who, k := range map[string]*ecdsa.PrivateKey{"own": key, "thief's": thief} {
			t.Run(c.name+" "+c.value+" by "+who+" key", func(t *testing.T) {
				_, err := result.Verify(forge(t, k, edit(t, header, c.name, c.value), payload), set, verifyOptions())
				wantCode(t, err, c.want)
			})
		}
	}
	_, err := result.Verify(forge(t, thief, header, payload), set, verifyOptions())
	wantCode(t, err, result.CodeSignature)
	_, err = result.Verify(forge(t, key, `{"alg":"none",`+header[1:], payload), set, verifyOptions())
	wantCode(t, err, result.CodeForm)
}

func TestTokensOfAnotherFormAreRefused(t *testing.T) {
	key := newKey(t)
	token, set := sign(t, trusted(), key, signOptions()), keySet(t, key)
	parts := strings.Split(token, ".")
	mac := hmac.New(sha256.New, set)
	mac.Write([]byte(parts[0] + "." + parts[1]))
	for name, c := range map[string]struct {
		token string
		want  rats.CodeInfo
	}{
		"empty":                       {"", result.CodeForm},
		"two parts":                   {parts[0] + "." + parts[1], result.CodeForm},
		"four parts":                  {token + ".", result.CodeForm},
		"no signature":                {parts[0] + "." + parts[1] + ".", result.CodeSignature},
		"MAC with the public key":     {parts[0] + "." + parts[1] + "." + b64(mac.Sum(nil)), result.CodeSignature},
		"no payload":                  {parts[0] + ".." + parts[2], result.CodeSignature},
		"payload of another":          {parts[0] + "." + b64([]byte("{}")) + "." + parts[2], result.CodeSignature},
		"padding":                     {token + "==", result.CodeForm},
		"line break":                  {token + "\n", result.CodeForm},
		"line break in a part":        {parts[0] + "\n." + parts[1] + "." + parts[2], result.CodeForm},
		"last bits":                   {token[:len(token)-1] + "_", result.CodeForm},
		"JSON form":                   {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, result.CodeForm},
		"long":                        {token + strings.Repeat("A", result.MaxToken), result.CodeSize},
		"long header":                 {b64([]byte(strings.Repeat(" ", 2000)+"{}")) + "." + parts[1] + "." + parts[2], result.CodeForm},
		"header that nests":           {b64([]byte(strings.Repeat("[", 1000))) + "." + parts[1] + "." + parts[2], result.CodeForm},
		"header that isn't an object": {b64([]byte("7")) + "." + parts[1] + "." + parts[2], result.CodeForm},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := result.Verify(c.token, set, verifyOptions())
			wantCode(t, err, c.want)
		})
	}
}

func TestKeySetsThatAreNoneAreRefused(t *testing.T) {
	key := newKey(t)
	token, set := sign(t, trusted(), key, signOptions()), string(keySet(t, key))
	one := strings.TrimSuffix(strings.TrimPrefix(set, `{"keys":[`), `]}`)
	for name, c := range map[string]struct {
		set  string
		want rats.CodeInfo
	}{
		"empty":           {"", result.CodeKeySet},
		"no keys":         {`{"keys":[]}`, result.CodeKey},
		"another object":  {`{}`, result.CodeKey},
		"one key":         {one, result.CodeKey},
		"key twice":       {`{"keys":[` + one + `,` + one + `]}`, result.CodeKeySet},
		"private key":     {`{"keys":[` + edit(t, one, "d", `"AAAA"`) + `]}`, result.CodeKeySet},
		"off the curve":   {`{"keys":[` + edit(t, one, "x", `"`+b64(make([]byte, 32))+`"`) + `]}`, result.CodeKeySet},
		"for encryption":  {`{"keys":[` + edit(t, one, "use", `"enc"`) + `]}`, result.CodeKey},
		"another alg":     {`{"keys":[` + edit(t, one, "alg", `"ES384"`) + `]}`, result.CodeKey},
		"another curve":   {`{"keys":[` + edit(t, one, "crv", `"P-384"`) + `]}`, result.CodeKey},
		"symmetric":       {`{"keys":[` + edit(t, edit(t, one, "kty", `"oct"`), "k", `"AAAA"`) + `]}`, result.CodeKey},
		"key is a number": {`{"keys":[7]}`, result.CodeKeySet},
		"too many":        {`{"keys":[` + strings.Repeat("{},", 64) + one + `]}`, result.CodeKeySet},
		"too long":        {set + strings.Repeat(" ", 64<<10), result.CodeKeySet},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := result.Verify(token, []byte(c.set), verifyOptions())
			wantCode(t, err, c.want)
		})
	}
	beside := `{"keys":[{"kty":"RSA","kid":"other","n":"AQAB","e":"AQAB"},` + one + `]}`
	if _, err := result.Verify(token, []byte(beside), verifyOptions()); err != nil {
		t.Errorf("a key of another kind beside it: %v", err)
	}
}

func TestClocksMayDifferByTheLeewayOnly(t *testing.T) {
	key := newKey(t)
	token, set := sign(t, trusted(), key, signOptions()), keySet(t, key)
	for _, c := range []struct {
		offset, leeway time.Duration
		want           rats.CodeInfo
	}{
		{0, 0, rats.CodeInfo{}},
		{299 * time.Second, 0, rats.CodeInfo{}},
		{300 * time.Second, 0, result.CodeExpired},
		{329 * time.Second, 30 * time.Second, rats.CodeInfo{}},
		{330 * time.Second, 30 * time.Second, result.CodeExpired},
		{-time.Second, 0, result.CodeEarly},
		{-30 * time.Second, 30 * time.Second, rats.CodeInfo{}},
		{-31 * time.Second, 30 * time.Second, result.CodeEarly},
	} {
		opt := verifyOptions()
		opt.Now, opt.Leeway = now.Add(c.offset), c.leeway
		_, err := result.Verify(token, set, opt)
		if c.want.Code != "" {
			wantCode(t, err, c.want)
		} else if err != nil {
			t.Errorf("%s with leeway %s: %v", c.offset, c.leeway, err)
		}
	}
}

func TestVerifyingNeedsItsOptions(t *testing.T) {
	key := newKey(t)
	token, set := sign(t, trusted(), key, signOptions()), keySet(t, key)
	for name, opt := range map[string]result.VerifyOptions{
		"no audience":     {Issuer: issuer, Now: now},
		"no issuer":       {Audience: "gate", Now: now},
		"no time":         {Issuer: issuer, Audience: "gate"},
		"much leeway":     {Issuer: issuer, Audience: "gate", Now: now, Leeway: time.Hour},
		"negative leeway": {Issuer: issuer, Audience: "gate", Now: now, Leeway: -1},
	} {
		if _, err := result.Verify(token, set, opt); err == nil {
			t.Errorf("%s: accepted", name)
		} else if _, coded := rats.ReasonOf(err); coded {
			t.Errorf("%s: %v looks like a bad token", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key := newKey(f)
	token, set := sign(f, trusted(), key, signOptions()), keySet(f, key)
	header, payload := open(f, token)
	f.Add(token, set)
	f.Add("", []byte("{}"))
	f.Add(strings.Repeat(".", 9), set)
	f.Add(forge(f, newKey(f), header, payload), set)
	f.Add(b64([]byte(`{"alg":"none"}`))+"."+b64([]byte(payload))+".", set)
	f.Fuzz(func(t *testing.T, token string, jwks []byte) {
		_, err := result.Verify(token, jwks, verifyOptions())
		if _, coded := rats.ReasonOf(err); err != nil && !coded {
			t.Fatalf("an error without a code: %v", err)
		}
		own, err := result.Verify(token, set, verifyOptions())
		if h, p := header, payload; err == nil && (own.Tier != rats.Warning || !strings.HasPrefix(token, b64([]byte(h))+"."+b64([]byte(p))+".")) {
			t.Fatalf("accepted what was not signed: %+v", own)
		}
	})
}

// FuzzClaims signs foreign claims with the right key: nothing panics, and nothing inconsistent gets through.
func FuzzClaims(f *testing.F) {
	key := newKey(f)
	token, set := sign(f, trusted(), key, signOptions()), keySet(f, key)
	header, payload := open(f, token)
	f.Add(payload)
	f.Add(`{"submods":null}`)
	f.Add(edit(f, payload, "submods assay ear.trustworthiness-vector", `null`))
	f.Fuzz(func(t *testing.T, p string) {
		if len(p) > 64<<10 {
			return
		}
		e, err := result.Verify(forge(t, key, header, p), set, verifyOptions())
		if _, coded := rats.ReasonOf(err); err != nil && !coded {
			t.Fatalf("an error without a code: %v", err)
		}
		if err == nil && (e.Verdict(now).Tier != e.Tier || e.Expires.Sub(e.IssuedAt) > result.MaxTTL || e.ID == "") {
			t.Fatalf("inconsistent: %+v", e)
		}
	})
}
