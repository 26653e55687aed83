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
	successDesc    = desc("crl_last_success_timestamp_seconds", "When the CRL was last known to be the current one: read whole with the right signature, or said by Vault not to have changed since.")
	reachedDesc    = desc("crl_limit_reached_timestamp_seconds", "When the CRL likely reaches the limit; absent when that is not known, or not in sight.")
	headroomDesc   = desc("crl_rollout_headroom", "How many times all live certificates could be revoked before the CRL reaches the limit; absent when it is not known how many are live, or there is no limit.")
	addedDesc      = desc("crl_entries_added_total", "Entries added to the CRL since this process began to watch it, at least"+counted)
	removedDesc    = desc("crl_entries_removed_total", "Entries removed from the CRL since this process began to watch it, at least"+counted)
)

// counted ends the help of the two counters.
const counted = ": counted from the entries' dates in constant memory, so that some of those that come and go between two readings are missed. " +
	"They go on over a reload and an election. After a crash, up to five minutes may be counted twice."

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("pkiwarden", "", name), help, []string{"mount", "issuer"}, nil)
}

// Describe implements prometheus.Collector.
func (w *Watch) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bytesDesc, limitDesc, entriesDesc, thisUpdateDesc, nextUpdateDesc, successDesc, reachedDesc, headroomDesc, addedDesc, removedDesc} {
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
			if l.full.summary == nil || seen[key] {
				continue
			}
			seen[key] = true
			all = append(all, w.seriesOf(m, l)...)
		}
	}
	return all
}

func (w *Watch) seriesOf(m pki.Mount, l *list) []prometheus.Metric {
	var all []prometheus.Metric
	add := func(d *prometheus.Desc, t prometheus.ValueType, value float64) {
		all = append(all, prometheus.MustNewConstMetric(d, t, value, m.Name(), l.issuer.Label()))
	}
	s := l.full.summary
	add(bytesDesc, prometheus.GaugeValue, float64(s.Bytes))
	add(entriesDesc, prometheus.GaugeValue, float64(s.Entries))
	add(thisUpdateDesc, prometheus.GaugeValue, unix(s.ThisUpdate))
	add(successDesc, prometheus.GaugeValue, unix(l.full.at))
	if limit := w.limitOf(w.mounts[m]); limit.MaxBytes > 0 {
		add(limitDesc, prometheus.GaugeValue, float64(limit.MaxBytes))
	}
	if !s.NextUpdate.IsZero() {
		add(nextUpdateDesc, prometheus.GaugeValue, unix(s.NextUpdate))
	}
	if at := l.past.projection.LimitReachedAt; !at.IsZero() {
		add(reachedDesc, prometheus.GaugeValue, unix(at))
	}
	if room := w.observe(m, w.mounts[m], l).Headroom; room != nil {
		add(headroomDesc, prometheus.GaugeValue, *room)
	}
	if l.past.counts {
		add(addedDesc, prometheus.CounterValue, float64(l.past.added))
		add(removedDesc, prometheus.CounterValue, float64(l.past.removed))
	}
	return all
}

// unix is t as metrics have it.
func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
