package ops

import (
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// family is a collector of n series.
type family struct {
	desc *prometheus.Desc
	n    int
}

func newFamily(name string, n int) *family {
	return &family{prometheus.NewDesc(name, "Help.", []string{"of"}, nil), n}
}

func (f *family) Describe(out chan<- *prometheus.Desc) { out <- f.desc }
func (f *family) Many() bool                           { return true }
func (f *family) Collect(out chan<- prometheus.Metric) {
	for n := range f.n {
		out <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, float64(n), fmt.Sprint(n))
	}
}

// TestScrapeOfMany: large families follow the others on the same page, plain or
// compressed, and are gone when their collector is.
func TestScrapeOfMany(t *testing.T) {
	registry := new(Counters).Registry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "one"}))
	first, second := newFamily("first_of_many", 3), newFamily("second_of_many", 2)
	registry.MustRegister(first, second)
	if err := registry.Register(newFamily("first_of_many", 1)); err == nil {
		t.Error("two collectors of one family")
	}
	url, end := serve(t, ServerOptions{Gatherer: registry, Many: registry.Many})
	defer end()
	page := func(encoding string) string {
		t.Helper()
		request, err := http.NewRequest(http.MethodGet, url+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept-Encoding", encoding) // so that the client leaves it as it is
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body := io.Reader(response.Body)
		if zipped := response.Header.Get("Content-Encoding") == "gzip"; zipped != strings.HasPrefix(encoding, "gzip;q=0.5") {
			t.Errorf("%s: Content-Encoding %q", encoding, response.Header.Get("Content-Encoding"))
		} else if zipped {
			if body, err = gzip.NewReader(response.Body); err != nil {
				t.Fatal(err)
			}
		}
		text, err := io.ReadAll(body)
		if err != nil || response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain") {
			t.Fatalf("%s, %s, %v", response.Status, response.Header.Get("Content-Type"), err)
		}
		return string(text)
	}
	for _, encoding := range []string{"identity", "gzip;q=0.5, br", "br, gzip; q=0.0"} {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(page(encoding)))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int{"one": 1, "first_of_many": 3, "second_of_many": 2} {
			if got := len(families[name].GetMetric()); got != want {
				t.Errorf("%s: %d series of %s, want %d", encoding, got, name, want)
			}
		}
	}
	if !registry.Unregister(first) || registry.Unregister(first) {
		t.Error("it can be removed once")
	}
	if text := page("identity"); strings.Contains(text, "first_of_many") || !strings.Contains(text, `second_of_many{of="1"} 1`) {
		t.Errorf("after one was removed:\n%s", text)
	}
}

// invalid is a collector that fails.
type invalid struct{ *family }

func (i invalid) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.NewInvalidMetric(i.desc, io.ErrUnexpectedEOF)
}

// TestScrapeOfManyFails: one family that fails leaves a page that can be read.
func TestScrapeOfManyFails(t *testing.T) {
	registry := new(Counters).Registry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "one"}), newFamily("first_of_many", 3), invalid{newFamily("second_of_many", 0)})
	url, end := serve(t, ServerOptions{Gatherer: registry, Many: registry.Many, Log: slog.New(slog.DiscardHandler)})
	defer end()
	status, text := get(t, url+"/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil || status != http.StatusOK || len(families) != 2 {
		t.Errorf("%d, %v, %d families:\n%s", status, err, len(families), text)
	}
}
