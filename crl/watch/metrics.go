package watch

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/pki"
)

// The series of each list. What is unknown has none.
var (
	bytesDesc      = desc("crl_bytes", "Size of the CRL in DER.")
	limitDesc      = desc("crl_limit_bytes", "Size of the largest CRL that Vault's storage accepts; absent when there is no limit or it is unknown.")
	entriesDesc    = desc("crl_entries", "Revoked certificates on the CRL.")
	thisUpdateDesc = desc("crl_this_update_timestamp_seconds", "The CRL's thisUpdate.")
	nextUpdateDesc = desc("crl_next_update_timestamp_seconds", "The CRL's nextUpdate; absent when it has none.")
	successDesc    = desc("crl_last_success_timestamp_seconds", "When the CRL was last read whole and its signature was right.")
)

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("pkiwarden", "", name), help, []string{"mount", "issuer"}, nil)
}

// Describe implements prometheus.Collector.
func (w *Watch) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bytesDesc, limitDesc, entriesDesc, thisUpdateDesc, nextUpdateDesc, successDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (w *Watch) Collect(metrics chan<- prometheus.Metric) {
	for _, m := range w.series() {
		metrics <- m
	}
}

// series are the metrics of all lists at this moment.
func (w *Watch) series() []prometheus.Metric {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []prometheus.Metric
	type labels struct{ mount, issuer string }
	seen := map[labels]bool{}
	for _, m := range w.ordered() {
		for _, l := range w.mounts[m].lists {
			// Two mounts may be remembered under one name for a moment, while
			// one takes the other's place: one of the two is shown.
			key := labels{m.Name(), l.issuer.Label()}
			if l.summary == nil || seen[key] {
				continue
			}
			seen[key] = true
			all = append(all, w.seriesOf(m, l)...)
		}
	}
	return all
}

func (w *Watch) seriesOf(m pki.Mount, l *list) []prometheus.Metric {
	gauge := func(d *prometheus.Desc, value float64) prometheus.Metric {
		return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, m.Name(), l.issuer.Label())
	}
	all := []prometheus.Metric{
		gauge(bytesDesc, float64(l.summary.Bytes)),
		gauge(entriesDesc, float64(l.summary.Entries)),
		gauge(thisUpdateDesc, unix(l.summary.ThisUpdate)),
		gauge(successDesc, unix(l.measuredAt)),
	}
	if w.limit.MaxBytes > 0 {
		all = append(all, gauge(limitDesc, float64(w.limit.MaxBytes)))
	}
	if !l.summary.NextUpdate.IsZero() {
		all = append(all, gauge(nextUpdateDesc, unix(l.summary.NextUpdate)))
	}
	return all
}

// unix is t as metrics have it.
func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
