package ops

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what the process reports of itself:
//
//   - build_info{version,commit,goversion}: 1
//   - leader: 1 while this instance leads, 0 while another may; absent where it
//     is no candidate
//   - config_last_reload_successful: 1 or 0
//   - config_last_reload_success_timestamp_seconds
type Metrics struct {
	leader, configOK, configAt *prometheus.GaugeVec // without labels: absent until set
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer, version, commit string) (*Metrics, error) {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, nil)
	}
	m := &Metrics{
		leader:   gauge("leader", "Whether this instance leads; absent where it is no candidate."),
		configOK: gauge("config_last_reload_successful", "Whether the last attempt to read the configuration worked."),
		configAt: gauge("config_last_reload_success_timestamp_seconds", "When the configuration in use was read."),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "build_info", Help: "The build that is running."},
		[]string{"version", "commit", "goversion"})
	build.WithLabelValues(version, commit, runtime.Version()).Set(1)
	for _, c := range []prometheus.Collector{m.leader, m.configOK, m.configAt, build} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// SetLeader says whether this instance leads.
func (m *Metrics) SetLeader(leading bool) { m.leader.WithLabelValues().Set(number(leading)) }

// SetConfig says whether the last attempt to read the configuration worked, and
// when the one in use was read.
func (m *Metrics) SetConfig(accepted bool, inUseSince time.Time) {
	m.configOK.WithLabelValues().Set(number(accepted))
	m.configAt.WithLabelValues().Set(float64(inUseSince.UnixMilli()) / 1e3)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
