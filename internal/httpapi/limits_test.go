package httpapi

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-attest/assay/rats"
)

// R046, R183: at ten times what a server can judge, it goes on judging all it can, and turns the rest away at once.
func TestGoodputDoesNotCollapseUnderOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			places   = 10
			work     = 100 * time.Millisecond // so 100 a second can be done
			callers  = 5000                   // each comes again when told to: far more than 10 times that
			duration = 30 * time.Second
		)
		q := newQueue(places, 200, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), duration)
		defer cancel()
		var done, refused, late atomic.Int64
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				for ctx.Err() == nil {
					began := time.Now()
					leave, err := q.enter(ctx)
					var missing *rats.MissingInput
					switch {
					case err == nil:
						if time.Since(began) > time.Second {
							late.Add(1)
						}
						time.Sleep(work)
						leave()
						done.Add(1)
						time.Sleep(time.Second)
					case errors.As(err, &missing) && missing.Reason.Code == CodeOverloaded.Code:
						refused.Add(1)
						time.Sleep(2*time.Second + time.Duration(i)*time.Millisecond/5)
					case ctx.Err() == nil:
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if n := done.Load(); n < int64(duration/work)*places*95/100 {
			t.Errorf("%d were judged, %d turned away: not 95 %% of what could be", n, refused.Load())
		}
		if refused.Load() == 0 || late.Load() > 0 {
			t.Errorf("%d turned away, %d judged too late", refused.Load(), late.Load())
		}
	})
}
