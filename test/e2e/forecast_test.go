package e2e

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// TestForecast: an instance that takes over four weeks of history says when the
// list reaches the limit of this Vault's storage, and warns two weeks ahead.
// What it says survives it.
func TestForecast(t *testing.T) {
	folder := t.TempDir()
	ctx, w, pod := running(t, servers.VaultOptions{Storage: servers.RaftStorage{MaxEntrySize: 16 << 10}}, map[string]any{
		"crl.interval": "1s", "state.backend": "file", "state.path": folder,
	})
	p, err := w.EnablePKI(ctx, world.PKIOptions{MaxTTL: time.Hour, AutoRebuild: true})
	must(t, err)
	for i := range 230 {
		must(t, p.IssueAndRevoke(ctx, fmt.Sprintf("pod-%d.example.internal", i)))
	}
	must(t, p.Rotate(ctx))
	const reached = `pkiwarden_crl_limit_reached_timestamp_seconds{issuer="root",mount="pki"}`
	eventually(t, ctx, 30*time.Second, "the list is measured", metricIs(pod, `pkiwarden_crl_entries{issuer="root",mount="pki"}`, 230))
	if at, err := pod.Metric(ctx, reached); err == nil {
		t.Errorf("a forecast from nothing: %v", at)
	}
	var file string
	eventually(t, ctx, 60*time.Second, "the history is kept", func(context.Context) error {
		files, err := filepath.Glob(filepath.Join(folder, "crl-*.json"))
		if err != nil || len(files) != 1 {
			return fmt.Errorf("%v: %v", files, err)
		}
		file = files[0]
		data, err := os.ReadFile(file)
		if err == nil && !strings.Contains(string(data), `"n":230,`) {
			err = fmt.Errorf("no mark of the list in %s", data)
		}
		return err
	})
	must(t, pod.Stop(ctx))

	// As if this Vault had been watched for four weeks, in which the list grew
	// by 300 bytes a day to what it is.
	const perDay, days, limit = 300, 28, 16<<10 - 33 - 96
	data, err := os.ReadFile(file)
	must(t, err)
	record, err := crl.ParseHistoryRecord(data)
	must(t, err)
	var latest crl.Sample
	for key, list := range record.Lists {
		latest, _ = list.History.Latest()
		for day := 1; day <= days; day++ {
			at := latest.ThisUpdate.Add(-time.Duration(day) * 24 * time.Hour)
			if size := latest.Bytes - int64(perDay*day); size > 0 {
				list.History.Add(crl.Sample{ThisUpdate: at, At: at, Bytes: size, Entries: size / 40})
			}
		}
		record.Lists[key] = list
	}
	data, _, err = record.Encode(crl.MaxHistoryRecord)
	must(t, err)
	must(t, os.WriteFile(file, data, 0o600))

	says := func(pod *world.Pod) func(context.Context) error {
		return func(ctx context.Context) error {
			at, err := pod.Metric(ctx, reached)
			if err != nil {
				return err
			}
			want := float64(limit-latest.Bytes) / perDay
			got := time.Until(time.Unix(int64(at), 0)).Hours() / 24
			if math.Abs(got-want) > 2 {
				return fmt.Errorf("the limit is reached in %.1f days, want %.1f", got, want)
			}
			return nil
		}
	}
	for _, name := range []string{"vault-1", "vault-2"} {
		next, err := w.StartPod(ctx, world.PodOptions{Name: name, Set: map[string]any{"crl.warn.horizon": "600h"}})
		must(t, err)
		eventually(t, ctx, 60*time.Second, name+" says when the limit is reached", says(next))
		eventually(t, ctx, 30*time.Second, "that is a finding", metricIs(next, `pkiwarden_findings{rule="crl-near-limit",severity="warning"}`, 1))
		must(t, next.Stop(ctx))
		noSecrets(t, ctx, w, next)
	}
}
