package k8scsr

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What an attempt is held to.
const (
	attemptsPerHour = 6
	firstBackOff    = time.Minute
	longestBackOff  = 30 * time.Minute
	heldBack        = 10 * time.Minute

	// Finished requests are removed by the cluster after an hour at the
	// earliest (kubernetes pkg/controller/certificates/cleaner). A key whose
	// request's UID was not recorded is given up well before, since later
	// nobody could tell whether the request existed.
	longestUnrecorded = 30 * time.Minute

	// A request that we approve ourselves is mostly answered within this time.
	// Its UID is written down only where it is not.
	longestUnwritten = 30 * time.Second
)

// Record is what is kept beside the pending key. It outlives the key, since it
// also remembers past attempts: without that, a restart would ask for
// certificates again and again.
type Record struct {
	Version int `json:"version"`

	Wanted   string    `json:"wanted,omitempty"`  // fingerprint of the Spec that the request is made for
	CSRName  string    `json:"csrName,omitempty"` // chosen with the key, before the request exists
	CSRUID   string    `json:"csrUID,omitempty"`  // recorded once the request exists
	PodUIDs  []string  `json:"podUIDs,omitempty"` // of the pods that may have made the request, each recorded before it tried
	StoredAt time.Time `json:"storedAt,omitzero"`
	Replace  string    `json:"replace,omitempty"` // Spec.Replace.LeafID when the attempt began, for whoever goes on with it

	Attempts    []Attempt `json:"attempts,omitempty"` // of the last hour
	Failures    int       `json:"failures,omitempty"` // in a row
	RetryAt     time.Time `json:"retryAt,omitzero"`
	LastFailure *Failure  `json:"lastFailure,omitempty"`
}

// RecordVersion is the layout of Record that this package writes.
const RecordVersion = 1

// Attempt is one key that was stored to ask for a certificate.
type Attempt struct {
	At     time.Time `json:"at"`
	Failed bool      `json:"failed,omitempty"`
}

// Failure is how the last attempt ended that did not succeed.
type Failure struct {
	Rule    string    `json:"rule"`
	Summary string    `json:"summary"`
	At      time.Time `json:"at"`
	Wanted  string    `json:"wanted"` // fingerprint of the Spec that failed
}

// What a record holds at most. Nothing that is written comes near, but whoever
// may write the Secret may write a record.
const (
	maxAttempts = 1024
	maxFailures = 1_000_000
	maxAhead    = 48 * time.Hour // of a time, after a clock that jumped back
	maxToken    = 128            // octets of a fingerprint, a UID or a rule
	maxSummary  = 2048           // octets
)

// requestPrefix begins the name of every request.
const requestPrefix = "pkiwarden-"

// ourRequest tells whether the name can be that of a request of ours: it has the
// prefix, and is a DNS-1123 subdomain, as the API demands (kubernetes
// apimachinery pkg/util/validation). Any other one could not even be asked for.
func ourRequest(name string) bool {
	if len(name) > 253 || !strings.HasPrefix(name, requestPrefix) {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.Trim(label, "-") != label || !only(label, "abcdefghijklmnopqrstuvwxyz0123456789-") {
			return false
		}
	}
	return true
}

// isLeafID tells whether it can be what LeafID returns.
func isLeafID(id string) bool {
	return id == LeafID(nil) || len(id) == hex.EncodedLen(sha256.Size) && only(id, "0123456789abcdef")
}

// only tells whether the text has none but these characters.
func only(text, characters string) bool { return strings.Trim(text, characters) == "" }

