package pki_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

func TestPlan(t *testing.T) {
	ca := newAuthority(t, "root")
	ripe := ca.list(t, 0, 0, batch{300, 200 * hour}, batch{700, hour})         // 30 % surely reclaimable
	few := ca.list(t, 0, 0, batch{10, 200 * hour}, batch{990, hour})           // 1 %
	fresh := ca.list(t, 0, 0, batch{1000, hour})                               // none
	empty := ca.list(t, 0, 0)                                                  //
	fullRipe := ca.list(t, 0, 60_000, batch{10, 200 * hour}, batch{990, hour}) // 39 kB of 60 kB
	fullFresh := ca.list(t, 0, 60_000, batch{1000, hour})

	tests := []struct {
		name    string
		lists   []pki.CRL
		change  func(*pki.Observation, *pki.Policy)
		verdict pki.Verdict
		reason  string    // is part of it
		until   time.Time // zero: none
	}{
		{"share", []pki.CRL{ripe}, nil, pki.RunNow, "at least 300 of 1000 entries (30 %) are reclaimable, the threshold is 20 %", time.Time{}},
		{"count", []pki.CRL{few}, func(_ *pki.Observation, p *pki.Policy) { p.Trigger.ReclaimableEntries = 10 }, pki.RunNow, "at least 10 entries", time.Time{}},
		{"disabled decides alike", []pki.CRL{ripe}, func(_ *pki.Observation, p *pki.Policy) { p.Enabled = false }, pki.RunNow, "30 %", time.Time{}},
		{"auto-tidy is postponed", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) {
			o.AutoTidy = &pki.AutoTidy{Enabled: true, Interval: 12 * hour}
		}, pki.RunNow, "the run postpones the mount's own auto-tidy, which is due every 12h0m0s", time.Time{}},
		{"below thresholds", []pki.CRL{few}, nil, pki.Wait, "nothing makes a run due: 10 of 1000 entries are reclaimable", now.Add(5 * days)},
		{"nothing reclaimable", []pki.CRL{fresh}, nil, pki.Wait, "none of 1000 entries", now.Add(5 * days)},
		{"no entries", []pki.CRL{empty}, nil, pki.Wait, "no CRL has an entry", now.Add(5 * days)},
		{"limit share", []pki.CRL{fullRipe}, nil, pki.RunNow, "root is at 65.", time.Time{}},
		{"limit share, nothing reclaimable", []pki.CRL{fullFresh}, nil, pki.CannotHelp, "the first entry is reclaimable at 2026-03-04T11:00:00Z at the earliest", now.Add(71 * hour)},
		{"limit unknown", []pki.CRL{few}, func(_ *pki.Observation, p *pki.Policy) { p.Trigger.LimitShare = 0.0001 }, pki.Wait, "nothing makes a run due", now.Add(5 * days)},
		{"forced", []pki.CRL{fresh}, func(_ *pki.Observation, p *pki.Policy) { p.Force = true }, pki.RunNow, "forced; none of 1000", time.Time{}},

		{"longest pause", []pki.CRL{fresh}, func(o *pki.Observation, _ *pki.Policy) { o.Status.FinishedAt = now.Add(-7 * days) }, pki.RunNow, "at least every 168h", time.Time{}},
		{"longest pause, not of a run without revocations", []pki.CRL{few}, func(o *pki.Observation, _ *pki.Policy) { o.Status.RevokedCerts = false }, pki.RunNow, "no run is known", time.Time{}},
		{"no run known, nothing reclaimable", []pki.CRL{fresh}, func(o *pki.Observation, _ *pki.Policy) { o.Status = &pki.TidyStatus{State: pki.TidyInactive} }, pki.Wait, "none of 1000", now.Add(4 * days)},
		{"no run known, watched for long", []pki.CRL{fresh}, func(o *pki.Observation, _ *pki.Policy) {
			o.Status = &pki.TidyStatus{State: pki.TidyInactive}
			o.Record.WatchedSince = now.Add(-7 * days)
		}, pki.RunNow, "at least every 168h", time.Time{}},
		{"no thresholds", []pki.CRL{ripe}, func(_ *pki.Observation, p *pki.Policy) { p.Trigger = pki.Trigger{} }, pki.Wait, "300 of 1000", time.Time{}},

		{"longest TTL unknown", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.LongestTTL = pki.LongestTTL{} }, pki.Wait, "at most 300 of 1000 entries are reclaimable (no lower bound", now.Add(5 * days)},

		{"minimum interval", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Status.FinishedAt = now.Add(-20 * time.Minute) }, pki.Wait, "held back until 2026-03-01T12:40:00Z: the last run ended at 2026-03-01T11:40:00Z", now.Add(40 * time.Minute)},
		{"minimum interval, forced", []pki.CRL{ripe}, func(o *pki.Observation, p *pki.Policy) {
			o.Status.FinishedAt, p.Force = now.Add(-20*time.Minute), true
		}, pki.Wait, "forced", now.Add(40 * time.Minute)},
		{"minimum interval, from the record", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) {
			o.Record.History = []pki.Run{{Outcome: pki.OutcomeOK, State: pki.RunFinished, EndedAt: now.Add(-10 * time.Minute)}}
		}, pki.Wait, "held back", now.Add(50 * time.Minute)},
		{"vain runs lengthen it", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) {
			o.Record.History = []pki.Run{
				{Outcome: pki.OutcomeNoEffect, EndedAt: now.Add(-9 * hour)},
				{Outcome: pki.OutcomeOK, EndedAt: now.Add(-6 * hour)},
				{Outcome: pki.OutcomeFailed, EndedAt: now.Add(-4 * hour)},
				{Outcome: pki.OutcomeNoEffect, EndedAt: now.Add(-hour)},
			}
		}, pki.Wait, "lengthened to 4h0m0s by runs that achieved nothing (2)", now.Add(3 * hour)},
		{"a refusal holds back and lengthens nothing", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) {
			o.Record.History = []pki.Run{{Outcome: pki.OutcomeRefused, EndedAt: now.Add(-2 * hour)}, {Outcome: pki.OutcomeRefused, EndedAt: now.Add(-10 * time.Minute)}}
		}, pki.Wait, "held back", now.Add(50 * time.Minute)},
		{"a refusal, and somebody asks", []pki.CRL{ripe}, func(o *pki.Observation, p *pki.Policy) {
			p.Asked = true
			o.Record.History = []pki.Run{{Outcome: pki.OutcomeRefused, EndedAt: now.Add(-time.Minute)}}
		}, pki.RunNow, "30 %", time.Time{}},
		{"a run that never began does not count", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) {
			o.Record.History = []pki.Run{{Outcome: pki.OutcomeInterrupted, EndedAt: now.Add(-time.Minute)}}
		}, pki.RunNow, "30 %", time.Time{}},

		{"unreachable", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health = pki.Health{Unreachable: "refused"} }, pki.Wait, "Vault does not answer: refused", time.Time{}},
		{"not initialized", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health.Initialized = false }, pki.Wait, "not initialized", time.Time{}},
		{"sealed", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health.Sealed = true }, pki.Wait, "sealed", time.Time{}},
		{"standby", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health.Standby = true }, pki.Wait, "the active node is https://a:8200", time.Time{}},
		{"standby without an active node", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health.Standby, o.Health.ActiveAddress = true, "" }, pki.Wait, "no active node", time.Time{}},
		{"just elected", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health.ActiveSince = now.Add(-time.Minute) }, pki.Wait, "settle", now.Add(time.Minute)},
		{"elected in our future", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health.ActiveSince = now.Add(hour) }, pki.Wait, "settle", now.Add(2 * time.Minute)},
		{"settling for longer", []pki.CRL{ripe}, func(o *pki.Observation, p *pki.Policy) {
			o.Health.ActiveSince, p.Settle = now.Add(-4*time.Minute), 5*time.Minute
		}, pki.Wait, "settle for 5m0s", now.Add(time.Minute)},
		{"just elected, forced", []pki.CRL{ripe}, func(o *pki.Observation, p *pki.Policy) {
			o.Health.ActiveSince, p.Force = now, true
		}, pki.RunNow, "forced", time.Time{}},
		{"settled", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health.ActiveSince = now.Add(-2 * time.Minute) }, pki.RunNow, "30 %", time.Time{}},
		{"no high availability", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Health.ActiveSince = time.Time{} }, pki.RunNow, "30 %", time.Time{}},

		{"status unreadable", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Status = nil }, pki.Wait, "a run may be on", time.Time{}},
		{"somebody's run", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.Status.State = pki.TidyRunning }, pki.Follow, "not started here", time.Time{}},
		{"somebody's run, being cancelled, forced", []pki.CRL{ripe}, func(o *pki.Observation, p *pki.Policy) { o.Status.State, p.Force = pki.TidyCancelling, true }, pki.Follow, "not started here", time.Time{}},
		{"our record", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) {
			o.Record.Run = &pki.Run{Step: pki.StepDecided, Holder: "pod-1", Reason: "because", DecidedAt: now}
		}, pki.Follow, "step decided, held by pod-1: because", time.Time{}},
		{"another mount", []pki.CRL{ripe}, func(o *pki.Observation, _ *pki.Policy) { o.OtherRun = "team/pki" }, pki.Wait, "one mount at a time: a tidy is on in mount team/pki", time.Time{}},
		{"nothing measured", nil, func(o *pki.Observation, p *pki.Policy) { o.CRLs, p.Force = nil, true }, pki.Wait, "no CRL of the mount could be measured", time.Time{}},

		{"below the floor", []pki.CRL{ripe}, func(_ *pki.Observation, p *pki.Policy) { p.SafetyBuffer, p.Force = 23*hour, true }, pki.CannotHelp, "below the floor of 24h0m0s: lengthen tidy.safetyBuffer, or set tidy.allowShortSafetyBuffer: true", time.Time{}},
		{"hours between two entries", []pki.CRL{ripe}, func(_ *pki.Observation, p *pki.Policy) { p.Pause = 100 * hour }, pki.CannotHelp, "pause 100h0m0s is longer than 10s", time.Time{}},
		{"below the floor, allowed", []pki.CRL{ripe}, func(_ *pki.Observation, p *pki.Policy) {
			p.SafetyBuffer, p.AllowShortSafetyBuffer = time.Second, true
		}, pki.RunNow, "30 %", time.Time{}},
		{"zero policy", []pki.CRL{ripe}, func(_ *pki.Observation, p *pki.Policy) { *p = pki.Policy{Force: true} }, pki.CannotHelp, "safety buffer 0s", time.Time{}},
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
			if !d.Until.Equal(tt.until) {
				t.Errorf("until %s, want %s", d.Until, tt.until)
			}
		})
	}
}

