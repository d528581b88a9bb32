package sqlite

import (
	"time"

	"github.com/assay-attest/assay/rats"

	"github.com/assay-attest/assay/internal/store"
)

type purges struct{ t *tx }

func (p purges) Records(before time.Time, limit int) (int, error) {
	return p.delete(`DELETE FROM records WHERE namespace = ?1 AND id IN (SELECT id FROM records AS r WHERE namespace = ?1 AND at < ?2
		AND NOT EXISTS (SELECT 1 FROM nodes WHERE namespace = ?1 AND last = r.id) ORDER BY at LIMIT ?3)`, before, limit)
}

// Events keeps the newest one, which the next number is counted from.
func (p purges) Events(before time.Time, limit int) (int, error) {
	return p.delete(`DELETE FROM events WHERE namespace = ?1 AND seq IN (SELECT seq FROM events WHERE namespace = ?1 AND at < ?2
		AND seq < (SELECT max(seq) FROM events WHERE namespace = ?1) ORDER BY at LIMIT ?3)`, before, limit)
}

func (p purges) delete(sql string, before time.Time, limit int) (int, error) {
	n, err := p.t.exec(sql, p.t.namespace, store.Nanos(before), capped(limit))
	return int(n), err
}

// Tokens are few: their times stand in the document.
func (p purges) Tokens(before time.Time, limit int) (int, error) {
	list, err := tokens(p).List()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, k := range list {
		if limit > 0 && n == limit {
			break
		}
		if !k.Expires.Before(before) && (k.UsedAt.IsZero() || !k.UsedAt.Before(before)) {
			continue
		}
		if err := tokens(p).Delete(k.ID); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (p purges) OldBlobs(before time.Time, after rats.Digest, limit int) ([]rats.Digest, error) {
	var list []rats.Digest
	err := p.t.query("SELECT digest FROM blobs WHERE namespace = ? AND at < ? AND digest > coalesce(?, x'') ORDER BY digest LIMIT ?",
		[]any{p.t.namespace, store.Nanos(before), nonEmpty(after.Sum), capped(limit)}, func(r row) error {
			list = append(list, rats.Digest{Alg: "sha256", Sum: r.bytes(0)})
			return nil
		})
	return list, err
}

func (p purges) Blobs(before time.Time, blobs []rats.Digest) (int, error) {
	total := 0
	for _, d := range blobs {
		n, err := p.t.exec("DELETE FROM blobs WHERE namespace = ? AND digest = ? AND at < ?", p.t.namespace, d.Sum, store.Nanos(before))
		if err != nil {
			return total, err
		}
		total += int(n)
	}
	return total, nil
}
