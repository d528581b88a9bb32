package sqlite

import (
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// streams are those of this process: there is one server, and what an earlier process held is closed.
type streams struct{ t *tx }

func (s streams) Open(node string, instance rats.Digest) (store.Stream, []store.Stream, error) {
	if _, err := s.t.exec("DELETE FROM streams WHERE namespace = ? AND node = ? AND server <> ?", s.t.namespace, node, s.t.server); err != nil {
		return store.Stream{}, nil, err
	}
	if _, err := s.t.exec("UPDATE namespaces SET fence = fence + 1 WHERE namespace = ?", s.t.namespace); err != nil {
		return store.Stream{}, nil, err
	}
	fence, err := s.t.int("SELECT fence FROM namespaces WHERE namespace = ?", s.t.namespace)
	if err != nil {
		return store.Stream{}, nil, err
	}
	_, err = s.t.exec(`INSERT INTO streams (namespace, node, instance, server, fence) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (namespace, node, instance) DO UPDATE SET server = excluded.server, fence = excluded.fence`,
		s.t.namespace, node, instance.String(), s.t.server, fence)
	if err != nil {
		return store.Stream{}, nil, err
	}
	all, err := s.Of(node)
	mine := store.Stream{Node: node, Instance: instance, Server: s.t.server, Fence: fence}
	var others []store.Stream
	for _, x := range all {
		if x.Fence != fence {
			others = append(others, x)
		}
	}
	return mine, others, err
}

func (s streams) Close(x store.Stream) error {
	_, err := s.t.exec("DELETE FROM streams WHERE namespace = ? AND node = ? AND instance = ? AND fence = ?",
		s.t.namespace, x.Node, x.Instance.String(), x.Fence)
	return err
}

func (s streams) Of(node string) ([]store.Stream, error) {
	var list []store.Stream
	err := s.t.query("SELECT instance, server, fence FROM streams WHERE namespace = ? AND node = ? AND server = ? ORDER BY fence",
		[]any{s.t.namespace, node, s.t.server}, func(r row) error {
			d, err := digestOf(r.text(0))
			list = append(list, store.Stream{Node: node, Instance: d, Server: r.text(1), Fence: r.int(2)})
			return err
		})
	return list, err
}
