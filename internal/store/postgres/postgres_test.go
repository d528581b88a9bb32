package postgres

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/store/storetest"
	"github.com/assay-attest/assay/internal/testkit/pg"
)

func options() Options { return Options{Now: time.Now, Rand: rand.Reader} }

func openTest(t *testing.T, address string, o Options) *db {
	t.Helper()
	s, err := open(t.Context(), address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// R041
func TestPostgresKeepsTheContractOfAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openTest(t, pg.URL(t), options()) })
}
