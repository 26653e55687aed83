package issuer

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// metrics are the series of the certificates' lifecycle. A certificate that is
// known to be absent has none; one that could not be read keeps the last ones,
// since its dates do not change by our not seeing it.
type metrics struct {
	notBefore, notAfter, renewal *prometheus.GaugeVec
	requests                     *prometheus.CounterVec
}

func newMetrics() *metrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pkiwarden", Name: name, Help: help}, []string{"certificate"})
	}
	m := &metrics{
		notBefore: gauge("certificate_not_before_timestamp_seconds", "Start of validity of the stored certificate, Unix time."),
		notAfter:  gauge("certificate_not_after_timestamp_seconds", "End of validity of the stored certificate, Unix time."),
		renewal:   gauge("certificate_renewal_timestamp_seconds", "When the stored certificate is due to be renewed, Unix time."),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pkiwarden", Name: "csr_requests_total",
			Help: "Certificate signing requests, by what became of them."}, []string{"result"}),
	}
	for _, result := range k8scsr.Results {
		m.requests.WithLabelValues(string(result))
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.notBefore, m.notAfter, m.renewal, m.requests}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for n, c := range m.all() {
		if err := r.Register(c); err != nil {
			m.unregister(r, n)
			return fmt.Errorf("registering certificate metrics: %w", err)
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

func (m *metrics) observe(c *Certificate, live k8scsr.Live) {
	if live.Leaf == nil {
		for _, v := range []*prometheus.GaugeVec{m.notBefore, m.notAfter, m.renewal} {
			v.DeleteLabelValues(c.Spec.Name)
		}
		return
	}
	set := func(v *prometheus.GaugeVec, t time.Time) {
		v.WithLabelValues(c.Spec.Name).Set(float64(t.Unix()))
	}
	set(m.notBefore, live.Leaf.NotBefore)
	set(m.notAfter, live.Leaf.NotAfter)
	set(m.renewal, c.Spec.RenewalAt(live.Leaf, live.IssuedAt, time.Time{}))
}

func (m *metrics) count(result k8scsr.Result) {
	if result != "" {
		m.requests.WithLabelValues(string(result)).Inc()
	}
}
