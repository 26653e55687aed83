package tidier_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// What holds a run back for a while does not keep a dry run from saying what it
// would give: reading certificates is no run. Where Vault is not fit to be asked,
// it says so.
func TestDryRunOfWhatIsHeldBack(t *testing.T) {
	const settling = "Vault's active node was elected at 2000-01-01T00:01:00Z; it is left to settle for 2m0s; apart from that "
	tests := []struct {
		name   string
		change func(*world)
		reason string
		reads  bool // certificates
	}{
		{"settling, and due", func(w *world) {
			w.health(func(h *pki.Health) { h.ActiveSince = time.Now() })
		}, settling + "a run is due: at least 300 of 400 entries (75 %) are reclaimable, the threshold is 20 %", true},
		{"settling, and not due", func(w *world) {
			w.policy.Trigger = pki.Trigger{ReclaimableShare: 0.9}
			w.health(func(h *pki.Health) { h.ActiveSince = time.Now() })
		}, settling + "nothing makes a run due: 300 of 400 entries are reclaimable", true},
		{"settling, and outside the windows", func(w *world) {
			w.policy.Windows = []pki.Window{{From: 2 * hour, To: 3 * hour, Location: time.UTC}}
			w.health(func(h *pki.Health) { h.ActiveSince = time.Now() })
		}, settling + "at least 300 of 400 entries (75 %) are reclaimable, the threshold is 20 %; held back until then: outside the windows of tidy.windows, the next of which opens at 2000-01-01T02:00:00Z", true},
		{"a standby", func(w *world) {
			w.health(func(h *pki.Health) { h.Standby = true })
		}, "only a standby answers, and it knows of no active node; what a run would take off is not estimated, for which the active node is asked", false},
		{"a tidy of certificates only", func(w *world) {
			w.mount.Pace = hour
			if _, err := w.vault.StartTidy(w.t.Context(), w.mount.Mount, pki.TidyParams{CertStore: true, SafetyBuffer: 72 * hour}); err != nil {
				w.t.Fatal(err)
			}
		}, "a tidy that leaves revocations alone is on since 2000-01-01T00:01:00Z, and was not started here; apart from that a run is due: at least 300 of 400 entries (75 %) are reclaimable, the threshold is 20 %", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				tt.change(w)
				reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{DryRun: true, Wait: true})
				if err != nil || len(reports) != 1 || reports[0].Reason != tt.reason {
					t.Errorf("report %s, %v\nwant %s", form(t, reports), err, tt.reason)
				}
				if read := w.mount.Reads > 0; read != tt.reads {
					t.Errorf("%d certificates were read", w.mount.Reads)
				}
				if tt.reads && reports[0].Predicted.Reclaimable != 300 {
					t.Errorf("predicted %+v", reports[0].Predicted)
				}
			})
		})
	}
}

// A slow Vault is spared the reading of certificates, which a dry run says.
func TestDryRunOfASlowVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.policy.Enabled, w.sampleSize = false, 1 // no room to read any before
		w.usually(2*time.Millisecond, 800*time.Millisecond, time.Now().Add(30*time.Minute))
		tr := w.instance("pod-1")
		for range 35 {
			w.once(tr)
			time.Sleep(time.Minute)
		}
		reports, err := tr.Tidy(t.Context(), tidier.Request{DryRun: true})
		if err != nil || len(reports) != 1 || !strings.Contains(reports[0].Reason, "held back while Vault is overloaded: Vault answers small reads in 800ms") ||
			!strings.HasSuffix(reports[0].Reason, "; what is reclaimable is known less well, since no certificates are read of a slow Vault") {
			t.Errorf("report %s, %v", form(t, reports), err)
		}
	})
}

func (w *world) health(change func(*pki.Health)) {
	w.vault.Change(func(h *pki.Health, _ []*tidiertest.Mount) { change(h) })
}

// A dry run with a token that may only look says that Vault would refuse what
// is due, and what is missing.
func TestDryRunNamesMissingRights(t *testing.T) {
	const due = "dry run, a run is due: at least 300 of 400 entries (75 %) are reclaimable, the threshold is 20 %"
	const start = `; a run would be refused: the token lacks capability "update" on path "pki/tidy"`
	const rotate = `; after a run the CRL would not be rotated: the token lacks capability "read" on path "pki/crl/rotate"`
	tests := []struct {
		name   string
		change func(*world)
		reason string
	}{
		{"all rights", func(*world) {}, due},
		{"none", func(w *world) { w.vault.Denied = []string{"pki/tidy", "pki/crl/rotate"} }, due + start},
		{"no rotation by time", func(w *world) {
			w.vault.Denied = []string{"pki/crl/rotate"}
			w.mount.Config.AutoRebuild = true
		}, due + rotate},
		{"none, and rotation by time", func(w *world) {
			w.vault.Denied = []string{"pki/tidy", "pki/crl/rotate"}
			w.mount.Config.AutoRebuild = true
		}, due + start + rotate},
		{"rotation is switched off", func(w *world) {
			w.vault.Denied = []string{"pki/crl/rotate"}
			w.mount.Config.AutoRebuild, w.policy.Rotate = true, false
		}, due},
		{"not due", func(w *world) {
			w.vault.Denied, w.policy.Trigger = []string{"pki/tidy"}, pki.Trigger{}
		}, "nothing makes a run due: 300 of 400 entries are reclaimable" + start},
		{"may not ask", func(w *world) { w.vault.Silent = true },
			due + `; whether Vault would refuse a run is not known: permission denied: needs capability "update" on path "sys/capabilities-self"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				tt.change(w)
				reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{DryRun: true, Wait: true})
				if err != nil || len(reports) != 1 || reports[0].Reason != tt.reason {
					t.Errorf("report %s, %v\nwant %s", form(t, reports), err, tt.reason)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // only a dry run asks: a run is told
		w := newWorld(t)
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "Capabilities" {
				t.Error("asked for capabilities")
			}
			return nil
		}
		if _, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true}); err != nil {
			t.Error(err)
		}
	})
}
