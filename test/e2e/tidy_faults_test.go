package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// tidied runs the tidier as a running instance does, over and over until a run
// is concluded, and returns how that was and what was found.
func (v *tidyVault) tidied(state tidier.State, change func(*tidier.Options)) (pki.Run, []pki.Finding) {
	v.t.Helper()
	o := v.options(state)
	o.Policy.Enabled = true
	var findings []pki.Finding
	o.Report = func(f []pki.Finding) { findings = f }
	if change != nil {
		change(&o)
	}
	tr := v.newTidier(o)
	before := len(v.record(state).History)
	var err error
	for range 10 {
		if err = tr.Once(v.ctx); err == nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	must(v.t, err)
	r := v.record(state)
	if len(r.History) != before+1 {
		v.t.Fatalf("no run was concluded: %+v", r)
	}
	return *r.Last(), findings
}

// looked lets the tidier look once, where no run is due, and returns the last
// run as its record has it now.
func (v *tidyVault) looked(state tidier.State) (pki.Run, []pki.Finding) {
	v.t.Helper()
	o := v.options(state)
	o.Policy.Enabled = true
	var findings []pki.Finding
	o.Report = func(f []pki.Finding) { findings = f }
	before := len(v.record(state).History)
	must(v.t, v.newTidier(o).Once(v.ctx))
	r := v.record(state)
	if len(r.History) != before {
		v.t.Fatalf("a run was concluded: %+v", r)
	}
	return *r.Last(), findings
}

// record is what the instances remember of the mount.
func (v *tidyVault) record(state tidier.State) pki.Record {
	v.t.Helper()
	id, err := v.vault.ClusterID(v.ctx)
	must(v.t, err)
	data, _, err := state.Get(v.ctx, v.mount.StateKey("tidy", id))
	must(v.t, err)
	var r pki.Record
	if data != nil {
		must(v.t, json.Unmarshal(data, &r))
	}
	return r
}

// junk writes what cannot be parsed into the mount's storage, and takes it away
// again.
func (v *tidyVault) junk(key string) (remove func()) {
	v.t.Helper()
	path := "sys/raw/logical/" + v.mount.UUID + "/" + key
	v.write(path, map[string]any{"value": "no certificate"})
	return func() {
		v.t.Helper()
		_, err := v.server.Client().Logical().DeleteWithContext(v.ctx, path)
		must(v.t, err)
	}
}

func (v *tidyVault) entries() int64 {
	v.t.Helper()
	lists, err := v.Measure(v.ctx, v.mount)
	must(v.t, err)
	return pki.SizeOf(lists).Entries
}

// A certificate that Vault cannot parse ends every run at the same place: it is
// named, with the way out.
func TestTidyStopsAtABadCertificate(t *testing.T) {
	t.Parallel()
	v := startTidyVault(t, servers.VaultOptions{Extra: "raw_storage_endpoint = true"}, false)
	v.revoke(8, "5s")
	remove := v.junk("certs/00-0b-ad")
	time.Sleep(7 * time.Second)

	state := new(tidiertest.State)
	run, findings := v.tidied(state, nil)
	if run.State != pki.RunError || run.Outcome != pki.OutcomeFailed || !strings.Contains(run.Explanation, `unable to parse stored certificate with serial "00-0b-ad"`) {
		t.Errorf("run %+v", run)
	}
	if n := v.entries(); n != 8 {
		t.Errorf("%d entries, want all 8", n)
	}
	named := false
	for _, f := range findings {
		named = named || f.Rule == "tidy-failed" && strings.Contains(f.Summary+f.Evidence+f.Remedy, "00:0b:ad") && strings.Contains(f.Remedy, "sys/raw/logical/"+v.mount.UUID+"/certs/00-0b-ad") && strings.Contains(f.Remedy, "tidy.certStore: false")
	}
	if !named {
		t.Errorf("no finding names the certificate: %+v", findings)
	}
	_, err := v.tidier(state).Tidy(v.ctx, tidier.Request{Wait: true, Force: true})
	if err == nil || !strings.Contains(err.Error(), "00-0b-ad") {
		t.Errorf("the command says %v", err)
	}

	// The revocations are reached without the certificates.
	run, _ = v.tidied(new(tidiertest.State), func(o *tidier.Options) { o.Policy.CertStore = false })
	if run.Outcome != pki.OutcomeOK || *run.Deleted != 8 || v.entries() != 0 {
		t.Errorf("without the certificate store: %+v", run)
	}
	remove()
	reports, err := v.tidier(new(tidiertest.State)).Tidy(v.ctx, tidier.Request{Wait: true, Force: true})
	if err != nil || reports[0].Result == nil || reports[0].Result.State != pki.RunFinished {
		t.Errorf("without the bad certificate: %+v, %v", reports, err)
	}
}

// repairing mends Vault's storage just before the first rotation.
type repairing struct {
	*vaultpki.Vault
	repair func()
}

func (r *repairing) Rotate(ctx context.Context, m pki.Mount) error {
	if r.repair != nil {
		r.repair()
		r.repair = nil
	}
	return r.Vault.Rotate(ctx, m)
}

// A run that deletes revocations and ends in an error leaves the list as it was,
// and so does the next one, which finds nothing to delete. The list is rotated:
// at once, or as soon as that is possible.
func TestTidyErrorAfterDeleting(t *testing.T) {
	t.Parallel()
	v := startTidyVault(t, servers.VaultOptions{Extra: "raw_storage_endpoint = true"}, false)
	for _, atOnce := range []bool{true, false} {
		t.Run(fmt.Sprintf("repaired at once %t", atOnce), func(t *testing.T) {
			v := v.in(t)
			v.revoke(8, "5s")
			must(t, v.vault.Rotate(v.ctx, v.mount))
			remove := v.junk("revoked/ff-0b-ad") // the last in order
			time.Sleep(7 * time.Second)

			state := new(tidiertest.State)
			run, findings := v.tidied(state, func(o *tidier.Options) {
				if atOnce {
					o.Vault = &repairing{v.vault, remove}
				}
			})
			if run.State != pki.RunError || run.Deleted == nil || *run.Deleted != 8 {
				t.Fatalf("the story begins wrong: %+v", run)
			}
			if atOnce {
				if run.Outcome != pki.OutcomeOK || !run.Rotated || v.entries() != 0 {
					t.Errorf("run %+v, %d entries", run, v.entries())
				}
				return
			}
			if run.Outcome != pki.OutcomeFailed || run.Rotated || v.entries() != 8 || !strings.Contains(run.Explanation, "8 revocations were deleted, and the CRL was not rebuilt: ") ||
				!strings.Contains(run.Explanation, "ff-0b-ad") {
				t.Errorf("run %+v, %d entries", run, v.entries())
			}
			var rules []string
			for _, f := range findings {
				rules = append(rules, f.Rule)
			}
			if !strings.Contains(strings.Join(rules, " "), "tidy-stale-crl") {
				t.Errorf("findings %v", rules)
			}
			remove()
			// The rotation that the run still owed is made up for, without another run.
			run, findings = v.looked(state)
			if *run.Deleted != 8 || !run.Rotated || run.Outcome != pki.OutcomeOK || v.entries() != 0 || !strings.Contains(run.Explanation, "was made up for") {
				t.Errorf("after the repair the run is %+v, %d entries", run, v.entries())
			}
			// What stopped the run is said until another one has passed it.
			if len(findings) != 1 || findings[0].Rule != "tidy-failed" {
				t.Errorf("findings %+v", findings)
			}
		})
	}
}

// A failover in mid-run: the new active node knows of no run. What was deleted
// until then stays deleted; the list is rotated and measured, and the rest is
// for the next run.
func TestTidyFailover(t *testing.T) {
	t.Parallel()
	v := startTidyVault(t, servers.VaultOptions{}, true)
	peer, err := v.set.StartVault(v.ctx, servers.VaultOptions{Storage: servers.RaftStorage{}, Peer: v.server})
	must(t, err)
	const count = 30
	v.revoke(count, "5s")
	must(t, v.vault.Rotate(v.ctx, v.mount))
	time.Sleep(7 * time.Second)

	state := new(tidiertest.State)
	o := v.options(state)
	o.Policy.CertStore, o.Policy.Pause = false, 400*time.Millisecond
	var moved atomic.Bool
	o.Watch = func(_ pki.Mount, s pki.TidyStatus) {
		if s.RevokedDeleted > 0 && moved.CompareAndSwap(false, true) {
			must(t, v.server.Client().Sys().StepDownWithContext(v.ctx))
		}
	}
	reports, err := v.newTidier(o).Tidy(v.ctx, tidier.Request{Wait: true})
	must(t, err)
	if !moved.Load() || len(reports) != 1 || reports[0].Result == nil {
		t.Fatalf("moved %t, reports %+v", moved.Load(), reports)
	}
	r := *reports[0].Result
	if r.State != pki.RunUnknown || r.Deleted != nil || !r.CRLRotated || r.EntriesBefore != count || r.EntriesAfter == 0 || r.EntriesAfter >= count {
		t.Errorf("result %+v", r)
	}
	leader, err := peer.Client().Sys().LeaderWithContext(v.ctx)
	must(t, err)
	if !leader.IsSelf {
		t.Fatalf("the peer has not taken over: %+v", leader)
	}

	second := v.in(t)
	second.vault = v.adapter(peer.Client())
	reports, err = second.tidier(state).Tidy(v.ctx, tidier.Request{Wait: true})
	must(t, err)
	if !reports[0].Run || reports[0].Result == nil || *reports[0].Result.Deleted != r.EntriesAfter || reports[0].Result.EntriesAfter != 0 {
		t.Errorf("the next run: %+v, %+v, want the %d that were left", reports[0], reports[0].Result, r.EntriesAfter)
	}
}

// A Vault that gets slow while tidy runs has it stopped: what was deleted until
// then is off the list, and the next run is gentler.
func TestTidyIsStoppedForASlowVault(t *testing.T) {
	t.Parallel()
	v := startTidyVault(t, servers.VaultOptions{Audit: true}, true)
	target, err := url.Parse(v.server.Address)
	must(t, err)
	var slow atomic.Bool
	forward := httputil.NewSingleHostReverseProxy(target)
	way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.Load() && strings.HasSuffix(r.URL.Path, "/tidy-status") {
			time.Sleep(700 * time.Millisecond)
		}
		forward.ServeHTTP(w, r)
	}))
	defer way.Close()
	config := api.DefaultConfig()
	config.Address = way.URL
	client, err := api.NewClient(config)
	must(t, err)
	client.SetToken(v.server.RootToken().Reveal())
	v.vault = v.adapter(client)

	const count = 60
	v.revoke(count, "5s")
	must(t, v.vault.Rotate(v.ctx, v.mount))
	time.Sleep(7 * time.Second)
	state := new(tidiertest.State)
	o := v.options(state)
	o.Policy.CertStore, o.Policy.Pause = false, 400*time.Millisecond
	o.Watch = func(_ pki.Mount, s pki.TidyStatus) { slow.Store(s.State == pki.TidyRunning) }
	reports, err := v.newTidier(o).Tidy(v.ctx, tidier.Request{Wait: true})
	must(t, err)
	r := reports[0].Result
	if r == nil || r.State != pki.RunCancelled || *r.Deleted == 0 || *r.Deleted >= count || !r.CRLRotated || r.EntriesAfter != count-*r.Deleted {
		t.Fatalf("report %+v, result %+v", reports[0], r)
	}
	record := v.record(state)
	if last := record.Last(); record.Slower != 1 || !strings.Contains(last.Explanation, "stopped early: Vault got slow: Vault answers small reads in 7") {
		t.Errorf("record %+v", record)
	}

	slow.Store(false)
	o.Policy.Pause, o.Watch = 20*time.Millisecond, nil
	reports, err = v.newTidier(o).Tidy(v.ctx, tidier.Request{Wait: true})
	must(t, err)
	raw, err := v.server.Client().Logical().ReadWithContext(v.ctx, "pki/tidy-status")
	must(t, err)
	if reports[0].Result == nil || reports[0].Result.EntriesAfter != 0 || raw.Data["pause_duration"] != "40ms" {
		t.Errorf("the next run: %+v, pause_duration %v", reports[0], raw.Data["pause_duration"])
	}
}

