package tidier_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// itsOwn is a mount's own auto-tidy that does nothing which runs do not do.
func itsOwn(m *tidiertest.Mount) {
	m.Auto = pki.AutoTidy{Enabled: true, Interval: 6 * hour, SafetyBuffer: 100 * hour, RevokedCerts: true}
}

// The mount's own auto-tidy is switched off once, and what it was is in the
// record, before Vault is asked.
func TestAutoTidyIsOwned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, itsOwn)
		w.policy.OwnAutoTidy = true
		asked := 0
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "DisableAutoTidy" {
				asked++
				if owned := w.record().AutoTidy; owned == nil || owned.Was.Interval != 6*hour || !owned.OffAt.IsZero() {
					t.Errorf("asked before the record has %+v", owned)
				}
			}
			return nil
		}
		begin := time.Now()
		tr := w.instance("pod-1")
		for range 20 {
			w.once(tr)
			time.Sleep(time.Minute)
		}
		owned := w.record().AutoTidy
		if asked != 1 || w.mount.Auto.Enabled || owned == nil {
			t.Fatalf("asked %d times, on %t, record %+v", asked, w.mount.Auto.Enabled, owned)
		}
		if !owned.Was.Enabled || owned.Was.SafetyBuffer != 100*hour || owned.At.Before(begin) || owned.OffAt.IsZero() || !strings.HasPrefix(owned.Holder, "pod-1/") || !strings.Contains(owned.Reason, "ownAutoTidy") {
			t.Errorf("record %+v", owned)
		}
		for _, f := range w.findings {
			if strings.HasPrefix(f.Rule, "tidy-auto-tidy") {
				t.Errorf("finding %+v", f)
			}
		}

		// Told no longer to own it, it says how to have it back; once it is, the
		// record forgets.
		w.policy.OwnAutoTidy = false
		tr = w.instance("pod-2")
		w.once(tr)
		if len(w.findings) != 1 || w.findings[0].Rule != "tidy-auto-tidy-off" || !strings.Contains(w.findings[0].Remedy, "vault write pki/config/auto-tidy enabled=true") {
			t.Errorf("findings %+v", w.findings)
		}
		w.vault.Change(func(_ *pki.Health, _ []*tidiertest.Mount) { w.mount.Auto.Enabled = true })
		time.Sleep(10 * time.Minute)
		w.once(tr)
		if w.record().AutoTidy != nil || !w.mount.Auto.Enabled || asked != 1 {
			t.Errorf("record %+v, on %t, asked %d times", w.record().AutoTidy, w.mount.Auto.Enabled, asked)
		}
	})
}

func TestAutoTidyIsLeftAlone(t *testing.T) {
	tests := []struct {
		name   string
		change func(*world)
	}{
		{"not configured", func(w *world) { w.policy.OwnAutoTidy = false }},
		{"tidy is off", func(w *world) { w.policy.Enabled = false }},
		{"it does more", func(w *world) { w.mount.Auto.Also = []string{"tidy_expired_issuers"} }},
		{"it tidies certificates too", func(w *world) { w.mount.Auto.CertStore = true }},
		{"a run is on", func(w *world) {
			w.mount.Pace = hour
			if _, err := w.vault.StartTidy(w.t.Context(), w.mount.Mount, pki.TidyParams{SafetyBuffer: 72 * hour}); err != nil {
				w.t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, itsOwn)
				w.policy.OwnAutoTidy = true
				tt.change(w)
				w.once(w.instance("pod-1"))
				if !w.mount.Auto.Enabled || w.record().AutoTidy != nil {
					t.Errorf("on %t, record %+v", w.mount.Auto.Enabled, w.record().AutoTidy)
				}
			})
		})
	}
}

