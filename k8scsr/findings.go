package k8scsr

import (
	"fmt"
	"time"
)

// The sources of the rules below.
const (
	citeValidity = "RFC 5280 section 4.1.2.5"
	citeCSR      = "Kubernetes API certificates.k8s.io/v1, CertificateSigningRequest"
	citeTrust    = "RFC 5280 section 6.1"
)

// Findings tells everything that is wrong with a certificate at now: its age,
// the pair itself, the request under way, and how the last attempt failed where
// a certificate is still needed. None means that all is well, not that nothing
// was looked at.
func Findings(s State, want Spec, now time.Time) []Finding {
	causes := append([]Finding(nil), s.Obstacles...)
	add := func(out []Finding, found ...*Finding) []Finding {
		for _, f := range found {
			if f != nil {
				out = append(out, *f)
			}
		}
		return out
	}
	causes = add(causes, s.requestFinding(want, now), s.failureFinding(want, now), s.heldBackFinding(want, now), s.budgetFinding(want, now))
	return add(causes, s.pairFinding(want, now, len(causes) > 0), s.lifetimeFinding(want), s.trustFinding(want),
		s.changeFinding(want, now), s.authorityFinding(want, now))
}

// underWay is what a certificate that is needed waits for at now, in words. It
// is for where no other finding tells more.
func (s State) underWay(want Spec, now time.Time) string {
	step := Next(s, want, now)
	switch {
	case step.Kind == AwaitApproval && s.Request != nil && s.Identity.Known():
		return fmt.Sprintf("request %s awaits approval: look at it and approve it: kubectl certificate approve %s; or set approve: true to have it approved on an exact match", s.Request.Name, s.Request.Name)
	case step.Kind == Nothing && !s.Pending.Active() && !Due(s, want, now):
		return fmt.Sprintf("wait for its window (%s), or ask for it now: pkiwarden renew %s", step.Reason, want.Name)
	case step.Waits():
		return step.Reason
	}
	return "it is being asked for: " + step.Reason
}

// severity is warning while the live pair still serves comfortably.
func (s State) severity(want Spec, now time.Time) Severity {
	if s.Live.Usable(now) && now.Before(want.Schedule(s.Live.Leaf, s.Live.IssuedAt).CriticalAt) {
		return Warning
	}
	return Critical
}

// pairFinding tells what is wrong with the stored pair. Explained says that
// another finding tells what keeps its renewal from completing.
func (s State) pairFinding(want Spec, now time.Time, explained bool) *Finding {
	f := &Finding{Severity: Critical, Subject: want.subject(), Citation: citeValidity,
		Remedy: "see the other findings of this certificate for what keeps its renewal from completing"}
	switch {
	case want.Paused:
		f.Remedy = "set paused: false, since nothing renews it while it is paused"
	case !explained:
		f.Remedy = s.underWay(want, now)
	}
	live := s.Live
	switch {
	case live.Problem != "":
		f.Rule, f.Summary, f.Evidence = RuleBroken, "the stored pair cannot be served", live.Problem
		return f
	case live.Leaf == nil:
		f.Rule, f.Summary = RuleMissing, "there is no certificate: a server that starts now has nothing to serve"
		f.Citation = ""
		return f
	}
	schedule := want.Schedule(live.Leaf, live.IssuedAt)
	f.Evidence = fmt.Sprintf("valid %s to %s, renewal was due %s", stamp(live.Leaf.NotBefore), stamp(live.Leaf.NotAfter), stamp(schedule.RenewAt))
	if at := want.RenewalAt(live.Leaf, live.IssuedAt, now); want.Windows != nil && at.After(now) {
		f.Evidence += ", waits for its window until " + stamp(at)
	}
	switch {
	case !now.Before(live.Leaf.NotAfter):
		f.Rule, f.Summary = RuleExpired, "the certificate expired "+stamp(live.Leaf.NotAfter)
	case !now.Before(schedule.CriticalAt):
		f.Rule, f.Summary = RuleOverdue, fmt.Sprintf("more than %.0f %% of its lifetime has passed and it is not renewed", 100*want.CriticalAt)
	case !now.Before(schedule.AlertAt):
		f.Rule, f.Severity = RuleOverdue, Warning
		f.Summary = fmt.Sprintf("more than %.0f %% of its lifetime has passed and it is not renewed", 100*want.AlertAt)
	default:
		return nil
	}
	return f
}

