package signer

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// result is what became of an approved request. The list is closed.
type result string

const (
	resultSigned   result = "signed"
	resultRefused  result = "refused"  // by the policy or by the CA's constraints; it is Failed
	resultConflict result = "conflict" // it changed meanwhile, mostly by another instance; it is looked at again
	resultError    result = "error"    // the answer could not be written
)

var results = []result{resultSigned, resultRefused, resultConflict, resultError}

type metrics struct {
	requests *prometheus.CounterVec
	notAfter *prometheus.GaugeVec
}

func newMetrics(all []*authority) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pkiwarden", Name: "signer_requests_total",
			Help: "Approved certificate signing requests of a signer of ours, by what became of them."}, []string{"signer", "result"}),
		notAfter: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pkiwarden", Name: "signer_ca_not_after_timestamp_seconds",
			Help: "End of validity of the signer's CA, or of the first certificate above it in its Secret that ends sooner, Unix time."}, []string{"signer"}),
	}
	for _, a := range all {
		for _, r := range results {
			m.requests.WithLabelValues(a.name(), string(r))
		}
	}
	return m
}

func (m *metrics) all() []prometheus.Collector { return []prometheus.Collector{m.requests, m.notAfter} }

func (m *metrics) register(r prometheus.Registerer) error {
	for n, c := range m.all() {
		if err := r.Register(c); err != nil {
			m.unregister(r, n)
			return fmt.Errorf("registering signer metrics: %w", err)
		}
	}
	return nil
}

// unregister removes the first n collectors.
func (m *metrics) unregister(r prometheus.Registerer, n int) {
	for _, c := range m.all()[:n] {
		r.Unregister(c)
	}
}

func (m *metrics) count(a *authority, r result) {
	m.requests.WithLabelValues(a.name(), string(r)).Inc()
}

func (m *metrics) ca(a *authority, ca k8scsr.SigningCA) {
	m.notAfter.WithLabelValues(a.name()).Set(float64(ca.NotAfter().Unix()))
}

// noCA: one that is known to be absent has no end. One that could not be read
// keeps it, since its dates do not change by our not seeing it.
func (m *metrics) noCA(a *authority) { m.notAfter.DeleteLabelValues(a.name()) }
