package k8scsr

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// finding is the only one of a rule.
func (w *world) finding(rule string) Finding {
	w.t.Helper()
	all := Findings(w.State, w.want, w.now)
	of := slices.DeleteFunc(slices.Clone(all), func(f Finding) bool { return f.Rule != rule })
	if len(of) != 1 {
		w.t.Fatalf("%d findings %s in %+v", len(of), rule, all)
	}
	return of[0]
}

// The remedy for a certificate that is needed is what it waits for, and points
// to other findings only where there are some.
func TestRemedyIsThere(t *testing.T) {
	const others = "see the other findings of this certificate for what keeps its renewal from completing"
	for _, tt := range []struct {
		name         string
		given        func(*world)
		rule, remedy string
	}{
		{"the first one awaits approval", func(w *world) { w.request(time.Minute); w.want.Approve = false }, RuleMissing,
			"request pkiwarden-x awaits approval: look at it and approve it: kubectl certificate approve pkiwarden-x; or set approve: true to have it approved on an exact match"},
		{"it awaits approval for long", func(w *world) { w.request(time.Hour); w.want.Approve = false }, RuleMissing, others},
		{"it awaits its certificate", func(w *world) { w.request(time.Minute); w.Request.Approved = true }, RuleMissing,
			"request pkiwarden-x is approved; signer ca.example/serving has not answered yet"},
		{"it is about to be asked for", func(*world) {}, RuleMissing, "it is being asked for: there is no certificate yet"},
		{"it failed", func(w *world) { w.fail(RuleDenied, "denied") }, RuleMissing, others},
		{"an earlier request is open", func(w *world) { w.request(time.Minute); w.orphan(); w.want.Approve = false }, RuleMissing,
			"request pkiwarden-x is no longer wanted, but still open: kubectl certificate deny pkiwarden-x"},
		{"an obstacle", func(w *world) { w.Obstacles = []Finding{{Rule: RuleSecretType, Summary: "wrong type"}} }, RuleMissing, others},
		{"no trust explains nothing", func(w *world) { w.Trust = Trust{} }, RuleMissing, "it is being asked for: there is no certificate yet"},
		{"expired, approved by us", func(w *world) { w.live(25 * time.Hour); w.request(0) }, RuleExpired,
			"it is being asked for: request pkiwarden-x is exactly what is wanted"},
		{"its window is closed", func(w *world) { w.live(19 * time.Hour); w.want.Windows = nightly{time.Tuesday} }, RuleOverdue,
			"wait for its window (good until 2026-03-01T17:00:00Z, renewal begins 2026-03-01T14:36:00Z, when it becomes critical, since no window opens before), or ask for it now: pkiwarden renew vault-server"},
		{"paused", func(w *world) { w.want.Paused = true }, RuleMissing, "set paused: false, since nothing renews it while it is paused"},
	} {
		w := newWorld(t)
		tt.given(w)
		if f := w.finding(tt.rule); f.Remedy != tt.remedy {
			t.Errorf("%s: remedy\n%s\nwant\n%s", tt.name, f.Remedy, tt.remedy)
		}
		if all := Findings(w.State, w.want, w.now); tt.remedy == others && len(all) < 2 {
			t.Errorf("%s: it points to other findings, and there are none: %+v", tt.name, all)
		}
	}
}

// While the next attempt is under way the earlier failure stays told, but what
// there is to do is about now; and no time is made up.
func TestFailureWhileTheNextAttemptIsUnderWay(t *testing.T) {
	again := func(w *world) {
		failure := Failure{Rule: RuleCollected, Summary: "request pkiwarden-w was removed", At: w.now.Add(-10 * time.Minute), Wanted: w.want.Fingerprint()}
		w.Pending.Failures, w.Pending.LastFailure = 2, &failure
	}
	const advice = "a request lives an hour once answered, a day while it waits: keep pkiwarden running, or approve sooner"
	for _, tt := range []struct {
		name             string
		given            func(*world)
		evidence, remedy string
	}{
		{"it awaits approval", func(w *world) { w.live(17 * time.Hour); w.request(time.Minute); w.want.Approve = false; again(w) },
			"2 in a row, the last at 2026-03-01T11:50:00Z, the next attempt is under way: request pkiwarden-x",
			"request pkiwarden-x awaits approval: look at it and approve it: kubectl certificate approve pkiwarden-x; or set approve: true to have it approved on an exact match; if it ends as the one before: " + advice},
		{"it awaits its certificate", func(w *world) {
			w.live(17 * time.Hour)
			w.request(time.Minute)
			w.Request.Approved = true
			again(w)
		}, "2 in a row, the last at 2026-03-01T11:50:00Z, the next attempt is under way: request pkiwarden-x",
			"request pkiwarden-x is approved; signer ca.example/serving has not answered yet; if it ends as the one before: " + advice},
		{"the one after it was abandoned", func(w *world) {
			w.live(17 * time.Hour)
			w.pending(0)
			again(w)
			w.Pending = Pending{Record: w.Pending.abandon(w.now)}
		}, "2 in a row, the last at 2026-03-01T11:50:00Z, the next attempt is due", advice},
		{"a record without its moment", func(w *world) {
			w.live(17 * time.Hour)
			w.Pending.LastFailure = &Failure{Rule: RuleCollected, Summary: "gone", Wanted: w.want.Fingerprint()}
			w.Pending.Failures = 1
		}, "1 in a row, the next attempt is due", advice},
	} {
		w := newWorld(t)
		tt.given(w)
		if f := w.finding(RuleCollected); f.Evidence != tt.evidence || f.Remedy != tt.remedy {
			t.Errorf("%s:\n%s\n%s\nwant\n%s\n%s", tt.name, f.Evidence, f.Remedy, tt.evidence, tt.remedy)
		}
		for _, f := range Findings(w.State, w.want, w.now) {
			if strings.Contains(f.Summary+f.Evidence+f.Remedy, "0001-01-01") {
				t.Errorf("%s: a time that is none: %+v", tt.name, f)
			}
		}
	}
}
