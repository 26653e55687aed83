package e2e

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// TestRolloutHeadroom: how many times all live certificates could be revoked
// before the list no longer fits, with a fleet that is counted on the running
// Vault under the shipped policy, and with one that is configured.
func TestRolloutHeadroom(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{Storage: servers.RaftStorage{MaxEntrySize: 16 << 10}}, nil)
	p, err := w.EnablePKI(ctx, world.PKIOptions{MaxTTL: time.Hour})
	must(t, err)
	for i := range 40 {
		_, err := w.Vault.Client().Logical().WriteWithContext(ctx, "pki/issue/pod", map[string]any{"common_name": fmt.Sprintf("pod-%d.example.internal", i)})
		must(t, err)
	}
	for i := range 20 {
		must(t, p.IssueAndRevoke(ctx, fmt.Sprintf("gone-%d.example.internal", i)))
	}
	// Vault's list takes 39 bytes for each entry, one in 256 of them 38. Of the
	// fleet are the 40 that live, not the 20 that are revoked, and by sampling
	// perhaps the issuer's own certificate.
	room := func(ctx context.Context, smallest, largest float64) (lowest, highest float64, err error) {
		list, err := p.CRL(ctx)
		if err != nil {
			return 0, 0, err
		}
		const limit = 16<<10 - 33 - 96 // of this raft: the barrier, and the entry around the value
		entries := float64(limit-len(list.Raw)) / 39
		return entries / largest, entries / smallest, nil
	}
	within := func(pod *world.Pod, smallest, largest float64) func(context.Context) error {
		return func(ctx context.Context) error {
			lowest, highest, err := room(ctx, smallest, largest)
			if err != nil {
				return err
			}
			got, err := pod.Metric(ctx, `pkiwarden_crl_rollout_headroom{issuer="root",mount="pki"}`)
			if err != nil {
				return err
			}
			if got < math.Floor(lowest*100)/100 || got > math.Ceil(highest*100)/100 {
				return fmt.Errorf("headroom %v, want %.3f to %.3f", got, lowest, highest)
			}
			return nil
		}
	}
	eventually(t, ctx, 60*time.Second, "the headroom of the fleet that was counted", within(pod, 40, 41))
	must(t, pod.Stop(ctx))

	w.Setting("crl.fleetSize", 250)
	again, err := w.StartPod(ctx, world.PodOptions{Name: "vault-1"})
	must(t, err)
	eventually(t, ctx, 60*time.Second, "the headroom of the configured fleet", within(again, 250, 250))
	// 390 entries fit beside what is there: 1.5 redeployments, below the
	// warning's 2.
	eventually(t, ctx, 30*time.Second, "low headroom is a finding", metricIs(again, `pkiwarden_findings{rule="crl-near-limit",severity="warning"}`, 1))
	noSecrets(t, ctx, w, pod, again)
}
