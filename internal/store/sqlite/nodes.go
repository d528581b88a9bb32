package sqlite

import (
	"errors"
	"fmt"

	"github.com/assay-attest/assay/internal/store"
)

type nodes struct{ t *tx }

func (n nodes) Put(node store.Node) error {
	if node.ID == "" || node.Name == "" {
		return errors.New("storing node: it has no id or no name")
	}
	doc, err := n.t.db.nodes.Encode(node)
	if err != nil {
		return err
	}
	if n.t.names[node.ID] == node.Name { // read in this update: nobody else has the name
		_, err = n.t.exec("UPDATE nodes SET kind = ?, parent = ?, last = ?, doc = ? WHERE namespace = ? AND id = ?",
			node.Kind, node.Parent, node.Last, doc, n.t.namespace, node.ID)
		return err
	}
	taken, err := n.t.int("SELECT count(*) FROM nodes WHERE namespace = ? AND name = ? AND id <> ?", n.t.namespace, node.Name, node.ID)
	if err != nil {
		return err
	}
	if taken > 0 {
		return conflict("node", node.Name)
	}
	_, err = n.t.exec(`INSERT INTO nodes (namespace, id, name, kind, parent, last, doc) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (namespace, id) DO UPDATE SET name = excluded.name, kind = excluded.kind, parent = excluded.parent,
		last = excluded.last, doc = excluded.doc`,
		n.t.namespace, node.ID, node.Name, node.Kind, node.Parent, node.Last, doc)
	return err
}

func (n nodes) Get(id string) (store.Node, error) {
	return n.get(id, "SELECT id, doc FROM nodes WHERE namespace = ? AND id = ?")
}

func (n nodes) ByName(name string) (store.Node, error) {
	return n.get(name, "SELECT id, doc FROM nodes WHERE namespace = ? AND name = ?")
}

func (n nodes) get(key, sql string) (node store.Node, err error) {
	err = n.t.one("node", key, sql, []any{n.t.namespace, key}, func(r row) (err error) {
		node, err = n.t.db.nodes.Decode(r.text(0), r.bytes(1))
		if err != nil {
			return fmt.Errorf("decoding stored node: %w", err)
		}
		return nil
	})
	if err == nil && n.t.writes {
		if n.t.names == nil {
			n.t.names = map[string]string{}
		}
		n.t.names[node.ID] = node.Name
	}
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
	delete(n.t.names, id)
	return err
}
