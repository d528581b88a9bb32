package sqlite

import (
	"errors"

	"github.com/assay-attest/assay/internal/store"
)

type audit struct{ t *tx }

// Append chains e to the head; its zero At is now.
func (s audit) Append(e store.AuditEntry) (store.AuditEntry, error) {
	head, err := s.Head()
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.AuditEntry{}, err
	}
	e.At = s.t.orNow(e.At)
	e = store.ChainAudit(head, e)
	_, err = s.t.exec("INSERT INTO audit (namespace, seq, at, actor, verb, object, detail, prev, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		s.t.namespace, e.Seq, store.Nanos(e.At), e.Actor, e.Verb, e.Object, nonEmpty(e.Detail), e.Prev.String(), e.Hash.String())
	if err != nil {
		return store.AuditEntry{}, err
	}
	return e, nil
}

func (s audit) Head() (e store.AuditEntry, err error) {
	err = s.t.one("audit log", s.t.namespace, `SELECT seq, at, actor, verb, object, detail, prev, hash FROM audit
		WHERE namespace = ? ORDER BY seq DESC LIMIT 1`, []any{s.t.namespace},
		func(r row) (err error) { e, err = entry(r); return err })
	return e, err
}

func (s audit) After(seq int64, limit int) ([]store.AuditEntry, error) {
	var list []store.AuditEntry
	err := s.t.query(`SELECT seq, at, actor, verb, object, detail, prev, hash FROM audit
		WHERE namespace = ? AND seq > ? ORDER BY seq LIMIT ?`, []any{s.t.namespace, seq, capped(limit)}, func(r row) error {
		e, err := entry(r)
		list = append(list, e)
		return err
	})
	return list, err
}

func entry(r row) (store.AuditEntry, error) {
	prev, err := digestOf(r.text(6))
	hash, err2 := digestOf(r.text(7))
	return store.AuditEntry{
		Seq: r.int(0), At: store.TimeOf(r.int(1)), Actor: r.text(2), Verb: r.text(3), Object: r.text(4), Detail: r.bytes(5),
		Prev: prev, Hash: hash,
	}, errors.Join(err, err2)
}
