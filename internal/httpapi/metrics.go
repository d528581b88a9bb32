package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/assay-attest/assay/internal/appraiser"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	page     http.Handler
}

func newMetrics(reg *prometheus.Registry, ap *appraiser.Appraiser) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_requests_total", Help: "Requests by verb and HTTP status.",
		}, []string{"verb", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "assay_request_seconds", Help: "Time to answer, by verb.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"verb"}),
		page: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
	}
	reg.MustRegister(m.requests, m.seconds, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "assay_streams", Help: "Agents connected to this server.",
		}, func() float64 { return float64(ap.Streams()) }))
	return m
}

func (m *metrics) request(r Route, status int, d time.Duration) {
	m.requests.WithLabelValues(r.Verb, strconv.Itoa(status)).Inc()
	if r.Time > 0 {
		m.seconds.WithLabelValues(r.Verb).Observe(d.Seconds())
	}
}

func (a *API) metricsPage(r *request) (any, error) {
	a.metrics.page.ServeHTTP(r.w, r.Request)
	return streamed{}, nil
}
