package api_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

func goodJoinToken() api.JoinTokenText {
	return api.JoinTokenText{
		Namespace: "default", ID: "jt_abc", Secret: bytes.Repeat([]byte{7}, 32), CA: rats.SHA256([]byte("ca")),
	}
}

func TestJoinTokenTextRoundTrips(t *testing.T) {
	want := goodJoinToken()
	got, err := api.ParseJoinToken(want.String())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestJoinTokenTextIsRefusedWhenMalformed(t *testing.T) {
	enc := func(s string) string { return "asj1." + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	secret := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	ca := rats.SHA256([]byte("ca")).String()
	change := func(f func(*api.JoinTokenText)) string {
		tok := goodJoinToken()
		f(&tok)
		return tok.String()
	}
	for name, s := range map[string]string{
		"empty":            "",
		"other prefix":     "asj2." + strings.TrimPrefix(goodJoinToken().String(), "asj1."),
		"no base64":        "asj1.%%%",
		"no JSON":          enc("hello"),
		"too long":         "asj1." + strings.Repeat("A", 2000),
		"padded":           goodJoinToken().String() + "=",
		"trailing space":   goodJoinToken().String() + " ",
		"no namespace":     change(func(t *api.JoinTokenText) { t.Namespace = "" }),
		"other id":         change(func(t *api.JoinTokenText) { t.ID = "nd_x" }),
		"short secret":     change(func(t *api.JoinTokenText) { t.Secret = t.Secret[1:] }),
		"no CA":            change(func(t *api.JoinTokenText) { t.CA = rats.Digest{} }),
		"CA by SHA-384":    change(func(t *api.JoinTokenText) { t.CA = rats.SHA384(nil) }),
		"unknown field":    enc(fmt.Sprintf(`{"ns":"default","id":"jt_abc","secret":%q,"ca":%q,"x":1}`, secret, ca)),
		"other order":      enc(fmt.Sprintf(`{"id":"jt_abc","ns":"default","secret":%q,"ca":%q}`, secret, ca)),
		"namespace twice":  enc(fmt.Sprintf(`{"ns":"a","ns":"default","id":"jt_abc","secret":%q,"ca":%q}`, secret, ca)),
		"trailing content": enc(fmt.Sprintf(`{"ns":"default","id":"jt_abc","secret":%q,"ca":%q} {}`, secret, ca)),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := api.ParseJoinToken(s); !errors.Is(err, api.ErrJoinToken) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestJoinTokenSecretIsNotLogged(t *testing.T) {
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("joining", "token", goodJoinToken())
	if s := b.String(); !strings.Contains(s, "token=jt_abc") || strings.Contains(s, "asj1.") {
		t.Errorf("logged %s", s)
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(goodJoinToken().String())
	f.Add("asj1.e30")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := api.ParseJoinToken(s)
		if err == nil && tok.String() != s {
			t.Errorf("%q is read but written as %q", s, tok.String())
		}
	})
}
