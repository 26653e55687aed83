package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// running is a world in which everything is up: Vault serves what pkiwarden
// delivered, and pkiwarden watches Vault.
func running(t *testing.T, vault servers.VaultOptions, settings map[string]any) (context.Context, *world.World, *world.Pod) {
	t.Helper()
	ctx, w := start(t, world.Options{})
	w.Setting("crl.interval", "2s")
	for path, value := range settings {
		w.Setting(path, value)
	}
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0"})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, vault))
	return ctx, w, pod
}

// measures checks that pkiwarden's series say what crypto/x509 reads from the
// list that Vault serves.
func measures(pod *world.Pod, p *world.PKI, limit float64) func(context.Context) error {
	return func(ctx context.Context) error {
		list, err := p.CRL(ctx)
		if err != nil {
			return err
		}
		for name, want := range map[string]float64{
			"crl_bytes":                         float64(len(list.Raw)),
			"crl_entries":                       float64(len(list.RevokedCertificateEntries)),
			"crl_limit_bytes":                   limit,
			"crl_this_update_timestamp_seconds": float64(list.ThisUpdate.Unix()),
			"crl_next_update_timestamp_seconds": float64(list.NextUpdate.Unix()),
		} {
			series := fmt.Sprintf(`pkiwarden_%s{issuer="root",mount="%s"}`, name, p.Mount)
			if err := metricIs(pod, series, want)(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestCRLOnRaft(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{Storage: servers.RaftStorage{}}, nil)
	first, err := w.EnablePKI(ctx, world.PKIOptions{MaxTTL: time.Hour})
	must(t, err)
	second, err := w.EnablePKI(ctx, world.PKIOptions{Mount: "pki_int", MaxTTL: time.Hour})
	must(t, err)
	for i := range 5 {
		must(t, first.IssueAndRevoke(ctx, fmt.Sprintf("pod-%d.example.internal", i)))
	}
	// 1,048,445 bytes is what Vault 1.21 on raft stores by default: 1 MiB less
	// the barrier's 33 bytes and the 98 of the log entry around the value.
	eventually(t, ctx, 20*time.Second, "the list of pki is measured", measures(pod, first, 1048445))
	eventually(t, ctx, 20*time.Second, "the list of pki_int is measured", measures(pod, second, 1048445))

	must(t, first.IssueAndRevoke(ctx, "one-more.example.internal"))
	eventually(t, ctx, 20*time.Second, "one more revocation is seen", measures(pod, first, 1048445))

	_, err = w.Vault.Client().Logical().DeleteWithContext(ctx, "sys/mounts/pki_int")
	must(t, err)
	eventually(t, ctx, 20*time.Second, "the series of a mount that is gone end", func(ctx context.Context) error {
		_, err := pod.Metric(ctx, `pkiwarden_crl_bytes{issuer="root",mount="pki_int"}`)
		if err == nil {
			return fmt.Errorf("the series is still there")
		}
		return nil
	})
	noSecrets(t, ctx, w, pod)
}

// While Vault cannot be asked the last values stay, with the time at which they
// were true; nothing turns to zero.
func TestCRLWhileVaultIsSealed(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{Storage: servers.RaftStorage{}}, nil)
	p, err := w.EnablePKI(ctx, world.PKIOptions{})
	must(t, err)
	must(t, p.IssueAndRevoke(ctx, "pod.example.internal"))
	eventually(t, ctx, 20*time.Second, "the list is measured", measures(pod, p, 1048445))

	const size, success = `pkiwarden_crl_bytes{issuer="root",mount="pki"}`, `pkiwarden_crl_last_success_timestamp_seconds{issuer="root",mount="pki"}`
	before, err := pod.Metric(ctx, size)
	must(t, err)
	must(t, w.Vault.Seal(ctx))
	_, err = pod.WaitForLog(ctx, "sealed")
	must(t, err)
	at, err := pod.Metric(ctx, success)
	must(t, err)
	time.Sleep(5 * time.Second) // more than two intervals
	must(t, metricIs(pod, size, before)(ctx))
	must(t, metricIs(pod, success, at)(ctx))
	if err := pod.Readyz(ctx); err != nil {
		t.Errorf("readiness depends on Vault: %v", err)
	}

	must(t, w.Vault.Unseal(ctx))
	must(t, p.IssueAndRevoke(ctx, "another.example.internal"))
	eventually(t, ctx, 90*time.Second, "measuring goes on", measures(pod, p, 1048445))
}

func TestCRLOnConsul(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	set := serverstest.New(t)
	consul, err := set.StartConsul(ctx, servers.ConsulOptions{})
	must(t, err)
	w, err := world.New(ctx, set, world.Options{})
	must(t, err)
	w.Setting("crl.interval", "2s")
	w.Setting("consul.address", consul.Address)
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0"})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{Storage: servers.ConsulStorage{Consul: consul}}))
	p, err := w.EnablePKI(ctx, world.PKIOptions{})
	must(t, err)
	must(t, p.IssueAndRevoke(ctx, "pod.example.internal"))
	// 392,892 bytes is what Vault 1.21 can write to a Consul with its default
	// limits: half a MiB of a transaction's JSON, the value in base64.
	eventually(t, ctx, 20*time.Second, "the list is measured", measures(pod, p, 392892))
	must(t, pod.Stop(ctx))
	leaseIsFree(t, ctx, w)
}
