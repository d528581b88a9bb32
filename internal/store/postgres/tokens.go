package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

type tokens struct{ t *tx }

// Put stores a new token; an id that exists is a conflict, so that no token is made unused again.
func (s tokens) Put(k store.JoinToken) error {
	if k.ID == "" {
		return errors.New("storing join token: it has no id")
	}
	doc, err := json.Marshal(k)
	if err != nil {
		return err
	}
	n, err := s.t.exec("INSERT INTO tokens (namespace, id, used, doc) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
		s.t.namespace, k.ID, !k.UsedAt.IsZero(), doc)
	if err == nil && n == 0 {
		err = conflict("join token", k.ID)
	}
	return err
}

func (s tokens) Get(id string) (k store.JoinToken, err error) {
	err = s.t.doc("join token", id, "SELECT doc FROM tokens WHERE namespace = $1 AND id = $2", []any{s.t.namespace, id}, &k)
	return k, err
}

// Use marks a token as used up. Its expiry is the caller's to judge.
func (s tokens) Use(id, node string, at time.Time) error {
	k, err := s.Get(id)
	if err != nil {
		return err
	}
	k.UsedAt, k.UsedBy = s.t.orNow(at), node
	doc, err := json.Marshal(k)
	if err != nil {
		return err
	}
	n, err := s.t.exec("UPDATE tokens SET used = true, doc = $3 WHERE namespace = $1 AND id = $2 AND NOT used", s.t.namespace, id, doc)
	if err == nil && n == 0 {
		err = fmt.Errorf("join token %q: %w", clip(id), store.ErrSpent)
	}
	return err
}

// List is ascending by id.
func (s tokens) List() ([]store.JoinToken, error) {
	var list []store.JoinToken
	err := s.t.query("SELECT doc FROM tokens WHERE namespace = $1 ORDER BY id", []any{s.t.namespace}, func(r pgx.Rows) error {
		var k store.JoinToken
		if err := decode("join token", r, &k); err != nil {
			return err
		}
		list = append(list, k)
		return nil
	})
	return list, err
}

func (s tokens) Delete(id string) error {
	n, err := s.t.exec("DELETE FROM tokens WHERE namespace = $1 AND id = $2", s.t.namespace, id)
	if err == nil && n == 0 {
		err = missing("join token", id)
	}
	return err
}
