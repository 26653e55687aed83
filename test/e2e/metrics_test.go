package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// contractSeries is what a leader shows that has certificates, measures lists
// and has run tidy: each name with the labels of its series, but not all their
// values.
var contractSeries = map[string]string{
	"build_info":                    "commit,goversion,version",
	"leader":                        "",
	"config_last_reload_successful": "",
	"config_last_reload_success_timestamp_seconds": "",
	"findings":                                 "rule,severity",
	"loop_last_success_timestamp_seconds":      "loop",
	"loop_runs_total":                          "loop,result",
	"certificate_not_before_timestamp_seconds": "certificate",
	"certificate_not_after_timestamp_seconds":  "certificate",
	"certificate_renewal_timestamp_seconds":    "certificate",
	"certificate_served":                       "address,certificate",
	"csr_requests_total":                       "result",
	"crl_bytes":                                "issuer,mount",
	"crl_limit_bytes":                          "issuer,mount",
	"crl_entries":                              "issuer,mount",
	"crl_this_update_timestamp_seconds":        "issuer,mount",
	"crl_next_update_timestamp_seconds":        "issuer,mount",
	"crl_last_success_timestamp_seconds":       "issuer,mount",
	"crl_entries_added_total":                  "issuer,mount",
	"crl_entries_removed_total":                "issuer,mount",
	"crl_reclaimable_entries":                  "mount",
	"tidy_runs_total":                          "mount,result",
	"tidy_last_effective_timestamp_seconds":    "mount",
	"tidy_next_timestamp_seconds":              "mount",
	"tidy_running":                             "mount",
}

// monitored is a world in which there is something to see of every kind: a
// certificate at 80 % of its life, whose renewal is paused; a Vault that serves
// it; a list that tidy has shortened.
func monitored(t *testing.T) (context.Context, *world.World, *world.Pod, *world.PKI) {
	t.Helper()
	ctx, w := start(t, world.Options{})
	old, err := w.IssueServing(ctx, time.Now().Add(-80*time.Minute), time.Now().Add(20*time.Minute))
	must(t, err)
	must(t, w.PutSecret(ctx, old))
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{
		"certificates.0.paused": true,
		"crl.interval":          "2s", "tidy.enabled": true, "tidy.minInterval": "2s",
		"tidy.safetyBuffer": "1s", "tidy.allowShortSafetyBuffer": true,
		"tidy.trigger": map[string]any{"reclaimableShare": 0.2, "reclaimableEntries": 1},
	}})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{}))
	p, err := w.EnablePKI(ctx, world.PKIOptions{MaxTTL: 6 * time.Second})
	must(t, err)
	for i := range 3 {
		must(t, p.IssueAndRevoke(ctx, fmt.Sprintf("pod-%d.example.internal", i)))
	}
	return ctx, w, pod, p
}

func TestMonitoring(t *testing.T) {
	ctx, w, pod, p := monitored(t)
	list, err := p.CRL(ctx)
	must(t, err)
	var serials []*big.Int
	for _, entry := range list.RevokedCertificateEntries {
		serials = append(serials, entry.SerialNumber)
	}
	stored, err := w.StoredLeaf(ctx)
	must(t, err)
	serials = append(serials, stored.SerialNumber)
	if len(serials) < 2 {
		t.Fatal("no revoked certificate to look for")
	}

	eventually(t, ctx, 60*time.Second, "every series of the contract is there", func(ctx context.Context) error {
		text, err := pod.Metrics(ctx)
		if err != nil {
			return err
		}
		shown := seriesIn(text)
		for name, labels := range contractSeries {
			if got, ok := shown["pkiwarden_"+name]; !ok || got != labels {
				return fmt.Errorf("pkiwarden_%s has labels %q (there: %t), want %q", name, got, ok, labels)
			}
		}
		return nil
	})
	text, err := pod.Metrics(ctx)
	must(t, err)
	checkNames(t, text)
	checkSerials(t, text, serials)
	checkMetrics(t, ctx, w, text)

	scenes(t, []scene{{"Prometheus", func(t *testing.T) { scraped(t, ctx, w, pod) }}})
	noSecrets(t, ctx, w, pod)
}

var sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? `)

var labelName = regexp.MustCompile(`[{,]([a-z]+)="`)

// seriesIn gives the names of labels of each name in an exposition.
func seriesIn(text string) map[string]string {
	shown := map[string]string{}
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		m := sample.FindStringSubmatch(scanner.Text())
		if m == nil {
			continue
		}
		var labels []string
		for _, l := range labelName.FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, l[1])
		}
		slices.Sort(labels)
		shown[m[1]] = strings.Join(labels, ",")
	}
	return shown
}

