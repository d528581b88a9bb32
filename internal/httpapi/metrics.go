package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/refs"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	page     http.Handler
}

func newMetrics(reg *prometheus.Registry, ap *appraiser.Appraiser, sets *refs.Cache, judging *queue) *metrics {
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
	counter := func(name, help string, labels prometheus.Labels, value func() uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(value()) }))
	}
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	for name, of := range map[string]func(refs.Stats) refs.Level{
		"recent":   func(s refs.Stats) refs.Level { return s.Recent },
		"memory":   func(s refs.Stats) refs.Level { return s.Memory },
		"database": func(s refs.Stats) refs.Level { return s.Database },
	} {
		const metric, help = "assay_reference_lookups_total", "Look-ups of reference values by level: recent judgements of equal claims, sets in memory, the database."
		counter(metric, help, prometheus.Labels{"level": name, "outcome": "hit"}, func() uint64 { return of(sets.Stats()).Hits })
		counter(metric, help, prometheus.Labels{"level": name, "outcome": "miss"}, func() uint64 { return of(sets.Stats()).Misses })
	}
	gauge("assay_reference_bytes", "Memory that reference sets take.", func() float64 { return float64(sets.Stats().Bytes) })
	gauge("assay_judging_waiting", "Submissions that wait to be judged.", func() float64 { return float64(judging.waiting.Load()) })
	counter("assay_judging_refused_total", "Submissions turned away because too many were waiting.", nil, judging.refused.Load)
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
