package e2e

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

func start(t *testing.T, o world.Options) (context.Context, *world.World) {
	t.Helper()
	t.Parallel()
	ctx := serverstest.Context(t)
	w, err := world.New(ctx, serverstest.New(t), o)
	if err != nil {
		t.Fatal(err)
	}
	return ctx, w
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// slowest is how long anything may take that stories wait for, on a machine that
// does much else: how fast it is, is not theirs to hold.
const slowest = 2 * time.Minute

// eventually ends the test when check does not succeed in time, which is within
// or slowest, whichever is longer.
func eventually(t *testing.T, ctx context.Context, within time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	begin := time.Now()
	if err := world.Eventually(ctx, max(within, slowest), check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Logf("%s: after %s", what, time.Since(begin).Round(100*time.Millisecond))
}

// storedOther checks that the live Secret holds another leaf than old, good for
// longer.
func storedOther(w *world.World, old *x509.Certificate) func(context.Context) error {
	return func(ctx context.Context) error {
		stored, err := w.StoredLeaf(ctx)
		if err != nil {
			return err
		}
		if stored.Equal(old) {
			return fmt.Errorf("the Secret still holds leaf %s", world.Fingerprint(old))
		}
		if !stored.NotAfter.After(old.NotAfter) {
			return fmt.Errorf("the new leaf ends %s, the old one %s", stored.NotAfter, old.NotAfter)
		}
		return nil
	}
}

// servesStored checks that a client which knows only the CA and the name is
// served the leaf of the live Secret.
func servesStored(w *world.World) func(context.Context) error {
	return func(ctx context.Context) error {
		stored, err := w.StoredLeaf(ctx)
		if err != nil {
			return err
		}
		served, err := w.ServedLeaf(ctx)
		if err != nil {
			return err
		}
		if !served.Equal(stored) {
			return fmt.Errorf("vault serves leaf %s (until %s), the Secret holds %s (until %s)",
				world.Fingerprint(served), served.NotAfter.Format(time.TimeOnly), world.Fingerprint(stored), stored.NotAfter.Format(time.TimeOnly))
		}
		return w.TrustedHandshake(ctx)
	}
}

func metricIs(pod *world.Pod, series string, want float64) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := pod.Metric(ctx, series)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s is %v, want %v", series, got, want)
		}
		return nil
	}
}

func servedSeries(w *world.World) string {
	return fmt.Sprintf(`pkiwarden_certificate_served{address="%s",certificate="%s"}`, w.VaultAddress(), world.CertificateName)
}

// A cluster in which no certificate exists yet: the sidecar makes one, and only
// then Vault can start at all.
func TestBirth(t *testing.T) {
	ctx, w := start(t, world.Options{})
	pod, err := w.NewPod(ctx, world.PodOptions{Name: "vault-0"})
	must(t, err)
	must(t, pod.Start(ctx))

	must(t, w.Delivered(ctx))
	eventually(t, ctx, 10*time.Second, "the startup probe passes", pod.Readyz)
	must(t, w.StartVault(ctx, servers.VaultOptions{}))
	eventually(t, ctx, 30*time.Second, "vault serves the first certificate", servesStored(w))
	eventually(t, ctx, 90*time.Second, "pkiwarden says that it is served", metricIs(pod, servedSeries(w), 1))

	stored, err := w.StoredLeaf(ctx)
	must(t, err)
	got, err := pod.Metric(ctx, `pkiwarden_certificate_not_after_timestamp_seconds{certificate="vault-server"}`)
	must(t, err)
	if got != float64(stored.NotAfter.Unix()) {
		t.Errorf("certificate_not_after_timestamp_seconds is %v, the Secret's leaf ends at %d", got, stored.NotAfter.Unix())
	}
	if err := pod.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	leaseIsFree(t, ctx, w)
	noSecrets(t, ctx, w, pod)
}

