package ops

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// shown is what a registry shows of x_*, without comments.
func shown(t *testing.T, r *Registry) string {
	t.Helper()
	page := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	var lines []string
	for line := range strings.Lines(page.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, ", ")
}

// Counters go on where others of the same series have ended, in the same
// registry or in the next; nothing else does.
func TestCountersGoOn(t *testing.T) {
	var process Counters
	wrapped := func(r *Registry) prometheus.Registerer { return prometheus.WrapRegistererWithPrefix("x_", r) }
	make := func(r *Registry) (*prometheus.CounterVec, prometheus.Gauge) {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "runs_total", Help: "Runs."}, []string{"mount", "result"})
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "size", Help: "Size."})
		wrapped(r).MustRegister(c, g)
		return c, g
	}
	want := func(r *Registry, want string) {
		t.Helper()
		if got := shown(t, r); got != want {
			t.Errorf("it shows %s\nwant %s", got, want)
		}
	}

	first := process.Registry()
	c, g := make(first)
	c.WithLabelValues("a", "ok").Add(3)
	c.WithLabelValues("b", "ok").Add(1)
	g.Set(7)
	const three = `x_runs_total{mount="a",result="ok"} 3, x_runs_total{mount="b",result="ok"} 1, x_size 7`
	want(first, three)
	want(first, three) // looking adds nothing

	// The leader's are away while it does not lead.
	if !wrapped(first).Unregister(c) || wrapped(first).Unregister(c) {
		t.Error("it was not registered once")
	}
	want(first, "x_size 7")
	again := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "runs_total", Help: "Runs."}, []string{"mount", "result"})
	wrapped(first).MustRegister(again)
	want(first, "x_size 7") // nothing is known of mounts yet
	again.WithLabelValues("a", "ok")
	again.WithLabelValues("a", "failed").Inc()
	want(first, `x_runs_total{mount="a",result="failed"} 1, x_runs_total{mount="a",result="ok"} 3, x_size 7`)
	again.WithLabelValues("a", "ok").Inc()
	want(first, `x_runs_total{mount="a",result="failed"} 1, x_runs_total{mount="a",result="ok"} 4, x_size 7`)

	first.End()
	first.End() // twice is as once
	second := process.Registry()
	c, g = make(second)
	c.WithLabelValues("a", "ok").Inc()
	c.WithLabelValues("b", "ok")
	g.Set(2)
	want(second, `x_runs_total{mount="a",result="ok"} 5, x_runs_total{mount="b",result="ok"} 1, x_size 2`)

	if err := wrapped(second).Register(c); err == nil {
		t.Error("registered twice")
	}
	want(second, `x_runs_total{mount="a",result="ok"} 5, x_runs_total{mount="b",result="ok"} 1, x_size 2`)

	var another Counters
	other := another.Registry()
	c, _ = make(other)
	c.WithLabelValues("a", "ok")
	want(other, `x_runs_total{mount="a",result="ok"} 0, x_size 0`)
}
