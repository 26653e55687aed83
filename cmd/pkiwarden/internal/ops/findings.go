package ops

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Finding is one rule's verdict on one subject, from whichever domain.
type Finding struct {
	Rule     string `json:"rule"`
	Severity string `json:"severity"` // info, warning, critical, or unknown
	Subject  string `json:"subject"`
	Summary  string `json:"summary"`
	Evidence string `json:"evidence"`
	Remedy   string `json:"remedy"`
	Citation string `json:"citation"`
}

// severities in order of rank: what cannot be determined is worse than a
// warning and better than a certainty.
var severities = map[string]int{"info": 1, "warning": 2, "unknown": 3, "critical": 4}

type subject struct{ rule, subject string }

// Findings holds what is wrong now, as each source has last reported it. It
// logs a finding when it appears, changes its severity, or clears, and counts
// them as findings{rule,severity}, where no finding is no series.
type Findings struct {
	log  *slog.Logger
	desc *prometheus.Desc

	mu       sync.Mutex
	bySource map[string]map[subject]Finding
	past     map[string]map[subject]Finding // see Continue
}

// Held is what Findings held at a moment, by source.
type Held map[string]map[subject]Finding

// NewFindings makes an empty registry and registers its metric.
func NewFindings(reg prometheus.Registerer, log *slog.Logger) (*Findings, error) {
	f := &Findings{
		log:      log,
		desc:     prometheus.NewDesc("findings", "Findings that hold now, by rule and severity; absent where there are none.", []string{"rule", "severity"}, nil),
		bySource: make(map[string]map[subject]Finding),
	}
	return f, reg.Register(f)
}

// Set replaces all findings of a source by those that hold now. Of two with the
// same rule and subject the more severe one counts.
func (f *Findings) Set(source string, findings []Finding) {
	now := make(map[subject]Finding, len(findings))
	for _, n := range findings {
		key := subject{n.Rule, n.Subject}
		if old, twice := now[key]; !twice || severities[n.Severity] > severities[old.Severity] {
			now[key] = n
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.bySource[source]
	for _, n := range sorted(now) {
		key := subject{n.Rule, n.Subject}
		old, held := before[key]
		if past, was := f.past[source][key]; was && !held {
			old, held = past, true
		}
		delete(f.past[source], key)
		switch {
		case !held:
			f.log.Log(context.Background(), level(n.Severity), "finding", attrs(n)...)
		case old.Severity != n.Severity:
			f.log.Log(context.Background(), level(n.Severity), "finding changed", append(attrs(n), "was", old.Severity)...)
		}
	}
	f.cleared(before, now)
	f.bySource[source] = now
}

// cleared logs what held before and does not now.
func (f *Findings) cleared(before, now map[subject]Finding) {
	for _, old := range sorted(before) {
		if _, holds := now[subject{old.Rule, old.Subject}]; !holds {
			f.log.Info("finding cleared", "rule", old.Rule, "subject", old.Subject, "was", old.Severity)
		}
	}
}

// Held is what holds now, for those of another configuration to continue.
func (f *Findings) Held() Held {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := make(Held)
	for _, of := range []map[string]map[subject]Finding{f.past, f.bySource} {
		for source, findings := range of {
			if held[source] == nil {
				held[source] = make(map[subject]Finding)
			}
			maps.Copy(held[source], findings)
		}
	}
	return held
}

// Continue is called before the first Set, with what another Findings of the
// process held at its end. What holds still is not logged anew; what does not is
// logged as cleared when its source has settled, and until then it is neither
// shown nor counted.
func (f *Findings) Continue(held Held) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.past = make(map[string]map[subject]Finding)
	for source, findings := range held {
		f.past[source] = maps.Clone(findings)
	}
}

// Settle says that a source has looked at everything: what is left of the past
// has cleared.
func (f *Findings) Settle(source string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cleared(f.past[source], nil)
	delete(f.past, source)
}

// SettleBut settles all sources but these: there is nobody any more to look.
func (f *Findings) SettleBut(sources []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, source := range slices.Sorted(maps.Keys(f.past)) {
		if !slices.Contains(sources, source) {
			f.cleared(f.past[source], nil)
			delete(f.past, source)
		}
	}
}

// Forget drops the findings of a source that looks no longer, without a word:
// they have not cleared, somebody else answers for them.
func (f *Findings) Forget(source string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.bySource, source)
	delete(f.past, source)
}

// All returns the findings that hold now, the most severe first.
func (f *Findings) All() []Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Finding
	for _, findings := range f.bySource {
		all = append(all, sorted(findings)...)
	}
	slices.SortStableFunc(all, order)
	return all
}

// Describe implements prometheus.Collector.
func (f *Findings) Describe(ch chan<- *prometheus.Desc) { ch <- f.desc }

// Collect implements prometheus.Collector.
func (f *Findings) Collect(ch chan<- prometheus.Metric) {
	type series struct{ rule, severity string }
	counts := make(map[series]int)
	for _, n := range f.All() {
		counts[series{n.Rule, n.Severity}]++
	}
	for s, n := range counts {
		ch <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, float64(n), s.rule, s.severity)
	}
}

func sorted(findings map[subject]Finding) []Finding {
	out := make([]Finding, 0, len(findings))
	for _, f := range findings {
		out = append(out, f)
	}
	slices.SortFunc(out, order)
	return out
}

func order(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(severities[b.Severity], severities[a.Severity]),
		cmp.Compare(a.Rule, b.Rule),
		cmp.Compare(a.Subject, b.Subject))
}

func level(severity string) slog.Level {
	switch severity {
	case "info":
		return slog.LevelInfo
	case "critical":
		return slog.LevelError
	}
	return slog.LevelWarn
}

func attrs(f Finding) []any {
	return []any{"rule", f.Rule, "severity", f.Severity, "subject", f.Subject, "summary", f.Summary, "evidence", f.Evidence, "remedy", f.Remedy}
}
