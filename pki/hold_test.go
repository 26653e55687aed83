package pki_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// now is a Sunday, at noon.
func TestPlanByForecastWindowsAndLoad(t *testing.T) {
	ca := newAuthority(t, "root")
	ripe := ca.list(t, 0, 0, batch{300, 200 * hour}, batch{700, hour})
	few := ca.list(t, 0, 0, batch{10, 200 * hour}, batch{990, hour})
	fresh := ca.list(t, 0, 0, batch{1000, hour})
	empty := ca.list(t, 0, 0)
	full := ca.list(t, 0, 48_000, batch{300, 200 * hour}, batch{700, hour}) // 39 kB of 48: 81 %
	reaching := func(list pki.CRL, in time.Duration) []pki.CRL {
		list.Projection = crl.Projection{LimitReachedAt: now.Add(in)}
		return []pki.CRL{list}
	}
	other := fresh
	other.Summary.RawIssuer, other.Projection = []byte("another"), crl.Projection{LimitReachedAt: now.Add(days)}

	night := []pki.Window{{From: 2 * hour, To: 5 * hour}}
	noon := []pki.Window{{Days: []time.Weekday{time.Sunday}, From: 11 * hour, To: 13 * hour}}
	weekdays := []pki.Window{{Days: []time.Weekday{time.Wednesday}, From: 22 * hour, To: 4 * hour}}
	type change = func(*pki.Observation, *pki.Policy)
	horizon := func(_ *pki.Observation, p *pki.Policy) { p.Trigger.Horizon = 336 * hour }
	in := func(windows []pki.Window, more ...change) change {
		return func(o *pki.Observation, p *pki.Policy) {
			p.Windows, p.Critical = windows, pki.Pressure{Share: 0.8, Horizon: 72 * hour}
			for _, f := range more {
				f(o, p)
			}
		}
	}
	ignoring := func(_ *pki.Observation, p *pki.Policy) { p.IgnoreWindowsWhenCritical = true }
	ended := func(ago time.Duration) change {
		return func(o *pki.Observation, _ *pki.Policy) { o.Status.FinishedAt = now.Add(-ago) }
	}
	force := func(_ *pki.Observation, p *pki.Policy) { p.Force = true }
	load := func(usual, present time.Duration) change {
		return func(o *pki.Observation, _ *pki.Policy) { o.Load = pki.Load{Usual: usual, Now: present} }
	}

	tests := []struct {
		name    string
		lists   []pki.CRL
		change  change
		verdict pki.Verdict
		reason  string
		until   string // "": none
	}{
		{"limit within the horizon", reaching(few, 10*days), horizon, pki.RunNow, "root reaches the storage's limit at 2026-03-11T12:00:00Z, as it grows now, the threshold is 336h0m0s; 10 of 1000 entries", ""},
		{"limit beyond the horizon", reaching(few, 15*days), horizon, pki.Wait, "nothing makes a run due", "2026-03-06T12:00:00Z"},
		{"no horizon", reaching(few, 10*days), nil, pki.Wait, "nothing makes a run due", "2026-03-06T12:00:00Z"},
		{"limit never reached", []pki.CRL{few}, horizon, pki.Wait, "nothing makes a run due", "2026-03-06T12:00:00Z"},
		{"limit passed", func() []pki.CRL {
			l := reaching(few, -days)
			l[0].Projection.Passed = true
			return l
		}(), horizon, pki.RunNow, "is over its limit since 2026-02-28T12:00:00Z", ""},
		{"limit within the horizon, nothing reclaimable", reaching(fresh, 10*days), horizon, pki.CannotHelp, "reaches the storage's limit at 2026-03-11T12:00:00Z, as it grows now, and nothing in it was revoked", "2026-03-04T11:00:00Z"},
		{"limit within the horizon, of an empty list", reaching(empty, 10*days), horizon, pki.CannotHelp, "has no entry to reclaim", ""},
		{"another list presses, and cannot be helped", []pki.CRL{few, other}, horizon, pki.CannotHelp, "reaches the storage's limit at 2026-03-02T12:00:00Z", "2026-03-04T11:00:00Z"},

		{"inside a window", []pki.CRL{ripe}, in(noon), pki.RunNow, "30 %", ""},
		{"outside every window", []pki.CRL{ripe}, in(night), pki.Wait, "30 %) are reclaimable, the threshold is 20 %; held back until then: outside the windows of tidy.windows, the next of which opens at 2026-03-02T02:00:00Z", "2026-03-02T02:00:00Z"},
		{"inside one of two", []pki.CRL{ripe}, in(append(night, noon...)), pki.RunNow, "30 %", ""},
		{"over midnight, days later", []pki.CRL{ripe}, in(weekdays), pki.Wait, "opens at 2026-03-04T22:00:00Z", "2026-03-04T22:00:00Z"},
		{"forced outside", []pki.CRL{ripe}, in(night, force), pki.RunNow, "outside the windows of tidy.windows, by force", ""},
		{"minimum interval ends within the window", []pki.CRL{ripe}, in(noon, ended(30*time.Minute)), pki.Wait, "held back until 2026-03-01T12:30:00Z", "2026-03-01T12:30:00Z"},
		{"minimum interval ends after the window", []pki.CRL{ripe}, in(noon, func(_ *pki.Observation, p *pki.Policy) { p.MinInterval = 2 * hour }, ended(30*time.Minute)), pki.Wait,
			"held back until 2026-03-01T13:30:00Z: the last run ended at 2026-03-01T11:30:00Z, and the minimum interval is 2h0m0s; and that is outside the windows of tidy.windows, the next of which opens at 2026-03-08T11:00:00Z", "2026-03-08T11:00:00Z"},
		{"not due: the next look is in a window", []pki.CRL{few}, in(night), pki.Wait, "nothing makes a run due", "2026-03-07T02:00:00Z"},
		{"cannot help: until a window", reaching(fresh, 10*days), in(night, horizon), pki.CannotHelp, "nothing in it", "2026-03-05T02:00:00Z"},
		{"no window ever", []pki.CRL{ripe}, in([]pki.Window{{From: 25 * hour, To: 26 * hour}}), pki.Wait, "none of which opens within three weeks", ""},

		{"critical, and windows hold", []pki.CRL{full}, in(night), pki.Wait, "outside the windows", "2026-03-02T02:00:00Z"},
		{"critical by share, and windows are ignored", []pki.CRL{full}, in(night, ignoring), pki.RunNow, "which tidy.ignoreWindowsWhenCritical allows", ""},
		{"critical by horizon, and windows are ignored", reaching(ripe, 71*hour), in(night, ignoring), pki.RunNow, "which tidy.ignoreWindowsWhenCritical allows", ""},
		{"not critical", reaching(ripe, 73*hour), in(night, ignoring), pki.Wait, "outside the windows", "2026-03-02T02:00:00Z"},
		{"critical, and the interval holds", []pki.CRL{full}, in(night, ignoring, ended(30*time.Minute)), pki.Wait, "; windows are ignored, since the CRL of issuer root is at 81.", "2026-03-01T12:30:00Z"},
		{"critical, and a run would take nothing off it", []pki.CRL{ripe, func() pki.CRL {
			l := other
			l.Projection.LimitReachedAt = now.Add(hour)
			return l
		}()}, in(night, ignoring, func(_ *pki.Observation, p *pki.Policy) { p.Trigger.ReclaimableEntries = 300 }), pki.Wait, "outside the windows", "2026-03-02T02:00:00Z"},

		{"overloaded", []pki.CRL{ripe}, load(20*time.Millisecond, 900*time.Millisecond), pki.Wait, "held back while Vault is overloaded: Vault answers small reads in 900ms, usually in 20ms", ""},
		{"overloaded, forced", []pki.CRL{ripe}, func(o *pki.Observation, p *pki.Policy) {
			load(20*time.Millisecond, 900*time.Millisecond)(o, p)
			p.Force = true
		}, pki.Wait, "overloaded", ""},
		{"slow as ever", []pki.CRL{ripe}, load(400*time.Millisecond, 900*time.Millisecond), pki.RunNow, "30 %", ""},
		{"slower, and fast enough", []pki.CRL{ripe}, load(time.Millisecond, 400*time.Millisecond), pki.RunNow, "30 %", ""},
		{"usual pace unknown", []pki.CRL{ripe}, load(0, time.Minute), pki.RunNow, "30 %", ""},
		{"overloaded, nothing due", []pki.CRL{few}, load(20*time.Millisecond, 900*time.Millisecond), pki.Wait, "nothing makes a run due", "2026-03-06T12:00:00Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, p := observation(tt.lists...), policy()
			if tt.change != nil {
				tt.change(&o, &p)
			}
			d := pki.Plan(o, p, now)
			if d.Verdict != tt.verdict || !strings.Contains(d.Reason, tt.reason) {
				t.Errorf("%s: %s\nwant %s: … %s …", d.Verdict, d.Reason, tt.verdict, tt.reason)
			}
			var until time.Time
			if tt.until != "" {
				until = utc(t, tt.until)
			}
			if !d.Until.Equal(until) {
				t.Errorf("until %s, want %s", d.Until, tt.until)
			}
		})
	}
}

