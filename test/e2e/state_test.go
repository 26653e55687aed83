package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// TestStateInConsul: with state: {backend: consul} a list's history is below
// pkiwarden/ in Consul's KV, under exactly the rights that are shipped for it,
// and survives the process: what was revoked while none ran is counted.
func TestStateInConsul(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	set := serverstest.New(t)
	const management = "5b1f9b52-6d2c-4d0c-9b43-0f4f6f3a1c11" // of a Consul that lives for this test
	consul, err := set.StartConsul(ctx, servers.ConsulOptions{ManagementToken: management})
	must(t, err)
	admin := consul.Client()
	token := func(rules string) string {
		t.Helper()
		var id string
		eventually(t, ctx, 20*time.Second, "consul makes a token", func(context.Context) error {
			name := fmt.Sprintf("p%d", time.Now().UnixNano())
			if _, _, err := admin.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
				return err
			}
			made, _, err := admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{Name: name}}}, nil)
			if err == nil {
				id = made.SecretID
			}
			return err
		})
		return id
	}
	rules, err := os.ReadFile("../../manifests/consul/acl-state.hcl")
	must(t, err)

	w, err := world.New(ctx, set, world.Options{})
	must(t, err)
	tokenFile := filepath.Join(t.TempDir(), "consul-token")
	w.Setting("crl.interval", "1s")
	w.Setting("consul.address", consul.Address)
	w.Setting("consul.tokenFile", tokenFile)
	w.Setting("state.backend", "consul")
	must(t, os.WriteFile(tokenFile, []byte(token(`agent_prefix "" { policy = "read" }`)), 0o600))
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0"})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{Storage: servers.RaftStorage{}}))
	p, err := w.EnablePKI(ctx, world.PKIOptions{})
	must(t, err)
	must(t, p.IssueAndRevoke(ctx, "first.example.internal"))

	// Without the right nothing is lost but history, and the remedy is named.
	eventually(t, ctx, 30*time.Second, "the list is measured without state", metricIs(pod, `pkiwarden_crl_entries{issuer="root",mount="pki"}`, 1))
	eventually(t, ctx, 60*time.Second, "the missing right is a finding", func(ctx context.Context) error {
		text, err := pod.Metrics(ctx)
		if err == nil && !strings.Contains(text, `pkiwarden_findings{rule="crl-history-unreadable",severity="warning"} 1`) {
			err = fmt.Errorf("no such finding in\n%s", grep(text, "pkiwarden_findings"))
		}
		return err
	})
	if _, err := pod.WaitForLog(ctx, `key_prefix`); err != nil {
		t.Errorf("the log does not name the right that is missing: %v", err)
	}
	must(t, os.WriteFile(tokenFile, []byte(token(string(rules))), 0o600))

	record := func(want int64) func(context.Context) error {
		return func(context.Context) error {
			pairs, _, err := admin.KV().List("pkiwarden/crl-", nil)
			if err != nil || len(pairs) != 1 {
				return fmt.Errorf("%d records, %v", len(pairs), err)
			}
			var stored struct {
				Version int                                `json:"version"`
				Mount   string                             `json:"mount"`
				Lists   map[string]struct{ Issuer string } `json:"lists"`
			}
			if err := json.Unmarshal(pairs[0].Value, &stored); err != nil || stored.Version != 1 || stored.Mount != "pki" || len(stored.Lists) != 1 {
				return fmt.Errorf("%s: %v", pairs[0].Value, err)
			}
			if !strings.Contains(string(pairs[0].Value), fmt.Sprintf(`"n":%d,`, want)) {
				return fmt.Errorf("no mark of a list with %d entries in %s", want, pairs[0].Value)
			}
			return nil
		}
	}
	eventually(t, ctx, 60*time.Second, "the history is in Consul", record(1))
	must(t, pod.Stop(ctx))

	for i := range 3 {
		must(t, p.IssueAndRevoke(ctx, fmt.Sprintf("while-away-%d.example.internal", i)))
	}
	again, err := w.StartPod(ctx, world.PodOptions{Name: "vault-1"})
	must(t, err)
	eventually(t, ctx, 60*time.Second, "what happened meanwhile is counted", func(ctx context.Context) error {
		for series, want := range map[string]float64{
			`pkiwarden_crl_entries{issuer="root",mount="pki"}`:               4,
			`pkiwarden_crl_entries_added_total{issuer="root",mount="pki"}`:   3,
			`pkiwarden_crl_entries_removed_total{issuer="root",mount="pki"}`: 0,
		} {
			if err := metricIs(again, series, want)(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	eventually(t, ctx, 60*time.Second, "the history goes on in Consul", record(4))
	noSecrets(t, ctx, w, pod, again)
}

// grep is the lines of text that contain part.
func grep(text, part string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