// situation draws an observation and a policy, wild ones included.
func situation(t *testing.T, r *rand.Rand, lists []pki.CRL) (pki.Observation, pki.Policy, time.Time) {
	pick := func(of ...time.Duration) time.Duration { return of[r.IntN(len(of))] }
	o, p := observation(lists[r.IntN(len(lists))]), policy()
	at := now.Add(pick(0, time.Minute, hour, -hour, 3*days, 30*days))
	p.SafetyBuffer = pick(-hour, 0, time.Second, time.Minute, 23*hour, 24*hour, 72*hour, 25*hour+time.Millisecond)
	p.AllowShortSafetyBuffer = r.IntN(4) == 0
	p.Force = r.IntN(2) == 0
	p.MinInterval = pick(0, time.Minute, hour, days)
	p.Trigger.AtLeastEvery = pick(0, time.Minute, 168*hour)
	states := []pki.TidyState{pki.TidyInactive, pki.TidyRunning, pki.TidyCancelling, pki.TidyCancelled, pki.TidyFinished, pki.TidyError}
	o.Status.State = states[r.IntN(len(states))]
	o.Status.FinishedAt = at.Add(-pick(0, time.Second, 30*time.Minute, 2*hour, 8*days))
	if r.IntN(8) == 0 {
		o.Status = nil
	}
	if r.IntN(4) == 0 {
		o.Record.Run = &pki.Run{Step: pki.StepDecided, Deadline: at.Add(pick(-hour, hour))}
	}
	if r.IntN(4) == 0 {
		o.OtherRun = "other"
	}
	for range r.IntN(4) {
		o.Record.History = append(o.Record.History, pki.Run{
			Outcome:   pki.Outcomes[r.IntN(len(pki.Outcomes))],
			StartedAt: at.Add(-days),
			EndedAt:   at.Add(-pick(0, time.Minute, 2*hour, 10*days)),
		})
	}
	o.Health.Sealed, o.Health.Standby = r.IntN(8) == 0, r.IntN(8) == 0
	o.Health.ActiveSince = at.Add(-pick(-hour, 0, time.Minute, 3*time.Minute, days))
	if r.IntN(8) == 0 {
		o.LongestTTL = pki.LongestTTL{}
	}
	p.Windows, p.IgnoreWindowsWhenCritical = drawWindows(t, r), r.IntN(2) == 0
	p.Critical = pki.Pressure{Share: 0.8, Horizon: pick(0, 72*hour)}
	p.Trigger.Horizon = pick(0, 336*hour)
	if r.IntN(2) == 0 {
		o.CRLs[0].Projection = crl.Projection{LimitReachedAt: at.Add(pick(-hour, hour, 71*hour, 73*hour, 30*days))}
	}
	o.Load = pki.Load{Usual: pick(0, time.Millisecond, 200*time.Millisecond), Now: pick(0, time.Millisecond, 600*time.Millisecond)}
	return o, p, at
}