// drawWindows are up to three windows, in places whose clocks change.
func drawWindows(t *testing.T, r *rand.Rand) []pki.Window {
	places := []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"}
	var windows []pki.Window
	for range r.IntN(4) {
		w := pki.Window{
			From: time.Duration(r.IntN(24)) * hour, To: time.Duration(1+r.IntN(24)) * hour,
			Location: location(t, places[r.IntN(len(places))]),
		}
		for d := range time.Weekday(7) {
			if r.IntN(2) == 0 {
				w.Days = append(w.Days, d)
			}
		}
		windows = append(windows, w)
	}
	return windows
}

// While a lot stays reclaimable, runs keep coming: through windows, failed runs,
// runs of others, elections and hours in which Vault is slow, and never outside
// the windows. Weeks are simulated, those in which the clocks change included.
func TestPlanEventuallyRunsWithinWindows(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "root")
	ripe := ca.list(t, 0, 0, batch{1000, 200 * hour})
	r := rand.New(rand.NewPCG(11, 12))
	const step = 13 * time.Minute
	for range fewer(40) {
		o, p := observation(ripe), policy()
		p.Windows = drawWindows(t, r)
		p.MinInterval = []time.Duration{0, hour, 12 * hour}[r.IntN(3)]
		p.Trigger.AtLeastEvery = []time.Duration{24 * hour, 168 * hour}[r.IntN(2)]
		start := []time.Time{now, time.Date(2026, 3, 22, 0, 0, 0, 0, time.UTC), time.Date(2026, 10, 18, 0, 0, 0, 0, time.UTC)}[r.IntN(3)]
		o.Status, o.Health.ActiveSince = &pki.TidyStatus{State: pki.TidyInactive}, start.Add(-days)
		last, runs := start, 0
		var slowUntil, otherUntil, ownUntil time.Time
		for at := start; at.Before(start.Add(42 * days)); at = at.Add(step) {
			switch r.IntN(200) {
			case 0:
				slowUntil = at.Add(time.Duration(r.IntN(60)) * time.Minute)
			case 1:
				otherUntil = at.Add(time.Duration(r.IntN(60)) * time.Minute)
			case 2:
				o.Health.ActiveSince = at
			}
			o.Load = pki.Load{Usual: 5 * time.Millisecond, Now: 6 * time.Millisecond}
			if at.Before(slowUntil) {
				o.Load.Now = time.Second
			}
			o.OtherRun = ""
			if at.Before(otherUntil) {
				o.OtherRun = "another"
			}
			if o.Record.Run != nil && !at.Before(ownUntil) {
				run := *o.Record.Run
				run.Outcome, run.StartedAt, run.EndedAt = pki.Outcomes[r.IntN(len(pki.Outcomes))], last, at
				if run.Outcome == pki.OutcomeOK {
					run.State = pki.RunFinished
				}
				o.Record = o.Record.Conclude(run)
			}
			d := pki.Plan(o, p, at)
			if d.Reason == "" {
				t.Fatalf("no reason for %s", d.Verdict)
			}
			if d.Verdict == pki.RunNow {
				open := len(p.Windows) == 0
				for _, w := range p.Windows {
					open = open || w.Open(at)
				}
				switch {
				case !open:
					t.Fatalf("run at %s, outside %v: %s", at, p.Windows, d.Reason)
				case o.Record.Run != nil || o.OtherRun != "" || o.Load.Now == time.Second:
					t.Fatalf("run at %s in spite of all: %s", at, d.Reason)
				}
				runs++
				last, ownUntil = at, at.Add(time.Duration(r.IntN(40))*time.Minute)
				o.Record.Run = &pki.Run{Step: pki.StepRunning, DecidedAt: at}
			}
			// The longest interval, then the next window, which a slow Vault, an
			// election or another's run may spoil: then the one after.
			if gap := at.Sub(last); gap > p.Trigger.AtLeastEvery+15*days {
				t.Fatalf("no run for %s with windows %v; now %s: %s", gap, p.Windows, d.Verdict, d.Reason)
			}
		}
		if runs == 0 {
			t.Errorf("no run in six weeks with windows %v", p.Windows)
		}
	}
}
