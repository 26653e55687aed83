package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// tune lets the header If-Modified-Since through to a mount.
func tune(t *testing.T, ctx context.Context, w *world.World, mount string) {
	t.Helper()
	must(t, w.Vault.Client().Sys().TuneMountAllowNilWithContext(ctx, mount, api.TuneMountConfigInput{
		PassthroughRequestHeaders: &[]string{"If-Modified-Since"}, AllowedResponseHeaders: &[]string{"Last-Modified"},
	}))
}

// answers are the statuses with which Vault answered requests for the lists of
// a mount, as its audit log has them.
func answers(t *testing.T, w *world.World, mount string) (whole, notModified int) {
	t.Helper()
	log, err := os.ReadFile(w.Vault.AuditPath)
	must(t, err)
	lines := bufio.NewScanner(bytes.NewReader(log))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var entry struct {
			Type    string `json:"type"`
			Request struct {
				Path string `json:"path"`
			} `json:"request"`
			Response struct {
				Data struct {
					Status json.Number `json:"http_status_code"`
					CRL    string      `json:"crl"`
				} `json:"data"`
			} `json:"response"`
		}
		if json.Unmarshal(lines.Bytes(), &entry) != nil || entry.Type != "response" ||
			!strings.HasPrefix(entry.Request.Path, mount+"/issuer/") || !strings.HasSuffix(entry.Request.Path, "/crl") {
			continue
		}
		switch {
		case entry.Response.Data.Status == "304":
			notModified++
		case entry.Response.Data.CRL != "":
			whole++
		}
	}
	must(t, lines.Err())
	return whole, notModified
}

// A tuned mount costs Vault hardly anything while its list stays the same, and
// the list's time goes on. A mount that is not tuned is read whole each time.
func TestWatchAsksConditionally(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{Audit: true}, nil)
	tuned, err := w.EnablePKI(ctx, world.PKIOptions{Mount: "tuned", MaxTTL: time.Hour})
	must(t, err)
	tune(t, ctx, w, "tuned")
	plain, err := w.EnablePKI(ctx, world.PKIOptions{Mount: "plain", MaxTTL: time.Hour})
	must(t, err)
	must(t, tuned.IssueAndRevoke(ctx, "pod.example.internal"))
	eventually(t, ctx, 20*time.Second, "the tuned list is measured", measures(pod, tuned, 1048445))
	eventually(t, ctx, 20*time.Second, "the other list is measured", measures(pod, plain, 1048445))
	eventually(t, ctx, 20*time.Second, "Vault answers 304", func(context.Context) error {
		if _, n := answers(t, w, "tuned"); n < 2 {
			return fmt.Errorf("%d answers 304", n)
		}
		return nil
	})

	const success = `pkiwarden_crl_last_success_timestamp_seconds{issuer="root",mount="tuned"}`
	whole, confirmed := answers(t, w, "tuned")
	wholePlain, _ := answers(t, w, "plain")
	before, err := pod.Metric(ctx, success)
	must(t, err)
	const watched = 20 * time.Second // ten intervals
	time.Sleep(watched)
	wholeNow, confirmedNow := answers(t, w, "tuned")
	wholePlainNow, confirmedPlain := answers(t, w, "plain")
	if wholeNow != whole || confirmedNow-confirmed < 6 || confirmedNow-confirmed > 13 {
		t.Errorf("in %s the tuned mount answered %d times whole and %d times 304", watched, wholeNow-whole, confirmedNow-confirmed)
	}
	if wholePlainNow-wholePlain < 6 || confirmedPlain != 0 {
		t.Errorf("in %s the other mount answered %d times whole and %d times 304", watched, wholePlainNow-wholePlain, confirmedPlain)
	}
	after, err := pod.Metric(ctx, success)
	must(t, err)
	if after-before < 14 {
		t.Errorf("the last success went on by %v s while Vault said for %s that the list is the same", after-before, watched)
	}

	must(t, tuned.IssueAndRevoke(ctx, "one-more.example.internal"))
	eventually(t, ctx, 20*time.Second, "a change is seen", measures(pod, tuned, 1048445))
	noSecrets(t, ctx, w, pod)
}

// absentFinding is an error where there is a finding, or ever was, of a rule.
func absentFinding(ctx context.Context, pod *world.Pod, rule string) error {
	for _, severity := range []string{"warning", "critical", "unknown"} {
		if n, err := pod.Metric(ctx, finding(rule, severity)); !errors.Is(err, world.ErrAbsent) {
			return fmt.Errorf("%s is %v (%w)", finding(rule, severity), n, err)
		}
	}
	if log := pod.Log(); strings.Contains(log, "msg=finding rule="+rule) {
		return fmt.Errorf("%s was found in between", rule)
	}
	return nil
}

