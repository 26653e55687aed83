package k8scsr

import (
	"crypto"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"
)

var us = Identity{"system:serviceaccount:vault:pkiwarden", "sa-uid", "pod-now"}

// world is a certificate's surroundings, from which a test takes a State.
type world struct {
	t    *testing.T
	want Spec
	ca   *authority
	now  time.Time
	next crypto.Signer // the pending key
	State
}

// newWorld has no certificate, no pending key and no request.
func newWorld(t *testing.T) *world {
	ca := newAuthority(t, "ca", nil)
	return &world{t: t, want: wanted(t), ca: ca, now: epoch, State: State{Trust: ca.trust(t), Identity: us}}
}

// live stores a pair that was published age ago with the wanted lifetime.
func (w *world) live(age time.Duration) {
	k := ecKey(w.t)
	w.Live = ReadLive(w.ca.issue(w.t, leafTemplate(w.t, w.want, w.now.Add(-age)), k.Public()), keyPEM(w.t, k))
	w.Live.Managed, w.Live.Signer, w.Live.IssuedAt, w.Live.CA = true, w.want.Signer, w.now.Add(-age), w.Trust.PEM
}

// swap makes another CA the trusted one, beside which that of the live pair is
// still published.
func (w *world) swap(ca *authority) {
	w.Trust, w.Live.CA = ca.trust(w.t), toPEM(ca.cert, w.ca.cert)
}

// pending stores a next key, age ago.
func (w *world) pending(age time.Duration) {
	w.next = ecKey(w.t)
	w.Pending = Pending{Key: w.next.Public(), Record: Record{Version: 1, Wanted: w.want.Fingerprint(), CSRName: "pkiwarden-x",
		PodUIDs: []string{us.PodUID}, StoredAt: w.now.Add(-age), Attempts: []Attempt{{At: w.now.Add(-age)}}}}
}

// request makes the CSR for the pending key, age ago, and records it.
func (w *world) request(age time.Duration) {
	w.pending(age)
	template, err := w.want.Template()
	if err != nil {
		w.t.Fatal(err)
	}
	seconds := w.want.ExpirationSeconds()
	w.Pending.CSRUID = "uid-x"
	w.Request = &Request{Name: "pkiwarden-x", UID: "uid-x", ResourceVersion: "5", CreatedAt: w.now.Add(-age), Requester: us,
		Signer: w.want.Signer, Usages: w.want.Usages, ExpirationSeconds: &seconds, PEM: requestPEM(w.t, template, w.next)}
}

func (w *world) answer(edit ...func(*x509.Certificate)) {
	template := leafTemplate(w.t, w.want, w.now)
	for _, f := range edit {
		f(template)
	}
	w.Request.Approved = true
	w.Request.Certificate = w.ca.issue(w.t, template, w.next.Public())
}

const day = 24 * time.Hour