// lifetimeFinding compares what was granted with what was asked.
func (s State) lifetimeFinding(want Spec) *Finding {
	leaf := s.Live.Leaf
	if leaf == nil || !s.Live.Managed || want.grantedInFull(leaf) {
		return nil
	}
	granted := leaf.NotAfter.Sub(leaf.NotBefore)
	return &Finding{
		Rule: RuleLifetimeShorter, Severity: Warning, Subject: want.subject(),
		Summary:  fmt.Sprintf("signer %s granted %v where %v was asked for", want.Signer, granted, want.Lifetime),
		Evidence: fmt.Sprintf("valid %s to %s", stamp(leaf.NotBefore), stamp(leaf.NotAfter)),
		Remedy:   "set lifetime to what the signer grants, or raise the signer's limit (--cluster-signing-duration of kube-controller-manager); a CA that ends sooner also shortens it",
		Citation: citeCSR + ", spec.expirationSeconds",
	}
}

// Where there is little life left, a request has waited for long after less
// than want.Patience: it is told before lastFifth of the lifetime begins, yet
// not while an answer is still likely.
const (
	lastFifth        = 0.8
	shortestPatience = 30 * time.Second
)

// longSince is from when on a request that was created then has waited for long.
func (s State) longSince(created time.Time, want Spec) time.Time {
	at := created.Add(want.Patience)
	if s.Live.Leaf == nil {
		return at
	}
	want.AlertAt = min(want.AlertAt, lastFifth)
	if alert := want.Schedule(s.Live.Leaf, s.Live.IssuedAt).AlertAt; alert.Before(at) {
		at = alert
	}
	if soonest := created.Add(shortestPatience); at.Before(soonest) {
		return soonest
	}
	return at
}

// requestFinding tells of a request that waits for long.
func (s State) requestFinding(want Spec, now time.Time) *Finding {
	if want.Paused {
		return nil
	}
	if s.Request != nil && s.Request.Open() && s.Pending.CSRUID == s.Request.UID && !now.Before(s.longSince(s.Request.CreatedAt, want)) {
		return s.waitingFinding(*s.Request, want, now)
	}
	if s.Pending.Active() {
		return nil
	}
	for _, other := range s.Others {
		if other.Open() && !now.Before(s.longSince(other.CreatedAt, want)) {
			return s.staleFinding(other, want, now)
		}
	}
	return nil
}

func (s State) waitingFinding(r Request, want Spec, now time.Time) *Finding {
	if s.Pending.Wanted != want.Fingerprint() {
		return s.staleFinding(r, want, now)
	}
	f := &Finding{Severity: s.severity(want, now), Subject: want.subject(), Citation: citeCSR,
		Evidence: fmt.Sprintf("request %s, signer %s, created %s", r.Name, r.Signer, stamp(r.CreatedAt))}
	switch {
	case r.Approved:
		f.Rule = RuleNeverSigned
		f.Summary = fmt.Sprintf("request %s is approved, but nobody signs for signer %s", r.Name, r.Signer)
		f.Remedy = fmt.Sprintf("check that the signer name %s is right and that its controller runs and accepts these names and usages; the built-in signers belong to kube-controller-manager, which needs a signing CA", r.Signer)
	case want.Approve:
		f.Rule = RuleNeverApproved
		f.Summary = fmt.Sprintf("request %s could not be approved", r.Name)
		f.Remedy = fmt.Sprintf("grant update on certificatesigningrequests/approval and approve on signers %q, or approve it by hand after looking at it: kubectl certificate approve %s", r.Signer, r.Name)
	default:
		f.Rule = RuleNeverApproved
		f.Summary = fmt.Sprintf("nobody approved request %s", r.Name)
		f.Remedy = fmt.Sprintf("look at it and approve it: kubectl certificate approve %s; or set approve: true to have it approved on an exact match", r.Name)
	}
	return f
}

func (s State) staleFinding(r Request, want Spec, now time.Time) *Finding {
	return &Finding{
		Rule: RuleStale, Severity: s.severity(want, now), Subject: want.subject(), Citation: citeCSR,
		Summary:  fmt.Sprintf("request %s is no longer wanted, but open, and holds up the next one", r.Name),
		Evidence: fmt.Sprintf("signer %s, created %s", r.Signer, stamp(r.CreatedAt)),
		Remedy:   fmt.Sprintf("deny it: kubectl certificate deny %s; the cluster removes it a day after it was created", r.Name),
	}
}

