package tidier

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/pki"
)

// metrics are the series of all mounts. What is unknown has no series.
type metrics struct {
	registerer  prometheus.Registerer
	runs        *prometheus.CounterVec
	effective   *prometheus.GaugeVec
	next        *prometheus.GaugeVec
	reclaimable *prometheus.GaugeVec
	running     *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pkiwarden", Name: name, Help: help}, []string{"mount"})
	}
	m := &metrics{
		registerer: r,
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "pkiwarden",
			Name:      "tidy_runs_total",
			Help:      "Runs of tidy that were decided here and concluded by this instance, by result: ok, no_effect, failed, interrupted, refused.",
		}, []string{"mount", "result"}),
		effective:   gauge("tidy_last_effective_timestamp_seconds", "When the last tidy ended that made a CRL smaller, as measured."),
		next:        gauge("tidy_next_timestamp_seconds", "When the next tidy is due by what is on the lists now, of which only what is surely reclaimable then counts; new revocations can make it earlier; absent when unknown or switched off."),
		reclaimable: gauge("crl_reclaimable_entries", "Entries that a tidy would remove from the mount's CRLs now: the best guess where certificates were read for it, else a lower bound; absent when unknown. New revocations are looked into within two minutes where they may make a run due (lists above 10,000 entries: a minute more for each 10,000, at most ten), else within the hour."),
		running:     gauge("tidy_running", "1 while Vault tidies the mount, whoever asked for it, 0 while it does not; absent when unknown."),
	}
	if r == nil {
		return m, nil
	}
	for i, c := range m.all() {
		if err := r.Register(c); err != nil {
			for _, registered := range m.all()[:i] {
				r.Unregister(registered)
			}
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.runs, m.effective, m.next, m.reclaimable, m.running}
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all() {
		m.registerer.Unregister(c)
	}
}

// concluded counts a run.
func (m *metrics) concluded(mount pki.Mount, outcome pki.Outcome) {
	m.runs.WithLabelValues(mount.Name(), string(outcome)).Inc()
}

// isRunning says whether a tidy is on.
func (m *metrics) isRunning(mount pki.Mount, on bool) {
	value := 0.0
	if on {
		value = 1
	}
	m.running.WithLabelValues(mount.Name()).Set(value)
}

// publish replaces the gauges by what the views say.
func (m *metrics) publish(views []*view, policy pki.Policy, now time.Time) {
	m.next.Reset()
	m.reclaimable.Reset()
	m.effective.Reset()
	m.running.Reset()
	for _, v := range views {
		name := v.mount.Name()
		if policy.Enabled {
			for _, outcome := range pki.Outcomes {
				m.runs.WithLabelValues(name, string(outcome))
			}
		}
		if s := v.observation.Status; s != nil {
			m.isRunning(v.mount, s.State.Active() || v.record.Run != nil && v.record.Run.Step == pki.StepRunning)
		}
		if at := v.record.EffectiveAt; !at.IsZero() {
			m.effective.WithLabelValues(name).Set(unix(at))
		}
		if e := v.decision.Estimate; v.observation.CRLs != nil && (e.LowKnown || e.Sampled()) {
			m.reclaimable.WithLabelValues(name).Set(float64(e.Likely))
		}
		next := v.dueAt
		if v.decision.Verdict == pki.RunNow {
			next = now
		}
		if policy.Enabled && v.decision.Verdict != pki.CannotHelp && !next.IsZero() {
			m.next.WithLabelValues(name).Set(unix(next))
		}
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// isDenied tells whether err is a missing permission.
func isDenied(err error) (pki.PermissionError, bool) {
	var denied *pki.PermissionError
	if errors.As(err, &denied) {
		return *denied, true
	}
	return pki.PermissionError{}, false
}