// Checked is a record as it may be used that was read at now: its texts are
// plain. The error says which of its values this package never writes; such a
// record is damaged, and nothing in it is to be believed.
func (r Record) Checked(now time.Time) (Record, error) {
	switch {
	case r.Version != RecordVersion:
		return Record{}, fmt.Errorf("version is %d, not %d", r.Version, RecordVersion)
	case r.Failures < 0 || r.Failures > maxFailures:
		return Record{}, fmt.Errorf("failures is %d, not from 0 to %d", r.Failures, maxFailures)
	case len(r.Attempts) > maxAttempts:
		return Record{}, fmt.Errorf("attempts has %d entries, more than %d", len(r.Attempts), maxAttempts)
	case len(r.PodUIDs) > maxPods:
		return Record{}, fmt.Errorf("podUIDs has %d entries, more than %d", len(r.PodUIDs), maxPods)
	case r.Replace != "" && !isLeafID(r.Replace):
		return Record{}, fmt.Errorf("replace is %q, not the SHA-256 of a certificate in hexadecimal", Plain(r.Replace, maxToken))
	case r.CSRName != "" && !ourRequest(r.CSRName):
		return Record{}, fmt.Errorf("csrName is %q, not the name of a request of ours", Plain(r.CSRName, maxToken))
	}
	times, tokens := []time.Time{r.StoredAt, r.RetryAt}, append([]string{r.Wanted, r.CSRUID}, r.PodUIDs...)
	for _, a := range r.Attempts {
		times = append(times, a.At)
	}
	if f := r.LastFailure; f != nil {
		times, tokens = append(times, f.At), append(tokens, f.Rule, f.Wanted)
	}
	if latest := slices.MaxFunc(times, time.Time.Compare); latest.After(now.Add(maxAhead)) {
		return Record{}, fmt.Errorf("one of its times is %s, which is yet to come", stamp(latest))
	}
	if longest := slices.MaxFunc(tokens, func(a, b string) int { return cmp.Compare(len(a), len(b)) }); len(longest) > maxToken {
		return Record{}, fmt.Errorf("one of its values has %d octets, more than %d", len(longest), maxToken)
	}
	r.LastFailure = r.LastFailure.plain()
	return r, nil
}

func (f *Failure) plain() *Failure {
	if f == nil {
		return nil
	}
	out := *f
	out.Summary = Plain(f.Summary, maxSummary)
	return &out
}

// Pending is the next key and its record.
type Pending struct {
	Record
	Key     crypto.PublicKey // of the stored next key, nil when none is stored
	Problem string           // why what is stored cannot be used
}

// Active tells whether an attempt is under way.
func (p Pending) Active() bool {
	return p.Key != nil || p.CSRName != "" || p.Problem != ""
}

// begin is the record of a new attempt. The name of its request is drawn by the
// caller.
func (r Record) begin(want Spec, podUID string, now time.Time) Record {
	out := Record{
		Version: RecordVersion, Wanted: want.Fingerprint(), StoredAt: now, Replace: want.Replace.LeafID,
		Attempts: append(r.recent(now), Attempt{At: now}),
		Failures: r.Failures, LastFailure: r.LastFailure,
	}
	return out.joinedBy(podUID)
}

// maxPods bounds the pods of one attempt, of which there is more than one only
// when leaders change within seconds.
const maxPods = 8

// knows tells whether the pod is recorded. Outside a pod there is nothing to
// record.
func (r Record) knows(podUID string) bool {
	return podUID == "" || slices.Contains(r.PodUIDs, podUID)
}

// joinedBy is the record with one more pod that may make the request. Those
// recorded before stay: one of them may be making it at this moment.
func (r Record) joinedBy(podUID string) Record {
	if r.knows(podUID) {
		return r
	}
	r.PodUIDs = append(slices.Clone(r.PodUIDs), podUID)
	r.PodUIDs = r.PodUIDs[max(0, len(r.PodUIDs)-maxPods):]
	return r
}

// abandon is the record after an attempt that ended without a verdict.
func (r Record) abandon(now time.Time) Record {
	return Record{
		Version: RecordVersion, Attempts: r.recent(now),
		Failures: r.Failures, RetryAt: r.RetryAt, LastFailure: r.LastFailure,
	}
}

// Abandoned is the record of a certificate that nobody wants any more.
func (r Record) Abandoned(now time.Time) Record { return r.abandon(now) }

