package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// tidyVersions are the versions of Vault on which tidy is run, by the name that
// the catalog of servers gives them.
var tidyVersions = []struct{ name, version string }{
	{"1.13", "1.13.0"},
	{"1.17", "1.17.6"},
	{"", "1.21.1"},
}

// versionTTL is how long certificates live here: those that are to stay must
// not expire while a busy machine tidies the others.
const versionTTL = 12 * time.Second

// The whole story on each version: revoked, expired, tidied with the switches
// that the version knows, rotated where it does not rebuild the list by itself,
// and measured.
func TestTidyVersions(t *testing.T) {
	t.Parallel()
	for _, v := range tidyVersions {
		t.Run(v.version, func(t *testing.T) {
			t.Parallel()
			vault := startTidyVault(t, servers.VaultOptions{Version: v.name}, false)
			health, err := vault.vault.Health(vault.ctx)
			must(t, err)
			if health.Version != v.version {
				t.Fatalf("this is Vault %s", health.Version)
			}
			if _, known := pki.TidySwitches(health.Version); !known {
				t.Error("the version is not known")
			}
			vault.write("pki/roles/brief", map[string]any{"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "key_bits": 256, "max_ttl": versionTTL.String()})
			scenes(t, []scene{
				{"rebuilt by Vault", func(t *testing.T) { vault.in(t).story(0, false) }},
				{"rebuilt by time", func(t *testing.T) {
					vault.in(t).write("pki/config/crl", map[string]any{"auto_rebuild": true})
					vault.in(t).story(4, true)
				}},
				{"asked twice", func(t *testing.T) { vault.in(t).askedTwice() }},
			})
		})
	}
}

func (v *tidyVault) in(t *testing.T) *tidyVault {
	other := *v
	other.t = t
	return &other
}

// story is one run by the tidier's own decision. Some that have expired since
// are left from the run before.
func (v *tidyVault) story(left int64, auto bool) {
	v.t.Helper()
	t := v.t
	const live = 4
	old := left + 30
	v.revoke(30, versionTTL.String())
	time.Sleep(versionTTL + 2*time.Second) // and 1 s of buffer
	v.revoke(live, versionTTL.String())
	if auto {
		must(t, v.vault.Rotate(v.ctx, v.mount))
	}

	phases := map[pki.Phase]pki.Progress{}
	o := v.options(new(tidiertest.State))
	o.Policy.Pause = 25 * time.Millisecond
	o.Watch = func(_ pki.Mount, s pki.TidyStatus) {
		if p, ok := s.Progress(); ok {
			phases[p.Phase] = p
		}
	}
	reports, err := v.newTidier(o).Tidy(v.ctx, tidier.Request{Wait: true})
	must(t, err)
	if len(reports) != 1 || reports[0].Result == nil {
		t.Fatalf("reports %+v", reports)
	}
	r := reports[0]
	if !r.Run || r.Predicted.Reclaimable != old || r.Result.State != pki.RunFinished || *r.Result.Deleted != old ||
		r.Result.EntriesBefore != old+live || r.Result.EntriesAfter != live || r.Result.CRLRotated != auto {
		t.Errorf("report %+v, result %+v", r, *r.Result)
	}
	lists, err := v.Measure(v.ctx, v.mount)
	must(t, err)
	if n := pki.SizeOf(lists).Entries; n != live {
		t.Errorf("%d entries are left, want %d", n, live)
	}

	// Vault did what it was told, and told how far it was.
	raw, err := v.server.Client().Logical().ReadWithContext(v.ctx, "pki/tidy-status")
	must(t, err)
	if got := fmt.Sprint(raw.Data["pause_duration"]); got != "25ms" {
		t.Errorf("pause_duration %q, want 25ms", got)
	}
	for _, on := range []string{"tidy_cert_store", "tidy_revoked_certs"} {
		if raw.Data[on] != true {
			t.Errorf("%s is %v", on, raw.Data[on])
		}
	}
	for key, value := range raw.Data {
		if strings.HasPrefix(key, "tidy_") && key != "tidy_cert_store" && key != "tidy_revoked_certs" && value != false {
			t.Errorf("%s is %v: nobody asked for that", key, value)
		}
	}
	if p := phases[pki.PhaseRevoked]; p.Total != old+live && p.Total != 0 {
		t.Errorf("the phase of revocations was seen at %+v, want %d", p, old+live)
	}
	if len(phases) == 0 {
		t.Error("no progress was seen")
	}
}

// askedTwice: a run that is on is told from one that is started; it can be
// stopped, and is then told from one that has finished.
func (v *tidyVault) askedTwice() {
	v.t.Helper()
	t := v.t
	v.revoke(10, "5s")
	slow := pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * time.Hour, Pause: 200 * time.Millisecond}
	for i, want := range []bool{true, false} {
		started, err := v.vault.StartTidy(v.ctx, v.mount, slow)
		must(t, err)
		if started != want {
			t.Errorf("request %d started a run: %t", i+1, started)
		}
	}
	v.tidyIs(pki.TidyRunning)
	asked, err := v.vault.CancelTidy(v.ctx, v.mount)
	must(t, err)
	if !asked {
		t.Error("no run to cancel")
	}
	v.tidyIs(pki.TidyCancelled)
	if asked, err = v.vault.CancelTidy(v.ctx, v.mount); err != nil || asked {
		t.Errorf("a second time: %t, %v", asked, err)
	}
}

// tidyIs waits until Vault says that its tidy is in the given state.
func (v *tidyVault) tidyIs(state pki.TidyState) {
	v.t.Helper()
	eventually(v.t, v.ctx, time.Minute, "vault says of its tidy: "+string(state), func(ctx context.Context) error {
		s, err := v.vault.TidyStatus(ctx, v.mount)
		if err == nil && s.State != state {
			err = fmt.Errorf("state %s", s.State)
		}
		return err
	})
}
