package pki

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Verdict is the kind of a Decision.
type Verdict string

// The verdicts of Plan.
const (
	RunNow     Verdict = "run"        // start a run now
	Follow     Verdict = "follow"     // a run is on: see it through, do not start one
	Wait       Verdict = "wait"       // not now
	CannotHelp Verdict = "cannotHelp" // a run is wanted and would achieve nothing, or must not be
)

// Decision is what to do about one mount now, and why, in words.
type Decision struct {
	Verdict   Verdict
	Reason    string
	Until     time.Time // Wait, CannotHelp: when that can change by the passing of time alone, windows included; zero: unknown
	Settling  bool      // Wait: only until a new active node has settled
	Idle      bool      // Wait: only since nothing makes a run due
	Estimate  Estimate
	Predicted Prediction
	Levers    []Lever // CannotHelp: what would
}

// Plan decides about one mount. It is a function of its arguments; acting on
// the decision is the caller's. A doubt is never a Run: what Plan would have
// to know and does not is a Wait with that as its reason.
//
// No policy makes Plan start a run beside another one, less than
// Policy.MinInterval after one, with a safety buffer that Policy.Validate
// refuses, on a Vault that got slow, or, unless forced, outside Policy.Windows
// without Policy.IgnoreWindowsWhenCritical.
func Plan(o Observation, p Policy, now time.Time) Decision {
	e := o.Sample.Estimate(o.CRLs, o.LongestTTL, p.SafetyBuffer, now)
	d := decide(o, p, e, now)
	d.Estimate, d.Predicted = e, e.Prediction()
	if d.Verdict == CannotHelp && p.Validate() == nil {
		d.Levers = Levers(o, p, e, now)
	}
	return d
}

// decide asks in the order of what must hold first: a sound policy, a settled
// Vault, no run anywhere, a measurement, a pause since the last run, a reason.
func decide(o Observation, p Policy, e Estimate, now time.Time) Decision {
	if err := p.Validate(); err != nil {
		return cannotHelp(time.Time{}, "refused: %v", err)
	}
	if d, held := holdForHealth(o.Health, p, now); held {
		return d
	}
	if d, held := holdForRuns(o); held {
		return d
	}
	if o.CRLs == nil {
		return wait(time.Time{}, "no CRL of the mount could be measured, so what a run would achieve is unknown")
	}
	if due, reason := trigger(o, p, e, now); !due {
		return notDue(o, p, e, reason, now)
	} else if at, why := held(o, p, e, now); why != "" {
		return wait(at, "%s; %s", reason, why)
	} else {
		return Decision{Verdict: RunNow, Reason: reason + outside(p, now) + postponed(o)}
	}
}

// notDue waits, or says that a run which is wanted would achieve nothing.
func notDue(o Observation, p Policy, e Estimate, reason string, now time.Time) Decision {
	if l, pressure := e.pressed(Pressure{p.Trigger.LimitShare, p.Trigger.Horizon}, now, isFresh); l != nil {
		return cannotHelp(p.opening(l.earliestAt(p.SafetyBuffer)), "the CRL of issuer %s %s, and %s",
			l.crl.Issuer.Label(), pressure, l.nothingYet(p))
	}
	d := wait(p.opening(nextLook(o, p)), "%s", reason)
	d.Idle = true
	return d
}

// opening is when a run may begin that is not due before at; zero where that is
// not known.
func (p Policy) opening(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return NextOpening(p.Windows, at)
}

// held tells what holds back a run that is due, and until when, as far as the
// passing of time alone ends it; "" where nothing does.
func held(o Observation, p Policy, e Estimate, now time.Time) (time.Time, string) {
	if slow, degraded := o.Load.Degraded(); degraded {
		return time.Time{}, "held back while Vault is overloaded: " + slow
	}
	at, why := earliest(o, p)
	early := now.Before(at)
	if early {
		why = fmt.Sprintf("held back until %s: %s", instant(at), why)
	} else {
		at, why = now, ""
	}
	if p.Force || len(p.Windows) == 0 {
		return at, why
	}
	opens := NextOpening(p.Windows, at)
	if opens.Equal(at) {
		return at, why
	}
	if l, pressure := e.pressed(p.Critical, now, mayShrink); p.IgnoreWindowsWhenCritical && l != nil {
		if early {
			why += fmt.Sprintf("; windows are ignored, since the CRL of issuer %s %s", l.crl.Issuer.Label(), pressure)
		}
		return at, why
	}
	window := fmt.Sprintf("outside the windows of tidy.windows, the next of which opens at %s", instant(opens))
	if opens.IsZero() {
		window = "outside the windows of tidy.windows, none of which opens within three weeks"
	}
	if early {
		return opens, why + "; and that is " + window
	}
	return opens, "held back until then: " + window
}

