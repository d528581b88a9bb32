package plan

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func wantCode(t *testing.T, name string, err error, want rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != want.Code {
		t.Errorf("%s: got %v, want %s", name, err, want.Code)
	}
}

func ecKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k, spki
}

func boxKey(t testing.TB) *sealed.Key {
	t.Helper()
	k, err := sealed.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testPlan() Plan {
	p := Plan{ID: [16]byte{1}, Version: Version1, Limits: Limits{Files: 10, Time: time.Second}}
	for i, make := range []func(id uint32) (Test, error){
		func(id uint32) (Test, error) { return NewTest(id, KindFile, "sha256", "/etc/<passwd>%0A", nil) },
		func(id uint32) (Test, error) { return NewTest(id, KindGlob, "sha384", "/usr/bin/*.sh", nil) },
		func(id uint32) (Test, error) { return NewTest(id, KindDir, "sha512", "/usr", []string{"/usr/tmp"}) },
	} {
		t, err := make(uint32(i + 1))
		if err != nil {
			panic(err)
		}
		p.Tests = append(p.Tests, t)
	}
	return p
}

type world struct {
	signer *ecdsa.PrivateKey
	spki   []byte
	box    *sealed.Key
	keys   []rats.BoundKey
	order  Order
	m      rats.Manifest
}

func newWorld(t testing.TB) *world {
	w := &world{box: boxKey(t)}
	w.signer, w.spki = ecKey(t)
	_, sign := ecKey(t)
	w.keys = []rats.BoundKey{{Use: rats.KeyHPKE, Public: w.box.Public()}, {Use: rats.KeySign, Public: sign}}
	w.order = Order{
		Namespace: "default", Node: "nd_1", Nonce: bytes.Repeat([]byte{9}, 32), To: KeysDigest(w.keys),
		Results: boxKey(t).Public(), Expires: start.Add(time.Minute), Plan: testPlan(),
	}
	w.m = rats.Manifest{Namespace: "default", Node: "nd_1", Nonce: w.order.Nonce}
	return w
}

func (w *world) seal(t testing.TB) []byte {
	t.Helper()
	b, err := w.order.Seal(nil, w.signer, w.box.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOrderReachesItsEnclave(t *testing.T) {
	w := newWorld(t)
	o, err := OpenOrder(w.box, w.spki, w.seal(t))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(o, w.order) {
		t.Errorf("got %+v, want %+v", o, w.order)
	}
	if err := o.CheckFor(w.keys, w.m, start); err != nil {
		t.Error(err)
	}
}

// R220: a plan that is not signed, signed by somebody else, or for another enclave is not obeyed. R107: nor one of
// another challenge.
func TestOrderRefusalMatrix(t *testing.T) {
	w := newWorld(t)
	payload, err := w.order.encode()
	if err != nil {
		t.Fatal(err)
	}
	other, otherSPKI := ecKey(t)
	box := func(payload, sig []byte) []byte {
		b, err := sealed.Seal(w.box.Public(), []byte(orderTag), appendField(appendField(nil, payload), sig))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	signed := func(payload []byte) []byte {
		sig, err := sign(w.signer, orderMessage(payload))
		if err != nil {
			t.Fatal(err)
		}
		return box(payload, sig)
	}
	foreign, _ := w.order.Seal(nil, other, w.box.Public())
	elsewhere, _ := w.order.Seal(nil, w.signer, boxKey(t).Public())
	bare, _ := sealed.Seal(w.box.Public(), []byte(orderTag), payload)
	purpose, _ := sealed.Seal(w.box.Public(), []byte(evidenceTag), payload)
	plainSig, _ := sign(w.signer, payload) // without the tag
	replace := func(old, new string) []byte {
		b := bytes.Replace(payload, []byte(old), []byte(new), 1)
		if bytes.Equal(b, payload) {
			t.Fatalf("%q is not in %s", old, payload)
		}
		return b
	}
	for _, c := range []struct {
		name string
		box  []byte
		want rats.CodeInfo
	}{
		{"sealed to another enclave", elsewhere, CodeOrderSealed},
		{"another purpose's box", purpose, CodeOrderSealed},
		{"empty", nil, CodeOrderSealed},
		{"altered", append(w.seal(t), 0), CodeOrderSealed},
		{"signed by another key", foreign, CodeOrderSignature},
		{"not signed", box(payload, nil), CodeOrderSignature},
		{"signed without its domain", box(payload, plainSig), CodeOrderSignature},
		{"not even parsed before its signature", box([]byte("{"), plainSig), CodeOrderSignature},
		{"no pair", bare, CodeOrderMalformed},
		{"unknown field", signed(replace(`{"namespace"`, `{"root":true,"namespace"`)), CodeOrderMalformed},
		{"doubled field", signed(replace(`{"namespace"`, `{"namespace":"x","namespace"`)), CodeOrderMalformed},
		{"white space", signed(append(payload[:len(payload):len(payload)], ' ')), CodeOrderMalformed},
		{"two documents", signed(append(payload[:len(payload):len(payload)], payload...)), CodeOrderMalformed},
		{"no JSON", signed([]byte("order")), CodeOrderMalformed},
		{"no node", signed(replace(`"nd_1"`, `""`)), CodeOrderMalformed},
		{"short nonce", signed(replace(`"nonce":"CQkJ`, `"nonce":"`)), CodeOrderMalformed},
		{"other digest", signed(replace(`"sha256:`, `"sm3:`)), CodeOrderMalformed},
		{"results to no key", signed(replace(`"results":"`, `"results":"AAAA`)), CodeOrderMalformed},
		{"no expiry", signed(replace(`"2026-01-02T03:05:05Z"`, `"0001-01-01T00:00:00Z"`)), CodeOrderMalformed},
		{"local time", signed(replace(`03:05:05Z`, `03:05:05+01:00`)), CodeOrderMalformed},
		{"bad plan", signed(replace(`"sha512"`, `"md5"`)), CodeDocument},
		{"huge", make([]byte, MaxDocument+4097), CodeOrderMalformed},
		{"huge payload", signed(make([]byte, MaxDocument+1)), CodeOrderMalformed},
	} {
		_, err := OpenOrder(w.box, w.spki, c.box)
		wantCode(t, c.name, err, c.want)
	}
	if _, err := OpenOrder(w.box, otherSPKI, w.seal(t)); err == nil {
		t.Error("another plan signer's enclave obeyed")
	}
	if _, err := OpenOrder(w.box, []byte("key"), w.seal(t)); err == nil {
		t.Error("obeyed without a plan signer")
	}
}

func TestOrderForSomethingElseIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Order, *rats.Manifest, *[]rats.BoundKey, *time.Time)
		want   rats.CodeInfo
	}{
		{"another enclave", func(o *Order, _ *rats.Manifest, _ *[]rats.BoundKey, _ *time.Time) { o.To = rats.SHA256() }, CodeOrderAddressee},
		{"no enclave", func(o *Order, _ *rats.Manifest, k *[]rats.BoundKey, _ *time.Time) { o.To, *k = rats.Digest{}, nil }, CodeOrderAddressee},
		{"another signing key", func(_ *Order, _ *rats.Manifest, k *[]rats.BoundKey, _ *time.Time) {
			*k = []rats.BoundKey{(*k)[0], {Use: rats.KeySign, Public: []byte("x")}}
		}, CodeOrderAddressee},
		{"another namespace", func(_ *Order, m *rats.Manifest, _ *[]rats.BoundKey, _ *time.Time) { m.Namespace = "x" }, CodeOrderNamespace},
		{"another node", func(_ *Order, m *rats.Manifest, _ *[]rats.BoundKey, _ *time.Time) { m.Node = "x" }, CodeOrderNode},
		{"another nonce", func(_ *Order, m *rats.Manifest, _ *[]rats.BoundKey, _ *time.Time) { m.Nonce = make([]byte, 32) }, CodeOrderNonce},
		{"at its expiry", func(o *Order, _ *rats.Manifest, _ *[]rats.BoundKey, now *time.Time) { *now = o.Expires }, CodeOrderExpired},
	} {
		w := newWorld(t)
		now := start
		c.change(&w.order, &w.m, &w.keys, &now)
		wantCode(t, c.name, w.order.CheckFor(w.keys, w.m, now), c.want)
	}
}

func TestUnusableOrderIsNotSealed(t *testing.T) {
	w := newWorld(t)
	w.order.Plan.Tests = nil
	_, err := w.order.Seal(nil, w.signer, w.box.Public())
	wantCode(t, "no tests", err, CodeDocument)
	w = newWorld(t)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if _, err := w.order.Seal(nil, p384, w.box.Public()); err == nil {
		t.Error("signed with another curve")
	}
	if _, err := w.order.Seal(nil, w.signer, nil); err == nil {
		t.Error("sealed to nobody")
	}
}

func TestPlanSurvivesItsEncoding(t *testing.T) {
	p := testPlan()
	got, err := Decode(p.Encode())
	if err != nil || !reflect.DeepEqual(got, p) || !got.Digest().Equal(p.Digest()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestMalformedPlanIsRefused(t *testing.T) {
	arg := func(kind, args string) func(*Plan) {
		return func(p *Plan) { p.Tests[0].Kind, p.Tests[0].Args = kind, json.RawMessage(args) }
	}
	for name, change := range map[string]func(*Plan){
		"version":          func(p *Plan) { p.Version = 2 },
		"no tests":         func(p *Plan) { p.Tests = nil },
		"too many tests":   func(p *Plan) { p.Tests = make([]Test, MaxTests+1) },
		"id zero":          func(p *Plan) { p.Tests[0].ID = 0 },
		"id twice":         func(p *Plan) { p.Tests[1].ID = 1 },
		"ids descend":      func(p *Plan) { p.Tests[2].ID = 1 },
		"algorithm":        func(p *Plan) { p.Tests[0].Alg = "sha1" },
		"limits":           func(p *Plan) { p.Limits.Bytes = -1 },
		"kind":             arg("command", `{"path":"/x"}`),
		"unknown argument": arg(KindFile, `{"path":"/x","mode":1}`),
		"other kind's":     arg(KindFile, `{"pattern":"/x"}`),
		"relative":         arg(KindFile, `{"path":"x"}`),
		"dots":             arg(KindFile, `{"path":"/a/../x"}`),
		"slashes":          arg(KindFile, `{"path":"/a//x"}`),
		"trailing slash":   arg(KindDir, `{"path":"/a/"}`),
		"root as file":     arg(KindFile, `{"path":"/"}`),
		"zero byte":        arg(KindFile, `{"path":"/a%00"}`),
		"escape":           arg(KindFile, `{"path":"/a%41"}`),
		"long":             arg(KindFile, `{"path":"/`+strings.Repeat("a", MaxName)+`"}`),
		"longer":           arg(KindFile, `{"path":"/`+strings.Repeat("a", 3*MaxName)+`"}`),
		"pattern":          arg(KindGlob, `{"pattern":"/[a"}`),
		"class with slash": arg(KindGlob, `{"pattern":"/[a/b]"}`),
		"hidden dots":      arg(KindGlob, `{"pattern":"/\\.\\./x"}`),
		"exclude":          arg(KindDir, `{"path":"/a","exclude":["b"]}`),
		"excludes":         arg(KindDir, `{"path":"/a","exclude":["/a"`+strings.Repeat(`,"/a"`, MaxExcludes)+`]}`),
	} {
		p := testPlan()
		change(&p)
		_, err := Decode(p.Encode())
		wantCode(t, name, err, CodeDocument)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "huge": make([]byte, MaxDocument+1), "null": []byte("null"),
		"space": append([]byte(" "), testPlan().Encode()...),
		"field": bytes.Replace(testPlan().Encode(), []byte(`"version"`), []byte(`"Version"`), 1),
	} {
		_, err := Decode(b)
		wantCode(t, name, err, CodeDocument)
	}
	p := testPlan()
	p.Tests[0].Args = json.RawMessage("{")
	if p.Encode() != nil {
		t.Error("arguments that are no JSON were encoded")
	}
}

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		kind, path, exclude string
		in, out             string // space-separated, escaped
		literal             string
	}{
		{KindFile, "/etc/passwd", "", "/etc/passwd", "/etc/passwd2 /etc /etc/passwd/x", "/etc/passwd"},
		{KindDir, "/usr", "/usr/tmp", "/usr/x /usr/a/b /usr/tmpevil /usr/tmpevil/x", "/usr /usrevil /usrevil/x /usr/tmp /usr/tmp/x /x", "/usr/"},
		{KindDir, "/", "/tmp", "/x /tmpevil", "/ /tmp /tmp/x", "/"},
		{KindGlob, "/usr/*/x?", "", "/usr/bin/xy /usr/.hidden/x1 /usr/%FF/x%0A", "/usr/bin/x /usr/bin/xyz /usr/a/b/xy /usr/xy /xusr/a/xy", "/usr/"},
		{KindGlob, "/[^a]/y", "", "/b/y", "/a/y //y /y", "/"},
		{KindGlob, "/a%5C*b/*", "", "/a%5C*b/x", "/aXb/x", ""},
		{KindGlob, "/a%25b", "", "/a%25b", "/ab", "/"},
	} {
		if strings.Contains(c.path, "%5C") { // a backslash needs no escape in text: the pattern is /a\*b/*
			c.path, c.in = `/a\*b/*`, "/a*b/x"
			c.literal = "/"
		}
		var exclude []string
		if c.exclude != "" {
			exclude = []string{c.exclude}
		}
		test, err := NewTest(1, c.kind, "sha256", c.path, exclude)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		s, _ := test.Scope()
		for i, list := range []string{c.in, c.out} {
			for _, text := range strings.Fields(list) {
				p, err := rats.UnescapePath(text)
				if err != nil {
					t.Fatal(err)
				}
				if got := s.Covers(p); got != (i == 0) {
					t.Errorf("%s %s covers %s: %v", c.kind, c.path, text, got)
				}
				if i == 0 && !bytes.HasPrefix(p, s.Literal()) {
					t.Errorf("%s does not start with %s", text, s.Literal())
				}
			}
		}
		if got := string(s.Literal()); got != c.literal {
			t.Errorf("%s: literal %q, want %q", c.path, got, c.literal)
		}
	}
	if _, err := NewTest(1, "exec", "sha256", "/x", nil); err == nil {
		t.Error("a test of unknown kind")
	}
	if (Scope{Kind: "exec", Path: []byte("/x")}).Covers([]byte("/x")) {
		t.Error("an unknown kind covers something")
	}
}

func TestKeysDigestNamesBothKeys(t *testing.T) {
	a := []rats.BoundKey{{Use: rats.KeyHPKE, Public: []byte("h")}, {Use: rats.KeySign, Public: []byte("s")}}
	with := append([]rats.BoundKey{{Use: rats.KeyTLS, Public: []byte("t")}}, a...)
	if !KeysDigest(a).Equal(KeysDigest(with)) {
		t.Error("depends on other keys")
	}
	for i, bad := range [][]rats.BoundKey{nil, a[:1], a[1:], append(a[:2:2], rats.BoundKey{Use: rats.KeySign, Public: []byte("x")})} {
		if !KeysDigest(bad).IsZero() {
			t.Errorf("%d: a digest of less than both", i)
		}
	}
}

func FuzzDecodePlan(f *testing.F) {
	f.Add(testPlan().Encode())
	f.Add([]byte(`{"id":[],"version":1,"tests":[],"limits":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err == nil && !bytes.Equal(p.Encode(), b) {
			t.Errorf("another encoding: %q", b)
		}
	})
}

func FuzzDecodeOrder(f *testing.F) {
	b, _ := newWorld(f).order.encode()
	f.Add(b)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOrder(b)
		if err != nil {
			return
		}
		if again, err := o.encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("another encoding: %q, %v", b, err)
		}
	})
}

func ExampleWithin() {
	for _, p := range []string{"/usr", "/usr/bin", "/usrevil"} {
		fmt.Println(p, Within([]byte(p), []byte("/usr")))
	}
	// Output:
	// /usr true
	// /usr/bin true
	// /usrevil false
}