// A missing right is a finding that names it, runs go on, and once it is granted
// the mount is owned. What the record says meanwhile is no finding.
func TestAutoTidyWithoutTheRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, itsOwn)
		w.policy.OwnAutoTidy = true
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "DisableAutoTidy" {
				return &pki.PermissionError{Path: "pki/config/auto-tidy", Capability: "update"}
			}
			return nil
		}
		tr := w.instance("pod-1")
		w.once(tr)
		w.once(tr)
		if len(w.findings) != 1 || w.findings[0].Rule != "tidy-permission" || !strings.Contains(w.findings[0].Remedy, `path "pki/config/auto-tidy" { capabilities = ["update"] }`) {
			t.Errorf("findings %+v", w.findings)
		}
		if w.mount.Runs != 1 || !w.mount.Auto.Enabled {
			t.Errorf("%d runs, on %t", w.mount.Runs, w.mount.Auto.Enabled)
		}
		w.vault.Before = nil
		w.once(tr)
		if w.mount.Auto.Enabled || w.record().AutoTidy == nil || w.record().AutoTidy.OffAt.IsZero() {
			t.Errorf("on %t, record %+v", w.mount.Auto.Enabled, w.record().AutoTidy)
		}
	})
}

// A lost answer leaves it to the next look.
func TestAutoTidyAnswerLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, itsOwn)
		w.policy.OwnAutoTidy = true
		lost := errors.New("connection reset")
		w.vault.After = func(op string, _ pki.Mount) error {
			if op == "DisableAutoTidy" {
				return lost
			}
			return nil
		}
		tr := w.instance("pod-1")
		if err := tr.Once(t.Context()); !errors.Is(err, lost) {
			t.Errorf("%v", err)
		}
		w.vault.After = nil
		time.Sleep(10 * time.Minute)
		w.once(tr)
		if owned := w.record().AutoTidy; w.mount.Auto.Enabled || owned == nil || !owned.Was.Enabled {
			t.Errorf("on %t, record %+v", w.mount.Auto.Enabled, owned)
		}
	})
}

// Tidying nothing is said, unless the CRL watch says the same already.
func TestNoMount(t *testing.T) {
	tests := []struct {
		name     string
		none     bool // Vault shows none
		patterns []string
		watched  []string
		says     string // "": no finding
	}{
		{"none selected", false, []string{"pkii", "!x"}, nil, `tidy.mounts ["pkii" "!x"] selects none of the 1 PKI mounts that Vault shows: pki`},
		{"none selected, others watched", false, []string{"pkii"}, []string{"*"}, "selects none"},
		{"none selected, none watched either", false, []string{"pkii"}, []string{"pkii"}, ""},
		{"none shown", true, nil, nil, "Vault shows no PKI mount"},
		{"none shown, which the watch says", true, nil, []string{"*"}, ""},
		{"selected", false, []string{"pk*"}, []string{"*"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if tt.none {
					v, err := tidiertest.New(time.Now)
					if err != nil {
						t.Fatal(err)
					}
					w.vault = v
				}
				var found []pki.Finding
				tr, err := tidier.New(tidier.Options{
					Vault: w.vault, CRLs: w.vault, State: w.state, Policy: w.policy, Mounts: tt.patterns, Watched: tt.watched,
					Report: func(f []pki.Finding) { found = f },
				})
				if err != nil {
					t.Fatal(err)
				}
				w.once(tr)
				if tt.says == "" {
					if len(found) != 0 {
						t.Errorf("findings %+v", found)
					}
				} else if len(found) != 1 || found[0].Rule != "tidy-no-mount" || found[0].Severity != pki.Unknown || !strings.Contains(found[0].Evidence, tt.says) {
					t.Errorf("findings %+v", found)
				}
				_, err = tr.Tidy(t.Context(), tidier.Request{})
				if none := tt.none || tt.name != "selected"; errors.Is(err, tidier.ErrNoMount) != none {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// What Vault counts is said once, whatever the number of mounts.
func TestLeasesAreSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var found []pki.Finding
		v, _, tr := cluster(t, 3, func(o *tidier.Options) { o.Report = func(f []pki.Finding) { found = f } })
		v.Counted = pki.Leases{Total: 150_000, Irrevocable: 2}
		if err := tr.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(found) != 2 || found[0].Rule != "vault-lease-backlog" || found[1].Rule != "vault-irrevocable-leases" {
			t.Errorf("findings %+v", found)
		}
	})
}
