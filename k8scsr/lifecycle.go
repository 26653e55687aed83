package k8scsr

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// State is one certificate as it was observed, live, in one go.
type State struct {
	Live     Live
	Pending  Pending
	Request  *Request  // the CSR under the pending record's name, nil when there is none
	Others   []Request // further CSRs of this certificate by our own account; needed only while no attempt is under way
	Made     string    // UID of the request that this process made under the recorded name, "" where it made none
	MadeAt   time.Time
	Trust    Trust
	Identity Identity // ours
	Spending Spending // of the signer's budget; needed only before a request exists

	Peers      []Peer    // as they were seen since the live pair and the trust are what they are; needed only where Bundle.AskPeers
	PeersSince time.Time // when they were asked first
	PeersAt    time.Time // when they are asked again

	// Obstacles are what was met while observing that makes every step
	// impossible until somebody removes it: a Secret of another type, a trust
	// bundle that cannot be read.
	Obstacles []Finding
}

// Kind names a step.
type Kind string

// The steps of the lifecycle. Each is one write, or none.
const (
	Nothing         Kind = "nothing"          // until LookAgainAt
	StoreNextKey    Kind = "store-next-key"   // make a key and a request name, store both with Record
	RecordRequester Kind = "record-requester" // replace the record: another pod is about to make the request
	CreateRequest   Kind = "create-request"   // make the CSR for the stored key under the recorded name
	RecordRequest   Kind = "record-request"   // replace the record: the CSR exists, its UID is known
	Approve         Kind = "approve"          // Request, at exactly its ResourceVersion
	Deny            Kind = "deny"             // Request, which is ours and no longer wanted
	AwaitApproval   Kind = "await-approval"
	AwaitIssue      Kind = "await-issue"
	AwaitEnd        Kind = "await-end"     // of a request that is no longer wanted
	Publish         Kind = "publish"       // Chain and the stored next key into the live Secret
	PublishTrust    Kind = "publish-trust" // only the trust bundle into the live Secret
	DropPending     Kind = "drop-pending"  // remove the next key, keep Record
)

// Result is how requests are counted.
type Result string

// The results, a closed list.
const (
	ResultCreated  Result = "created"
	ResultApproved Result = "approved"
	ResultIssued   Result = "issued"
	ResultDenied   Result = "denied"
	ResultFailed   Result = "failed"
	ResultRefused  Result = "refused" // by us: the answer did not validate
	ResultExpired  Result = "expired" // removed by the cluster before it was answered or fetched
)

// Results are all of them.
var Results = []Result{ResultCreated, ResultApproved, ResultIssued, ResultDenied, ResultFailed, ResultRefused, ResultExpired}

// Step is what to do next for one certificate.
type Step struct {
	Kind        Kind
	Reason      string    // in words, the same for as long as nothing changes
	LookAgainAt time.Time // when to observe again if nothing happens before

	Record  Record   // StoreNextKey, RecordRequester, RecordRequest, DropPending: the record as it becomes
	Request *Request // Approve, Deny
	Chain   Chain    // Publish
	Bundle  Bundle   // Publish, PublishTrust; the zero value where no trust is configured
	Result  Result   // to be counted once the step is done, "" for none
	Event   *Event   // to be told once the step is done, nil for none
}

// Waits tells whether the step writes nothing.
func (s Step) Waits() bool {
	return s.Kind == Nothing || s.Kind == AwaitApproval || s.Kind == AwaitIssue || s.Kind == AwaitEnd
}

// obstacleInterval is how often an obstacle is looked at again.
const obstacleInterval = time.Minute

// Next decides one step, never two: after each it is asked anew, with what was
// observed since, or with what the API answered to the step's own write. Each write
// holds only while that is still so. Whoever stops between two steps, or is
// replaced by another instance, goes on from what is stored.
//
// There is at most one open request per certificate, and a key is used for one
// request only. A request that is no longer wanted is denied where we may
// approve, and otherwise awaited: it could still be answered.
func Next(s State, want Spec, now time.Time) Step {
	switch {
	case len(s.Obstacles) > 0:
		return wait(Nothing, now.Add(obstacleInterval), "%s", s.Obstacles[0].Summary)
	case want.Paused:
		return wait(Nothing, now.Add(obstacleInterval), "paused by configuration")
	}
	bundle := s.Bundle(want, now)
	if s.mayPublish(bundle, want, now) {
		return Step{Kind: PublishTrust, Reason: bundle.reason(), LookAgainAt: now, Bundle: bundle}
	}
	if s.Pending.Active() {
		return s.goOn(want, now)
	}
	reason, due := want.due(s.Live, s.Trust, now)
	if !due {
		return s.rest(bundle, want, now)
	}
	for _, other := range s.Others {
		if step, open := s.withdraw(other, want, now); open {
			return step
		}
	}
	if until, why := s.trustFirst(bundle, want, now); !until.IsZero() {
		return wait(Nothing, until, "%s; then the certificate is to change: %s", why, reason)
	}
	if until, why := s.Pending.holdUntil(want.grantedAs(s.Live), s.Others, now); !until.IsZero() {
		return wait(Nothing, until, "%s; next attempt at %s", why, stamp(until))
	}
	if until, why := s.overBudget(want, now); !until.IsZero() {
		return wait(Nothing, until, "the budget of signer %s is used up: %s; next attempt at %s", want.Signer, why, stamp(until))
	}
	if !s.Identity.Known() {
		return wait(Nothing, now.Add(obstacleInterval), "our own identity is not known")
	}
	return Step{Kind: StoreNextKey, Reason: reason, LookAgainAt: now,
		Record: s.Pending.begin(want, s.Identity.PodUID, now)}
}

