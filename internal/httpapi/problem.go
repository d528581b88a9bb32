package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// What can be wrong with a request before anybody looks at what it asks.
var (
	CodeNotFound = rats.CodeInfo{
		Code: "api.resource.unknown", Title: "there is no such thing", Slot: rats.InstanceIdentity,
		Hint: "look the name up with the list command",
	}
	CodeConflict = rats.CodeInfo{
		Code: "api.resource.conflict", Title: "the name is taken, or was changed meanwhile", Slot: rats.InstanceIdentity,
		Hint: "look at what is there and try again",
	}
	CodeBodyTooLarge = rats.CodeInfo{
		Code: "api.body.too-large", Title: "the request's body is too large", Slot: rats.InstanceIdentity,
		Hint: "docs/reference/limits.md lists the bounds",
	}
	CodeBodyMalformed = rats.CodeInfo{
		Code: "api.body.malformed", Title: "the request's body can't be read", Slot: rats.InstanceIdentity,
		Hint: "send one JSON document of the form in /v1/openapi.json",
	}
	CodeParameter = rats.CodeInfo{
		Code: "api.parameter.malformed", Title: "a parameter of the request can't be used", Slot: rats.InstanceIdentity,
		Hint: "see /v1/openapi.json",
	}
	CodeRate = rats.CodeInfo{
		Code: "api.rate.exceeded", Title: "too many requests from this caller", Slot: rats.InstanceIdentity,
		Hint: "wait and try again; docs/reference/limits.md lists the bounds",
	}
	CodeProtocol = rats.CodeInfo{
		Code: "api.protocol.version", Title: "agent and server speak different protocol versions", Slot: rats.InstanceIdentity,
		Hint: "update the older of the two",
	}
	CodeBusy = rats.CodeInfo{
		Code: "api.rate.busy", Title: "the server has too many large requests to read at once", Slot: rats.InstanceIdentity,
		Hint: "wait and try again; docs/reference/limits.md lists the bounds",
	}
	CodeUnavailable = rats.CodeInfo{
		Code: "api.server.unavailable", Title: "the server can't reach its database", Slot: rats.InstanceIdentity,
		Hint: "nothing was decided; try again later",
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeAccessMissing, CodeAccessToken, CodeAccessDenied, CodeNotFound, CodeConflict, CodeBodyTooLarge,
	CodeBodyMalformed, CodeParameter, CodeRate, CodeBusy, CodeProtocol, CodeUnavailable, CodeDocumentName,
}

// statuses maps areas and codes to HTTP statuses; the longest match wins. Bad evidence not listed is 422, a missing
// input 409.
var statuses = map[string]int{
	"api.access.missing":      http.StatusUnauthorized,
	"api.access.token":        http.StatusUnauthorized,
	"api.access.denied":       http.StatusForbidden,
	"api.resource.unknown":    http.StatusNotFound,
	"api.resource.conflict":   http.StatusConflict,
	"api.body.too-large":      http.StatusRequestEntityTooLarge,
	"api.body":                http.StatusBadRequest,
	"api.parameter":           http.StatusBadRequest,
	"api.rate":                http.StatusTooManyRequests,
	"api.protocol":            http.StatusUpgradeRequired,
	"api.server":              http.StatusServiceUnavailable,
	"broker.secret.unknown":   http.StatusNotFound,
	"broker.result":           http.StatusConflict,
	"broker.secret":           http.StatusUnprocessableEntity,
	"broker.rule.empty":       http.StatusUnprocessableEntity,
	"broker.rule.invalid":     http.StatusUnprocessableEntity,
	"broker.age":              http.StatusUnprocessableEntity,
	"broker":                  http.StatusForbidden,
	"challenge.policy":        http.StatusConflict,
	"challenge.token.spent":   http.StatusConflict,
	"challenge.token.expired": http.StatusGone,
	"node.id.unknown":         http.StatusNotFound,
	"node.stream":             http.StatusConflict,
	"node.enrolment":          http.StatusForbidden,
	"identity":                http.StatusForbidden,
	"tls":                     http.StatusUnauthorized,
	"webhook.id":              http.StatusNotFound,
	"webhook.count":           http.StatusConflict,
	"webhook":                 http.StatusUnprocessableEntity,
	"node.wish.rate":          http.StatusTooManyRequests,
	"node.wish.unwanted":      http.StatusConflict,
	"join.token":              http.StatusForbidden,
	"join.name.taken":         http.StatusConflict,
	"join.node.exists":        http.StatusConflict,
	"verifier.malfunction":    http.StatusInternalServerError,
}

func statusOf(code rats.Code, missing bool) int {
	for c := string(code); c != ""; {
		if s, ok := statuses[c]; ok {
			return s
		}
		i := strings.LastIndexByte(c, '.')
		if i < 0 {
			break
		}
		c = c[:i]
	}
	if missing {
		return http.StatusConflict
	}
	return http.StatusUnprocessableEntity
}

// classify turns an error into the reason a caller is given. Errors that are nobody's evidence are malfunctions: their
// text stays in the log.
func classify(err error) (rats.Reason, int) {
	var tooLarge *http.MaxBytesError
	var missing *rats.MissingInput
	switch {
	case errors.As(err, &tooLarge):
		r := CodeBodyTooLarge.Refuse("body", "a smaller body", "more bytes than are allowed here")
		return r, statusOf(r.Code, false)
	case errors.Is(err, store.ErrNotFound):
		return CodeNotFound.Refuse("", "", ""), http.StatusNotFound
	case errors.Is(err, store.ErrConflict):
		return CodeConflict.Refuse("", "", ""), http.StatusConflict
	case errors.Is(err, store.ErrEpoch):
		return appraiser.CodePolicyChanged.Refuse("", "", ""), http.StatusConflict
	case errors.Is(err, store.ErrUnavailable):
		return CodeUnavailable.At(rats.None, "database", "an answer", "none"), http.StatusServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return CodeUnavailable.At(rats.None, "", "an answer in time", "none"), http.StatusServiceUnavailable
	}
	if r, ok := rats.ReasonOf(err); ok {
		return r, statusOf(r.Code, errors.As(err, &missing))
	}
	return appraiser.CodeMalfunction.At(rats.None, "", "", ""), http.StatusInternalServerError
}

// problemOf makes the problem document. A node gets code, title and hint, which are the same for everybody, and the
// reference under which its owner finds the rest (S45).
func problemOf(err error, p Principal, id string) api.Problem {
	r, status := classify(err)
	out := api.Problem{
		Type: "urn:assay:code:" + string(r.Code), Title: r.Title, Status: status, Code: r.Code, Hint: r.Hint, Request: id,
	}
	var told *toldRefusal
	if errors.As(err, &told) && told.reference != "" {
		out.Request = told.reference
	}
	if p.Kind == NodeAgent {
		return out
	}
	out.Path, out.Expected, out.Seen = r.Path, r.Expected, r.Seen
	var many *manyReasons
	if errors.As(err, &many) {
		out.Reasons = many.reasons
	}
	return out
}

// manyReasons is an error of several reasons, the first of which is the problem's code.
type manyReasons struct {
	reasons []rats.Reason
}

func (e *manyReasons) Error() string { return e.reasons[0].String() }

func (e *manyReasons) Unwrap() error { return &rats.BadEvidence{Reason: e.reasons[0]} }

func writeProblem(w http.ResponseWriter, p api.Problem) {
	w.Header().Set("Content-Type", api.TypeProblem)
	w.Header().Set("Cache-Control", "no-store")
	if p.Status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
