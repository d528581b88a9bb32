package sqlite

import "github.com/assay-attest/assay/internal/store"

type shelf struct{ t *tx }

func (s shelf) Put(i store.Item) error {
	if err := i.Check(); err != nil {
		return err
	}
	_, err := s.t.exec(`INSERT INTO shelf (namespace, kind, id, doc) VALUES (?, ?, ?, ?)
		ON CONFLICT (namespace, kind, id) DO UPDATE SET doc = excluded.doc`, s.t.namespace, i.Kind, i.ID, []byte(i.Doc))
	return err
}

func (s shelf) Get(kind, id string) (store.Item, error) {
	i := store.Item{Kind: kind, ID: id}
	err := s.t.one(kind, id, "SELECT doc FROM shelf WHERE namespace = ? AND kind = ? AND id = ?", []any{s.t.namespace, kind, id},
		func(r row) error { i.Doc = r.bytes(0); return nil })
	return i, err
}

func (s shelf) List(kind, prefix, after string, limit int) ([]store.Item, error) {
	var list []store.Item
	err := s.t.query(`SELECT id, doc FROM shelf WHERE namespace = ? AND kind = ? AND id > ? AND substr(id, 1, length(?)) = ?
		ORDER BY id LIMIT ?`, []any{s.t.namespace, kind, after, prefix, prefix, capped(limit)}, func(r row) error {
		list = append(list, store.Item{Kind: kind, ID: r.text(0), Doc: r.bytes(1)})
		return nil
	})
	return list, err
}

func (s shelf) Delete(kind, id string) error {
	n, err := s.t.exec("DELETE FROM shelf WHERE namespace = ? AND kind = ? AND id = ?", s.t.namespace, kind, id)
	if err == nil && n == 0 {
		err = missing(kind, id)
	}
	return err
}