// list is where Vault keeps the only list of a mount.
func storedList(t *testing.T, ctx context.Context, client *api.Client, mount string) string {
	t.Helper()
	mounts, err := client.Sys().ListMountsWithContext(ctx)
	must(t, err)
	folder := "sys/raw/logical/" + mounts[mount+"/"].UUID + "/crls/"
	names, err := client.Logical().ListWithContext(ctx, folder)
	must(t, err)
	for _, name := range names.Data["keys"].([]any) {
		if n := name.(string); n != "config" && !strings.HasSuffix(n, "-delta") {
			return folder + n
		}
	}
	t.Fatalf("no list in %s", folder)
	return ""
}

// An issuer with an Ed25519 key is verified like any other; deltas are read
// where they are made; and of a list that its issuer has not signed nothing is
// shown: what was measured before stays, with its time, and where there was
// nothing there is nothing.
func TestWatchShowsOnlyWhatIsVerified(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{Extra: "raw_storage_endpoint = true"}, nil)
	client := w.Vault.Client()
	p, err := w.EnablePKI(ctx, world.PKIOptions{MaxTTL: time.Hour})
	must(t, err)
	must(t, p.IssueAndRevoke(ctx, "pod.example.internal"))

	must(t, client.Sys().MountWithContext(ctx, "edwards", &api.MountInput{Type: "pki", Config: api.MountConfigInput{MaxLeaseTTL: "87600h"}}))
	for _, write := range []struct {
		path string
		data map[string]any
	}{
		{"edwards/root/generate/internal", map[string]any{"common_name": "Edwards", "issuer_name": "edwards", "key_type": "ed25519", "ttl": "8760h"}},
		{"edwards/config/crl", map[string]any{"auto_rebuild": true, "enable_delta": true}},
	} {
		_, err := client.Logical().WriteWithContext(ctx, write.path, write.data)
		must(t, err)
	}
	const edwards = `pkiwarden_crl_entries{issuer="edwards",mount="edwards"}`
	eventually(t, ctx, 20*time.Second, "the list with an Ed25519 signature is measured", metricIs(pod, edwards, 0))
	eventually(t, ctx, 20*time.Second, "the list is measured", measures(pod, p, 1048445))
	_, err = pod.WaitForLog(ctx, "delta CRL measured")
	must(t, err)

	// Another issuer's list in its place.
	stored := storedList(t, ctx, client, "pki")
	foreign, err := client.Logical().ReadWithDataWithContext(ctx, storedList(t, ctx, client, "edwards"), map[string][]string{"encoding": {"base64"}})
	must(t, err)
	_, err = client.Logical().WriteWithContext(ctx, stored, map[string]any{"value": foreign.Data["value"], "encoding": "base64"})
	must(t, err)
	const invalid = `pkiwarden_findings{rule="crl-signature-invalid",severity="critical"}`
	const entries, success = `pkiwarden_crl_entries{issuer="root",mount="pki"}`, `pkiwarden_crl_last_success_timestamp_seconds{issuer="root",mount="pki"}`
	eventually(t, ctx, 30*time.Second, "the foreign list is a finding", metricIs(pod, invalid, 1))
	at, err := pod.Metric(ctx, success)
	must(t, err)
	time.Sleep(5 * time.Second)
	must(t, metricIs(pod, entries, 1)(ctx))
	must(t, metricIs(pod, success, at)(ctx))

	must(t, pod.Stop(ctx))
	again, err := w.StartPod(ctx, world.PodOptions{Name: "vault-1"})
	must(t, err)
	eventually(t, ctx, 60*time.Second, "another instance measures what can be verified", metricIs(again, edwards, 0))
	eventually(t, ctx, 30*time.Second, "it finds the foreign list", metricIs(again, invalid, 1))
	for _, series := range []string{entries, success} {
		if value, err := again.Metric(ctx, series); !errors.Is(err, world.ErrAbsent) {
			t.Errorf("%s is %v, %v: nothing of it was ever verified", series, value, err)
		}
	}
	must(t, p.Rotate(ctx))
	eventually(t, ctx, 60*time.Second, "the rebuilt list is measured", measures(again, p, 1048445))
}

// A Vault without namespaces has the root alone, whoever asks for all.
func TestWatchWithoutNamespaces(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	server, err := serverstest.New(t).StartVault(ctx, servers.VaultOptions{Storage: servers.RaftStorage{}})
	must(t, err)
	adapter, err := vaultpki.New(vaultpki.Options{Client: server.Client(), AllNamespaces: true})
	must(t, err)
	all, err := adapter.Namespaces(ctx)
	if err != nil || len(all) != 1 || all[0] != "" {
		t.Errorf("namespaces %q, %v", all, err)
	}
}