// Due tells whether a new attempt may be about to begin, for which Others and
// Identity must be known.
func Due(s State, want Spec, now time.Time) bool {
	_, due := want.due(s.Live, s.Trust, now)
	return due
}

// NeedsBudget tells whether a request may be about to be made, for which
// Spending must be known.
func NeedsBudget(s State, want Spec, now time.Time) bool {
	if s.Pending.Active() {
		return s.Request == nil && s.Pending.CSRUID == ""
	}
	return Due(s, want, now)
}

// overBudget tells until when the signer must not be asked, and why; zero when it
// may. A certificate that does not fail and was not asked for more often than
// it needs has room that repeats cannot use up.
func (s State) overBudget(want Spec, now time.Time) (time.Time, string) {
	earlier := len(s.Pending.recent(now))
	if s.Pending.Active() {
		earlier-- // the attempt under way
	}
	listed := 0 // where the record was lost, the requests themselves still tell
	for _, other := range s.Others {
		if inLastHour(other.CreatedAt, now) {
			listed++
		}
	}
	earlier = max(earlier, listed)
	period := want.Period(s.Live)
	repeats := earlier >= perHour(period) || s.Spending.Asked >= 2*perDay(period) || s.Pending.LastFailure != nil
	return s.Spending.holdUntil(repeats, now)
}

// rest is the step while the live certificate is good.
func (s State) rest(b Bundle, want Spec, now time.Time) Step {
	step := s.goodUntil(want, now)
	if why, until := s.lingering(b, want, now); why != "" {
		step.Reason += "; " + why
		if !until.IsZero() && until.Before(step.LookAgainAt) {
			step.LookAgainAt = until
		}
	}
	return step
}

func (s State) goodUntil(want Spec, now time.Time) Step {
	schedule := want.Schedule(s.Live.Leaf, s.Live.IssuedAt)
	at := want.RenewalAt(s.Live.Leaf, s.Live.IssuedAt, now)
	switch {
	case at.Equal(schedule.RenewAt):
		return wait(Nothing, at, "good until %s, renewal is due %s", stamp(s.Live.Leaf.NotAfter), stamp(at))
	case at.Equal(schedule.CriticalAt):
		return wait(Nothing, at, "good until %s, renewal begins %s, when it becomes critical, since no window opens before", stamp(s.Live.Leaf.NotAfter), stamp(at))
	}
	return wait(Nothing, at, "good until %s, renewal is due %s and begins %s, when its window opens", stamp(s.Live.Leaf.NotAfter), stamp(schedule.RenewAt), stamp(at))
}

// goOn is the step while an attempt is under way.
func (s State) goOn(want Spec, now time.Time) Step {
	p, r := s.Pending, s.Request
	if want.Replace.LeafID == "" {
		want.Replace.LeafID = p.Replace
	}
	if p.Problem != "" || p.Key == nil {
		return s.drop(p.abandon(now), now, "the stored next key is unusable: %s", cmp.Or(p.Problem, "it is gone"))
	}
	if s.Live.Problem == "" && s.Live.Leaf != nil && sameKey(s.Live.Leaf.PublicKey, p.Key) {
		step := s.drop(p.succeed(now), now, "its certificate is published")
		step.Event = s.issued(want)
		return step
	}
	if p.CSRUID == "" && s.Made != "" && (r == nil || r.UID != s.Made || want.Approve && now.Sub(s.MadeAt) < longestUnwritten) {
		// Whoever made it knows its UID without the record, which only those
		// need who come later, and they find the request itself.
		s.Pending.CSRUID = s.Made
		p = s.Pending
	}
	if r == nil {
		return s.withoutRequest(want, now)
	}
	if p.CSRUID != "" && r.UID != p.CSRUID {
		return s.failed(RuleForeign, ResultExpired, want, now, "request %s was replaced by another one of the same name", r.Name)
	}
	if !r.MadeFor(p.Key) {
		return s.failed(RuleForeign, "", want, now, "request %s is not ours: it is for another key", r.Name)
	}
	if p.CSRUID == "" {
		record := p.Record
		record.CSRUID = r.UID
		return Step{Kind: RecordRequest, Reason: "request " + r.Name + " exists", LookAgainAt: now, Record: record}
	}
	return s.withRequest(*r, want, now)
}

