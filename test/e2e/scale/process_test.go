package scale

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

const metrics = `# HELP go_goroutines Number of goroutines that currently exist.
# TYPE go_goroutines gauge
go_goroutines 23
# TYPE pkiwarden_certificate_renewal_timestamp_seconds gauge
pkiwarden_certificate_renewal_timestamp_seconds{certificate="c00000"} 1.8e+09
pkiwarden_certificate_renewal_timestamp_seconds{certificate="c00001"} 1.8e+09
pkiwarden_leader 1
`

func TestScrape(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			_, _ = rw.Write([]byte(metrics))
		case "/status.json":
			_, _ = rw.Write(make([]byte, 9<<20))
		default:
			http.NotFound(rw, r)
		}
	}))
	defer server.Close()
	m := &monitor{address: strings.TrimPrefix(server.URL, "http://")}
	s, err := m.scrape(t.Context())
	if err != nil || s.goroutines != 23 || s.series != 4 || s.renewals != 2 || !s.leading || s.bytes != int64(len(metrics)) {
		t.Errorf("%+v, %v; there are %d bytes", s, err, len(metrics))
	}
	if n, err := m.size(t.Context(), "/status.json"); err != nil || n != 9<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := m.size(t.Context(), "/other"); err == nil {
		t.Error("a page that is not there has a size")
	}
}

func TestUsage(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 11, 21, 12, 0, s, 0, time.UTC) }
	m := &monitor{
		samples: []sample{
			{at(0), 90 << 20, 1 * time.Second}, {at(1), 30 << 20, 3 * time.Second}, {at(2), 50 << 20, 4 * time.Second},
			{at(3), 40 << 20, 500 * time.Millisecond}, // started anew
			{at(4), 99 << 20, 9 * time.Second},
		},
		scrapes: []scrape{{at: at(0), goroutines: 70}, {at: at(1), goroutines: 20}, {at: at(3), goroutines: 25}, {at: at(4), goroutines: 80}},
	}
	if u, want := m.usage(at(1), at(3)), (Usage{RSS: 40 << 20, Most: 50 << 20, CPU: 3500 * time.Millisecond, Goroutines: 25}); u != want {
		t.Errorf("%+v, want %+v", u, want)
	}
	if u := m.usage(at(5), at(9)); u != (Usage{}) {
		t.Errorf("nothing was seen, and it says %+v", u)
	}
}

func TestOwnProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("there is no /proc here")
	}
	rss, peak, err := memory(os.Getpid())
	if err != nil || rss < 1<<20 || peak < rss {
		t.Errorf("RSS %d, at most %d, %v", rss, peak, err)
	}
	before, err := processorTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 100*time.Millisecond; { // spend some
	}
	if after, err := processorTime(os.Getpid()); err != nil || after <= before || after > time.Hour {
		t.Errorf("%v, then %v, %v", before, after, err)
	}
}