// checkNames checks that each name is declared once, and is ours or of the Go
// client's own collectors.
func checkNames(t *testing.T, text string) {
	t.Helper()
	declared := map[string]int{}
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			declared[strings.Fields(name)[0]]++
		}
	}
	for name, n := range declared {
		if n != 1 {
			t.Errorf("%s is declared %d times", name, n)
		}
		if !strings.HasPrefix(name, "pkiwarden_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("%s has none of the prefixes", name)
		}
		if strings.Contains(name, "pkiwarden_pkiwarden") {
			t.Errorf("%s has the prefix twice", name)
		}
	}
	for name := range contractSeries {
		if declared["pkiwarden_"+name] == 0 {
			t.Errorf("pkiwarden_%s is not declared", name)
		}
	}
}

// checkSerials checks that no serial number stands in an exposition, however
// it could be written.
func checkSerials(t *testing.T, text string, serials []*big.Int) {
	t.Helper()
	text = strings.ToLower(text)
	for _, serial := range serials {
		octets := fmt.Sprintf("% x", serial.Bytes())
		for _, form := range []string{serial.String(), serial.Text(16), strings.ReplaceAll(octets, " ", ":"), strings.ReplaceAll(octets, " ", "-")} {
			if strings.Contains(text, form) {
				t.Errorf("/metrics holds the serial number %s", form)
			}
		}
	}
}

// checkMetrics has promtool lint an exposition.
func checkMetrics(t *testing.T, ctx context.Context, w *world.World, text string) {
	t.Helper()
	promtool, err := w.Set.Promtool(ctx)
	must(t, err)
	lint := exec.CommandContext(ctx, promtool, "check", "metrics")
	lint.Stdin = strings.NewReader(text)
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// scraped has a Prometheus with the shipped rules look at the pod: first all is
// seen and nothing is alerted but the old certificate, then pkiwarden ends and
// its silence is alerted.
func scraped(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod) {
	rules, err := filepath.Abs(rulesFile)
	must(t, err)
	config := filepath.Join(w.Set.Dir(), "prometheus.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: pkiwarden
    static_configs: [{targets: [%q]}]
`, rules, pod.Address), 0o600))
	prometheus, err := w.Set.StartPrometheus(ctx, servers.PrometheusOptions{ConfigFile: config})
	must(t, err)

	eventually(t, ctx, 20*time.Second, "prometheus has every series", func(ctx context.Context) error {
		for name := range contractSeries {
			found, err := prometheus.Query(ctx, "pkiwarden_"+name)
			if err != nil {
				return err
			}
			if len(found) == 0 {
				return fmt.Errorf("no series pkiwarden_%s", name)
			}
		}
		return nil
	})
	eventually(t, ctx, 20*time.Second, "every rule was evaluated", rulesAreHealthy(prometheus))
	eventually(t, ctx, 20*time.Second, "only the old certificate is alerted", alertsAre(prometheus, "PkiwardenCertificateAge75", "PkiwardenFindingWarning"))
	must(t, pod.Stop(ctx))
	eventually(t, ctx, 20*time.Second, "its silence is alerted", alertsAre(prometheus, "PkiwardenAbsent", "PkiwardenFindingWarning", "PkiwardenNoLeader", "PkiwardenTargetDown"))
}

// rulesAreHealthy checks that Prometheus evaluates each rule of the file.
func rulesAreHealthy(p *servers.Prometheus) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Address+"/api/v1/rules", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		var rules struct {
			Data struct {
				Groups []struct {
					Rules []struct{ Name, Health, LastError string }
				}
			}
		}
		if err := json.NewDecoder(io.LimitReader(answer.Body, 4<<20)).Decode(&rules); err != nil {
			return err
		}
		n := 0
		for _, group := range rules.Data.Groups {
			for _, rule := range group.Rules {
				if n++; rule.Health != "ok" {
					return fmt.Errorf("rule %s is %s: %s", rule.Name, rule.Health, rule.LastError)
				}
			}
		}
		text, err := os.ReadFile(rulesFile)
		if err != nil {
			return err
		}
		if want := strings.Count(string(text), "- alert: "); n != want {
			return fmt.Errorf("%d rules, want %d", n, want)
		}
		return nil
	}
}

// alertsAre checks which alerts are pending or firing: these, and no others.
func alertsAre(p *servers.Prometheus, want ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		active, err := p.Query(ctx, "ALERTS")
		if err != nil {
			return err
		}
		got := map[string]bool{}
		for _, a := range active {
			got[a.Labels["alertname"]] = true
		}
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
			return fmt.Errorf("active are %q, want %q", names, want)
		}
		return nil
	}
}
