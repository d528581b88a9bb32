package postgres

import (
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

type nodes struct{ t *tx }

// Put asks nothing of the database when the node was read in this transaction under the name it still has.
func (n nodes) Put(node store.Node) error {
	if node.ID == "" || node.Name == "" {
		return errors.New("storing node: it has no id or no name")
	}
	doc, err := json.Marshal(node)
	if err != nil {
		return err
	}
	if n.t.names[node.ID] == node.Name {
		return n.t.later("UPDATE nodes SET kind = $3, parent = $4, last = $5, doc = $6 WHERE namespace = $1 AND id = $2",
			n.t.namespace, node.ID, node.Kind, node.Parent, node.Last, doc)
	}
	put, err := n.t.exec(`INSERT INTO nodes (namespace, id, name, kind, parent, last, doc) SELECT $1, $2, $3, $4, $5, $6, $7
		WHERE NOT EXISTS (SELECT FROM nodes WHERE namespace = $1 AND name = $3 AND id <> $2)
		ON CONFLICT (namespace, id) DO UPDATE SET name = excluded.name, kind = excluded.kind, parent = excluded.parent,
		last = excluded.last, doc = excluded.doc`,
		n.t.namespace, node.ID, node.Name, node.Kind, node.Parent, node.Last, doc)
	if err == nil && put == 0 {
		err = conflict("node", node.Name)
	}
	if err == nil {
		n.t.names[node.ID] = node.Name
	}
	return err
}

func (n nodes) Get(id string) (store.Node, error) {
	return n.get(id, "SELECT doc FROM nodes WHERE namespace = $1 AND id = $2")
}

func (n nodes) ByName(name string) (store.Node, error) {
	return n.get(name, "SELECT doc FROM nodes WHERE namespace = $1 AND name = $2")
}

func (n nodes) get(key, sql string) (node store.Node, err error) {
	err = n.t.doc("node", key, sql, []any{n.t.namespace, key}, &node)
	if err == nil && n.t.writes {
		n.t.names[node.ID] = node.Name
	}
	return node, err
}

func (n nodes) List(afterName string, limit int) ([]store.Node, error) {
	var list []store.Node
	err := n.t.query("SELECT doc FROM nodes WHERE namespace = $1 AND name > $2 ORDER BY name LIMIT $3",
		[]any{n.t.namespace, afterName, capped(limit)}, func(r pgx.Rows) error {
			var node store.Node
			if err := decode("node", r, &node); err != nil {
				return err
			}
			list = append(list, node)
			return nil
		})
	return list, err
}

func (n nodes) Delete(id string) error {
	gone, err := n.t.exec("DELETE FROM nodes WHERE namespace = $1 AND id = $2", n.t.namespace, id)
	if err == nil && gone == 0 {
		err = missing("node", id)
	}
	delete(n.t.names, id)
	return err
}
