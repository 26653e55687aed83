package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

const (
	reloadGood = "pkiwarden_config_last_reload_successful"
	reloadAt   = "pkiwarden_config_last_reload_success_timestamp_seconds"
	measuredAt = `pkiwarden_crl_last_success_timestamp_seconds{issuer="root",mount="pki"}`
	limitBytes = `pkiwarden_crl_limit_bytes{issuer="root",mount="pki"}`
)

// measuresSince checks that the list was measured after a moment.
func measuresSince(pod *world.Pod, since time.Time) func(context.Context) error {
	return func(ctx context.Context) error {
		at, err := pod.Metric(ctx, measuredAt)
		if err == nil && at <= float64(since.UnixMilli())/1e3 {
			err = errors.New("no list was measured since")
		}
		return err
	}
}

// revokeLogins revokes every token that came from a login of a service account,
// and says how many there were.
func revokeLogins(t *testing.T, ctx context.Context, w *world.World) int {
	t.Helper()
	vault := w.Vault.Client()
	list, err := vault.Logical().ListWithContext(ctx, "auth/token/accessors")
	must(t, err)
	revoked := 0
	for _, accessor := range list.Data["keys"].([]any) {
		token, err := vault.Auth().Token().LookupAccessorWithContext(ctx, accessor.(string))
		must(t, err)
		if token.Data["path"] == "auth/kubernetes/login" {
			must(t, vault.Auth().Token().RevokeAccessorWithContext(ctx, accessor.(string)))
			revoked++
		}
	}
	return revoked
}

// vaultToken makes a token with the shipped policies.
func vaultToken(t *testing.T, ctx context.Context, w *world.World) string {
	t.Helper()
	secret, err := w.Vault.Client().Logical().WriteWithContext(ctx, "auth/token/create", map[string]any{
		"policies": []string{"pkiwarden-observe", "pkiwarden-tidy"}, "no_default_policy": true, "ttl": "1h",
	})
	must(t, err)
	return secret.Auth.ClientToken
}

// The way to Vault and Consul with everything on it that can be wrong, one
// after the other, and mended while pkiwarden runs.
func TestFaultsOnTheWayToVault(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	set := serverstest.New(t)
	consul, err := set.StartConsul(ctx, servers.ConsulOptions{})
	must(t, err)
	w, err := world.New(ctx, set, world.Options{})
	must(t, err)
	closed, err := servers.FreePort()
	must(t, err)
	nowhere := fmt.Sprintf("http://127.0.0.1:%d", closed)
	w.Setting("crl.interval", "2s")
	w.Setting("consul.address", nowhere)
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{"vault.auth.role": "nobody"}})
	must(t, err)
	must(t, w.Delivered(ctx))

	// There is no Vault yet.
	says(t, ctx, pod, 20*time.Second, `msg=failing .*loop=vault-session error="logging in to Vault: Vault at https://`+w.VaultAddress()+` cannot be reached`)
	time.Sleep(8 * time.Second)
	if n := strings.Count(pod.Log(), "loop=vault-session"); n != 1 {
		t.Errorf("the missing Vault took %d lines, want one:\n%s", n, pod.Log())
	}
	must(t, w.StartVault(ctx, servers.VaultOptions{Storage: servers.ConsulStorage{Consul: consul}}))
	p, err := w.EnablePKI(ctx, world.PKIOptions{})
	must(t, err)
	must(t, p.IssueAndRevoke(ctx, "pod.example.internal"))
	says(t, ctx, pod, 40*time.Second, `failing for another cause" .*auth/kubernetes has no role \\"nobody\\", create it or set vault.auth.role`)

	scenes(t, []scene{
		{"Configuration", func(t *testing.T) { changedConfiguration(t, ctx, w, pod) }},
		{"LimitUnknown", func(t *testing.T) { limitUnknown(t, ctx, pod, nowhere) }},
		{"RevokedToken", func(t *testing.T) { revokedToken(t, ctx, w, pod) }},
		{"VaultAway", func(t *testing.T) { vaultAway(t, ctx, w, pod) }},
		{"ConsulFound", func(t *testing.T) {
			replace(t, pod, nowhere, consul.Address, "format: text", "format: json")
			eventually(t, ctx, 40*time.Second, "the limit is known", metricIs(pod, limitBytes, 392892))
			must(t, metricIs(pod, reloadGood, 1)(ctx))
			says(t, ctx, pod, 10*time.Second, `^{.*"msg":"leading"`)
			must(t, pod.Stop(ctx))
			noSecrets(t, ctx, w, pod)
		}},
		{"GivenToken", func(t *testing.T) { givenToken(t, ctx, w) }},
	})
}

