package postgres

import (
	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

type shelf struct{ t *tx }

func (s shelf) Put(i store.Item) error {
	if err := i.Check(); err != nil {
		return err
	}
	_, err := s.t.exec(`INSERT INTO shelf (namespace, kind, id, doc) VALUES ($1, $2, $3, $4)
		ON CONFLICT (namespace, kind, id) DO UPDATE SET doc = excluded.doc`, s.t.namespace, i.Kind, i.ID, []byte(i.Doc))
	return err
}

func (s shelf) Get(kind, id string) (store.Item, error) {
	i := store.Item{Kind: kind, ID: id}
	err := s.t.one(kind, id, "SELECT doc FROM shelf WHERE namespace = $1 AND kind = $2 AND id = $3", []any{s.t.namespace, kind, id},
		func(r pgx.Rows) error { return r.Scan((*[]byte)(&i.Doc)) })
	return i, err
}

func (s shelf) List(kind, prefix, after string, limit int) ([]store.Item, error) {
	var list []store.Item
	err := s.t.query(`SELECT id, doc FROM shelf WHERE namespace = $1 AND kind = $2 AND id > $3 AND starts_with(id, $4)
		ORDER BY id LIMIT $5`, []any{s.t.namespace, kind, after, prefix, capped(limit)}, func(r pgx.Rows) error {
		i := store.Item{Kind: kind}
		err := r.Scan(&i.ID, (*[]byte)(&i.Doc))
		list = append(list, i)
		return err
	})
	return list, err
}

func (s shelf) Delete(kind, id string) error {
	n, err := s.t.exec("DELETE FROM shelf WHERE namespace = $1 AND kind = $2 AND id = $3", s.t.namespace, kind, id)
	if err == nil && n == 0 {
		err = missing(kind, id)
	}
	return err
}
