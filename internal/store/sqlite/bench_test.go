package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// BenchmarkUpdate measures what one attestation writes (challenge, record, node, event, audit), durable, by callers at
// once. Set the database's folder with TMPDIR: what counts is how long its disk takes to sync.
func BenchmarkUpdate(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := opened(b, filepath.Join(b.TempDir(), "assay.db"), defaults)
			if err := s.Create(b.Context(), "one"); err != nil {
				b.Fatal(err)
			}
			p := s.In("one")
			var next atomic.Int64
			b.SetParallelism((callers + 1) / 2) // times GOMAXPROCS, near enough
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n := next.Add(1)
					if err := p.Update(b.Context(), attestation(n)); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}

func attestation(n int64) func(store.Tx) error {
	id := fmt.Sprintf("at_%d", n)
	node := fmt.Sprintf("nd_%d", n%1000)
	return func(tx store.Tx) error {
		now := start.Add(time.Duration(n) * time.Millisecond)
		spent := [16]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
		_, e1 := tx.Events().Append(store.Event{At: now, Kind: "node.state", Subject: node})
		_, e2 := tx.Audit().Append(store.AuditEntry{At: now, Actor: "server", Verb: "attest", Object: node})
		return errors.Join(e1, e2, tx.Epochs().Hold(1), tx.Records().Spend(spent, now.Add(time.Minute), now),
			tx.Records().Put(store.Record{Result: rats.Result{ID: id, Subject: node, At: now}}),
			tx.Nodes().Put(store.Node{ID: node, Name: node, Last: id, LastAt: now}))
	}
}

// BenchmarkView measures reading one node.
func BenchmarkView(b *testing.B) {
	s := opened(b, filepath.Join(b.TempDir(), "assay.db"), defaults)
	p := s.In("one")
	err := errors.Join(s.Create(b.Context(), "one"),
		p.Update(b.Context(), func(tx store.Tx) error { return tx.Nodes().Put(store.Node{ID: "nd", Name: "n"}) }))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := p.View(b.Context(), func(tx store.Tx) error { _, err := tx.Nodes().Get("nd"); return err }); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