// outside says why a run begins outside the windows.
func outside(p Policy, now time.Time) string {
	switch {
	case NextOpening(p.Windows, now).Equal(now):
		return ""
	case p.Force:
		return "; outside the windows of tidy.windows, by force"
	}
	return "; outside the windows of tidy.windows, which tidy.ignoreWindowsWhenCritical allows"
}

// postponed says what a run does to the mount's own auto-tidy.
func postponed(o Observation) string {
	a := o.AutoTidy
	if a == nil || !a.Enabled {
		return ""
	}
	return fmt.Sprintf("; the run postpones the mount's own auto-tidy, which is due every %s (tidy.ownAutoTidy: true switches that off)", a.Interval)
}

// holdForHealth holds back while Vault is not there, sealed, not active, or
// newly elected.
func holdForHealth(h Health, p Policy, now time.Time) (Decision, bool) {
	switch {
	case h.Unreachable != "":
		return wait(time.Time{}, "Vault does not answer: %s", h.Unreachable), true
	case !h.Initialized:
		return wait(time.Time{}, "Vault is not initialized"), true
	case h.Sealed:
		return wait(time.Time{}, "Vault is sealed"), true
	case h.Standby && h.ActiveAddress != "":
		return wait(time.Time{}, "only a standby answers at the configured address; the active node is %s: set vault.address to the active node's Service", h.ActiveAddress), true
	case h.Standby:
		return wait(time.Time{}, "only a standby answers, and it knows of no active node"), true
	}
	if h.ActiveSince.IsZero() || p.Force {
		return Decision{}, false
	}
	settle := cmp.Or(p.Settle, SettleTime)
	since := h.ActiveSince
	if since.After(now) { // Vault's clock is ahead of ours
		since = now
	}
	if until := since.Add(settle); now.Before(until) {
		d := wait(until, "Vault's active node was elected at %s; it is left to settle for %s", instant(h.ActiveSince), settle)
		d.Settling = true
		return d, true
	}
	return Decision{}, false
}

// holdForRuns holds back while a run is on or may be on.
func holdForRuns(o Observation) (Decision, bool) {
	if run := o.Record.Run; run != nil {
		if run.Foreign {
			return Decision{Verdict: Follow, Reason: fmt.Sprintf("a tidy that was not started here is followed since %s, at step %s, by %s",
				instant(run.DecidedAt), run.Step, run.Holder)}, true
		}
		return Decision{Verdict: Follow, Reason: fmt.Sprintf("a run decided at %s is at step %s, held by %s: %s",
			instant(run.DecidedAt), run.Step, run.Holder, run.Reason)}, true
	}
	switch {
	case o.Status == nil:
		return wait(time.Time{}, "tidy-status could not be read, so a run may be on"), true
	case o.Status.State.Active() && !o.Status.RevokedCerts:
		return wait(time.Time{}, "a tidy that leaves revocations alone is on since %s, and was not started here", instant(o.Status.StartedAt)), true
	case o.Status.State.Active():
		return Decision{Verdict: Follow, Reason: fmt.Sprintf("a tidy that was not started here is on since %s", instant(o.Status.StartedAt))}, true
	case o.OtherRun != "":
		return wait(time.Time{}, "one mount at a time: a tidy is on in mount %s", o.OtherRun), true
	}
	return Decision{}, false
}

