package loop

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what all loops of a process report:
//
//   - loop_last_success_timestamp_seconds{loop}: the heartbeat; absent until
//     the loop has worked once, and again after it has ended
//   - loop_runs_total{loop,result}: runs; result is ok or error. Absent after
//     the loop has ended; one of that name that begins later goes on counting
//
// It is a [prometheus.Collector], to be registered once per registry. The names
// carry no prefix: the caller's registerer adds it.
type Metrics struct {
	success *prometheus.GaugeVec

	mu     sync.Mutex
	loops  map[string]*runs
	states map[string]State // of those that have not ended
}

// runs are those of the loops of one name.
type runs struct {
	ok, failed float64
	going      bool // a loop of this name has not ended
}

var runsDesc = prometheus.NewDesc("loop_runs_total", "Runs of the loop by result: ok or error.", []string{"loop", "result"}, nil)

// NewMetrics registers the loops' metrics, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "loop_last_success_timestamp_seconds",
			Help: "When the loop last did its work without an error.",
		}, []string{"loop"}),
		loops:  make(map[string]*runs),
		states: make(map[string]State),
	}
	if reg == nil {
		return m, nil
	}
	return m, reg.Register(m)
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(descs chan<- *prometheus.Desc) {
	m.success.Describe(descs)
	descs <- runsDesc
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(metrics chan<- prometheus.Metric) {
	m.success.Collect(metrics)
	m.mu.Lock()
	defer m.mu.Unlock()
	for loop, r := range m.loops {
		if !r.going {
			continue
		}
		if r.ok > 0 {
			metrics <- prometheus.MustNewConstMetric(runsDesc, prometheus.CounterValue, r.ok, loop, "ok")
		}
		if r.failed > 0 {
			metrics <- prometheus.MustNewConstMetric(runsDesc, prometheus.CounterValue, r.failed, loop, "error")
		}
	}
}

func (m *Metrics) observe(loop string, now time.Time, err error) {
	if m == nil {
		return
	}
	m.note(loop, func(s *State) { *s = s.ended(now, err) })
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.loops[loop]
	if r == nil {
		r = &runs{}
		m.loops[loop] = r
	}
	r.going = true
	if err != nil {
		r.failed++
		return
	}
	r.ok++
	m.success.WithLabelValues(loop).Set(float64(now.UnixMilli()) / 1e3)
}

func (m *Metrics) forget(loop string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.success.DeleteLabelValues(loop)
	delete(m.states, loop)
	if r := m.loops[loop]; r != nil {
		r.going = false
	}
}
