package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"sync"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

// The largest answers that are read.
const (
	maxAnswer   = 16 << 20
	maxDocument = 64 << 20 // a reference set of a whole distribution
	maxProblem  = 1 << 20
)

// Error is a refusal of the server: its problem document.
type Error struct{ Problem api.Problem }

func (e *Error) Error() string {
	p := e.Problem
	s := p.Title
	if s == "" {
		s = http.StatusText(p.Status)
	}
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if p.Path != "" {
		s += ": at " + p.Path
	}
	if p.Expected != "" {
		s += ": expected " + p.Expected
	}
	if p.Seen != "" {
		s += ", seen " + p.Seen
	}
	if p.Code != "" {
		s += " (" + string(p.Code) + ")"
	}
	return s
}

// CodeOf returns the stable code of an error of this package, "" if it has none.
func CodeOf(err error) rats.Code {
	var refused *Error
	if errors.As(err, &refused) {
		return refused.Problem.Code
	}
	var unreachable *Unreachable
	if errors.As(err, &unreachable) {
		return unreachable.Code
	}
	if r, ok := rats.ReasonOf(err); ok {
		return r.Code
	}
	return ""
}

// request is one call.
type request struct {
	method string
	path   string // escaped
	query  url.Values
	body   []byte
	media  string // of body
	secret bool   // body is wiped once it was sent
	accept string
	header map[string]string
}

// send makes the call and returns an answer with a status below 300; any other is an *Error.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	h, err := c.ready(ctx)
	if err != nil {
		return nil, err
	}
	u, err := c.base.Parse(r.path)
	if err != nil {
		return nil, fmt.Errorf("building the path of a call: %w", err)
	}
	if r.query != nil {
		u.RawQuery = r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("building a call: %w", err)
	}
	if r.secret {
		req.Body, req.GetBody = &wiped{b: r.body}, nil
	}
	req.Header.Set(api.HeaderProtocol, api.Protocol)
	req.Header.Set("User-Agent", c.opt.UserAgent)
	req.Header.Set("Accept", r.accept)
	if r.media != "" {
		req.Header.Set("Content-Type", r.media)
	}
	if c.opt.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.opt.Token)
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	res, err := h.Do(req)
	if err != nil {
		return nil, c.probe(ctx, c.diagnose(err))
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close()
		return nil, problemOf(res)
	}
	return res, nil
}

// problemOf reads a refusal. Something in front of the server may answer with a page of its own: that has no code of
// the server's, so it gets one of ours.
func problemOf(res *http.Response) error {
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxProblem))
	var p api.Problem
	if media != api.TypeProblem || json.Unmarshal(body, &p) != nil {
		p = api.Problem{
			Title: CodeAnswer.Title, Code: CodeAnswer.Code, Hint: CodeAnswer.Hint,
			Expected: api.TypeProblem, Seen: fmt.Sprintf("%s with status %d", clip(media), res.StatusCode),
		}
	}
	p.Status = res.StatusCode
	return &Error{Problem: p}
}

// bytes makes the call and returns the answer's body.
func (c *Client) bytes(ctx context.Context, r request, limit int64) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	res, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, c.diagnose(err)
	}
	if int64(len(b)) > limit {
		return nil, CodeAnswerSize.Bad(r.path, fmt.Sprintf("at most %d bytes", limit), "more")
	}
	return b, nil
}

// call makes a call whose body is the JSON of in (nil: none) and whose answer is the JSON of T.
func call[T any](ctx context.Context, c *Client, method, path string, query url.Values, in any) (T, error) {
	var out T
	r := request{method: method, path: path, query: query, accept: "application/json"}
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return out, fmt.Errorf("encoding a call: %w", err)
		}
		r.body, r.media = b, "application/json"
		switch in.(type) {
		case api.SecretPut, api.WebhookRequest:
			r.secret = true
		}
	}
	return decode[T](c.bytes(ctx, r, maxAnswer))
}

func decode[T any](b []byte, err error) (T, error) {
	var out T
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, CodeAnswer.Bad("answer", "JSON of the API", clip(err.Error()))
	}
	return out, nil
}

// drop makes a call whose answer has no content that matters.
func (c *Client) drop(ctx context.Context, method, path string) error {
	_, err := c.bytes(ctx, request{method: method, path: path, accept: "application/json"}, maxAnswer)
	return err
}

func (c *Client) path(elements ...string) string { return api.Path(c.opt.Namespace, elements...) }

// wiped is a body that is overwritten when the transport is done with it. It can't be sent twice.
type wiped struct {
	mu  sync.Mutex
	b   []byte
	off int
}

func (w *wiped) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.off >= len(w.b) {
		return 0, io.EOF
	}
	n := copy(p, w.b[w.off:])
	w.off += n
	return n, nil
}

func (w *wiped) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.b)
	w.off = len(w.b)
	return nil
}
