package postgres

import (
	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// streams are live while the lease holds under which their server opened them.
type streams struct{ t *tx }

func (s streams) Open(node string, instance rats.Digest) (store.Stream, []store.Stream, error) {
	lease, _, err := s.t.member.held()
	if err != nil {
		return store.Stream{}, nil, err
	}
	fence := s.t.counters.fence + 1
	err = s.t.later(`INSERT INTO streams (namespace, node, instance, server, lease, fence) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (namespace, node, instance) DO UPDATE SET server = excluded.server, lease = excluded.lease, fence = excluded.fence`,
		s.t.namespace, node, instance.String(), s.t.member.id, lease, fence)
	if err != nil {
		return store.Stream{}, nil, err
	}
	s.t.counters.fence = fence
	all, err := s.Of(node)
	mine := store.Stream{Node: node, Instance: instance, Server: s.t.member.id, Fence: fence}
	var others []store.Stream
	for _, x := range all {
		if x.Fence != fence {
			others = append(others, x)
		}
	}
	return mine, others, err
}

func (s streams) Close(x store.Stream) error {
	return s.t.later("DELETE FROM streams WHERE namespace = $1 AND node = $2 AND instance = $3 AND fence = $4",
		s.t.namespace, x.Node, x.Instance.String(), x.Fence)
}

func (s streams) Of(node string) ([]store.Stream, error) {
	var list []store.Stream
	err := s.t.query(`SELECT s.instance, s.server, s.fence FROM streams AS s
		JOIN servers AS v ON v.id = s.server AND v.fence = s.lease AND v.until > clock_timestamp()
		WHERE s.namespace = $1 AND s.node = $2 ORDER BY s.fence`,
		[]any{s.t.namespace, node}, func(r pgx.Rows) error {
			x := store.Stream{Node: node}
			var instance string
			err := r.Scan(&instance, &x.Server, &x.Fence)
			if err == nil {
				x.Instance, err = digestOf(instance)
			}
			list = append(list, x)
			return err
		})
	return list, err
}
