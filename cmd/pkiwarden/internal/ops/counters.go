package ops

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Counters is what the counters of a process have come to whose collectors have
// ended. Those that are made anew in their place, after another configuration
// or another election, go on from there: to whoever scrapes, a counter that
// falls is a process that began anew. The zero Counters is ready to use.
type Counters struct {
	mu    sync.Mutex
	ended map[string]float64 // by series
}

// Registry is a registry whose counters go on from those of the same series in
// others that c has made. What has no series yet is not shown, whatever it once
// came to. Histograms and summaries begin anew.
func (c *Counters) Registry() *Registry {
	return &Registry{Registry: prometheus.NewRegistry(), counters: c, kept: make(map[string]prometheus.Collector), many: make(map[string]*prometheus.Registry)}
}

// Registry is a [prometheus.Registry] made by [Counters.Registry].
type Registry struct {
	*prometheus.Registry
	counters *Counters

	mu   sync.Mutex
	kept map[string]prometheus.Collector // by what they describe
	many map[string]*prometheus.Registry // so too, each with one collector
}

// Many are the families of those collectors that say so themselves, by a method
// Many() bool: they can be so large that each is better gathered by itself, and
// Gather leaves them out. They are no counters.
func (r *Registry) Many() []prometheus.Gatherer {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []prometheus.Gatherer
	for _, name := range slices.Sorted(maps.Keys(r.many)) {
		all = append(all, r.many[name])
	}
	return all
}

// Register implements [prometheus.Registerer].
func (r *Registry) Register(c prometheus.Collector) error {
	if isMany(c) {
		r.mu.Lock()
		defer r.mu.Unlock()
		name := described(c)
		if r.many[name] != nil {
			return prometheus.AlreadyRegisteredError{ExistingCollector: c, NewCollector: c}
		}
		r.many[name] = prometheus.NewRegistry()
		return r.many[name].Register(c)
	}
	if err := r.Registry.Register(going{c, r.counters}); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept[described(c)] = c
	return nil
}

// MustRegister implements [prometheus.Registerer].
func (r *Registry) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements [prometheus.Registerer].
func (r *Registry) Unregister(c prometheus.Collector) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := described(c)
	if _, is := r.many[known]; is {
		delete(r.many, known)
		return true
	}
	if !r.Registry.Unregister(c) {
		return false
	}
	if kept := r.kept[known]; kept != nil {
		delete(r.kept, known)
		r.counters.end(kept)
	}
	return true
}

// End keeps what the counters have come to. They are not to be counted on
// afterwards.
func (r *Registry) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.kept {
		r.counters.end(c)
	}
	clear(r.kept)
}

// described tells collectors apart, as a registry does: one that is wrapped is
// another value each time.
func described(c prometheus.Collector) string {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		c.Describe(descs)
	}()
	var all []string
	for d := range descs {
		all = append(all, d.String())
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// end adds what a collector's counters have come to.
func (c *Counters) end(ended prometheus.Collector) {
	metrics := make(chan prometheus.Metric)
	go func() {
		defer close(metrics)
		ended.Collect(metrics)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = make(map[string]float64)
	}
	for m := range metrics {
		var out dto.Metric
		if m.Write(&out) == nil && out.Counter != nil {
			c.ended[series(m, &out)] += out.Counter.GetValue()
		}
	}
}

// series names the series of a metric that was written.
func series(m prometheus.Metric, out *dto.Metric) string {
	var b strings.Builder
	b.WriteString(m.Desc().String())
	for _, l := range out.GetLabel() {
		b.WriteString("\x00" + l.GetName() + "\x00" + l.GetValue())
	}
	return b.String()
}

// going is a collector whose counters go on from those that have ended.
type going struct {
	prometheus.Collector
	from *Counters
}

// Collect implements [prometheus.Collector].
func (g going) Collect(metrics chan<- prometheus.Metric) {
	own := make(chan prometheus.Metric)
	go func() {
		defer close(own)
		g.Collector.Collect(own)
	}()
	for m := range own {
		metrics <- goingMetric{m, g.from}
	}
}

type goingMetric struct {
	prometheus.Metric
	from *Counters
}

// Write implements [prometheus.Metric].
func (g goingMetric) Write(out *dto.Metric) error {
	if err := g.Metric.Write(out); err != nil || out.Counter == nil {
		return err
	}
	g.from.mu.Lock()
	defer g.from.mu.Unlock()
	out.Counter.Value = new(out.Counter.GetValue() + g.from.ended[series(g.Metric, out)])
	return nil
}
