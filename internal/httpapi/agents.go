package httpapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// keepAlive is how often a stream without news gets a comment, so that dead connections are found.
const keepAlive = 15 * time.Second

func nodeError(err error, key string) error {
	if errors.Is(err, store.ErrNotFound) {
		return appraiser.CodeNodeUnknown.Bad("node", "the id or name of a node", clip(key))
	}
	return err
}

// admitted returns the calling agent's node, unless its credential is no longer good.
func (a *API) admitted(r *request) (store.Node, error) {
	var n store.Node
	err := r.view(func(tx store.Tx) (err error) {
		n, err = tx.Nodes().Get(r.principal.Peer.Node)
		return err
	})
	if err != nil {
		return n, nodeError(err, r.principal.Peer.Node)
	}
	return n, identity.Admit(r.namespace, n, r.principal.Peer)
}

func (a *API) stream(r *request) (any, error) {
	if _, err := a.admitted(r); err != nil {
		return nil, err
	}
	instance, err := hex.DecodeString(r.Header.Get(api.HeaderInstance))
	if err != nil || len(instance) < 16 || len(instance) > 64 {
		return nil, CodeParameter.Bad(api.HeaderInstance, "16 to 64 bytes in hexadecimal", clip(r.Header.Get(api.HeaderInstance)))
	}
	var boot rats.Digest
	if err := boot.UnmarshalText([]byte(r.Header.Get(api.HeaderBoot))); err != nil {
		return nil, CodeParameter.Bad(api.HeaderBoot, "a digest", clip(err.Error()))
	}
	s, err := a.openEvents(r)
	if err != nil {
		return nil, err
	}
	defer s.close()
	err = a.cfg.Appraiser.Serve(s.ctx, r.namespace, r.principal.Peer.Node, instance, boot, func(name string, data any) error {
		if reason, ok := data.(rats.Reason); ok {
			data = problemOf(&rats.BadEvidence{Reason: reason}, r.principal, r.id)
		}
		return s.send(name, 0, data)
	})
	return streamed{}, err
}

func (a *API) evidence(r *request) (any, error) {
	leave, err := a.judging.enter(r.Context())
	if err != nil {
		return nil, err
	}
	defer leave()
	n, err := a.admitted(r)
	if err != nil {
		return nil, err
	}
	in, err := submission(r)
	if err != nil {
		return nil, err
	}
	return a.cfg.Appraiser.Submit(r.Context(), r.namespace, n, r.principal.Peer.SPKI, in)
}

// submission reads a submission in either of its forms. What the binary one yields lies within the one buffer that the body
// was read into.
func submission(r *request) (api.Submission, error) {
	if r.Header.Get("Content-Type") != api.TypeSubmission {
		return decode[api.Submission](r)
	}
	var in api.Submission
	b, err := r.body()
	if err != nil {
		return in, err
	}
	if err := in.UnmarshalBinary(b); err != nil {
		return in, CodeBodyMalformed.Bad("body", api.TypeSubmission, err.Error())
	}
	return in, nil
}

func (a *API) renew(r *request) (any, error) {
	if _, err := a.admitted(r); err != nil {
		return nil, err
	}
	in, err := decode[api.CertificateRequest](r)
	if err != nil {
		return nil, err
	}
	return a.cfg.Joiner.Renew(r.Context(), r.namespace, r.space, r.principal.Peer.Node, in)
}

// eventStream writes server-sent events (WHATWG HTML, section 9.2).
type eventStream struct {
	ctx  context.Context // ends with the request, the server's stop or a failed write
	w    http.ResponseWriter
	ctl  *http.ResponseController
	stop func()
	done chan struct{} // closed when the keeper of the stream has ended

	mu sync.Mutex
}

func (s *eventStream) send(name string, id int64, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encoding a stream event: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.ctl.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if id > 0 {
		if _, err := fmt.Fprintf(s.w, "id: %d\n", id); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(s.w, "event: %s\ndata: %s\n\n", name, b); err != nil {
		return err
	}
	return s.ctl.Flush()
}

func (s *eventStream) comment() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.ctl.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprint(s.w, ": alive\n\n"); err != nil {
		return err
	}
	return s.ctl.Flush()
}

// close ends the stream. Nothing writes to the connection after it returned.
func (s *eventStream) close() {
	s.stop()
	<-s.done
}

// openEvents starts a stream of server-sent events and keeps it alive until it is closed.
func (a *API) openEvents(r *request) (*eventStream, error) {
	ctx, cancel := context.WithCancel(r.Context())
	s := &eventStream{ctx: ctx, w: r.w, ctl: http.NewResponseController(r.w), stop: cancel, done: make(chan struct{})}
	_ = s.ctl.SetReadDeadline(time.Time{})
	h := r.w.Header()
	h.Set("Content-Type", api.TypeEventStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	h.Set(api.HeaderProtocol, api.Protocol)
	r.w.WriteHeader(http.StatusOK)
	if err := s.comment(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(s.done)
		t := time.NewTicker(keepAlive)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-a.stop:
				cancel()
				return
			case <-t.C:
				if s.comment() != nil {
					cancel()
					return
				}
			}
		}
	}()
	return s, nil
}
