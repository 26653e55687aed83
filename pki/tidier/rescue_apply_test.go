package tidier_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// The mount's own max_crl_entries is a limit as good as the storage's, of which
// the one that measured the list knows nothing.
func TestRescueKnowsTheLimitOfEntries(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 80, 20, func(m *tidiertest.Mount) {
			m.Limit = crl.Storage{Backend: "raft", VaultVersion: "1.21.1"}.Limit()
			m.Config.MaxEntries = 150
		})
		got, err := w.rescue(r, false)
		if err != nil || got.Status != pki.RescueOver || got.Verdict != "over the limit: steps 1, 6 and 7 are enough" || got.Limit.MaxEntries != 150 {
			t.Errorf("plan: %+v, %v", got, err)
		}
		got, err = w.rescue(r, true)
		if err != nil || !got.Complete || got.Stopped != "" || got.Steps[0].Done != "deleted 180 revocations" || got.Proof == nil || got.Proof.Found != 60 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// A rotation that is refused says more of the limit than was known: what then
// comes first is done, and the rotation asked for again.
func TestRescueGoesOnAfterARefusal(t *testing.T) {
	for name, names := range map[string]int64{"which names the limit": 8192, "which does not": 0} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				w, r := full(t, 80, 20, claims(1<<20), func(m *tidiertest.Mount) { m.RefusedAt = names })
				plan, err := w.rescue(r, false)
				if err != nil || plan.Status != pki.RescueStale {
					t.Fatalf("plan: %+v, %v", plan, err)
				}
				got, err := w.rescue(r, true)
				if err != nil || !got.Complete || got.Steps[0].Done != "deleted 180 revocations" || got.Proof == nil || got.Proof.Found != 60 || len(got.Remains) != 0 {
					t.Errorf("%+v, %v", got, err)
				}
				w.want("runs", float64(w.mount.Runs), 1)
			})
		})
	}
}

// claims makes a mount say that the storage takes more than the 8192 bytes that
// are in force.
func claims(bytes int64) func(*tidiertest.Mount) {
	return func(m *tidiertest.Mount) {
		m.InForce = new(m.Limit)
		m.Limit = crl.Storage{Backend: "raft", VaultVersion: "1.21.1", Raft: crl.RaftLimits{MaxEntrySize: bytes}}.Limit()
	}
}

// Whatever the mount is like, an apply ends complete with nothing left to do, or
// says why not; and it never leaves undone what its own plan says is enough.
func TestRescueNeverEndsWithoutSayingWhy(t *testing.T) {
	type change = func(*tidiertest.Mount)
	storages := map[string]change{
		"raft":          func(*tidiertest.Mount) {},
		"raft, claimed": claims(1 << 20),
		"raft, named":   func(m *tidiertest.Mount) { claims(1 << 20)(m); m.RefusedAt = 8192 },
		"unknown":       func(m *tidiertest.Mount) { claims(0)(m); m.Limit = crl.Storage{Backend: "etcd"}.Limit() },
		"unknown, named": func(m *tidiertest.Mount) {
			claims(0)(m)
			m.RefusedAt, m.Limit = 8192, crl.Limit{Backend: "raft", Rule: "hidden"}
		},
		"no limit": func(m *tidiertest.Mount) { m.Limit = crl.Storage{Backend: "file"}.Limit() },
	}
	mounts := map[string]change{
		"":                         func(*tidiertest.Mount) {},
		"by time":                  func(m *tidiertest.Mount) { m.Config.AutoRebuild = true },
		"off":                      func(m *tidiertest.Mount) { m.Config.Disabled = true },
		"150 entries":              func(m *tidiertest.Mount) { m.Config.MaxEntries = 150 },
		"50 entries":               func(m *tidiertest.Mount) { m.Config.MaxEntries = 50 },
		"150 entries, by time":     func(m *tidiertest.Mount) { m.Config.MaxEntries, m.Config.AutoRebuild = 150, true },
		"runs that end in errors":  func(m *tidiertest.Mount) { m.RunError = "connection lost" },
		"lists that are not built": func(m *tidiertest.Mount) { m.RebuildErr = fmt.Errorf("status 500: no key") },
	}
	for storage, limit := range storages {
		for kind, settings := range mounts {
			for _, amounts := range [][2]int{{0, 0}, {0, 20}, {80, 20}, {300, 5}, {80, 220}, {0, 300}} {
				for _, denied := range []string{"", "pki/tidy", "pki/crl/rotate"} {
					if denied != "" && amounts != [2]int{80, 20} || testing.Short() && amounts[1] > 200 {
						continue
					}
					name := fmt.Sprintf("%s/%s/%d+%d/%s", storage, kind, amounts[0], amounts[1], denied)
					t.Run(name, func(t *testing.T) {
						in(t, func(t *testing.T) {
							w, r := full(t, amounts[0], amounts[1], limit, settings)
							if denied != "" {
								r.Denied = []string{denied}
							}
							begin := time.Now()
							got, err := w.rescue(r, true, "pki")
							switch {
							case time.Since(begin) > time.Hour:
								t.Errorf("took %s", time.Since(begin))
							case got.Complete && (len(got.Remains) > 0 || got.Stopped != "" || err != nil):
								t.Errorf("complete, and yet: %v, %q, %v", got.Remains, got.Stopped, err)
							case !got.Complete && got.Stopped == "":
								t.Errorf("not complete, remains %v, and no reason: %s, %v", got.Remains, got.Verdict, err)
							case !got.Complete && err == nil && got.Enough != nil && *got.Enough:
								t.Errorf("what is enough was not done: %s; stopped: %s", got.Verdict, got.Stopped)
							case !got.Complete && err == nil && !slices.ContainsFunc(got.Steps, func(s pki.RescueStep) bool { return s.Need == pki.Instead }) && !strings.Contains(got.Stopped, "crl/rotate"):
								t.Errorf("nobody has anything to do: %s; stopped: %s", got.Verdict, got.Stopped)
							}
						})
					})
				}
			}
		}
	}
}