// trigger tells whether a run is due, and why or why not.
func trigger(o Observation, p Policy, e Estimate, now time.Time) (bool, string) {
	t := p.Trigger
	if p.Force {
		return true, fmt.Sprintf("forced; %s", e.words())
	}
	if sure := e.Sure(); t.ReclaimableEntries > 0 && sure >= t.ReclaimableEntries {
		return true, fmt.Sprintf("at least %d entries are reclaimable%s, the threshold is %d", sure, e.source(), t.ReclaimableEntries)
	}
	if sure, share := e.Sure(), e.share(); t.ReclaimableShare > 0 && sure > 0 && share >= t.ReclaimableShare {
		return true, fmt.Sprintf("at least %d of %d entries (%s) are reclaimable%s, the threshold is %s",
			sure, e.Total.Entries, percent(share), e.source(), percent(t.ReclaimableShare))
	}
	if l, pressure := e.pressed(Pressure{t.LimitShare, t.Horizon}, now, mayShrink); l != nil {
		threshold := percent(t.LimitShare)
		if !l.over(t.LimitShare) {
			threshold = t.Horizon.String()
		}
		return true, fmt.Sprintf("the CRL of issuer %s %s, the threshold is %s; %s", l.crl.Issuer.Label(), pressure, threshold, e.words())
	}
	if t.AtLeastEvery > 0 {
		last := lastFull(o, p)
		switch {
		case last.IsZero() && e.Most() > 0:
			return true, fmt.Sprintf("no run is known, and one is wanted at least every %s; %s", t.AtLeastEvery, e.words())
		case last.IsZero():
			last = o.Record.WatchedSince
		}
		if !last.IsZero() && !now.Before(last.Add(t.AtLeastEvery)) {
			return true, fmt.Sprintf("the last run was at %s or before, and one is wanted at least every %s; %s", instant(last), t.AtLeastEvery, e.words())
		}
	}
	return false, fmt.Sprintf("nothing makes a run due: %s", e.words())
}

// earliest is when the next run may start at the earliest, and why. Runs that
// achieved nothing double the interval each, up to Trigger.AtLeastEvery: the
// bounds that asked for them have been proved wrong. A refusal proves nothing
// about them, and ends when somebody grants what it named.
func earliest(o Observation, p Policy) (time.Time, string) {
	interval, vain := p.MinInterval, 0
	for i := len(o.Record.History) - 1; i >= 0; i-- {
		run := o.Record.History[i]
		if run.Foreign || run.NeverStarted() || run.Outcome == OutcomeRefused {
			continue
		}
		if run.Outcome == OutcomeOK || run.Outcome == OutcomeInterrupted {
			break
		}
		vain++
	}
	longest := max(p.Trigger.AtLeastEvery, p.MinInterval)
	for range vain {
		interval = min(2*interval, longest)
	}
	last := lastRun(o, p)
	if last.IsZero() {
		return last, ""
	}
	why := fmt.Sprintf("the last run ended at %s, and the minimum interval is %s", instant(last), p.MinInterval)
	if vain > 0 {
		why += fmt.Sprintf(", lengthened to %s by runs that achieved nothing (%d)", interval, vain)
	}
	return last.Add(interval), why
}

// lastRun is the end of the latest run that touched revocations, ours or
// anybody's, as far as it is known. A refused one counts too, so that Vault is
// not asked over and over, unless somebody asks who waits for the answer.
func lastRun(o Observation, p Policy) time.Time {
	var last time.Time
	for _, run := range o.Record.History {
		if run.Outcome == OutcomeRefused && p.Asked {
			continue
		}
		if !run.NeverStarted() && run.EndedAt.After(last) {
			last = run.EndedAt
		}
	}
	if s := o.Status; s != nil && s.RevokedCerts && s.FinishedAt.After(last) {
		last = s.FinishedAt
	}
	return last
}

// lastFull is the end of the latest run that finished and did all that the
// policy asks for, as far as it is known.
func lastFull(o Observation, p Policy) time.Time {
	var last time.Time
	for _, run := range o.Record.History {
		if !run.Foreign && run.State == RunFinished && run.EndedAt.After(last) {
			last = run.EndedAt
		}
	}
	if s := o.Status; s != nil && s.State == TidyFinished && s.RevokedCerts && (s.CertStore || !p.CertStore) && s.FinishedAt.After(last) {
		last = s.FinishedAt
	}
	return last
}

// nextLook is when a threshold can be met without new revocations.
func nextLook(o Observation, p Policy) time.Time {
	var next time.Time
	if p.Trigger.AtLeastEvery > 0 {
		last := lastFull(o, p)
		if last.IsZero() {
			last = o.Record.WatchedSince
		}
		if !last.IsZero() {
			next = last.Add(p.Trigger.AtLeastEvery)
		}
	}
	return next
}

// share is the share of all entries of what surely is reclaimable.
func (e Estimate) share() float64 {
	if e.Total.Entries == 0 {
		return 0
	}
	return float64(e.Sure()) / float64(e.Total.Entries)
}

func wait(until time.Time, format string, args ...any) Decision {
	return Decision{Verdict: Wait, Until: until, Reason: fmt.Sprintf(format, args...)}
}

func cannotHelp(until time.Time, format string, args ...any) Decision {
	return Decision{Verdict: CannotHelp, Until: until, Reason: fmt.Sprintf(format, args...)}
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return t.UTC().Format(time.RFC3339)
}

func percent(share float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", 100*share), ".0") + " %"
}