// Before the pair exists the startup probe fails, so that the kubelet does not
// start Vault; health is fine all the while.
func TestBirthWaitsForApproval(t *testing.T) {
	ctx, w := start(t, world.Options{NoApprover: true})
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0"})
	must(t, err)
	var name string
	eventually(t, ctx, 20*time.Second, "a request waits for approval", func(ctx context.Context) error {
		out, err := w.Kubectl(ctx, "get", "csr", "-o", "jsonpath={.items[*].metadata.name}")
		if err != nil {
			return err
		}
		if name = strings.TrimSpace(out); name == "" || strings.Contains(name, " ") {
			return fmt.Errorf("want one CSR, have %q", name)
		}
		return nil
	})
	if err := pod.Readyz(ctx); err == nil {
		t.Error("/readyz answers 200 before there is a pair")
	}
	_, err = w.Kubectl(ctx, "certificate", "approve", name)
	must(t, err)
	must(t, w.Delivered(ctx))
	eventually(t, ctx, 10*time.Second, "the startup probe passes", pod.Readyz)
}

// aging is a world whose Vault serves a certificate that is due for renewal,
// and in which pkiwarden has not started.
func aging(t *testing.T, notAfter time.Duration) (context.Context, *world.World, *world.Pod, *servers.Leaf) {
	t.Helper()
	ctx, w := start(t, world.Options{})
	old, err := w.IssueServing(ctx, time.Now().Add(-time.Hour), time.Now().Add(notAfter))
	must(t, err)
	must(t, w.PutSecret(ctx, old))
	// Vault has to have started on the old pair, before there was a pkiwarden
	// to renew it: the delivery of a pod that may only read puts it there.
	local, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0-before", Set: map[string]any{"leaderElection.role": "local"}})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{}))
	must(t, local.Stop(ctx))
	served, err := w.ServedLeaf(ctx)
	must(t, err)
	if !served.Equal(old.Certificate) {
		t.Fatalf("the story begins wrong: vault serves %s, not the old leaf %s", world.Fingerprint(served), world.Fingerprint(old.Certificate))
	}
	pod, err := w.NewPod(ctx, world.PodOptions{Name: "vault-0"})
	must(t, err)
	return ctx, w, pod, old
}

// The outage that pkiwarden exists for, three times: renewal needs no Vault.

func TestRenewalWhileVaultIsDown(t *testing.T) {
	ctx, w, pod, old := aging(t, 10*time.Minute)
	must(t, w.Vault.Stop(ctx))
	must(t, pod.Start(ctx))
	eventually(t, ctx, 30*time.Second, "the Secret holds a new leaf", storedOther(w, old.Certificate))
	must(t, w.Vault.Start(ctx))
	must(t, w.Vault.Unseal(ctx))
	eventually(t, ctx, 30*time.Second, "vault starts with the new leaf", servesStored(w))
	eventually(t, ctx, 90*time.Second, "pkiwarden says that it is served", metricIs(pod, servedSeries(w), 1))
}

func TestRenewalWhileVaultIsSealed(t *testing.T) {
	ctx, w, pod, old := aging(t, 10*time.Minute)
	must(t, w.Vault.Seal(ctx))
	must(t, pod.Start(ctx))
	eventually(t, ctx, 30*time.Second, "the Secret holds a new leaf", storedOther(w, old.Certificate))
	eventually(t, ctx, 40*time.Second, "the sealed vault serves it", servesStored(w))
	must(t, w.Vault.Unseal(ctx))
}

func TestRenewalWhileVaultServesAnExpiredCertificate(t *testing.T) {
	ctx, w, pod, old := aging(t, 30*time.Second)
	time.Sleep(time.Until(old.Certificate.NotAfter) + time.Second)
	if err := w.TrustedHandshake(ctx); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Fatalf("the story begins wrong: a client's handshake says %v, want that the certificate has expired", err)
	}
	must(t, pod.Start(ctx))
	eventually(t, ctx, 30*time.Second, "the Secret holds a new leaf", storedOther(w, old.Certificate))
	eventually(t, ctx, 40*time.Second, "vault serves it to a client that verifies", servesStored(w))
	if starts := strings.Count(w.Vault.Log(), "core: vault is unsealed"); starts > 1 {
		t.Errorf("vault was restarted; a reload was enough")
	}
}
