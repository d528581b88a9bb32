package postgres

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
)

type secrets struct{ t *tx }

// Put stores the next version; a zero CreatedAt is now. A name that was deleted goes on with the number after the last.
func (s secrets) Put(x store.Secret) (store.Secret, error) {
	if x.Name == "" || len(x.Sealed) == 0 {
		return store.Secret{}, errors.New("storing secret: it has no name or no sealed bytes")
	}
	last, err := s.t.int("SELECT coalesce(max(version), 0) FROM secrets WHERE namespace = $1 AND name = $2", s.t.namespace, x.Name)
	if err != nil {
		return store.Secret{}, err
	}
	x.Version, x.CreatedAt, x.Deleted = last+1, s.t.orNow(x.CreatedAt), false
	_, err = s.t.exec(`INSERT INTO secrets (namespace, name, version, sealed, rule, warning, max_age, created)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		s.t.namespace, x.Name, x.Version, x.Sealed, x.Rule, x.Warning, int64(x.MaxAge), store.Nanos(x.CreatedAt))
	if err != nil {
		return store.Secret{}, err
	}
	return x, nil
}

const secretColumns = "name, version, rule, warning, max_age, created, deleted IS NOT NULL"

// Get returns the newest version, store.ErrNotFound if it is deleted: a tombstone is never mistaken for a secret.
func (s secrets) Get(name string) (x store.Secret, err error) {
	err = s.t.one("secret", name, "SELECT "+secretColumns+`, sealed FROM secrets
		WHERE namespace = $1 AND name = $2 ORDER BY version DESC LIMIT 1`, []any{s.t.namespace, name}, func(r pgx.Rows) (err error) {
		var sealed []byte
		x, err = secret(r, &sealed)
		x.Sealed = sealed
		return err
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
	err := s.t.query("SELECT "+secretColumns+` FROM secrets AS x WHERE namespace = $1 AND deleted IS NULL
		AND version = (SELECT max(version) FROM secrets WHERE namespace = x.namespace AND name = x.name) ORDER BY name`,
		[]any{s.t.namespace}, func(r pgx.Rows) error {
			x, err := secret(r)
			list = append(list, x)
			return err
		})
	return list, err
}

// Delete forgets the sealed bytes of all versions. PostgreSQL keeps old rows until it vacuums, and its log and backups
// longer: what makes a deleted secret unreadable there is the rotation of the key-encryption key.
func (s secrets) Delete(name string, at time.Time) error {
	n, err := s.t.exec("UPDATE secrets SET sealed = NULL, deleted = $3 WHERE namespace = $1 AND name = $2 AND deleted IS NULL",
		s.t.namespace, name, store.Nanos(s.t.orNow(at)))
	if err == nil && n == 0 {
		err = missing("secret", name)
	}
	return err
}

// secret reads secretColumns, and the sealed bytes if there is a place for them.
func secret(r pgx.Rows, sealed ...*[]byte) (store.Secret, error) {
	var x store.Secret
	var age, created int64
	into := []any{&x.Name, &x.Version, &x.Rule, &x.Warning, &age, &created, &x.Deleted}
	for _, s := range sealed {
		into = append(into, s)
	}
	err := r.Scan(into...)
	x.MaxAge, x.CreatedAt = time.Duration(age), store.TimeOf(created)
	return x, err
}