// withoutRequest is the step while a key is stored and there is no CSR for it.
// That there was one is known by its UID, from the record or, while it is not
// there, to the process that made it ([State.Made]). Any other cannot tell one that
// was never made from one that was removed by hand. It is then made again under
// the same name, for the same key and with the same content: where the answer to
// its creation was lost, that is what keeps there from being two.
func (s State) withoutRequest(want Spec, now time.Time) Step {
	p := s.Pending
	_, due := want.due(s.Live, s.Trust, now)
	switch {
	case p.CSRUID != "":
		return s.failed(RuleCollected, ResultExpired, want, now, "request %s was removed before it was answered or its certificate was fetched", p.CSRName)
	case p.Wanted != want.Fingerprint():
		return s.drop(p.abandon(now), now, "the key was stored for an earlier configuration")
	case !due:
		return s.drop(p.abandon(now), now, "a new certificate is no longer needed")
	case now.Sub(p.StoredAt) > longestUnrecorded:
		return s.drop(p.abandon(now), now, "the key is too old to tell whether a request was ever made for it")
	case !s.Identity.Known():
		return wait(Nothing, now.Add(obstacleInterval), "our own identity is not known")
	case !p.knows(s.Identity.PodUID):
		return Step{Kind: RecordRequester, Reason: "the key was stored by another pod", LookAgainAt: now, Record: p.joinedBy(s.Identity.PodUID)}
	}
	if until, why := s.trustFirst(s.Bundle(want, now), want, now); !until.IsZero() {
		return wait(Nothing, until, "%s", why)
	}
	if until, why := s.overBudget(want, now); !until.IsZero() {
		return wait(Nothing, until, "the budget of signer %s is used up: %s; next attempt at %s", want.Signer, why, stamp(until))
	}
	return Step{Kind: CreateRequest, Reason: "the next key is stored", LookAgainAt: now, Result: ResultCreated}
}

// withRequest is the step while our CSR exists and is recorded.
func (s State) withRequest(r Request, want Spec, now time.Time) Step {
	stale := s.Pending.Wanted != want.Fingerprint()
	switch {
	case len(r.Certificate) > 0:
		return s.judge(r, stale, want, now)
	case stale && !r.Open():
		return s.drop(s.Pending.abandon(now), now, "request %s was made for an earlier configuration", r.Name)
	case r.Denied:
		return s.failed(RuleDenied, ResultDenied, want, now, "request %s was denied: %s", r.Name, cmp.Or(r.Message, "no reason given"))
	case r.Failed:
		return s.failed(RuleFailed, ResultFailed, want, now, "signer %s failed to answer request %s: %s", r.Signer, r.Name, cmp.Or(r.Message, "no reason given"))
	}
	if stale {
		if step, open := s.withdraw(r, want, now); open {
			return step
		}
		return s.drop(s.Pending.abandon(now), now, "request %s was made for an earlier configuration, and nobody signs it", r.Name)
	}
	if r.Approved {
		return wait(AwaitIssue, soon(r.CreatedAt, now), "request %s is approved; signer %s has not answered yet", r.Name, r.Signer)
	}
	return s.decide(r, want, now)
}

// decide is the step while our CSR awaits a decision. One that is not exactly
// what is wanted, whoever decides, was not made by us or was changed on its way.
// It is for our key, so it must not stay open for somebody to approve: it is
// denied where we may, and else given up, for somebody else to deny. The right to
// approve, which denying needs too, is ours for the wanted signer only.
func (s State) decide(r Request, want Spec, now time.Time) Step {
	if !s.Identity.Known() {
		return wait(AwaitApproval, now.Add(obstacleInterval), "our own identity is not known")
	}
	policy := Policy{Want: want, Requester: s.Identity, Key: s.Pending.Key, UID: s.Pending.CSRUID, PodUIDs: s.Pending.PodUIDs}
	mine := want.Approve
	policy.Want.Approve = true
	verdict := policy.Decide(r)
	switch why := strings.Join(verdict.Reasons, "; "); {
	case verdict.Approve && !mine:
		return wait(AwaitApproval, soon(r.CreatedAt, now), "request %s awaits approval by somebody else: kubectl certificate approve %s", r.Name, r.Name)
	case verdict.Approve:
		return Step{Kind: Approve, Reason: "request " + r.Name + " is exactly what is wanted", LookAgainAt: now, Request: &r, Result: ResultApproved}
	case mine && r.Signer == want.Signer:
		return Step{Kind: Deny, Reason: "it is not exactly what is wanted: " + why, LookAgainAt: now, Request: &r}
	default:
		return s.failed(RuleForeign, "", want, now, "request %s is not exactly what is wanted: %s", r.Name, why)
	}
}

