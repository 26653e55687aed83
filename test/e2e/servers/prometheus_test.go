package servers

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPrometheus(t *testing.T) {
	t.Parallel()
	s := newSet(t)
	ctx := within(t, time.Minute)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintln(w, `pkiwarden_crl_bytes{mount="pki"} 246`)
	}))
	t.Cleanup(target.Close)
	config := filepath.Join(t.TempDir(), "prometheus.yml")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(config, fmt.Sprintf(`
global: {scrape_interval: 100ms, evaluation_interval: 100ms}
rule_files: [rules.yml]
scrape_configs:
- job_name: pkiwarden
  static_configs: [{targets: [%q]}]
`, strings.TrimPrefix(target.URL, "http://")))
	rules := filepath.Join(filepath.Dir(config), "rules.yml")
	write(rules, "groups: [{name: g, rules: [{alert: Big, expr: pkiwarden_crl_bytes > 200}]}]\n")

	promtool, err := s.Promtool(ctx)
	if err != nil {
		t.Fatal(err)
	}
	result, err := s.Run(ctx, ProgramOptions{Path: promtool, Args: []string{"check", "config", config}})
	if err != nil || result.ExitCode != 0 || !strings.Contains(result.Stdout, "1 rules found") {
		t.Errorf("promtool check config: %+v, %v", result, err)
	}
	start := time.Now()
	p, err := s.StartPrometheus(ctx, PrometheusOptions{ConfigFile: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("prometheus started in %s", time.Since(start))
	var samples []PrometheusSample
	eventually(t, func() error {
		samples, err = p.Query(ctx, `pkiwarden_crl_bytes and on() ALERTS{alertname="Big",alertstate="firing"}`)
		if err == nil && len(samples) != 1 {
			err = fmt.Errorf("%d samples, want 1", len(samples))
		}
		return err
	})
	if got := samples[0]; got.Value != 246 || got.Labels["mount"] != "pki" {
		t.Errorf("scraped %+v", got)
	}
	write(rules, "groups: [{name: g, rules: [{alert: Big, expr: '('}]}]\n")
	if err := p.Reload(ctx); err == nil {
		t.Error("Prometheus takes a rule that does not parse")
	}
}
