// Package httpapi is the server's HTTP API, version 1: routes, authorisation, limits and the problem document. It turns
// requests into calls of the appraiser, the joiner and the broker, and decides nothing about evidence.
//
// It guarantees that every route is in one table with its verb and its callers; that what isn't permitted there is
// refused; that bodies, rates and times are bounded (R046); and that a judged node is told codes and references, never
// expected values (S45).
package httpapi

import (
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/broker"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/notify"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/internal/store"
)

// Config is what the API serves from. All fields are required.
type Config struct {
	Store     store.Store
	Appraiser *appraiser.Appraiser
	Refs      *refs.Cache
	Joiner    *identity.Joiner
	Pins      *identity.Pins
	Broker    *broker.Broker
	Keys      *keyring.Keyring
	Notify    *notify.Dispatcher
	Access    *Access
	Issuer    string // URL under which relying parties know this server
	Version   string
	Now       func() time.Time
	Rand      io.Reader
	Log       *slog.Logger
}

// API is the handler.
type API struct {
	cfg     Config
	mux     *http.ServeMux
	limits  *limits
	metrics *metrics
	openAPI []byte
	stop    chan struct{} // closed when streams must end
}

// New returns the API's handler.
func New(cfg Config, reg *prometheus.Registry) *API {
	a := &API{
		cfg: cfg, mux: http.NewServeMux(), limits: newLimits(cfg.Now),
		metrics: newMetrics(reg, cfg.Appraiser), stop: make(chan struct{}),
	}
	a.openAPI, _ = OpenAPI() // its one error would be a type without JSON; a test runs it
	for _, r := range Routes() {
		a.mux.Handle(r.Method+" "+r.Pattern, a.handler(r))
	}
	a.mux.Handle("/", a.handler(notFound))
	return a
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// EndStreams ends every open stream, for an orderly stop. It may be called once.
func (a *API) EndStreams() { close(a.stop) }