// judge is the step when our CSR carries a certificate.
func (s State) judge(r Request, stale bool, want Spec, now time.Time) Step {
	chain, err := s.validate(r, want, now)
	if err == nil {
		return s.publish(r, chain, want, now)
	}
	var refusal *Refusal
	if errors.As(err, &refusal) && !refusal.ValidAt.IsZero() {
		return wait(AwaitIssue, refusal.ValidAt, "the certificate of request %s is not used yet: %s", r.Name, refusal.Detail)
	}
	if stale {
		return s.drop(s.Pending.abandon(now), now, "request %s was made for an earlier configuration", r.Name)
	}
	return s.failed(RuleRefused, ResultRefused, want, now, "the certificate of request %s was refused: %v", r.Name, err)
}

// validate holds the answer against the certificate in use, if that is worth
// keeping and nobody asked for another one in its place. One that must be replaced
// in any case, since it is not what is wanted or nobody trusts it, may be replaced
// by one that ends sooner, provided that it was granted the whole lifetime asked
// for: the shorter one is then our wish.
func (s State) validate(r Request, want Spec, now time.Time) (Chain, error) {
	if !s.Live.Usable(now) || want.replaces(s.Live) {
		return Validate(r.Certificate, s.Pending.Key, want, s.Trust, now, nil)
	}
	chain, err := Validate(r.Certificate, s.Pending.Key, want, s.Trust, now, s.Live.Leaf)
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Reason != NotLater || want.unwanted(s.Live, s.Trust, now) == "" {
		return chain, err
	}
	shorter, again := Validate(r.Certificate, s.Pending.Key, want, s.Trust, now, nil)
	if again != nil || !want.grantedInFull(shorter.Leaf) {
		return chain, err
	}
	return shorter, nil
}

// withdraw is the step towards closing a request of ours that is no longer
// wanted; open is false when there is nothing left to wait for.
func (s State) withdraw(r Request, want Spec, now time.Time) (step Step, open bool) {
	switch {
	case !r.Open():
		return Step{}, false
	case r.Approved && now.Sub(r.CreatedAt) > want.Patience:
		return Step{}, false // nobody signs it, and an approval cannot be taken back
	case r.Approved:
		return wait(AwaitEnd, soon(r.CreatedAt, now), "request %s is no longer wanted, but is approved and may still be answered", r.Name), true
	case want.Approve && r.Signer == want.Signer && s.Identity.Account(r.Requester):
		return Step{Kind: Deny, Reason: "it is no longer wanted", LookAgainAt: now, Request: &r}, true
	}
	return wait(AwaitEnd, soon(r.CreatedAt, now), "request %s is no longer wanted, but still open: kubectl certificate deny %s", r.Name, r.Name), true
}

func (s State) drop(record Record, now time.Time, format string, args ...any) Step {
	return Step{Kind: DropPending, Reason: fmt.Sprintf(format, args...), LookAgainAt: now, Record: record}
}

func (s State) failed(rule string, result Result, want Spec, now time.Time, format string, args ...any) Step {
	summary := fmt.Sprintf(format, args...)
	failure := Failure{Rule: rule, Summary: summary, At: now, Wanted: want.Fingerprint()}
	return Step{Kind: DropPending, Reason: summary, LookAgainAt: now, Record: s.Pending.fail(failure, now), Result: result,
		Event: &Event{Warning: true, Reason: failureReasons[rule], Message: summary}}
}

// issued tells of the certificate that was published. Whoever drops its pending
// key tells it, once, be it another instance than the one that published it.
func (s State) issued(want Spec) *Event {
	leaf := s.Live.Leaf
	return &Event{Reason: ReasonIssued, Message: fmt.Sprintf("the certificate of request %s is published: valid %s to %s, due for renewal %s",
		s.Pending.CSRName, stamp(leaf.NotBefore), stamp(leaf.NotAfter), stamp(want.Schedule(leaf, s.Live.IssuedAt).RenewAt))}
}

func wait(kind Kind, until time.Time, format string, args ...any) Step {
	return Step{Kind: kind, LookAgainAt: until, Reason: fmt.Sprintf(format, args...)}
}

// soon looks again after half the time that has passed already: often while an
// answer is likely, rarely later.
func soon(since, now time.Time) time.Time {
	return now.Add(min(max(now.Sub(since)/2, 2*time.Second), 30*time.Second))
}
