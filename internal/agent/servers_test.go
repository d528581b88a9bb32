package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
)

// R041: an agent whose server is gone goes to the next one by itself.
func TestAnAgentGoesToTheNextServerWhenItsStreamEnds(t *testing.T) {
	var visited []int
	list := []upstream{&fakeUpstream{}, &fakeUpstream{}, &fakeUpstream{}}
	a, _ := offline(t, list[0].(*fakeUpstream))
	a.up, a.rounds = newServers(list, bytes.NewReader(nil)), len(list)
	a.backoff.rand = bytes.NewReader(nil) // no jitter: every pause is its bound
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		var took time.Duration
		for i, u := range list {
			u.(*fakeUpstream).stream = func(_ int, yield func(client.StreamEvent, error) bool) {
				visited = append(visited, i)
				if len(visited) == 4 {
					took = time.Since(began)
				}
				if len(visited) == 7 {
					cancel()
				}
				yield(client.StreamEvent{}, io.EOF)
			}
		}
		if err := a.hold(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if want := []int{0, 1, 2, 0, 1, 2, 0}; !slices.Equal(visited, want) {
			t.Errorf("visited %v, want %v", visited, want)
		}
		// The pause grows only once all have failed.
		if took != 3*pauseFirst {
			t.Errorf("trying every server once took %s, want %s", took, 3*pauseFirst)
		}
	})
}

func TestACallThatNoServerAnswersGoesToTheOthers(t *testing.T) {
	refusal := func(status int) error { return &client.Error{Problem: api.Problem{Status: status}} }
	for name, tt := range map[string]struct {
		first error
		tried int
	}{
		"unreachable":   {&client.Unreachable{}, 2},
		"lost":          {io.ErrUnexpectedEOF, 2},
		"no database":   {refusal(http.StatusServiceUnavailable), 2},
		"refused":       {refusal(http.StatusUnprocessableEntity), 1},
		"own objection": {CodeChallenge.Bad("", "", ""), 1},
		"answered":      {nil, 1},
	} {
		tried := 0
		s := &servers{list: []upstream{&fakeUpstream{}, &fakeUpstream{}}}
		_, err := try(t.Context(), s, func(upstream) (int, error) {
			if tried++; tried == 1 {
				return 1, tt.first
			}
			return 2, nil
		})
		if tried != tt.tried || (tried == 2) != (tt.first != nil && err == nil) {
			t.Errorf("%s: %d servers tried, want %d: %v", name, tried, tt.tried, err)
		}
	}
}

func TestServersOfAConfigurationAreChecked(t *testing.T) {
	var many bytes.Buffer
	for i := range maxServers + 1 {
		fmt.Fprintf(&many, "  - s%d\n", i)
	}
	for _, bad := range []string{"servers: ['']", "servers:\n" + many.String()} {
		if _, err := ParseConfig([]byte(bad)); codeOf(err) != string(CodeConfig.Code) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	c, err := ParseConfig([]byte("server: a\nservers: [b, a]"))
	if got := addresses(c, State{Server: "joined"}); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%v, %v", got, err)
	}
	if got := addresses(Config{}, State{Server: "joined"}); !slices.Equal(got, []string{"joined"}) {
		t.Errorf("%v", got)
	}
}
