package ops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func exposition(g prometheus.Gatherer) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func plainLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestFindings(t *testing.T) {
	reg := prometheus.NewRegistry()
	var log bytes.Buffer
	f, err := NewFindings(prometheus.WrapRegistererWithPrefix("pkiwarden_", reg), plainLog(&log))
	if err != nil {
		t.Fatal(err)
	}
	const old = `rule=crl-size severity=warning subject="mount pki" summary=S evidence=E remedy=R`
	size := func(severity string) Finding {
		return Finding{Rule: "crl-size", Severity: severity, Subject: "mount pki", Summary: "S", Evidence: "E", Remedy: "R"}
	}
	age := Finding{Rule: "certificate-age", Severity: "critical", Subject: "vault-server", Summary: "S", Evidence: "E", Remedy: "R"}
	step := func(what, wantMetrics, wantLog string, do func()) {
		t.Helper()
		log.Reset()
		do()
		if got := exposition(reg); got != wantMetrics {
			t.Errorf("%s: metrics\n%swant\n%s", what, got, wantMetrics)
		}
		if got := log.String(); got != wantLog {
			t.Errorf("%s: log\n%swant\n%s", what, got, wantLog)
		}
	}
	step("none", "", "", func() { f.Set("watch", nil) })
	step("appears", "pkiwarden_findings{rule=\"crl-size\",severity=\"warning\"} 1\n", "level=WARN msg=finding "+old+"\n",
		func() { f.Set("watch", []Finding{size("warning")}) })
	step("evidence changes", "pkiwarden_findings{rule=\"crl-size\",severity=\"warning\"} 1\n", "", func() {
		n := size("warning")
		n.Evidence = "other"
		f.Set("watch", []Finding{n})
	})
	step("another source", "pkiwarden_findings{rule=\"certificate-age\",severity=\"critical\"} 1\npkiwarden_findings{rule=\"crl-size\",severity=\"warning\"} 1\n",
		"level=ERROR msg=finding rule=certificate-age severity=critical subject=vault-server summary=S evidence=E remedy=R\n",
		func() { f.Set("issuer", []Finding{age}) })
	if all := f.All(); len(all) != 2 || all[0] != age {
		t.Errorf("All = %v, want the critical one first", all)
	}
	step("worse, reported twice", "pkiwarden_findings{rule=\"certificate-age\",severity=\"critical\"} 1\npkiwarden_findings{rule=\"crl-size\",severity=\"critical\"} 1\n",
		"level=ERROR msg=\"finding changed\" rule=crl-size severity=critical subject=\"mount pki\" summary=S evidence=E remedy=R was=warning\n",
		func() { f.Set("watch", []Finding{size("info"), size("critical"), size("warning")}) })
	step("clears", "pkiwarden_findings{rule=\"certificate-age\",severity=\"critical\"} 1\n",
		"level=INFO msg=\"finding cleared\" rule=crl-size subject=\"mount pki\" was=critical\n",
		func() { f.Set("watch", nil) })
	step("forgotten", "", "", func() { f.Forget("issuer") })
}

// TestFindingsContinue: under another configuration what holds still is no news,
// and what does not is cleared once its source has looked at everything.
func TestFindingsContinue(t *testing.T) {
	var log bytes.Buffer
	next := func(held Held) *Findings {
		t.Helper()
		f, err := NewFindings(prometheus.NewRegistry(), plainLog(&log))
		if err != nil {
			t.Fatal(err)
		}
		f.Continue(held)
		return f
	}
	of := func(rule, severity string) Finding { return Finding{Rule: rule, Severity: severity, Subject: "s"} }
	want := func(what string, lines ...string) {
		t.Helper()
		var got []string
		for line := range strings.Lines(log.String()) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " summary=")
			got = append(got, line)
		}
		if log.Reset(); !slices.Equal(got, lines) {
			t.Errorf("%s: log\n%q\nwant\n%q", what, got, lines)
		}
	}
	first := next(nil)
	first.Set("crl", []Finding{of("a", "warning"), of("b", "warning"), of("c", "warning")})
	first.Set("tidy", []Finding{of("t", "info")})
	first.Set("gone", []Finding{of("g", "info")})
	first.Set("other", []Finding{of("o", "info")})
	log.Reset()

	second := next(first.Held())
	if len(second.All()) != 0 {
		t.Errorf("%v are shown before anybody has looked", second.All())
	}
	second.SettleBut([]string{"crl", "tidy", "other"})
	want("a source that is gone", `level=INFO msg="finding cleared" rule=g subject=s was=info`)
	second.Set("crl", []Finding{of("a", "warning")})
	want("one holds still, the rest is not known yet")
	third := next(second.Held()) // another reload, in between
	third.Set("crl", []Finding{of("a", "critical"), of("b", "warning"), of("d", "warning")})
	want("one is worse, one is new", `level=ERROR msg="finding changed" rule=a severity=critical subject=s`, `level=WARN msg=finding rule=d severity=warning subject=s`)
	third.Settle("crl")
	want("all was looked at", `level=INFO msg="finding cleared" rule=c subject=s was=warning`)
	third.Settle("crl")
	third.Set("crl", []Finding{of("a", "critical")})
	want("later", `level=INFO msg="finding cleared" rule=b subject=s was=warning`, `level=INFO msg="finding cleared" rule=d subject=s was=warning`)
	third.Settle("tidy")
	want("another source", `level=INFO msg="finding cleared" rule=t subject=s was=info`)
	third.Forget("other")
	third.Settle("other")
	want("somebody else answers for it")
}

