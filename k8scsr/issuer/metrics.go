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
	requests *prometheus.CounterVec
	dates    []prometheus.Collector
}

func newMetrics(b *board) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pkiwarden", Name: "csr_requests_total",
			Help: "Certificate signing requests, by what became of them."}, []string{"result"}),
		dates: []prometheus.Collector{
			dateSeries(b, "certificate_not_before_timestamp_seconds", "Start of validity of the stored certificate, Unix time.", func(d dates) time.Time { return d.notBefore }),
			dateSeries(b, "certificate_not_after_timestamp_seconds", "End of validity of the stored certificate, Unix time.", func(d dates) time.Time { return d.notAfter }),
			dateSeries(b, "certificate_renewal_timestamp_seconds", "When the stored certificate is due to be renewed, Unix time.", func(d dates) time.Time { return d.due }),
		},
	}
	for _, result := range k8scsr.Results {
		m.requests.WithLabelValues(string(result))
	}
	return m
}

func (m *metrics) all() []prometheus.Collector { return append(m.dates, m.requests) }

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

// dateSeriesOf is one series for each certificate, made of the board when it is
// asked for: ten thousand certificates would otherwise keep thirty thousand series
// in memory.
type dateSeriesOf struct {
	board *board
	desc  *prometheus.Desc
	pick  func(dates) time.Time
}

func dateSeries(b *board, name, help string, pick func(dates) time.Time) *dateSeriesOf {
	return &dateSeriesOf{b, prometheus.NewDesc("pkiwarden_"+name, help, []string{"certificate"}, nil), pick}
}

// Describe implements [prometheus.Collector].
func (s *dateSeriesOf) Describe(out chan<- *prometheus.Desc) { out <- s.desc }

// Collect implements [prometheus.Collector].
func (s *dateSeriesOf) Collect(out chan<- prometheus.Metric) {
	for d := range s.board.allDates() {
		out <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, float64(s.pick(d).Unix()), d.certificate)
	}
}

// Many tells whoever gathers that there can be so many of these series that they
// are better written by themselves.
func (s *dateSeriesOf) Many() bool { return true }

func (m *metrics) count(result k8scsr.Result) {
	if result != "" {
		m.requests.WithLabelValues(string(result)).Inc()
	}
}
