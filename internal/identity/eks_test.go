package identity_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// One TPM is one live node of a namespace: under another name it is refused until the first is revoked or deleted, or the
// administrator's token replaces it.
func TestOneTPMIsOneNode(t *testing.T) {
	o, m, first := joined(t)
	r := m.request(t, o.token(api.TokenRequest{EK: m.ek.Digest}), "web-2")
	_, err := o.Begin(t.Context(), namespace, o.space, r)
	wantCode(t, err, identity.CodeEKTaken)
	if strings.Contains(err.Error(), "web-1") {
		t.Error("the other node's name is told to whoever holds a token")
	}

	// Another server of the same database has another index: it finds the node as well, and what joined after it was made.
	cfg := o.config()
	second, err := identity.NewJoiner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = second.Begin(t.Context(), namespace, o.space, r)
	wantCode(t, err, identity.CodeEKTaken)

	if err := o.Revoke(t.Context(), o.space, "admin:me", first.Node); err != nil {
		t.Fatal(err)
	}
	c, err := second.Begin(t.Context(), namespace, o.space, r)
	if err != nil {
		t.Fatal(err)
	}
	// Between both steps another node of the TPM joins: the transaction looks again.
	o.join(m, o.token(api.TokenRequest{EK: m.ek.Digest}), "web-3")
	_, err = o.Finish(t.Context(), namespace, o.space, m.answer(t, r, c))
	wantCode(t, err, identity.CodeEKTaken)
	_, err = second.Begin(t.Context(), namespace, o.space, r)
	wantCode(t, err, identity.CodeEKTaken)

	j := o.join(m, o.token(api.TokenRequest{EK: m.ek.Digest, Replace: true}), "web-4")
	nodes := o.space.data.nodes
	if len(nodes) != 2 || nodes[j.Node].Name != "web-4" || nodes[first.Node].Enrolment != store.EnrolmentRevoked {
		t.Errorf("nodes %+v", nodes)
	}
	a := o.space.data.audit
	if a[len(a)-2].Verb != "node.replace" || a[len(a)-1].Verb != "node.join" {
		t.Errorf("audited %+v", a[len(a)-2:])
	}
	// The same name again, for a machine that was installed anew.
	again := o.join(m, o.token(api.TokenRequest{EK: m.ek.Digest, Replace: true}), "web-4")
	if _, old := o.space.data.nodes[j.Node]; old || o.space.data.nodes[again.Node].Name != "web-4" {
		t.Errorf("nodes %+v", o.space.data.nodes)
	}
}

// The index is read anew when it may have missed something.
func TestIndexOfTPMsIsReadAnew(t *testing.T) {
	o, m := newOffice(t), newMachine(t)
	ask := func() error {
		_, err := o.Begin(t.Context(), namespace, o.space, m.request(t, o.token(api.TokenRequest{}), "web-9"))
		return err
	}
	if err := ask(); err != nil { // makes the index
		t.Fatal(err)
	}
	// A node of the TPM whose event is gone.
	body, err := json.Marshal(map[string]any{"ek_digest": m.ek.Digest})
	if err != nil {
		t.Fatal(err)
	}
	o.space.data.nodes["nd_x"] = store.Node{ID: "nd_x", Name: "old", Enrolment: store.EnrolmentApproved,
		Endorsements: []rats.Endorsement{{MediaType: "application/vnd.assay.tpm-enrolment+json", Body: body}}}
	o.clock.t = o.clock.t.Add(61 * time.Minute)
	wantCode(t, ask(), identity.CodeEKTaken)
}

// R117: who reads the audit logs of two namespaces can't tell by them that a machine is in both; in one he can follow it.
func TestAuditLogsOfTwoNamespacesNameNoCommonEK(t *testing.T) {
	m := newMachine(t)
	logs := make([]string, 2)
	for i, ns := range []string{"default", "other"} {
		o := newOffice(t)
		tok, err := o.CreateToken(t.Context(), ns, o.space, "admin:me", api.TokenRequest{Name: "web-1", EK: m.ek.Digest})
		if err != nil {
			t.Fatal(err)
		}
		r := m.request(t, tok.Token, "")
		c, err := o.Begin(t.Context(), ns, o.space, r)
		if err != nil {
			t.Fatal(err)
		}
		j, err := o.Finish(t.Context(), ns, o.space, m.answer(t, r, c))
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Revoke(t.Context(), o.space, "admin:me", j.Node); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal([]any{o.space.data.audit, o.space.data.events})
		if err != nil {
			t.Fatal(err)
		}
		logs[i] = string(b)
		var ek struct{ EK string }
		if err := json.Unmarshal(o.space.data.audit[0].Detail, &ek); err != nil || !strings.HasPrefix(ek.EK, "sha256:") || strings.Count(logs[i], ek.EK[7:]) < 1 {
			t.Errorf("token and join name the EK %q, %v", ek.EK, err)
		}
		if strings.Contains(logs[i], m.ek.Digest.String()) {
			t.Error("the audit log shows the EK")
		}
		if i == 1 && strings.Contains(logs[0], ek.EK) {
			t.Error("both logs name the EK alike")
		}
	}
}
