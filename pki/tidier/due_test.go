package tidier_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// shortLived is a mount with a short buffer whose role allows a month, and of
// which 30 certificates that live for some minutes are revoked once it has been
// looked at.
func shortLived(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, func(m *tidiertest.Mount) {
		m.LongestTTL = pki.LongestTTL{Duration: 720 * hour, Source: "max_ttl of role web"}
		m.Revoked = nil
		m.Revoke(20, time.Now().Add(-hour), time.Now().Add(1000*hour))
	})
	w.policy.SafetyBuffer, w.policy.AllowShortSafetyBuffer = 2*time.Second, true
	w.policy.Trigger = pki.Trigger{ReclaimableEntries: 25, AtLeastEvery: 168 * hour}
	w.policy.MinInterval = time.Second
	return w
}

func (w *world) revoke(n int, lives time.Duration) {
	w.t.Helper()
	w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
		mounts[0].Revoke(n, time.Now(), time.Now().Add(lives))
	})
	if err := w.vault.Rotate(w.t.Context(), w.mount.Mount); err != nil {
		w.t.Fatal(err)
	}
}

// What is revoked between two looks is looked into as soon as it may make a run
// due, which then begins within two minutes of that; before that it is foretold.
func TestRunOfShortLivedCertificatesIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := shortLived(t)
		w.watched()
		tr := w.instance("pod-1")
		for range 3 {
			w.once(tr)
			time.Sleep(time.Minute)
		}
		if w.mount.Runs > 1 { // one is wanted at first
			t.Fatalf("%d runs", w.mount.Runs)
		}
		began := w.mount.Runs
		w.revoke(30, 10*time.Minute)
		due := time.Now().Add(10*time.Minute + 2*time.Second)
		foretold := false
		for w.mount.Runs == began && time.Now().Before(due.Add(20*time.Minute)) {
			w.once(tr)
			if next := time.UnixMilli(int64(1000 * w.value("pkiwarden_tidy_next_timestamp_seconds", "pki"))); w.mount.Runs == began && next.Sub(due).Abs() < time.Minute {
				foretold = true
			}
			time.Sleep(time.Minute)
		}
		if late := w.mount.Status.StartedAt.Sub(due); w.mount.Runs != began+1 || late > 2*time.Minute || late < 0 {
			t.Errorf("%d runs, the last %s late", w.mount.Runs, late)
		}
		if !foretold {
			t.Error("it was not foretold")
		}
	})
}

// watched makes the lists' latest measurement known at each look, as the watch
// beside a running instance does.
func (w *world) watched() { w.vault.Watched = true }

// While nothing is revoked, nothing is read in vain, however little is known.
func TestNoListIsReadForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := shortLived(t)
		w.watched()
		w.mount.Revoke(5, time.Now().Add(-hour), time.Now().Add(1000*hour))
		if err := w.vault.Rotate(t.Context(), w.mount.Mount); err != nil {
			t.Fatal(err)
		}
		tr := w.instance("pod-1")
		w.once(tr)
		read := 0
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "Entries" || op == "Certificate" {
				read++
			}
			return nil
		}
		for range 60 {
			time.Sleep(time.Minute)
			w.once(tr)
		}
		if read > 0 {
			t.Errorf("%d reads in a quiet hour", read)
		}
	})
}