// succeed is the record after an attempt whose certificate was published.
func (r Record) succeed(now time.Time) Record {
	return Record{Version: RecordVersion, Attempts: r.recent(now)}
}

// fail is the record after an attempt that failed: the next one waits a minute,
// then twice as long each time, half an hour at most.
func (r Record) fail(f Failure, now time.Time) Record {
	out := r.abandon(now)
	for i := range out.Attempts {
		if out.Attempts[i].At.Equal(r.StoredAt) {
			out.Attempts[i].Failed = true
		}
	}
	failures := min(max(r.Failures, 0), maxFailures-1)
	out.Failures = failures + 1
	out.RetryAt = now.Add(min(longestBackOff, firstBackOff<<min(failures, 5)))
	out.LastFailure = f.plain()
	return out
}

// recent are the attempts of the last hour. One that lies in the future, after
// a clock jumped back, is forgotten.
func (r Record) recent(now time.Time) []Attempt {
	var out []Attempt
	for _, a := range r.Attempts {
		if inLastHour(a.At, now) {
			out = append(out, a)
		}
	}
	return out
}

func inLastHour(t, now time.Time) bool {
	return t.After(now.Add(-time.Hour)) && !t.After(now.Add(clockSkew))
}

// holdUntil tells until when no new attempt may begin, and why; zero when one may.
// What failed for another Spec does not put off this one, nor what failed before a
// person asked, but the hourly limit holds all the same.
func (r Record) holdUntil(want Spec, others []Request, now time.Time) (time.Time, string) {
	if f := r.LastFailure; f != nil && f.Wanted == want.Fingerprint() && !f.At.Before(want.Replace.AskedAt) &&
		now.Before(r.RetryAt) && r.RetryAt.Sub(now) <= longestBackOff {
		return r.RetryAt, "the last attempt failed: " + f.Summary
	}
	var all, failed []time.Time
	for _, a := range r.recent(now) {
		all = append(all, a.At)
		if a.Failed {
			failed = append(failed, a.At)
		}
	}
	// Where the record was lost, the requests themselves still tell.
	var listed, unanswered []time.Time
	for _, other := range others {
		if inLastHour(other.CreatedAt, now) {
			listed = append(listed, other.CreatedAt)
			if other.Denied || other.Failed {
				unanswered = append(unanswered, other.CreatedAt)
			}
		}
	}
	if len(unanswered) > len(failed) {
		failed = unanswered
	}
	if len(failed) >= attemptsPerHour {
		return hourAfter(failed), "six requests failed within an hour"
	}
	if len(listed) > len(all) {
		all = listed
	}
	if len(all) >= want.requestsPerHour() {
		if at := slices.MaxFunc(all, time.Time.Compare).Add(heldBack); at.After(now) {
			return at, fmt.Sprintf("%d requests were made within an hour, more than its lifetime explains", len(all))
		}
	}
	return time.Time{}, ""
}

// hourAfter is when fewer than attemptsPerHour of the times lie within an hour.
func hourAfter(times []time.Time) time.Time {
	slices.SortFunc(times, time.Time.Compare)
	return times[len(times)-attemptsPerHour].Add(time.Hour)
}

// requestsPerHour is how many requests that succeed are plausible: three times what
// the lifetime needs, and at least six. More means that somebody else keeps
// undoing our work; from then on they are heldBack apart, so that neither a
// signer's limits are used up nor a certificate stays away for long.
//
// The lifetime is the one granted, where that is shorter than what is asked for;
// a clock ahead of the signer's makes it look shorter still.
func (s Spec) requestsPerHour() int {
	lifetime := s.Lifetime
	if s.granted > 0 {
		lifetime = min(lifetime, s.granted)
	}
	period := time.Duration(s.RenewAt * float64(lifetime))
	return max(attemptsPerHour, int(3*time.Hour/max(period, time.Minute)))
}

// grantedAs is the Spec for what the live certificate was granted.
func (s Spec) grantedAs(live Live) Spec {
	if live.Leaf != nil {
		s.granted = s.life(live.Leaf, live.IssuedAt)
	}
	return s
}
