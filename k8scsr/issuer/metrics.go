package issuer

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// metrics are the series of the certificates' lifecycle. A certificate that is
// known to be absent has none; one that could not be read keeps the last ones,
// since its dates do not change by our not seeing it. Those of the certificates
// are made of the board when they are asked for: ten thousand certificates would
// otherwise keep thirty thousand series in memory.
type metrics struct {
	board    *board
	requests *prometheus.CounterVec
}

var (
	notBeforeDesc = describe("certificate_not_before_timestamp_seconds", "Start of validity of the stored certificate, Unix time.")
	notAfterDesc  = describe("certificate_not_after_timestamp_seconds", "End of validity of the stored certificate, Unix time.")
	renewalDesc   = describe("certificate_renewal_timestamp_seconds", "When the stored certificate is due to be renewed, Unix time.")
)

func describe(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("pkiwarden_"+name, help, []string{"certificate"}, nil)
}

func newMetrics(b *board) *metrics {
	m := &metrics{board: b,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pkiwarden", Name: "csr_requests_total",
			Help: "Certificate signing requests, by what became of them."}, []string{"result"}),
	}
	for _, result := range k8scsr.Results {
		m.requests.WithLabelValues(string(result))
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m, m.requests}
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

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{notBeforeDesc, notAfterDesc, renewalDesc} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	for d := range m.board.allDates() {
		for desc, at := range map[*prometheus.Desc]time.Time{notBeforeDesc: d.notBefore, notAfterDesc: d.notAfter, renewalDesc: d.due} {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(at.Unix()), d.certificate)
		}
	}
}

func (m *metrics) count(result k8scsr.Result) {
	if result != "" {
		m.requests.WithLabelValues(string(result)).Inc()
	}
}
