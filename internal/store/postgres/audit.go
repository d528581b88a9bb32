package postgres

import (
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

type audit struct{ t *tx }

// Append chains e to the head, whose number and hash stand in the namespace's row; its zero At is now.
func (s audit) Append(e store.AuditEntry) (store.AuditEntry, error) {
	head, err := digestOf(s.t.counters.leaf)
	if err != nil {
		return store.AuditEntry{}, err
	}
	e.At = s.t.orNow(e.At)
	e = store.ChainAudit(store.AuditEntry{Seq: s.t.counters.leaves, Hash: head}, e)
	err = s.t.later(`INSERT INTO audit (namespace, seq, at, actor, verb, object, detail, prev, hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		s.t.namespace, e.Seq, store.Nanos(e.At), e.Actor, e.Verb, e.Object, nonEmpty(e.Detail), e.Prev.String(), e.Hash.String())
	if err != nil {
		return store.AuditEntry{}, err
	}
	s.t.counters.leaves, s.t.counters.leaf = e.Seq, e.Hash.String()
	return e, nil
}

func (s audit) Head() (store.AuditEntry, error) {
	list, err := s.list(`SELECT seq, at, actor, verb, object, detail, prev, hash FROM audit
		WHERE namespace = $1 ORDER BY seq DESC LIMIT 1`, s.t.namespace)
	if err == nil && len(list) == 0 {
		err = missing("audit log", s.t.namespace)
	}
	if err != nil {
		return store.AuditEntry{}, err
	}
	return list[0], nil
}

func (s audit) After(seq int64, limit int) ([]store.AuditEntry, error) {
	return s.list(`SELECT seq, at, actor, verb, object, detail, prev, hash FROM audit
		WHERE namespace = $1 AND seq > $2 ORDER BY seq LIMIT $3`, s.t.namespace, seq, capped(limit))
}

func (s audit) list(sql string, args ...any) ([]store.AuditEntry, error) {
	var list []store.AuditEntry
	err := s.t.query(sql, args, func(r pgx.Rows) error {
		var e store.AuditEntry
		var at int64
		var detail []byte
		var prev, hash string
		err := r.Scan(&e.Seq, &at, &e.Actor, &e.Verb, &e.Object, &detail, &prev, &hash)
		e.At, e.Detail = store.TimeOf(at), json.RawMessage(detail)
		var err2, err3 error
		e.Prev, err2 = digestOf(prev)
		e.Hash, err3 = digestOf(hash)
		list = append(list, e)
		return errors.Join(err, err2, err3)
	})
	return list, err
}
