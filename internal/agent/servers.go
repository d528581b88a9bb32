package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"
	"sync"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// servers is an upstream of several: any of them takes any step, and the agent stays with one until it fails. All share
// the pinned CA; which one answers makes no difference to what is believed.
type servers struct {
	list []upstream

	mu  sync.Mutex
	now int
}

// maxServers bounds the list in a configuration.
const maxServers = 16

// newServers starts at a random one, so that a fleet spreads over them.
func newServers(list []upstream, rand io.Reader) upstream {
	if len(list) == 1 {
		return list[0]
	}
	s := &servers{list: list}
	var r [2]byte
	if _, err := io.ReadFull(rand, r[:]); err == nil {
		s.now = int(binary.BigEndian.Uint16(r[:])) % len(list)
	}
	return s
}

// addresses returns where servers are: those of the configuration, else the one joined at.
func addresses(c Config, s State) []string {
	var list []string
	for _, a := range append([]string{c.Server}, c.Servers...) {
		if a != "" && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return []string{s.Server}
	}
	return list
}

func (s *servers) current() (upstream, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list[s.now], s.now
}

// leave goes on to the next server, unless somebody has done so since the failed one was taken.
func (s *servers) leave(failed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == failed {
		s.now = (s.now + 1) % len(s.list)
	}
}

// Stream leaves the server whose stream ended, whatever the reason: it restarts, is dead, or was told to send its agents
// away. The others take over at once.
func (s *servers) Stream(ctx context.Context, node string, instance []byte, boot rats.Digest) iter.Seq2[client.StreamEvent, error] {
	return func(yield func(client.StreamEvent, error) bool) {
		up, i := s.current()
		defer s.leave(i)
		up.Stream(ctx, node, instance, boot)(yield)
	}
}

func (s *servers) Submit(ctx context.Context, node string, sub api.Submission) (api.Answer, error) {
	return try(ctx, s, func(u upstream) (api.Answer, error) { return u.Submit(ctx, node, sub) })
}

func (s *servers) ReleaseSecret(ctx context.Context, node, name string) (api.Release, error) {
	return try(ctx, s, func(u upstream) (api.Release, error) { return u.ReleaseSecret(ctx, node, name) })
}

func (s *servers) RenewCertificate(ctx context.Context, node string, r api.CertificateRequest) (api.Certificate, error) {
	return try(ctx, s, func(u upstream) (api.Certificate, error) { return u.RenewCertificate(ctx, node, r) })
}

// Wish tells the server the agent holds its stream to, or another.
func (s *servers) Wish(ctx context.Context, node, event string) error {
	_, err := try(ctx, s, func(u upstream) (struct{}, error) { return struct{}{}, wish(ctx, u, node, event) })
	return err
}

func (s *servers) Close() {
	for _, u := range s.list {
		u.Close()
	}
}

// try calls the current server and, as long as one can't be reached or can't answer, the others, each once. A server that
// took a call and then died may have done it: the next one then says that the challenge is spent, and a new one follows.
func try[T any](ctx context.Context, s *servers, call func(upstream) (T, error)) (T, error) {
	_, first := s.current()
	for i := 0; ; i++ {
		out, err := call(s.list[(first+i)%len(s.list)])
		if err == nil || !elsewhere(err) || i == len(s.list)-1 || ctx.Err() != nil {
			return out, err
		}
	}
}

// elsewhere says whether another server may do better.
func elsewhere(err error) bool {
	var refused *client.Error
	if errors.As(err, &refused) {
		return refused.Problem.Status == http.StatusServiceUnavailable
	}
	_, coded := rats.ReasonOf(err) // a refusal of our own
	return !coded
}