// A limit that cannot be read is said to be unknown; it is not left out in
// silence, and it keeps nothing else from being measured.
func limitUnknown(t *testing.T, ctx context.Context, pod *world.Pod, nowhere string) {
	eventually(t, ctx, 30*time.Second, "the list is measured", measuresSince(pod, time.Now()))
	says(t, ctx, pod, 10*time.Second, `msg=finding rule=crl-limit-unknown severity=unknown .*Consul at `+nowhere+` cannot be reached`)
	if v, err := pod.Metric(ctx, limitBytes); !errors.Is(err, world.ErrAbsent) {
		t.Errorf("the limit is unknown, and crl_limit_bytes is %v (%v)", v, err)
	}
	must(t, metricIs(pod, `pkiwarden_findings{rule="crl-limit-unknown",severity="unknown"}`, 1)(ctx))
}

// A wrong file is refused, a right one taken over, and one that cannot be run is
// given up again.
func changedConfiguration(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod) {
	must(t, metricIs(pod, reloadGood, 1)(ctx))
	before, err := pod.Metric(ctx, reloadAt)
	must(t, err)
	text, err := os.ReadFile(pod.ConfigFile)
	must(t, err)
	replace(t, pod, string(text), strings.Replace(string(text), "role: nobody", "role: pkiwarden", 1)+"tidi:\n  enabled: true\n")
	wrong := fmt.Sprintf(`%s:%d:1`, pod.ConfigFile, strings.Count(string(text), "\n")+1)
	says(t, ctx, pod, 20*time.Second, `level=ERROR msg="configuration refused, the last good one stays in force" .*`+wrong+`: tidi: unknown key; did you mean \\"tidy\\"\?`)
	must(t, metricIs(pod, reloadGood, 0)(ctx))
	must(t, metricIs(pod, reloadAt, before)(ctx))
	time.Sleep(11 * time.Second) // one more look at it
	if n := strings.Count(pod.Log(), "configuration refused"); n != 1 {
		t.Errorf("the wrong file was refused %d times, want once", n)
	}
	if strings.Contains(pod.Log(), "logged in to Vault") {
		t.Errorf("a part of the wrong file was taken over")
	}
	replace(t, pod, "tidi:\n  enabled: true\n", "")
	says(t, ctx, pod, 20*time.Second, `logged in to Vault.*role=pkiwarden`)
	must(t, metricIs(pod, reloadGood, 1)(ctx))
	after, err := pod.Metric(ctx, reloadAt)
	must(t, err)
	if after <= before {
		t.Errorf("%s is %v after a change, was %v", reloadAt, after, before)
	}

	replace(t, pod, "address: "+pod.Address, "address: "+w.VaultAddress())
	says(t, ctx, pod, 20*time.Second, `level=ERROR msg="configuration refused, going back to the last good one" error="listening on `+w.VaultAddress()+`: another process listens there`)
	eventually(t, ctx, 10*time.Second, "the last good one is in force again", metricIs(pod, reloadGood, 0))
	must(t, metricIs(pod, reloadAt, after)(ctx))
	replace(t, pod, "listen:\n  address: "+w.VaultAddress(), "listen:\n  address: "+pod.Address)
	eventually(t, ctx, 20*time.Second, "a good one is taken over", metricIs(pod, reloadGood, 1))
}

