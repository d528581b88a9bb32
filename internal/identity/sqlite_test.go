package identity_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/store/sqlite"
)

// What the fake space promises, the real store keeps: joining is durable, and a token admits one of many.
func TestJoiningOverTheRealStore(t *testing.T) {
	ctx := t.Context()
	o, m := newOffice(t), newMachine(t)
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "assay.db"), sqlite.Options{Now: o.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := db.Create(ctx, namespace); err != nil {
		t.Fatal(err)
	}
	space := db.In(namespace)
	tok, err := o.CreateToken(ctx, namespace, space, "admin:me", api.TokenRequest{EK: m.ek.Digest})
	if err != nil {
		t.Fatal(err)
	}
	var finishes []api.JoinFinish
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		r := m.request(t, tok.Token, name)
		c, err := o.Begin(ctx, namespace, space, r)
		if err != nil {
			t.Fatal(err)
		}
		finishes = append(finishes, m.answer(t, r, c))
	}
	joined := make([]api.Joined, len(finishes))
	errs := make([]error, len(finishes))
	var all sync.WaitGroup
	for i, f := range finishes {
		all.Go(func() { joined[i], errs[i] = o.Finish(ctx, namespace, space, f) })
	}
	all.Wait()
	var winner api.Joined
	for i, err := range errs {
		if err == nil && winner.Node == "" {
			winner = joined[i]
			continue
		}
		wantCode(t, err, identity.CodeTokenUsed)
	}
	err = space.View(ctx, func(tx store.Tx) error {
		n, err := tx.Nodes().Get(winner.Node)
		if err != nil {
			return err
		}
		if n.Name != winner.Name || n.Enrolment != store.EnrolmentApproved || !identity.EKOf(n).Equal(m.ek.Digest) {
			t.Errorf("stored %+v", n)
		}
		if all, err := tx.Nodes().List("", 10); err != nil || len(all) != 1 {
			t.Errorf("%d nodes, %v", len(all), err)
		}
		head, err := tx.Audit().Head()
		if err != nil || head.Verb != "node.join" {
			t.Errorf("audited %+v", head)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Revoke(ctx, space, "admin:me", winner.Node); err != nil {
		t.Error(err)
	}
	if list, err := o.ListTokens(ctx, space); err != nil || len(list) != 1 || list[0].UsedBy != winner.Node {
		t.Errorf("tokens %+v, %v", list, err)
	}
}