func TestFindingJSON(t *testing.T) {
	b, err := json.Marshal(Finding{Rule: "r", Severity: "info", Subject: "s"})
	if want := `{"rule":"r","severity":"info","subject":"s","summary":"","evidence":"","remedy":"","citation":""}`; err != nil || string(b) != want {
		t.Errorf("%s, %v, want %s", b, err, want)
	}
}

func TestMetricsAreAbsentUntilKnown(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg, "1.2.3", "abc")
	if err != nil {
		t.Fatal(err)
	}
	build := exposition(reg)
	if !strings.HasPrefix(build, `build_info{commit="abc",goversion="go1.`) || strings.Count(build, "\n") != 1 {
		t.Errorf("at start:\n%s", build)
	}
	m.SetLeader(true)
	m.SetConfig(false, time.Unix(1_700_000_000, 0))
	want := build + "config_last_reload_success_timestamp_seconds 1.7e+09\nconfig_last_reload_successful 0\nleader 1\n"
	if got := exposition(reg); got != want {
		t.Errorf("metrics\n%swant\n%s", got, want)
	}
	m.SetLeader(false)
	if got := exposition(reg); !strings.Contains(got, "leader 0\n") {
		t.Errorf("after the loss:\n%s", got)
	}
}

func serve(t *testing.T, o ServerOptions) (url string, end func() error) {
	t.Helper()
	o.Address, o.Log = "127.0.0.1:0", slog.New(slog.DiscardHandler)
	if o.Gatherer == nil {
		o.Gatherer = prometheus.NewRegistry()
	}
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var ended bool
	end = func() error {
		cancel()
		if ended {
			return nil
		}
		ended = true
		return <-done
	}
	t.Cleanup(func() { _ = end() })
	return "http://" + addr.String(), end
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestServer(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := NewMetrics(reg, "v", "c"); err != nil {
		t.Fatal(err)
	}
	missing := errors.New("waiting for the first pair")
	url, end := serve(t, ServerOptions{Gatherer: reg, Checks: []Check{
		{"vault-server delivered", func() error { return missing }},
		{"other delivered", func() error { return nil }},
	}})
	for _, tc := range []struct {
		path   string
		status int
		want   string
	}{
		{"/healthz", 200, "ok\n"},
		{"/readyz", 503, "vault-server delivered: waiting for the first pair\nother delivered: ok\n"},
		{"/metrics", 200, "build_info"},
		{"/debug/pprof/", 404, ""},
		{"/", 404, ""},
		{"/metrics/../debug/vars", 404, ""},
	} {
		status, body := get(t, url+tc.path)
		if status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %q, want %d %q", tc.path, status, body, tc.status, tc.want)
		}
	}
	missing = nil
	if status, _ := get(t, url+"/readyz"); status != 200 {
		t.Errorf("/readyz after delivery: %d", status)
	}
	resp, err := http.Post(url+"/metrics", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /metrics: %d", resp.StatusCode)
	}
	if err := end(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if _, err := http.Get(url + "/healthz"); err == nil {
		t.Error("it serves after its end")
	}
}

func TestReadyWithoutChecks(t *testing.T) {
	url, _ := serve(t, ServerOptions{})
	if status, body := get(t, url+"/readyz"); status != 200 || body != "ok\n" {
		t.Errorf("%d %q", status, body)
	}
}

func TestServerBounds(t *testing.T) {
	s, err := NewServer(ServerOptions{Gatherer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	h := s.http
	if h.ReadHeaderTimeout != 5*time.Second || h.WriteTimeout != 30*time.Second || h.ReadTimeout == 0 || h.IdleTimeout == 0 {
		t.Errorf("timeouts %s %s %s %s", h.ReadHeaderTimeout, h.ReadTimeout, h.WriteTimeout, h.IdleTimeout)
	}
	url, _ := serve(t, ServerOptions{})
	req, err := http.NewRequest("GET", url+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", 32<<10))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("32 KiB of headers: %d", resp.StatusCode)
	}
}

type blocking struct{ entered, release chan struct{} }

func (b blocking) Describe(ch chan<- *prometheus.Desc) {
	ch <- prometheus.NewDesc("slow", "h", nil, nil)
}

func (b blocking) Collect(ch chan<- prometheus.Metric) {
	b.entered <- struct{}{}
	<-b.release
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("slow", "h", nil, nil), prometheus.GaugeValue, 1)
}

func TestScrapesAreLimited(t *testing.T) {
	reg := prometheus.NewRegistry()
	b := blocking{make(chan struct{}), make(chan struct{})}
	reg.MustRegister(b)
	url, end := serve(t, ServerOptions{Gatherer: reg})
	results := make(chan string, maxScrapes)
	for range maxScrapes {
		go func() {
			resp, err := http.Get(url + "/metrics")
			if err != nil {
				results <- err.Error()
				return
			}
			defer resp.Body.Close()
			results <- resp.Status
		}()
		<-b.entered
	}
	if status, _ := get(t, url+"/metrics"); status != http.StatusServiceUnavailable {
		t.Errorf("one scrape more: %d, want 503", status)
	}
	// The end waits for requests under way.
	done := make(chan error, 1)
	go func() { done <- end() }()
	time.Sleep(50 * time.Millisecond)
	close(b.release)
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	for range maxScrapes {
		if got := <-results; got != "200 OK" {
			t.Errorf("a scrape under way ended with %s", got)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := NewServer(ServerOptions{Address: l.Addr().String(), Gatherer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("listening on %s: another process listens there, set listen.address", l.Addr())
	if err := s.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Run = %v, want %s", err, want)
	}
}
