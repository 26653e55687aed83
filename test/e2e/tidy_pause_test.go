package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// Tidy holds the lock that revocations need, except while it pauses: without a
// pause they wait for its end, with the chosen one they go through. Here on
// Consul and without Vault's cache, where reading an entry takes a while.
func TestRevocationsGoThroughBesideTidy(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	set := serverstest.New(t)
	consul, err := set.StartConsul(ctx, servers.ConsulOptions{})
	must(t, err)
	server, err := set.StartVault(ctx, servers.VaultOptions{Storage: servers.ConsulStorage{Consul: consul}, Extra: "disable_cache = true"})
	must(t, err)
	v := &tidyVault{t: t, ctx: ctx, server: server, mount: pki.Mount{Path: "pki"}}
	v.vault = v.adapter(server.Client())
	must(t, server.Client().Sys().MountWithContext(ctx, "pki", &api.MountInput{Type: "pki"}))
	v.write("pki/root/generate/internal", map[string]any{"common_name": "root", "key_type": "ec", "key_bits": 256, "issuer_name": "root", "ttl": "1h"})
	v.write("pki/roles/brief", map[string]any{"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "key_bits": 256, "max_ttl": "30m"})
	v.write("pki/config/crl", map[string]any{"auto_rebuild": true})

	const revoked = 1200
	v.revoke(revoked, "30m")
	var live []string
	for i := range 400 {
		issued := v.write("pki/issue/brief", map[string]any{"common_name": fmt.Sprintf("live-%d", i), "ttl": "30m"})
		live = append(live, issued.Data["serial_number"].(string))
	}
	var reads []time.Duration
	for range 9 {
		began := time.Now()
		_, err := v.vault.TidyStatus(ctx, v.mount)
		must(t, err)
		reads = append(reads, time.Since(began))
	}
	slices.Sort(reads)
	chosen := pki.ChoosePause(pki.PauseInput{Revocations: revoked, Read: reads[4], Within: 30 * time.Minute})
	t.Logf("chosen: %s", chosen.Reason)

	quiet := v.revokeEach(&live, 50, func() bool { return true })
	without, took := v.revokeBeside(&live, 0)
	with, longer := v.revokeBeside(&live, chosen.Each)
	t.Logf("revocations without a tidy:           %s", quiet)
	t.Logf("beside one without a pause (%6s):   %s", took.Round(time.Millisecond), without)
	t.Logf("beside one with a pause of %s (%6s): %s", chosen.Each, longer.Round(time.Millisecond), with)
	if with.n < 20 {
		t.Errorf("%d revocations in %s beside tidy: they are starved", with.n, longer)
	}
	// Where the run without a pause was too short to keep a revocation waiting,
	// there is nothing to compare with.
	held := took >= 300*time.Millisecond && without.max >= took/3
	if held && with.median >= without.max {
		t.Errorf("a revocation takes %s with a pause, %s without one", with.median, without.max)
	}
}

// latency is what a number of revocations took.
type latency struct {
	n           int
	median, max time.Duration
}

func (l latency) String() string {
	return fmt.Sprintf("%d, median %s, longest %s", l.n, l.median.Round(100*time.Microsecond), l.max.Round(100*time.Microsecond))
}

// revokeEach revokes one certificate after the other, at most n, as long as
// more says so.
func (v *tidyVault) revokeEach(live *[]string, n int, more func() bool) latency {
	v.t.Helper()
	var all []time.Duration
	for len(all) < n && len(*live) > 0 && more() {
		began := time.Now()
		v.write("pki/revoke", map[string]any{"serial_number": (*live)[0]})
		all, *live = append(all, time.Since(began)), (*live)[1:]
	}
	if len(all) == 0 {
		return latency{}
	}
	slices.Sort(all)
	return latency{n: len(all), median: all[len(all)/2], max: all[len(all)-1]}
}

// revokeBeside revokes while a tidy looks at all revocations, and tells how long
// that took.
func (v *tidyVault) revokeBeside(live *[]string, pause time.Duration) (latency, time.Duration) {
	v.t.Helper()
	started, err := v.vault.StartTidy(v.ctx, v.mount, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * time.Hour, Pause: pause})
	must(v.t, err)
	if !started {
		v.t.Fatal("another tidy is on")
	}
	l := v.revokeEach(live, 150, func() bool {
		s, err := v.vault.TidyStatus(v.ctx, v.mount)
		must(v.t, err)
		return s.State == pki.TidyRunning
	})
	v.tidyIs(pki.TidyFinished)
	s, err := v.vault.TidyStatus(v.ctx, v.mount)
	must(v.t, err)
	return l, s.FinishedAt.Sub(s.StartedAt)
}