// failureFinding tells how the last attempt ended, for as long as it matters.
func (s State) failureFinding(want Spec, now time.Time) *Finding {
	last := s.Pending.LastFailure
	if last == nil || last.Wanted != want.Fingerprint() {
		return nil
	}
	// Outside its windows the certificate is needed all the same.
	if _, needed := want.Needed(s.Live, s.Trust, now); !needed {
		return nil
	}
	remedy := map[string]string{
		RuleDenied:    "find out who denied it and why (kubectl get csr, kubectl describe csr); an approver's policy must allow these names for this signer; one that pkiwarden denied was made or changed by somebody else",
		RuleFailed:    "read the signer's log; its message is in the evidence",
		RuleRefused:   "compare the signer's settings and the trust bundle with what the certificate asks for; where the signer has a new CA, add it to the bundle, beside the old one, first; the certificate in use was kept",
		RuleCollected: "a request lives an hour once answered, a day while it waits: keep pkiwarden running, or approve sooner",
		RuleForeign:   "find out who creates requests under names that begin with pkiwarden-",
	}[last.Rule]
	evidence := fmt.Sprintf("%d in a row", s.Pending.Failures)
	if !last.At.IsZero() {
		evidence += ", the last at " + stamp(last.At)
	}
	f := &Finding{
		Rule: last.Rule, Severity: s.severity(want, now), Subject: want.subject(), Citation: citeCSR,
		Summary: last.Summary, Evidence: evidence + ", " + s.nextAttempt(want, now), Remedy: remedy,
	}
	// It failed before, but what there is to do is about now.
	if s.Pending.Active() && !want.Paused && len(s.Obstacles) == 0 {
		f.Remedy = s.underWay(want, now) + "; if it ends as the one before: " + remedy
	}
	return f
}

// nextAttempt is when, after one that failed, there is another one, in words.
func (s State) nextAttempt(want Spec, now time.Time) string {
	if s.Pending.CSRName != "" {
		return "the next attempt is under way: request " + s.Pending.CSRName
	}
	if s.Pending.Active() {
		return "the next attempt is under way"
	}
	at, _ := s.Pending.holdUntil(want.grantedAs(s.Live), s.Others, now)
	if !Due(s, want, now) {
		if opens := want.RenewalAt(s.Live.Leaf, s.Live.IssuedAt, now); opens.After(at) {
			at = opens
		}
	}
	if at.IsZero() {
		return "the next attempt is due"
	}
	return "next attempt not before " + stamp(at)
}

// heldBackFinding tells that a certificate is needed, but asked for so often that
// somebody must be undoing what we do.
func (s State) heldBackFinding(want Spec, now time.Time) *Finding {
	_, due := want.Needed(s.Live, s.Trust, now)
	until, why := s.Pending.holdUntil(want.grantedAs(s.Live), s.Others, now)
	last := s.Pending.LastFailure
	told := last != nil && last.Wanted == want.Fingerprint()
	if want.Paused || !due || s.Pending.Active() || told || until.IsZero() {
		return nil
	}
	return &Finding{
		Rule: RuleHeldBack, Severity: s.severity(want, now), Subject: want.subject(), Citation: citeCSR,
		Summary:  "the next request is held back until " + stamp(until),
		Evidence: why,
		Remedy:   "find out who removes or overwrites the certificate's Secret: another controller, a deployment that restores it, a second pkiwarden with other settings",
	}
}

// budgetFinding tells that a certificate is needed and not asked for, since the
// signer was asked for so many.
func (s State) budgetFinding(want Spec, now time.Time) *Finding {
	if want.Paused || len(s.Obstacles) > 0 || !NeedsBudget(s, want, now) {
		return nil
	}
	until, why := s.overBudget(want, now)
	if held, _ := s.Pending.holdUntil(want.grantedAs(s.Live), s.Others, now); until.IsZero() || !s.Pending.Active() && !held.IsZero() {
		return nil // not held back, or for a reason of its own
	}
	return &Finding{
		Rule: RuleBudget, Severity: s.severity(want, now), Subject: want.subject(), Citation: citeCSR,
		Summary:  fmt.Sprintf("the budget of requests to signer %s is used up until %s", want.Signer, stamp(until)),
		Evidence: why,
		Remedy:   "see which certificates fail or are asked for again and again, by their findings, and what undoes them; those that are well are asked for all the same",
	}
}

func (s State) trustFinding(want Spec) *Finding {
	if s.Trust.Configured() {
		return nil
	}
	for _, o := range s.Obstacles {
		if o.Rule == RuleTrustUnreadable {
			return nil
		}
	}
	return &Finding{
		Rule: RuleTrustMissing, Severity: Info, Subject: want.subject(), Citation: citeTrust,
		Summary: "no trust bundle is configured: new certificates are not checked against the CA that clients trust, and the Secret gets no CA",
		Remedy:  "set trust to the bundle that clients use",
	}
}
