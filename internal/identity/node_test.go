package identity_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// member is an office with one node, which has a key.
func member(t *testing.T) (o *office, spki []byte) {
	t.Helper()
	o = newOffice(t)
	spki = spkiOf(t, newKey(t).Public())
	o.space.data.nodes["nd_a"] = store.Node{
		ID: "nd_a", Name: "web-1", Enrolment: store.EnrolmentPending, TLSKey: rats.SHA256(spki), Serial: "old",
	}
	return o, spki
}

func TestCertificateIsRenewedForTheSameKeyOnly(t *testing.T) {
	o, spki := member(t)
	o.clock.t = start.Add(20 * 24 * time.Hour)
	c, err := o.Renew(t.Context(), namespace, o.space, "nd_a", api.CertificateRequest{TLSKey: spki})
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.pins.Verify([]*x509.Certificate{parse(t, c.Certificate)})
	if err != nil || p.Node != "nd_a" || p.Serial != o.space.data.nodes["nd_a"].Serial || len(c.CAs) != 1 {
		t.Errorf("renewed for %+v, %v", p, err)
	}
	if got := parse(t, c.Certificate).NotAfter; !got.Equal(o.clock.t.Add(30 * 24 * time.Hour)) {
		t.Errorf("valid until %s", got)
	}
	if a := o.space.data.audit; len(a) != 1 || a[0].Verb != "node.renew" {
		t.Errorf("audited %+v", a)
	}

	renew := func(node string, key []byte) error {
		_, err := o.Renew(t.Context(), namespace, o.space, node, api.CertificateRequest{TLSKey: key})
		return err
	}
	wantCode(t, renew("nd_a", spkiOf(t, newKey(t).Public())), identity.CodePeerKey)
	wantCode(t, renew("nd_a", []byte("key")), identity.CodeKeyInvalid)
	wantCode(t, renew("nd_a", make([]byte, 1000)), identity.CodeRequestSize)
	if err := renew("nd_b", spki); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("renewing for an unknown node: %v", err)
	}
	if err := o.Revoke(t.Context(), o.space, "admin:me", "nd_a"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, renew("nd_a", spki), identity.CodePeerRevoked)
}

func TestEnrolmentGoesForwardOnly(t *testing.T) {
	o, _ := member(t)
	ctx := t.Context()
	state := func() string { return o.space.data.nodes["nd_a"].Enrolment }
	for range 2 {
		if err := o.Approve(ctx, o.space, "admin:me", "nd_a"); err != nil || state() != store.EnrolmentApproved {
			t.Errorf("approving: %s, %v", state(), err)
		}
	}
	for range 2 {
		if err := o.Revoke(ctx, o.space, "admin:me", "nd_a"); err != nil || state() != store.EnrolmentRevoked {
			t.Errorf("revoking: %s, %v", state(), err)
		}
	}
	if w := o.space.data.nodes["nd_a"].Withdrawn; w != string(identity.CodePeerRevoked.Code) {
		t.Errorf("the revoked node's last result is withdrawn as %q", w)
	}
	wantCode(t, o.Approve(ctx, o.space, "admin:me", "nd_a"), identity.CodeApproveRevoked)
	var verbs []string
	for _, a := range o.space.data.audit {
		verbs = append(verbs, a.Verb)
	}
	if len(verbs) != 2 || verbs[0] != "node.approve" || verbs[1] != "node.revoke" || len(o.space.data.events) != 2 {
		t.Errorf("audited %v, %d events: doing nothing twice is not to be logged", verbs, len(o.space.data.events))
	}
	if err := o.Approve(ctx, o.space, "admin:me", "nd_b"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("approving an unknown node: %v", err)
	}
}