// A token that is revoked is replaced by a new login, with the service account's
// token as it is by then.
func revokedToken(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod) {
	must(t, pod.Identity.Refresh(ctx, time.Hour))
	must(t, w.ProjectVaultToken(ctx, pod))
	logins := strings.Count(pod.Log(), "logged in to Vault")
	if n := revokeLogins(t, ctx, w); n != 1 {
		t.Errorf("%d tokens of logins, want the one of the session", n)
	}
	loggedIn := func(times int) func(context.Context) error {
		return func(context.Context) error {
			if n := strings.Count(pod.Log(), "logged in to Vault") - logins; n != times {
				return fmt.Errorf("%d logins, want %d", n, times)
			}
			return nil
		}
	}
	eventually(t, ctx, 30*time.Second, "it logs in again", loggedIn(1))
	eventually(t, ctx, 40*time.Second, "measuring goes on with a new token", measuresSince(pod, time.Now()))

	must(t, os.WriteFile(pod.VaultToken, []byte("not.a.token"), 0o600))
	revokeLogins(t, ctx, w)
	says(t, ctx, pod, 40*time.Second, `loop=vault-session error="logging in to Vault: .*`+pod.VaultToken)
	must(t, w.ProjectVaultToken(ctx, pod))
	// Lists are read without a token too: that they are measured proves no login.
	eventually(t, ctx, 40*time.Second, "the projected token is read anew", loggedIn(2))
	eventually(t, ctx, 40*time.Second, "measuring goes on", measuresSince(pod, time.Now()))
}

// A Vault that goes away takes a few lines, and its return needs no new login.
func vaultAway(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod) {
	logins := strings.Count(pod.Log(), "logged in to Vault")
	before := len(pod.Log())
	must(t, w.Vault.Stop(ctx))
	says(t, ctx, pod, 20*time.Second, `msg=(failing|"failing for another cause") loop=crl error=.*(Vault at https://`+w.VaultAddress()+` cannot be reached|connection refused)`)
	time.Sleep(8 * time.Second)
	if !pod.Running() {
		t.Fatalf("pkiwarden ended:\n%s", pod.LogTail(20))
	}
	said := linesSince(pod, before)
	// One line for the connection that was cut, where a loop was asking just
	// then, and one for the refused ones.
	for _, loop := range []string{"crl", "tidy"} {
		if n := strings.Count(strings.Join(said, "\n"), "loop="+loop+" "); n < 1 || n > 2 {
			t.Errorf("loop %s took %d lines for a Vault that went away, want one or two", loop, n)
		}
	}
	if len(said) > 10 {
		t.Errorf("%d lines without a Vault, want ten at most:\n%s", len(said), strings.Join(said, "\n"))
	}
	if _, err := pod.Metric(ctx, measuredAt); err != nil {
		t.Errorf("what was measured before is forgotten: %v", err)
	}
	must(t, pod.Readyz(ctx))
	must(t, w.Vault.Start(ctx))
	must(t, w.Vault.Unseal(ctx))
	eventually(t, ctx, 60*time.Second, "measuring goes on", measuresSince(pod, time.Now()))
	says(t, ctx, pod, 5*time.Second, `msg=recovered loop=crl`)
	if n := strings.Count(pod.Log(), "logged in to Vault") - logins; n != 0 {
		t.Errorf("%d new logins after a restart that revoked nothing", n)
	}
}

// The other two ways to log in: a token in a file, which may be replaced, and
// one in the environment.
func givenToken(t *testing.T, ctx context.Context, w *world.World) {
	file := filepath.Join(w.Set.Dir(), "given-token")
	first := vaultToken(t, ctx, w)
	must(t, os.WriteFile(file, []byte(first+"\n"), 0o600))
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{"vault.auth": map[string]any{"method": "tokenFile", "tokenFile": file}}})
	must(t, err)
	eventually(t, ctx, 30*time.Second, "the token in the file is good", measuresSince(pod, time.Now()))
	must(t, os.WriteFile(file+".new", []byte(vaultToken(t, ctx, w)), 0o600))
	must(t, os.Rename(file+".new", file))
	must(t, w.Vault.Client().Auth().Token().RevokeTreeWithContext(ctx, first))
	eventually(t, ctx, 40*time.Second, "the new token in the file is taken", measuresSince(pod, time.Now()))
	must(t, pod.Stop(ctx))
	noSecrets(t, ctx, w, pod)

	pod, err = w.StartPod(ctx, world.PodOptions{
		Name: "vault-0", Set: map[string]any{"vault.auth": map[string]any{"method": "token"}},
		Env: []string{"VAULT_TOKEN=" + vaultToken(t, ctx, w)},
	})
	must(t, err)
	eventually(t, ctx, 30*time.Second, "the token in the environment is good", measuresSince(pod, time.Now()))
	must(t, pod.Stop(ctx))
	noSecrets(t, ctx, w, pod)
}
