package httpapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// request is one call on its way: who calls, about what.
type request struct {
	*http.Request
	w         http.ResponseWriter
	route     Route
	id        string // under which the log has it
	principal Principal
	namespace string
	space     store.Space
}

// raw is an answer that is not JSON.
type raw struct {
	media string
	body  []byte
	tag   string
}

// streamed is the answer of a handler that wrote its own.
type streamed struct{}

// handler wraps a route: limits first, then who it is, then what it may, then the work.
func (a *API) handler(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		start := a.cfg.Now()
		r := &request{Request: hr, w: w, route: route, id: a.requestID(), namespace: hr.PathValue("ns")}
		out, err := a.serve(r)
		status := http.StatusOK
		if err != nil {
			p := problemOf(err, r.principal, r.id)
			status = p.Status
			a.logFailure(r, err, status)
			if _, done := out.(streamed); !done {
				writeProblem(w, p)
			}
		} else {
			a.write(w, out)
		}
		a.metrics.request(route, status, a.cfg.Now().Sub(start))
	})
}

func (a *API) serve(r *request) (any, error) {
	ctl := http.NewResponseController(r.w)
	if r.route.Time > 0 {
		deadline := time.Now().Add(r.route.Time)
		_ = ctl.SetReadDeadline(deadline)
		_ = ctl.SetWriteDeadline(deadline.Add(5 * time.Second))
		ctx, cancel := context.WithTimeout(r.Context(), r.route.Time)
		defer cancel()
		r.Request = r.WithContext(ctx)
	}
	r.Body = http.MaxBytesReader(r.w, r.Body, r.route.Body)
	var err error
	if r.principal, err = a.principal(r); err != nil {
		return nil, err
	}
	if !a.limits.allow(r.principal, r.Request) {
		return nil, CodeRate.Missing(r.route.Verb, "fewer requests", "too many")
	}
	if v := r.Header.Get(api.HeaderProtocol); v != "" && v != api.Protocol {
		return nil, CodeProtocol.Bad(api.HeaderProtocol, api.Protocol, clip(v))
	}
	if err := authorize(r.principal, r.route, Resource{Namespace: r.namespace, Node: r.PathValue("node")}); err != nil {
		return nil, err
	}
	if r.namespace != "" {
		r.space = a.cfg.Store.In(r.namespace)
	}
	if r.ContentLength > r.route.Body {
		return nil, CodeBodyTooLarge.Bad("body", fmt.Sprintf("at most %d bytes", r.route.Body), fmt.Sprintf("%d bytes", r.ContentLength))
	}
	release, ok := a.limits.admit(r.ContentLength, r.route.Body)
	if !ok {
		return nil, CodeBusy.Missing(r.route.Verb, "room for a large body", "too many of them at once")
	}
	defer release()
	return r.route.handle(a, r)
}

// principal says who calls: by access token if there is one, else by client certificate.
func (a *API) principal(r *request) (Principal, error) {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, token, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") || len(token) > 1024 {
			return Principal{Kind: Anonymous}, CodeAccessToken.Bad("authorization", "Bearer TOKEN", "another form")
		}
		p, err := a.cfg.Access.find(token)
		if err != nil {
			return Principal{Kind: Anonymous}, err
		}
		return p, nil
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return Principal{Kind: Anonymous, Name: "anonymous"}, nil
	}
	peer, err := a.cfg.Pins.Peer(r.TLS)
	if err != nil {
		return Principal{Kind: Anonymous}, err
	}
	return Principal{Kind: NodeAgent, Name: peer.Node, Peer: peer}, nil
}

func (a *API) requestID() string {
	b := make([]byte, 8)
	if _, err := io.ReadFull(a.cfg.Rand, b); err != nil {
		return "rq_unknown"
	}
	return "rq_" + hex.EncodeToString(b)
}

// logFailure logs refusals at info and malfunctions at error. Paths hold no secrets; queries and headers may, and aren't
// logged.
func (a *API) logFailure(r *request, err error, status int) {
	attrs := []any{
		"request", r.id, "verb", r.route.Verb, "caller", r.principal.Actor(), "path", r.URL.Path, "status", status, "error", err.Error(),
	}
	if status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		a.cfg.Log.Error("request failed", attrs...)
		return
	}
	a.cfg.Log.Info("request refused", attrs...)
}

func (a *API) write(w http.ResponseWriter, out any) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set(api.HeaderProtocol, api.Protocol)
	switch v := out.(type) {
	case streamed:
	case nil:
		w.WriteHeader(http.StatusNoContent)
	case raw:
		w.Header().Set("Content-Type", v.media)
		if v.tag != "" {
			w.Header().Set("ETag", `"`+v.tag+`"`)
		}
		_, _ = w.Write(v.body)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
}

// decode reads the body as one JSON document without unknown fields.
func decode[T any](r *request) (T, error) {
	var v T
	if h := r.Header.Get("Content-Type"); h != "" {
		if media, _, err := mime.ParseMediaType(h); err != nil || media != "application/json" {
			return v, CodeBodyMalformed.Bad("content-type", "application/json", clip(h))
		}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, bodyError(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return v, CodeBodyMalformed.Bad("body", "one JSON document", "more behind it")
	}
	return v, nil
}

// body reads the whole body.
func (r *request) body() ([]byte, error) {
	if r.ContentLength < 0 || r.ContentLength > r.route.Body {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, bodyError(err)
		}
		return b, nil
	}
	b := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, b); err != nil {
		return nil, bodyError(err)
	}
	return b, nil
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return CodeBodyTooLarge.Bad("body", fmt.Sprintf("at most %d bytes", tooLarge.Limit), "more")
	}
	return CodeBodyMalformed.Bad("body", "JSON of the form in /v1/openapi.json", clip(err.Error()))
}

// number reads an integer parameter between lo and hi; absent is def.
func (r *request) number(name string, lo, hi, def int64) (int64, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < lo || n > hi {
		return 0, CodeParameter.Bad(name, fmt.Sprintf("a number from %d to %d", lo, hi), clip(s))
	}
	return n, nil
}

// duration reads a duration between lo and hi; empty is def.
func duration(name, s string, lo, hi, def time.Duration) (time.Duration, error) {
	if s == "" {
		return def, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < lo || d > hi {
		return 0, CodeParameter.Bad(name, fmt.Sprintf("a duration from %s to %s", lo, hi), clip(s))
	}
	return d, nil
}

// view runs f over a snapshot of the request's namespace.
func (r *request) view(f func(store.Tx) error) error { return r.space.View(r.Context(), f) }

func clip(s string) string {
	const n = 200
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// fail returns an error of several reasons.
func fail(reasons []rats.Reason) error { return &manyReasons{reasons: reasons} }