// TestWatchOldVault: Vault 1.13 does not say which issuers have a key. Its lists
// are measured all the same.
func TestWatchOldVault(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{Version: "1.13", Storage: servers.RaftStorage{}}, map[string]any{"crl.limit": map[string]any{"bytes": 1048445}})
	p, err := w.EnablePKI(ctx, world.PKIOptions{MaxTTL: time.Hour})
	must(t, err)
	for i := range 3 {
		must(t, p.IssueAndRevoke(ctx, fmt.Sprintf("pod-%d.example.internal", i)))
	}
	eventually(t, ctx, 30*time.Second, "the list is measured", measures(pod, p, 1048445))
	noSecrets(t, ctx, w, pod)
}

// Nothing that is watched goes away in silence: no mount at first, a CRL that
// loses its entries, a mount that is disabled. What was lost is still said after
// a restart, and what was counted is not counted again.
func TestWatchSaysWhatIsGone(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{Storage: servers.RaftStorage{}}, nil)
	client := w.Vault.Client()
	const entries, added = `pkiwarden_crl_entries{issuer="root",mount="pki"}`, `pkiwarden_crl_entries_added_total{issuer="root",mount="pki"}`
	const warning, unknown = "warning", "unknown"
	found := func(on *world.Pod, what, rule, severity string, n float64) {
		t.Helper()
		eventually(t, ctx, 60*time.Second, what, func(ctx context.Context) error {
			value, err := on.Metric(ctx, finding(rule, severity))
			if errors.Is(err, world.ErrAbsent) {
				value, err = 0, nil
			}
			if err == nil && value != n {
				err = fmt.Errorf("%s is %v", finding(rule, severity), value)
			}
			return err
		})
	}
	found(pod, "there is no mount", "crl-no-mount", unknown, 1)
	p, err := w.EnablePKI(ctx, world.PKIOptions{MaxTTL: time.Hour})
	must(t, err)
	for i := range 3 {
		must(t, p.IssueAndRevoke(ctx, fmt.Sprintf("pod-%d.example.internal", i)))
	}
	eventually(t, ctx, 30*time.Second, "the list is measured", metricIs(pod, entries, 3))
	found(pod, "there is a mount", "crl-no-mount", unknown, 0)
	found(pod, "nothing was lost", "crl-removed-early", warning, 0)

	configure := func(disable bool) {
		t.Helper()
		_, err := client.Logical().WriteWithContext(ctx, "pki/config/crl", map[string]any{"disable": disable})
		must(t, err)
	}
	configure(true)
	eventually(t, ctx, 30*time.Second, "the empty list is measured", metricIs(pod, entries, 0))
	found(pod, "the reason is said", "crl-disabled", warning, 1)
	must(t, absentFinding(ctx, pod, "crl-removed-early"))
	must(t, pod.Stop(ctx))
	second, err := w.StartPod(ctx, world.PodOptions{Name: "vault-1"})
	must(t, err)
	eventually(t, ctx, 60*time.Second, "another instance measures", metricIs(second, entries, 0))
	found(second, "it says the reason too", "crl-disabled", warning, 1)
	must(t, absentFinding(ctx, second, "crl-removed-early"))
	configure(false)
	eventually(t, ctx, 30*time.Second, "the list is whole again", metricIs(second, entries, 3))
	// Enabled again and rebuilt are two steps of Vault; between them the loss may be told.
	found(second, "nothing is lost", "crl-removed-early", warning, 0)
	found(second, "no longer disabled", "crl-disabled", warning, 0)

	before, err := second.Metric(ctx, added)
	must(t, err)
	for i := range 2 {
		must(t, p.IssueAndRevoke(ctx, fmt.Sprintf("more-%d.example.internal", i)))
	}
	eventually(t, ctx, 30*time.Second, "two more are counted", metricIs(second, added, before+2))
	must(t, second.Stop(ctx))
	must(t, p.IssueAndRevoke(ctx, "away.example.internal"))
	third, err := w.StartPod(ctx, world.PodOptions{Name: "vault-2"})
	must(t, err)
	eventually(t, ctx, 60*time.Second, "a third instance measures", metricIs(third, entries, 6))
	must(t, metricIs(third, added, 1)(ctx))

	must(t, client.Sys().UnmountWithContext(ctx, "pki"))
	found(third, "the mount is missed", "crl-vanished", unknown, 1)
	found(third, "it was the only one", "crl-no-mount", unknown, 1)
	noSecrets(t, ctx, w, pod, second, third)
}
