package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

type documents struct{ t *tx }

// Put stores the next version. A Digest that is given must be that of Body; a zero At is now.
func (s documents) Put(d store.Document) (store.Document, error) {
	if d.Kind == "" || d.Name == "" {
		return store.Document{}, errors.New("storing document: it has no kind or no name")
	}
	digest := rats.SHA256(d.Body)
	if !d.Digest.IsZero() && !d.Digest.Equal(digest) {
		return store.Document{}, fmt.Errorf("storing %s %q: its digest is %s, not %s", d.Kind, clip(d.Name), digest, d.Digest)
	}
	d.Digest, d.Deleted = digest, false
	return s.append(d)
}

// Delete appends a tombstone; what isn't in force can't be deleted.
func (s documents) Delete(kind, name, author string, at time.Time) error {
	if _, err := s.Get(kind, name, 0); err != nil {
		return err
	}
	_, err := s.append(store.Document{Kind: kind, Name: name, Author: author, At: at, Deleted: true})
	return err
}

// append is the one way in, so that every change bumps the epoch (S40).
func (s documents) append(d store.Document) (store.Document, error) {
	last, err := s.t.int("SELECT coalesce(max(version), 0) FROM documents WHERE namespace = $1 AND kind = $2 AND name = $3",
		s.t.namespace, d.Kind, d.Name)
	if err != nil {
		return store.Document{}, err
	}
	d.Version, d.At = last+1, s.t.orNow(d.At)
	body := d.Body
	if body == nil {
		body = []byte{}
	}
	_, err = s.t.exec(`INSERT INTO documents (namespace, kind, name, version, digest, body, signatures, author, at, deleted)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		s.t.namespace, d.Kind, d.Name, d.Version, d.Digest.String(), body, nonEmpty(d.Signatures), d.Author, store.Nanos(d.At), d.Deleted)
	if err != nil {
		return store.Document{}, err
	}
	_, err = s.t.Epochs().Bump()
	return d, err
}

const documentColumns = "kind, name, version, digest, signatures, author, at, deleted"

func (s documents) Get(kind, name string, version int64) (store.Document, error) {
	var d store.Document
	err := s.t.one(kind, name, "SELECT "+documentColumns+`, body FROM documents
		WHERE namespace = $1 AND kind = $2 AND name = $3 AND (version = $4 OR $4 = 0) ORDER BY version DESC LIMIT 1`,
		[]any{s.t.namespace, kind, name, version}, func(r pgx.Rows) (err error) {
			d, err = document(r, &d.Body)
			return err
		})
	if err == nil && d.Deleted {
		err = missing(kind, name)
	}
	if err != nil {
		return store.Document{}, err
	}
	return d, nil
}

// List is ascending by name.
func (s documents) List(kind string) ([]store.Document, error) {
	return s.list("SELECT "+documentColumns+` FROM documents AS d WHERE namespace = $1 AND kind = $2 AND NOT deleted
		AND version = (SELECT max(version) FROM documents WHERE namespace = d.namespace AND kind = d.kind AND name = d.name)
		ORDER BY name`, s.t.namespace, kind)
}

// Versions includes tombstones.
func (s documents) Versions(kind, name string) ([]store.Document, error) {
	return s.list("SELECT "+documentColumns+" FROM documents WHERE namespace = $1 AND kind = $2 AND name = $3 ORDER BY version DESC",
		s.t.namespace, kind, name)
}

func (s documents) list(sql string, args ...any) ([]store.Document, error) {
	var list []store.Document
	err := s.t.query(sql, args, func(r pgx.Rows) error {
		d, err := document(r)
		list = append(list, d)
		return err
	})
	return list, err
}

// document reads documentColumns, and the body if there is a place for it.
func document(r pgx.Rows, body ...*[]byte) (store.Document, error) {
	var d store.Document
	var digest string
	var signatures, content []byte
	var at int64
	into := []any{&d.Kind, &d.Name, &d.Version, &digest, &signatures, &d.Author, &at, &d.Deleted}
	if len(body) > 0 {
		into = append(into, &content)
	}
	if err := r.Scan(into...); err != nil {
		return d, err
	}
	d.At, d.Signatures, d.Body = store.TimeOf(at), json.RawMessage(signatures), nonEmpty(content)
	var err error
	d.Digest, err = digestOf(digest)
	return d, err
}
