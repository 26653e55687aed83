package loop

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what all loops of a process report:
//
//   - loop_last_success_timestamp_seconds{loop}: the heartbeat; absent until
//     the loop has worked once, and again after it has ended
//   - loop_runs_total{loop,result}: runs; result is ok or error
//
// The names carry no prefix: the caller's registerer adds it.
type Metrics struct {
	success *prometheus.GaugeVec
	runs    *prometheus.CounterVec
}

// NewMetrics registers the loops' metrics, once per registerer.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "loop_last_success_timestamp_seconds",
			Help: "When the loop last did its work without an error.",
		}, []string{"loop"}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loop_runs_total",
			Help: "Runs of the loop by result: ok or error.",
		}, []string{"loop", "result"}),
	}
	for _, c := range []prometheus.Collector{m.success, m.runs} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) observe(loop string, now time.Time, err error) {
	if m == nil {
		return
	}
	if err != nil {
		m.runs.WithLabelValues(loop, "error").Inc()
		return
	}
	m.runs.WithLabelValues(loop, "ok").Inc()
	m.success.WithLabelValues(loop).Set(float64(now.UnixMilli()) / 1e3)
}

func (m *Metrics) forget(loop string) {
	if m == nil {
		return
	}
	m.success.DeleteLabelValues(loop)
	m.runs.DeletePartialMatch(prometheus.Labels{"loop": loop})
}