// permitted tells whether windows let a run begin at an instant: one is open, or
// a list that may shrink is critical and that is configured to be enough.
func permitted(o pki.Observation, p pki.Policy, at time.Time) bool {
	for _, w := range p.Windows {
		if w.Open(at) {
			return true
		}
	}
	list := o.CRLs[0]
	limit := list.Projection.LimitReachedAt
	critical := list.Limit.Known && float64(list.Summary.Bytes) >= 0.8*float64(list.Limit.MaxBytes) ||
		p.Critical.Horizon > 0 && !limit.IsZero() && limit.Before(at.Add(p.Critical.Horizon))
	return len(p.Windows) == 0 || p.Force || p.IgnoreWindowsWhenCritical && critical
}

// Whatever is observed and configured, a run is never started with a safety
// buffer below the floor, beside another run, in a Vault that is not well or got
// slow, before the minimum interval has passed, or outside the windows unless a
// list is critical and that is configured to be enough.
func TestPlanNeverRunsWhenItMustNot(t *testing.T) {
	ca := newAuthority(t, "root")
	lists := []pki.CRL{
		ca.list(t, 0, 0), ca.list(t, 0, 0, batch{50, 200 * hour}), ca.list(t, 0, 3000, batch{60, hour}),
		ca.list(t, 0, 3000, batch{30, 80 * hour}, batch{30, hour}),
	}
	r := rand.New(rand.NewPCG(1, 2))
	runs, outside := 0, 0
	for range fewer(150_000) {
		o, p, at := situation(t, r, lists)
		d := pki.Plan(o, p, at)
		if d.Reason == "" {
			t.Fatalf("no reason for %s", d.Verdict)
		}
		if d.Verdict != pki.RunNow {
			continue
		}
		runs++
		var wrong string
		switch {
		case p.SafetyBuffer < 24*hour && !p.AllowShortSafetyBuffer, p.SafetyBuffer < time.Second:
			wrong = "safety buffer " + p.SafetyBuffer.String()
		case o.Status == nil, o.Status.State == pki.TidyRunning, o.Status.State == pki.TidyCancelling, o.Record.Run != nil, o.OtherRun != "":
			wrong = "a run is or may be on"
		case o.Health.Sealed, o.Health.Standby, !p.Force && at.Sub(o.Health.ActiveSince) < 2*time.Minute:
			wrong = fmt.Sprintf("health %+v", o.Health)
		case o.Load.Usual == time.Millisecond && o.Load.Now == 600*time.Millisecond:
			wrong = "load"
		case !permitted(o, p, at):
			wrong = fmt.Sprint("windows ", p.Windows)
		case at.Sub(o.Status.FinishedAt) < p.MinInterval:
			wrong = "minimum interval " + p.MinInterval.String()
		}
		for _, run := range o.Record.History {
			if at.Sub(run.EndedAt) < p.MinInterval {
				wrong = "minimum interval " + p.MinInterval.String()
			}
		}
		if wrong != "" {
			t.Fatalf("run in spite of %s: %s", wrong, d.Reason)
		}
		if strings.Contains(d.Reason, "ignoreWindowsWhenCritical") {
			outside++
		}
	}
	if runs < fewer(1000) || outside < fewer(20) {
		t.Errorf("only %d of the situations made a run, %d outside the windows: the property was hardly tried", runs, outside)
	}
}

