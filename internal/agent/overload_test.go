package agent

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
)

// busyUpstream turns submissions away some times.
type busyUpstream struct {
	fakeUpstream
	busy, calls int
}

func (u *busyUpstream) Submit(context.Context, string, api.Submission) (api.Answer, error) {
	if u.calls++; u.calls <= u.busy {
		return api.Answer{}, &client.Error{Problem: api.Problem{Status: 503, RetryIn: "2s"}}
	}
	return api.Answer{Result: &api.Told{ID: "at_1"}}, nil
}

func TestAnAgentComesAgainWhenTheServerIsOverloaded(t *testing.T) {
	for name, tt := range map[string]struct {
		busy, calls int
		took        time.Duration
		ok          bool
	}{
		"idle":        {0, 1, 0, true},
		"busy twice":  {2, 3, 2*2*time.Second + pauseFirst + 2*pauseFirst, true},
		"always busy": {99, maxSubmits, 4*2*time.Second + 15*pauseFirst, false},
	} {
		a, _ := offline(t, &fakeUpstream{})
		a.backoff.rand = bytes.NewReader(nil) // no jitter: every pause is its bound
		u := &busyUpstream{busy: tt.busy}
		a.up = newServers([]upstream{u}, bytes.NewReader(nil))
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			_, err := a.submit(t.Context(), api.Submission{})
			if (err == nil) != tt.ok || u.calls != tt.calls || time.Since(began) != tt.took {
				t.Errorf("%s: %d calls in %s, %v", name, u.calls, time.Since(began), err)
			}
		})
	}
}
