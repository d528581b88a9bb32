package identity_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

func TestTokenRequestRefusals(t *testing.T) {
	o := newOffice(t)
	many := map[string]string{}
	for i := range 33 {
		many[fmt.Sprint("k", i)] = ""
	}
	for _, tc := range []struct {
		name string
		r    api.TokenRequest
		want rats.CodeInfo
	}{
		{"more than an hour", api.TokenRequest{TTL: "61m"}, identity.CodeTokenTTL},
		{"no time at all", api.TokenRequest{TTL: "0s"}, identity.CodeTokenTTL},
		{"negative", api.TokenRequest{TTL: "-5m"}, identity.CodeTokenTTL},
		{"no duration", api.TokenRequest{TTL: "soon"}, identity.CodeTokenTTL},
		{"other kind", api.TokenRequest{Kind: "toaster"}, identity.CodeTokenKind},
		{"bad name", api.TokenRequest{Name: "Web 1"}, identity.CodeNameInvalid},
		{"name like an id", api.TokenRequest{Name: "nd_1"}, identity.CodeNameInvalid},
		{"name with a path", api.TokenRequest{Name: "a/b"}, identity.CodeNameInvalid},
		{"name that begins with a dot", api.TokenRequest{Name: ".a"}, identity.CodeNameInvalid},
		{"long name", api.TokenRequest{Name: strings.Repeat("a", 129)}, identity.CodeNameInvalid},
		{"EK by another hash", api.TokenRequest{EK: rats.SHA384(nil)}, identity.CodeTokenEKForm},
		{"too many labels", api.TokenRequest{Labels: many}, identity.CodeTokenLabels},
		{"label without key", api.TokenRequest{Labels: map[string]string{"": "x"}}, identity.CodeTokenLabels},
		{"long label", api.TokenRequest{Labels: map[string]string{"k": strings.Repeat("x", 256)}}, identity.CodeTokenLabels},
		{"unknown parent", api.TokenRequest{Parent: "host-1"}, identity.CodeTokenParent},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := o.CreateToken(t.Context(), namespace, o.space, "admin:me", tc.r)
			wantCode(t, err, tc.want)
		})
	}
	if len(o.space.data.tokens) != 0 || len(o.space.data.audit) != 0 {
		t.Error("a refused request left something behind")
	}
	if _, err := o.CreateToken(t.Context(), "No Namespace", o.space, "admin:me", api.TokenRequest{}); err == nil {
		t.Error("a token for an impossible namespace was made")
	}
}

// S07: a join token lives an hour at most, and only the hash of its secret is stored.
func TestTokenIsToldOnceAndStoredAsHash(t *testing.T) {
	o := newOffice(t)
	o.space.data.nodes["nd_p"] = store.Node{ID: "nd_p", Name: "host-1"}
	tok, err := o.CreateToken(t.Context(), namespace, o.space, "admin:me", api.TokenRequest{
		Name: "web-1", Kind: "vm", Parent: "host-1", Labels: map[string]string{"role": "web"}, EK: rats.SHA256(nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := api.ParseJoinToken(tok.Token)
	if err != nil {
		t.Fatal(err)
	}
	if text.Namespace != namespace || text.ID != tok.ID || !text.CA.Equal(o.ca.Digest()) {
		t.Errorf("the text says %s", text.ID)
	}
	row := o.space.data.tokens[tok.ID]
	if !row.Hash.Equal(rats.SHA256(text.Secret)) || row.Parent != "nd_p" || !row.Expires.Equal(start.Add(time.Hour)) {
		t.Errorf("stored %+v", row)
	}
	everything, err := json.Marshal([]any{row, o.space.data.audit})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(everything), base64.StdEncoding.EncodeToString(text.Secret)) {
		t.Error("the secret is stored")
	}
	if a := o.space.data.audit; len(a) != 1 || a[0].Verb != "token.create" || a[0].Actor != "admin:me" || a[0].Object != tok.ID {
		t.Errorf("audited %+v", a)
	}
	list, err := o.ListTokens(t.Context(), o.space)
	if err != nil || len(list) != 1 || list[0].Token != "" || list[0].Name != "web-1" {
		t.Errorf("listed %+v, %v", list, err)
	}
	if err := o.DeleteToken(t.Context(), o.space, "admin:me", tok.ID); err != nil || len(o.space.data.tokens) != 0 {
		t.Errorf("deleting: %v", err)
	}
	if err := o.DeleteToken(t.Context(), o.space, "admin:me", tok.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleting twice: %v", err)
	}
}

func TestJoinerWithSomethingMissingIsNotMade(t *testing.T) {
	o := newOffice(t)
	for name, f := range map[string]func(*identity.Config){
		"keys":        func(c *identity.Config) { c.Keys = nil },
		"CA":          func(c *identity.Config) { c.CA = nil },
		"clock":       func(c *identity.Config) { c.Now = nil },
		"randomness":  func(c *identity.Config) { c.Rand = nil },
		"verifier":    func(c *identity.Config) { c.VerifierID = rats.Digest{} },
		"plan signer": func(c *identity.Config) { c.PlanSigner = nil },
	} {
		cfg := o.config()
		f(&cfg)
		if _, err := identity.NewJoiner(cfg); err == nil {
			t.Errorf("a joiner without %s was made", name)
		}
	}
}