func TestNext(t *testing.T) {
	cases := []struct {
		name   string
		given  func(*world)
		kind   Kind
		reason string        // part of it
		after  time.Duration // LookAgainAt, after now
		result Result
	}{
		// No attempt under way.
		{"nothing there", func(*world) {}, StoreNextKey, "there is no certificate yet", 0, ""},
		{"fresh", func(w *world) { w.live(time.Hour) }, Nothing, "good until", 15*time.Hour + 17*time.Minute, ""},
		{"fresh, adopted", func(w *world) { w.live(time.Hour); w.Live.Managed, w.Live.Signer = false, "" }, Nothing, "good until", 15*time.Hour + 17*time.Minute, ""},
		{"adopted, other bundle beside it", func(w *world) { w.live(time.Hour); w.Live.Managed, w.Live.CA = false, nil }, Nothing, "good until", 15*time.Hour + 17*time.Minute, ""},
		{"two thirds over", func(w *world) { w.live(17 * time.Hour) }, StoreNextKey, "its renewal was due", 0, ""},
		{"expired", func(w *world) { w.live(25 * time.Hour) }, StoreNextKey, "expired 2026-03-01T11:00:00Z", 0, ""},
		{"key of another pair", func(w *world) { w.live(time.Hour); w.Live.Problem = "its key does not belong" }, StoreNextKey, "unusable", 0, ""},
		{"name added", func(w *world) { w.live(time.Hour); w.want.DNSNames = append(w.want.DNSNames, "w.example") }, StoreNextKey, "DNS name w.example is missing", 0, ""},
		{"key type changed", func(w *world) { w.live(time.Hour); w.want.Key = Key{RSA, 2048} }, StoreNextKey, "key is ECDSA 256, not RSA 2048", 0, ""},
		{"signer changed", func(w *world) { w.live(time.Hour); w.want.Signer = "ca.example/b" }, StoreNextKey, "signer was ca.example/serving", 0, ""},
		{"CA no longer trusted", func(w *world) { w.live(time.Hour); w.Trust = newAuthority(w.t, "b", nil).trust(w.t) }, PublishTrust, "stays: it vouches for the certificate in use", 0, ""},
		{"CA no longer trusted, both published", func(w *world) { w.live(time.Hour); w.swap(newAuthority(w.t, "b", nil)) }, StoreNextKey, "does not vouch for it", 0, ""},
		{"bundle grew", func(w *world) {
			w.live(time.Hour)
			w.Trust, _ = ParseTrust(toPEM(w.ca.cert, newAuthority(w.t, "b", nil).cert))
		}, PublishTrust, "the trust bundle changed", 0, ""},
		{"clock jumped back a day", func(w *world) { w.live(time.Hour); w.now = w.now.Add(-day) }, Nothing, "good until", day + 15*time.Hour + 17*time.Minute, ""},
		{"paused", func(w *world) { w.want.Paused = true }, Nothing, "paused", time.Minute, ""},
		{"paused in mid-request", func(w *world) { w.request(0); w.want.Paused = true }, Nothing, "paused", time.Minute, ""},
		{"obstacle", func(w *world) { w.Obstacles = []Finding{{Summary: "wrong type"}} }, Nothing, "wrong type", time.Minute, ""},
		{"identity unknown", func(w *world) { w.Identity = Identity{} }, Nothing, "identity", time.Minute, ""},
		{"an earlier request is open", func(w *world) { w.request(0); w.orphan() }, Deny, "no longer wanted", 0, ""},
		{"an earlier request is open, not ours to deny", func(w *world) { w.request(0); w.orphan(); w.want.Approve = false }, AwaitEnd, "kubectl certificate deny pkiwarden-x", 2 * time.Second, ""},
		{"an earlier request is open for another signer", func(w *world) { w.request(0); w.orphan(); w.Others[0].Signer = "ca.example/b" }, AwaitEnd, "kubectl certificate deny pkiwarden-x", 2 * time.Second, ""},
		{"an earlier request is approved", func(w *world) { w.request(10 * time.Second); w.Request.Approved = true; w.orphan() }, AwaitEnd, "may still be answered", 5 * time.Second, ""},
		{"an earlier request is approved, nobody signs", func(w *world) { w.request(time.Hour); w.Request.Approved = true; w.orphan() }, StoreNextKey, "", 0, ""},
		{"an earlier request is answered", func(w *world) { w.request(0); w.answer(); w.orphan() }, StoreNextKey, "", 0, ""},

		// A key is stored.
		{"key stored", func(w *world) { w.pending(0) }, CreateRequest, "", 0, ResultCreated},
		{"key stored by another pod", func(w *world) { w.pending(0); w.Pending.PodUIDs = []string{"pod-before"} }, RecordRequester, "another pod", 0, ""},
		{"key stored, identity unknown", func(w *world) { w.pending(0); w.Identity = Identity{} }, Nothing, "identity", time.Minute, ""},
		{"key stored, names changed", func(w *world) { w.pending(0); w.want.DNSNames = nil }, DropPending, "earlier configuration", 0, ""},
		{"key stored, no longer needed", func(w *world) { w.live(0); w.pending(0) }, DropPending, "no longer needed", 0, ""},
		{"key stored long ago", func(w *world) { w.pending(31 * time.Minute) }, DropPending, "too old", 0, ""},
		{"key unusable", func(w *world) { w.pending(0); w.Pending.Problem = "damaged"; w.Pending.Key = nil }, DropPending, "damaged", 0, ""},
		{"key gone", func(w *world) { w.pending(0); w.Pending.Key = nil }, DropPending, "it is gone", 0, ""},
		{"key published", func(w *world) {
			w.request(0)
			w.answer()
			w.Live = ReadLive(w.Request.Certificate, keyPEM(w.t, w.next))
		}, DropPending, "is published", 0, ""},

		// A request exists.
		{"created, not recorded", func(w *world) { w.request(0); w.Pending.CSRUID = "" }, RecordRequest, "exists", 0, ""},
		{"created anew by somebody", func(w *world) { w.request(0); w.Request.UID = "uid-y" }, DropPending, "replaced", 0, ResultExpired},
		{"name taken by somebody", func(w *world) {
			w.request(0)
			w.Pending.CSRUID, w.Pending.Key = "", ecKey(w.t).Public()
		}, DropPending, "not ours", 0, ""},
		{"recorded", func(w *world) { w.request(0) }, Approve, "exactly what is wanted", 0, ResultApproved},
		{"made by the pod before", func(w *world) {
			w.request(0)
			w.Request.Requester.PodUID, w.Pending.PodUIDs = "pod-before", []string{"pod-before", "pod-now"}
		}, Approve, "", 0, ResultApproved},
		{"ours, but tampered with", func(w *world) { w.request(0); w.Request.Usages = []string{"any"} }, Deny, "not exactly what is wanted", 0, ""},
		{"recorded, others approve", func(w *world) { w.request(0); w.want.Approve = false }, AwaitApproval, "kubectl certificate approve pkiwarden-x", 2 * time.Second, ""},
		{"others approve, a minute later", func(w *world) { w.request(50 * time.Second); w.want.Approve = false }, AwaitApproval, "", 25 * time.Second, ""},
		{"others approve, an hour later", func(w *world) { w.request(time.Hour); w.want.Approve = false }, AwaitApproval, "", 30 * time.Second, ""},
		{"approved", func(w *world) { w.request(0); w.Request.Approved = true }, AwaitIssue, "has not answered yet", 2 * time.Second, ""},
		{"denied", func(w *world) { w.request(0); w.Request.Denied, w.Request.Message = true, "Policy: no" }, DropPending, "was denied: Policy: no", 0, ResultDenied},
		{"failed", func(w *world) { w.request(0); w.Request.Failed = true }, DropPending, "failed to answer", 0, ResultFailed},
		{"collected", func(w *world) { w.request(0); w.Request = nil }, DropPending, "was removed", 0, ResultExpired},
		{"answered", func(w *world) { w.request(0); w.answer() }, Publish, "is answered", 0, ResultIssued},
		{"answered while live is due", func(w *world) { w.live(17 * time.Hour); w.request(0); w.answer() }, Publish, "", 0, ResultIssued},
		{"answered badly", func(w *world) {
			w.request(0)
			w.answer(func(c *x509.Certificate) { c.DNSNames = nil })
		}, DropPending, "was refused", 0, ResultRefused},
		{"answered with an earlier end", func(w *world) {
			w.live(17 * time.Hour)
			w.request(0)
			w.answer(func(c *x509.Certificate) { c.NotAfter = w.now.Add(6 * time.Hour) })
		}, DropPending, "not later than the current one", 0, ResultRefused},
		{"answered with an earlier end, live unusable", func(w *world) {
			w.live(17 * time.Hour)
			w.Live.Problem = "broken"
			w.request(0)
			w.answer(func(c *x509.Certificate) { c.NotAfter = w.now.Add(6 * time.Hour) })
		}, Publish, "", 0, ResultIssued},
		{"answered with an earlier end, as asked, live not what is wanted", func(w *world) {
			w.live(time.Hour)
			w.want.DNSNames, w.want.Lifetime = w.want.DNSNames[:1], time.Hour
			w.request(0)
			w.answer()
		}, Publish, "", 0, ResultIssued},
		{"answered with an earlier end, as asked, live not trusted", func(w *world) {
			w.live(time.Hour)
			next := newAuthority(w.t, "new", nil)
			w.swap(next)
			w.ca = next
			w.want.Lifetime = time.Hour
			w.request(0)
			w.answer()
		}, Publish, "", 0, ResultIssued},
		{"answered with an earlier end, not as asked, live not what is wanted", func(w *world) {
			w.live(time.Hour)
			w.want.DNSNames = w.want.DNSNames[:1]
			w.request(0)
			w.answer(func(c *x509.Certificate) { c.NotAfter = w.now.Add(6 * time.Hour) })
		}, DropPending, "not later than the current one", 0, ResultRefused},
		{"answered with an earlier end, as asked, live still what is wanted", func(w *world) {
			w.live(time.Hour)
			w.want.Lifetime = time.Hour
			w.request(0)
			w.answer()
		}, DropPending, "not later than the current one", 0, ResultRefused},
		{"answered by a clock ahead", func(w *world) {
			w.request(0)
			w.answer(func(c *x509.Certificate) { c.NotBefore = w.now.Add(time.Minute) })
		}, AwaitIssue, "not used yet", time.Minute, ""},

		// The configuration changed while a request is under way.
		{"stale, open", func(w *world) { w.request(0); w.want.Lifetime *= 2 }, Deny, "no longer wanted", 0, ""},
		{"stale, open, others approve", func(w *world) { w.request(0); w.want.Lifetime *= 2; w.want.Approve = false }, AwaitEnd, "kubectl certificate deny", 2 * time.Second, ""},
		{"stale, approved", func(w *world) { w.request(0); w.want.Lifetime *= 2; w.Request.Approved = true }, AwaitEnd, "may still be answered", 2 * time.Second, ""},
		{"stale, approved, nobody signs", func(w *world) { w.request(16 * time.Minute); w.want.Lifetime *= 2; w.Request.Approved = true }, DropPending, "nobody signs it", 0, ""},
		{"stale, denied", func(w *world) { w.request(0); w.want.Lifetime *= 2; w.Request.Denied = true }, DropPending, "earlier configuration", 0, ""},
		{"stale, answered, good all the same", func(w *world) { w.request(0); w.answer(); w.want.Lifetime *= 2 }, Publish, "", 0, ResultIssued},
		{"stale, answered, no longer good", func(w *world) { w.request(0); w.answer(); w.want.DNSNames = w.want.DNSNames[:1] }, DropPending, "earlier configuration", 0, ""},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := newWorld(t)
			c.given(w)
			step := Next(w.State, w.want, w.now)
			if step.Kind != c.kind || step.Result != c.result || !strings.Contains(step.Reason, c.reason) {
				t.Fatalf("%s (%s), counted as %q; want %s (…%s…), %q", step.Kind, step.Reason, step.Result, c.kind, c.reason, c.result)
			}
			if after := step.LookAgainAt.Sub(w.now).Truncate(time.Minute); c.after < time.Minute && step.LookAgainAt.Sub(w.now) != c.after || c.after >= time.Minute && (after < c.after-30*time.Minute || after > c.after+30*time.Minute) {
				t.Errorf("looks again after %v, want %v", step.LookAgainAt.Sub(w.now), c.after)
			}
			if again := Next(w.State, w.want, w.now); again.Kind != step.Kind || again.Reason != step.Reason {
				t.Errorf("deciding twice: %s, then %s", step.Kind, again.Kind)
			}
		})
	}
}