// Vault's own count of its leases, as each version gives it.
func TestLeases(t *testing.T) {
	t.Parallel()
	for _, version := range tidyVersions {
		t.Run(version.version, func(t *testing.T) {
			t.Parallel()
			v := startTidyVault(t, servers.VaultOptions{Version: version.name}, true)
			allowed := v.limited(`path "sys/metrics" { capabilities = ["read"] }`)
			var before pki.Leases
			eventually(t, v.ctx, 40*time.Second, "leases are counted", func(ctx context.Context) (err error) {
				before, err = allowed.Leases(ctx)
				if err == nil && before.Total == 0 {
					err = fmt.Errorf("none, and two tokens are out")
				}
				return err
			})
			v.write("pki/roles/leased", map[string]any{"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "key_bits": 256, "generate_lease": true, "max_ttl": "30m"})
			for i := range 7 {
				v.write("pki/issue/leased", map[string]any{"common_name": fmt.Sprintf("leased-%d", i)})
			}
			eventually(t, v.ctx, 40*time.Second, "seven more are counted", func(ctx context.Context) error {
				now, err := allowed.Leases(ctx)
				if want := (pki.Leases{Total: before.Total + 7}); err == nil && now != want {
					err = fmt.Errorf("%+v, want %+v", now, want)
				}
				return err
			})
			_, err := v.limited(`path "pki/tidy-status" { capabilities = ["read"] }`).Leases(v.ctx)
			wantDenied(t, err, "read", "sys/metrics")
		})
	}
}
