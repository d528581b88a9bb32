package store

import (
	"context"
	"errors"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Purges deletes what is older than a time, at most limit rows a call, and returns how many it deleted. What the present
// needs stays, however old: the record that a node's Last names, the newest event, join tokens that may still be used,
// documents, secrets and the audit chain.
type Purges interface {
	Records(before time.Time, limit int) (int, error)
	Events(before time.Time, limit int) (int, error)
	// Tokens deletes join tokens that were used or ended before the time.
	Tokens(before time.Time, limit int) (int, error)
	// OldBlobs lists blobs that were last put before a time, ascending by digest from the one after.
	OldBlobs(before time.Time, after rats.Digest, limit int) ([]rats.Digest, error)
	// Blobs deletes those of the given blobs that still were last put before the time.
	Blobs(before time.Time, blobs []rats.Digest) (int, error)
}

// Retention says how long a namespace's past is kept. A zero time keeps everything of that kind.
type Retention struct {
	Records time.Time // results with their evidence, older than this
	Events  time.Time
	Tokens  time.Time
	// Pending is for blobs that no record names: platform evidence whose second step never came. It must lie further back
	// than a challenge lives; a day is plenty.
	Pending time.Time
	Batch   int // rows per transaction; 0 means 200
}

// Purged counts what Purge deleted.
type Purged struct {
	Records int `json:"records"`
	Events  int `json:"events"`
	Tokens  int `json:"tokens"`
	Blobs   int `json:"blobs"`
}

// BlobTouch is how old a blob may count before storing it again makes it new: what is stored with every attestation isn't
// written with every attestation.
const BlobTouch = 12 * time.Hour

// Purge deletes what a namespace no longer has to keep, in small transactions, so that judging goes on meanwhile. It may
// run on several servers at once, and be stopped at any point.
//
// Blobs go with the records that name them: a record's transaction puts all its blobs, so a blob that was last put well
// before the oldest record kept belongs to no such record. The few older records that stay, those that nodes' Last name,
// are asked which blobs they need.
func Purge(ctx context.Context, p Space, r Retention) (Purged, error) {
	if r.Batch <= 0 {
		r.Batch = 200
	}
	var done Purged
	for _, kind := range []struct {
		before time.Time
		purge  func(Purges) func(time.Time, int) (int, error)
		count  *int
	}{
		{r.Records, func(p Purges) func(time.Time, int) (int, error) { return p.Records }, &done.Records},
		{r.Events, func(p Purges) func(time.Time, int) (int, error) { return p.Events }, &done.Events},
		{r.Tokens, func(p Purges) func(time.Time, int) (int, error) { return p.Tokens }, &done.Tokens},
	} {
		for more := !kind.before.IsZero(); more; {
			var n int
			err := p.Update(ctx, func(tx Tx) (err error) {
				n, err = kind.purge(tx.Purges())(kind.before, r.Batch)
				return err
			})
			if err != nil {
				return done, err
			}
			*kind.count += n
			more = n == r.Batch
		}
	}
	if r.Records.IsZero() || r.Pending.IsZero() {
		return done, nil
	}
	before := r.Records
	if r.Pending.Before(before) {
		before = r.Pending
	}
	var err error
	done.Blobs, err = purgeBlobs(ctx, p, before.Add(-2*BlobTouch), r.Batch)
	return done, err
}

func purgeBlobs(ctx context.Context, p Space, before time.Time, batch int) (int, error) {
	total := 0
	for after := (rats.Digest{}); ; {
		var old []rats.Digest
		err := p.View(ctx, func(tx Tx) (err error) {
			old, err = tx.Purges().OldBlobs(before, after, batch)
			return err
		})
		if err != nil || len(old) == 0 {
			return total, err
		}
		after = old[len(old)-1]
		// Looked at after the list was made: what is taken into use from now on is put, which makes it new.
		needed, err := neededBlobs(ctx, p, before)
		if err != nil {
			return total, err
		}
		gone := old[:0]
		for _, d := range old {
			if !needed[d.String()] {
				gone = append(gone, d)
			}
		}
		if len(gone) == 0 {
			continue
		}
		var n int
		err = p.Update(ctx, func(tx Tx) (err error) {
			n, err = tx.Purges().Blobs(before, gone)
			return err
		})
		if err != nil {
			return total, err
		}
		total += n
	}
}

// neededBlobs is what nodes and the old records they name refer to.
func neededBlobs(ctx context.Context, p Space, before time.Time) (map[string]bool, error) {
	const page = 500
	needed := map[string]bool{}
	need := func(ds ...rats.Digest) {
		for _, d := range ds {
			needed[d.String()] = true
		}
	}
	for after, more := "", true; more; {
		err := p.View(ctx, func(tx Tx) error {
			nodes, err := tx.Nodes().List(after, page)
			if err != nil {
				return err
			}
			more = len(nodes) == page
			for _, n := range nodes {
				after = n.Name
				for _, d := range n.ResumeBlob {
					need(d)
				}
				if n.Last == "" || n.LastAt.After(before.Add(4*BlobTouch)) {
					continue // its blobs are newer than any that go
				}
				rec, err := tx.Records().Get(n.Last)
				if errors.Is(err, ErrNotFound) {
					continue
				}
				if err != nil {
					return err
				}
				need(rec.Inputs...)
				for _, ds := range rec.Evidence {
					need(ds...)
				}
				for _, d := range rec.Claims {
					need(d)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return needed, nil
}