// orphan turns the pending request into one whose key was lost.
func (w *world) orphan() {
	w.Others, w.Request, w.Pending = []Request{*w.Request}, nil, Pending{}
}

// TestNextWhatStepsCarry checks the payload of the steps that have one.
func TestNextWhatStepsCarry(t *testing.T) {
	w := newWorld(t)
	w.Pending.Attempts = []Attempt{{At: epoch.Add(-2 * time.Hour)}, {At: epoch.Add(-time.Minute)}}
	w.Pending.Failures = 0
	r := Next(w.State, w.want, w.now).Record
	if r.Wanted != w.want.Fingerprint() || !slices.Equal(r.PodUIDs, []string{"pod-now"}) || !r.StoredAt.Equal(epoch) || r.Version != 1 ||
		len(r.Attempts) != 2 || !r.Attempts[1].At.Equal(epoch) {
		t.Errorf("record of a new key: %+v", r)
	}

	w.pending(0)
	w.Pending.PodUIDs = []string{"pod-before"}
	if r := Next(w.State, w.want, w.now).Record; !slices.Equal(r.PodUIDs, []string{"pod-before", "pod-now"}) || r.CSRName != "pkiwarden-x" {
		t.Errorf("record of another pod: %+v", r)
	}

	w.request(0)
	w.Pending.CSRUID = ""
	if r := Next(w.State, w.want, w.now).Record; r.CSRUID != "uid-x" || r.CSRName != "pkiwarden-x" || r.Wanted == "" {
		t.Errorf("record of the request: %+v", r)
	}
	w.Pending.CSRUID = "uid-x"
	if step := Next(w.State, w.want, w.now); step.Request == nil || step.Request.ResourceVersion != "5" {
		t.Errorf("approval is not of the version that was checked: %+v", step.Request)
	}
	w.answer()
	if step := Next(w.State, w.want, w.now); !sameKey(step.Chain.Leaf.PublicKey, w.next.Public()) {
		t.Error("what is published is not for the pending key")
	}
	w.Live = ReadLive(w.Request.Certificate, keyPEM(t, w.next))
	w.Pending.Failures, w.Pending.LastFailure = 3, &Failure{}
	if r := Next(w.State, w.want, w.now).Record; r.CSRName != "" || r.Failures != 0 || r.LastFailure != nil || len(r.Attempts) != 1 {
		t.Errorf("record after success: %+v", r)
	}
}