// While a lot stays reclaimable, runs keep coming, whatever came of those
// before: never further apart than the longest pause allowed.
func TestPlanEventuallyRuns(t *testing.T) {
	ca := newAuthority(t, "root")
	o := observation(ca.list(t, 0, 0, batch{1000, 200 * hour}))
	p := policy()
	p.MinInterval, p.Trigger.AtLeastEvery = hour, 24*hour
	r := rand.New(rand.NewPCG(3, 4))
	last, runs := now, 0
	for at := now; at.Before(now.Add(60 * days)); at = at.Add(10 * time.Minute) {
		d := pki.Plan(o, p, at)
		if d.Verdict == pki.RunNow {
			runs++
			last = at
			run := pki.Run{Outcome: pki.Outcomes[r.IntN(len(pki.Outcomes))], StartedAt: at, EndedAt: at.Add(5 * time.Minute)}
			o.Record = o.Record.Conclude(run)
		}
		if gap := at.Sub(last); gap > 24*hour+15*time.Minute {
			t.Fatalf("no run for %s; now: %s: %s", gap, d.Verdict, d.Reason)
		}
	}
	if runs < 60 || len(o.Record.History) != 20 {
		t.Errorf("%d runs in 60 days, %d remembered", runs, len(o.Record.History))
	}
}
