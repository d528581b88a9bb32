package sqlite

import (
	"errors"
	"time"

	"github.com/assay-attest/assay/internal/store"
)

type secrets struct{ t *tx }

// Put stores the next version; a zero CreatedAt is now. A name that was deleted goes on with the number after the last.
func (s secrets) Put(x store.Secret) (store.Secret, error) {
	if x.Name == "" || len(x.Sealed) == 0 {
		return store.Secret{}, errors.New("storing secret: it has no name or no sealed bytes")
	}
	last, err := s.t.int("SELECT max(version) FROM secrets WHERE namespace = ? AND name = ?", s.t.namespace, x.Name)
	if err != nil {
		return store.Secret{}, err
	}
	x.Version, x.CreatedAt, x.Deleted = last+1, s.t.orNow(x.CreatedAt), false
	_, err = s.t.exec(`INSERT INTO secrets (namespace, name, version, sealed, rule, warning, max_age, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		s.t.namespace, x.Name, x.Version, x.Sealed, x.Rule, x.Warning, int64(x.MaxAge), store.Nanos(x.CreatedAt))
	if err != nil {
		return store.Secret{}, err
	}
	return x, nil
}

// Get returns the newest version, store.ErrNotFound if it is deleted: a tombstone is never mistaken for a secret.
func (s secrets) Get(name string) (x store.Secret, err error) {
	err = s.t.one("secret", name, `SELECT name, version, rule, warning, max_age, created, deleted IS NOT NULL, sealed FROM secrets
		WHERE namespace = ? AND name = ? ORDER BY version DESC LIMIT 1`, []any{s.t.namespace, name}, func(r row) error {
		x = secret(r)
		x.Sealed = r.bytes(7)
		return nil
	})
	if err == nil && x.Deleted {
		err = missing("secret", name)
	}
	if err != nil {
		return store.Secret{}, err
	}
	return x, nil
}

// List is the newest version of each name that isn't deleted, ascending by name.
func (s secrets) List() ([]store.Secret, error) {
	var list []store.Secret
	err := s.t.query(`SELECT name, version, rule, warning, max_age, created, 0 FROM secrets AS x WHERE namespace = ? AND deleted IS NULL
		AND version = (SELECT max(version) FROM secrets WHERE namespace = x.namespace AND name = x.name) ORDER BY name`,
		[]any{s.t.namespace}, func(r row) error {
			list = append(list, secret(r))
			return nil
		})
	return list, err
}

// Delete overwrites the sealed bytes of all versions (secure_delete in the file; the write-ahead log is emptied after the
// commit, as soon as no older view needs it). Backups and the medium's own copies are out of its reach.
func (s secrets) Delete(name string, at time.Time) error {
	n, err := s.t.exec("UPDATE secrets SET sealed = NULL, deleted = ? WHERE namespace = ? AND name = ? AND deleted IS NULL",
		store.Nanos(s.t.orNow(at)), s.t.namespace, name)
	if err == nil && n == 0 {
		err = missing("secret", name)
	}
	if err == nil {
		s.t.forgot = true
	}
	return err
}

func secret(r row) store.Secret {
	return store.Secret{
		Name: r.text(0), Version: r.int(1), Rule: r.text(2), Warning: r.int(3) != 0, MaxAge: time.Duration(r.int(4)),
		CreatedAt: store.TimeOf(r.int(5)), Deleted: r.int(6) != 0,
	}
}