// TestAttemptsUnderPermanentFailure lets every request be denied at once for a
// day and counts: never more than six within an hour, and attempts never end.
func TestAttemptsUnderPermanentFailure(t *testing.T) {
	w := newWorld(t)
	var made []time.Time
	for end := w.now.Add(day); w.now.Before(end); {
		step := Next(w.State, w.want, w.now)
		switch step.Kind {
		case StoreNextKey:
			made = append(made, w.now)
			record := step.Record
			w.request(0)
			record.CSRName, record.CSRUID = w.Pending.CSRName, w.Pending.CSRUID
			w.Pending.Record = record
			w.Request.Denied = true
		case DropPending:
			w.Pending, w.Request = Pending{Record: step.Record}, nil
		case Nothing:
			if !step.LookAgainAt.After(w.now) {
				t.Fatalf("waits until %v at %v: %s", step.LookAgainAt, w.now, step.Reason)
			}
			w.now = step.LookAgainAt
		default:
			t.Fatalf("%s: %s", step.Kind, step.Reason)
		}
	}
	for i := range made {
		if i >= 6 && made[i].Sub(made[i-6]) < time.Hour {
			t.Fatalf("seven requests within %v", made[i].Sub(made[i-6]))
		}
		if i > 0 && made[i].Sub(made[i-1]) > 31*time.Minute {
			t.Errorf("%v without an attempt", made[i].Sub(made[i-1]))
		}
	}
	if gap := made[1].Sub(made[0]); gap != time.Minute {
		t.Errorf("the second attempt comes after %v", gap)
	}
	if len(made) < 40 {
		t.Errorf("%d attempts in a day", len(made))
	}
}

