package client

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

// JoinBegin is the first step of joining.
func (c *Client) JoinBegin(ctx context.Context, r api.JoinRequest) (api.JoinChallenge, error) {
	return call[api.JoinChallenge](ctx, c, http.MethodPost, c.path("join"), nil, r)
}

// JoinFinish is the second step of joining.
func (c *Client) JoinFinish(ctx context.Context, r api.JoinFinish) (api.Joined, error) {
	return call[api.Joined](ctx, c, http.MethodPost, c.path("join", "finish"), nil, r)
}

// StreamEvent is one event of an agent's stream; exactly one field is set.
type StreamEvent struct {
	Opened    bool // the server accepted the stream
	Challenge *api.Challenge
	Result    *api.Told
	Bye       *api.Problem // the server ends the stream
}

// Stream holds a node's stream once: it yields Opened, then what the server sends, then the error the stream ended with
// (io.EOF if the server just ended it). It doesn't reconnect. Instance is the instance nonce, sent as hexadecimal digits; boot
// identifies the boot if it is known (zero: not).
func (c *Client) Stream(ctx context.Context, node string, instance []byte, boot rats.Digest) iter.Seq2[StreamEvent, error] {
	return func(yield func(StreamEvent, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		h := map[string]string{api.HeaderInstance: hex.EncodeToString(instance)}
		if !boot.IsZero() {
			h[api.HeaderBoot] = boot.String()
		}
		res, err := c.stream(ctx, c.path("nodes", node, "stream"), h)
		if err != nil {
			yield(StreamEvent{}, err)
			return
		}
		defer res.Body.Close()
		if !yield(StreamEvent{Opened: true}, nil) {
			return
		}
		for m := newMessages(res.Body); ; {
			msg, err := m.next()
			if err != nil {
				yield(StreamEvent{}, c.ended(err))
				return
			}
			e, err := streamEvent(msg)
			if err != nil {
				yield(StreamEvent{}, err)
				return
			}
			if e != (StreamEvent{}) && !yield(e, nil) {
				return
			}
		}
	}
}

// streamEvent decodes a message; unknown events are passed over, as an older agent must.
func streamEvent(m message) (StreamEvent, error) {
	var e StreamEvent
	var into any
	switch m.name {
	case api.StreamChallenge:
		e.Challenge = new(api.Challenge)
		into = e.Challenge
	case api.StreamResult:
		e.Result = new(api.Told)
		into = e.Result
	case api.StreamBye:
		e.Bye = new(api.Problem)
		into = e.Bye
	default:
		return StreamEvent{}, nil
	}
	if err := json.Unmarshal(m.data, into); err != nil {
		return StreamEvent{}, CodeAnswer.Bad("stream event "+m.name, "JSON of the API", clip(err.Error()))
	}
	return e, nil
}

// stream opens a stream of server-sent events.
func (c *Client) stream(ctx context.Context, path string, header map[string]string) (*http.Response, error) {
	res, err := c.send(ctx, request{method: http.MethodGet, path: path, accept: api.TypeEventStream, header: header})
	if err != nil {
		return nil, err
	}
	if media := res.Header.Get("Content-Type"); media != api.TypeEventStream && media != api.TypeEventStream+"; charset=utf-8" {
		res.Body.Close()
		return nil, CodeAnswer.Bad(path, api.TypeEventStream, clip(media))
	}
	return res, nil
}

// ended explains the end of a stream.
func (c *Client) ended(err error) error {
	switch {
	case errors.Is(err, errEventSize):
		return CodeAnswerSize.Bad("stream event", fmt.Sprintf("at most %d bytes", maxEvent), "more")
	case err == io.EOF:
		return io.EOF
	default:
		return c.diagnose(err)
	}
}

// Submit hands in evidence.
func (c *Client) Submit(ctx context.Context, node string, s api.Submission) (api.Answer, error) {
	return call[api.Answer](ctx, c, http.MethodPost, c.path("nodes", node, "evidence"), nil, s)
}

// ReleaseSecret asks for a secret; it comes sealed to the key of the node's current result.
func (c *Client) ReleaseSecret(ctx context.Context, node, name string) (api.Release, error) {
	return call[api.Release](ctx, c, http.MethodPost, c.path("nodes", node, "secrets", name), nil, struct{}{})
}

// RenewCertificate renews the node's certificate over its own connection.
func (c *Client) RenewCertificate(ctx context.Context, node string, r api.CertificateRequest) (api.Certificate, error) {
	return call[api.Certificate](ctx, c, http.MethodPost, c.path("nodes", node, "certificate"), nil, r)
}

// AKCertificate asks for a certificate of the node's attestation key, over the node's own connection.
func (c *Client) AKCertificate(ctx context.Context, node string) (api.AKCertificate, error) {
	return call[api.AKCertificate](ctx, c, http.MethodPost, c.path("nodes", node, "ak-certificate"), nil, struct{}{})
}
