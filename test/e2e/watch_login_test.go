package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// A token that Vault no longer takes is one finding, however many mounts there
// are; their CRLs are measured all the same. With a good one in the token file all
// is well within seconds.
func TestWatchSaysOnceThatItIsLoggedOut(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{Storage: servers.RaftStorage{}}, nil)
	client := w.Vault.Client()
	const mounts = 4
	var first *world.PKI
	for n := range mounts {
		name := fmt.Sprint("pki", n)
		p, err := w.EnablePKI(ctx, world.PKIOptions{Mount: name, MaxTTL: time.Hour})
		must(t, err)
		must(t, p.IssueAndRevoke(ctx, "pod.example.internal"))
		eventually(t, ctx, 30*time.Second, "each list is measured", metricIs(pod, `pkiwarden_crl_entries{issuer="root",mount="`+name+`"}`, 1))
		if n == 0 {
			first = p
		}
	}
	absent(t, ctx, pod, finding("vault-login", "unknown"))

	good, err := os.ReadFile(pod.VaultToken)
	must(t, err)
	began := len(pod.Log())
	must(t, os.WriteFile(pod.VaultToken, []byte("no.such.token"), 0o600))
	must(t, client.Sys().RevokePrefixWithContext(ctx, "auth/kubernetes/login"))
	eventually(t, ctx, 30*time.Second, "it is said", metricIs(pod, finding("vault-login", "unknown"), 1))
	must(t, first.IssueAndRevoke(ctx, "another.example.internal"))
	eventually(t, ctx, 30*time.Second, "a change is measured", metricIs(pod, `pkiwarden_crl_entries{issuer="root",mount="pki0"}`, 2))
	time.Sleep(20 * time.Second) // long enough for a back-off of several seconds
	for _, rule := range []string{"tidy-permission", "crl-unreadable", "crl-limit-unknown"} {
		must(t, absentFinding(ctx, pod, rule))
	}

	must(t, os.WriteFile(pod.VaultToken, good, 0o600))
	within, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	eventually(t, within, 10*time.Second, "another token is noticed", func(context.Context) error {
		if !strings.Contains(pod.Log()[began:], `msg="finding cleared" rule=vault-login`) {
			return fmt.Errorf("vault-login has not cleared")
		}
		return nil
	})
	absent(t, ctx, pod, finding("vault-login", "unknown"))
	for _, rule := range []string{"tidy-permission", "crl-unreadable", "crl-limit-unknown"} {
		must(t, absentFinding(ctx, pod, rule))
	}
	noSecrets(t, ctx, w, pod)
}