func TestHoldUntil(t *testing.T) {
	want := wanted(t)
	ago := func(ds ...time.Duration) (out []time.Time) {
		for _, d := range ds {
			out = append(out, epoch.Add(-d))
		}
		return out
	}
	attempts := func(failed bool, times ...time.Time) (out []Attempt) {
		for _, at := range times {
			out = append(out, Attempt{at, failed})
		}
		return out
	}
	six := ago(50*time.Minute, 40*time.Minute, 30*time.Minute, 20*time.Minute, 10*time.Minute, time.Minute)
	failure := &Failure{Summary: "denied", Wanted: want.Fingerprint()}
	short := wanted(t, func(s *Spec) { s.Lifetime = 600 * time.Second })
	var listed []Request
	for _, at := range six {
		listed = append(listed, Request{CreatedAt: at})
	}
	cases := []struct {
		name   string
		record Record
		want   Spec
		others []Request
		after  time.Duration // 0: may begin
	}{
		{"nothing", Record{}, want, nil, 0},
		{"backing off", Record{RetryAt: epoch.Add(time.Minute), LastFailure: failure}, want, nil, time.Minute},
		{"backed off", Record{RetryAt: epoch, LastFailure: failure}, want, nil, 0},
		{"backing off for another Spec", Record{RetryAt: epoch.Add(time.Minute), LastFailure: failure}, short, nil, 0},
		{"clock jumped back a day", Record{RetryAt: epoch.Add(day), LastFailure: failure}, want, nil, 0},
		{"five failed", Record{Attempts: attempts(true, six[1:]...)}, want, nil, 0},
		{"six failed", Record{Attempts: attempts(true, six...)}, want, nil, 10 * time.Minute},
		{"six failed for another Spec", Record{Attempts: attempts(true, six...), LastFailure: failure}, short, nil, 10 * time.Minute},
		{"six succeeded, a day each", Record{Attempts: attempts(false, six...)}, want, nil, 9 * time.Minute},
		{"six succeeded, the last a while ago", Record{Attempts: attempts(false, append(ago(55*time.Minute), six[:5]...)...)}, want, nil, 0},
		{"six succeeded, ten minutes each", Record{Attempts: attempts(false, six...)}, short, nil, 0},
		{"six in the future", Record{Attempts: attempts(true, epoch.Add(day), epoch.Add(day), epoch.Add(day), epoch.Add(day), epoch.Add(day), epoch.Add(day))}, want, nil, 0},
		{"record lost, six requests listed", Record{}, want, listed, 9 * time.Minute},
	}
	for _, c := range cases {
		until, why := c.record.holdUntil(c.want, c.others, epoch)
		if c.after == 0 && !until.IsZero() || c.after != 0 && until.Sub(epoch) != c.after {
			t.Errorf("%s: held until %v (%s)", c.name, until, why)
		}
	}
}

