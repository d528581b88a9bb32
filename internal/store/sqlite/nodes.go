package sqlite

import (
	"encoding/json"
	"errors"

	"github.com/assay-attest/assay/internal/store"
)

type nodes struct{ t *tx }

func (n nodes) Put(node store.Node) error {
	if node.ID == "" || node.Name == "" {
		return errors.New("storing node: it has no id or no name")
	}
	taken, err := n.t.int("SELECT count(*) FROM nodes WHERE namespace = ? AND name = ? AND id <> ?", n.t.namespace, node.Name, node.ID)
	if err != nil {
		return err
	}
	if taken > 0 {
		return conflict("node", node.Name)
	}
	doc, err := json.Marshal(node)
	if err != nil {
		return err
	}
	_, err = n.t.exec(`INSERT INTO nodes (namespace, id, name, kind, parent, last, doc) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (namespace, id) DO UPDATE SET name = excluded.name, kind = excluded.kind, parent = excluded.parent,
		last = excluded.last, doc = excluded.doc`,
		n.t.namespace, node.ID, node.Name, node.Kind, node.Parent, node.Last, doc)
	return err
}

func (n nodes) Get(id string) (node store.Node, err error) {
	err = n.t.one("node", id, "SELECT doc FROM nodes WHERE namespace = ? AND id = ?", []any{n.t.namespace, id},
		func(r row) error { return decode("node", r.bytes(0), &node) })
	return node, err
}

func (n nodes) ByName(name string) (node store.Node, err error) {
	err = n.t.one("node", name, "SELECT doc FROM nodes WHERE namespace = ? AND name = ?", []any{n.t.namespace, name},
		func(r row) error { return decode("node", r.bytes(0), &node) })
	return node, err
}

func (n nodes) List(afterName string, limit int) ([]store.Node, error) {
	var list []store.Node
	err := n.t.query("SELECT doc FROM nodes WHERE namespace = ? AND name > ? ORDER BY name LIMIT ?",
		[]any{n.t.namespace, afterName, capped(limit)}, func(r row) error {
			var node store.Node
			if err := decode("node", r.bytes(0), &node); err != nil {
				return err
			}
			list = append(list, node)
			return nil
		})
	return list, err
}

func (n nodes) Delete(id string) error {
	gone, err := n.t.exec("DELETE FROM nodes WHERE namespace = ? AND id = ?", n.t.namespace, id)
	if err == nil && gone == 0 {
		err = missing("node", id)
	}
	return err
}