func TestFindings(t *testing.T) {
	cases := []struct {
		name     string
		given    func(*world)
		rule     string // "" for none at all
		severity Severity
		says     []string
	}{
		{"well", func(w *world) { w.live(time.Hour) }, "", "", nil},
		{"missing", func(*world) {}, RuleMissing, Critical, []string{"there is no certificate"}},
		{"broken", func(w *world) { w.live(0); w.Live.Problem = "its key does not belong to its certificate" }, RuleBroken, Critical, []string{"its key does not belong"}},
		{"past renewal", func(w *world) { w.live(17 * time.Hour) }, "", "", nil},
		{"past the alarm", func(w *world) { w.live(18*time.Hour + time.Minute) }, RuleOverdue, Warning, []string{"more than 75 %", "renewal was due"}},
		{"past the second alarm", func(w *world) { w.live(22 * time.Hour) }, RuleOverdue, Critical, []string{"more than 90 %"}},
		{"paused past the alarm", func(w *world) { w.live(19 * time.Hour); w.want.Paused = true }, RuleOverdue, Warning, []string{"paused: false"}},
		{"expired", func(w *world) { w.live(25 * time.Hour) }, RuleExpired, Critical, []string{"expired 2026-03-01T11:00:00Z"}},
		{"granted less", func(w *world) { w.live(0); w.want.Lifetime = 8760 * time.Hour }, RuleLifetimeShorter, Warning, []string{"granted 24h5m0s where 8760h0m0s was asked for"}},
		{"granted less to somebody else", func(w *world) { w.live(0); w.want.Lifetime = 8760 * time.Hour; w.Live.Managed = false }, "", "", nil},
		{"waiting for approval", func(w *world) { w.live(17 * time.Hour); w.request(14 * time.Minute); w.want.Approve = false }, "", "", nil},
		{"never approved", func(w *world) { w.live(17 * time.Hour); w.request(15 * time.Minute); w.want.Approve = false },
			RuleNeverApproved, Warning, []string{"nobody approved request pkiwarden-x", "kubectl certificate approve pkiwarden-x"}},
		{"never approved by ourselves", func(w *world) { w.live(17 * time.Hour); w.request(15 * time.Minute) },
			RuleNeverApproved, Warning, []string{"could not be approved", "certificatesigningrequests/approval"}},
		{"never signed", func(w *world) { w.live(17 * time.Hour); w.request(15 * time.Minute); w.Request.Approved = true },
			RuleNeverSigned, Warning, []string{"pkiwarden-x is approved, but nobody signs for signer ca.example/serving"}},
		{"denied", func(w *world) { w.live(17 * time.Hour); w.fail(RuleDenied, "request x was denied: no") },
			RuleDenied, Warning, []string{"request x was denied: no", "1 in a row", "next attempt not before 2026-03-01T12:01:00Z"}},
		{"denied, but a good one came otherwise", func(w *world) { w.live(0); w.fail(RuleDenied, "denied") }, "", "", nil},
		{"denied for another Spec", func(w *world) { w.live(17 * time.Hour); w.fail(RuleDenied, "denied"); w.want.Lifetime += time.Second }, "", "", nil},
		{"failed", func(w *world) { w.live(17 * time.Hour); w.fail(RuleFailed, "signer failed") }, RuleFailed, Warning, []string{"signer's log"}},
		{"refused", func(w *world) { w.live(17 * time.Hour); w.fail(RuleRefused, "refused") }, RuleRefused, Warning, []string{"the certificate in use was kept"}},
		{"stale and open", func(w *world) { w.live(0); w.request(time.Hour); w.want.Approve = false; w.Pending.Wanted = "other" },
			RuleStale, Warning, []string{"holds up the next one", "kubectl certificate deny pkiwarden-x"}},
		{"orphan", func(w *world) { w.live(17 * time.Hour); w.request(time.Hour); w.orphan(); w.want.Approve = false },
			RuleStale, Warning, []string{"kubectl certificate deny pkiwarden-x"}},
		{"removed again and again", func(w *world) {
			for n := range 6 {
				w.Pending.Attempts = append(w.Pending.Attempts, Attempt{At: w.now.Add(-time.Duration(n) * time.Minute)})
			}
			w.live(17 * time.Hour)
		}, RuleHeldBack, Warning, []string{"held back until 2026-03-01T12:10:00Z", "6 requests were made within an hour"}},
		{"no trust", func(w *world) { w.live(0); w.Trust = Trust{} }, RuleTrustMissing, Info, []string{"no trust bundle is configured"}},
		{"trust unreadable", func(w *world) {
			w.live(0)
			w.Trust = Trust{}
			w.Obstacles = []Finding{{Rule: RuleTrustUnreadable, Severity: Critical, Subject: "certificate vault-server", Summary: "gone", Remedy: "x"}}
		}, RuleTrustUnreadable, Critical, []string{"gone"}},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := newWorld(t)
			c.given(w)
			got := Findings(w.State, w.want, w.now)
			if c.rule == "" {
				if len(got) > 0 {
					t.Fatalf("%+v", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d findings: %+v", len(got), got)
			}
			f := got[0]
			if f.Rule != c.rule || f.Severity != c.severity || f.Subject != "certificate vault-server" || f.Remedy == "" {
				t.Errorf("%+v, want %s, %s", f, c.rule, c.severity)
			}
			text := f.Summary + "\n" + f.Evidence + "\n" + f.Remedy
			for _, part := range c.says {
				if !strings.Contains(text, part) {
					t.Errorf("%q lacks %q", text, part)
				}
			}
		})
	}
}

// fail records that the last attempt, made now, failed.
func (w *world) fail(rule, summary string) {
	w.pending(0)
	failure := Failure{Rule: rule, Summary: summary, At: w.now, Wanted: w.want.Fingerprint()}
	w.Pending = Pending{Record: w.Pending.fail(failure, w.now)}
}

// TestResultsAreClosed: every result that a step can count is listed once.
func TestResultsAreClosed(t *testing.T) {
	for _, r := range []Result{"created", "approved", "issued", "denied", "failed", "refused", "expired"} {
		if !slices.Contains(Results, r) {
			t.Errorf("%s is not listed", r)
		}
	}
	if len(Results) != 7 {
		t.Errorf("%d results", len(Results))
	}
}
