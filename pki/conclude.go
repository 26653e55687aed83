package pki

import (
	"fmt"
	"strings"
	"time"
)

// NeedsRotation tells whether the CRL has to be rebuilt by hand after run, of
// which State and Deleted are set. Vault rebuilds at the end of a run only
// where it deleted a revocation, auto_rebuild is off, and nothing went wrong
// until then (builtin/logical/pki/path_tidy.go, doTidyRevocationStore). And a
// run after one whose rebuild failed finds nothing to delete and leaves the
// stale list as it is.
func (r Run) NeedsRotation(c *CRLConfig) bool {
	if c != nil && c.Disabled {
		return false
	}
	deleted := r.Deleted == nil || *r.Deleted > 0
	switch {
	case !deleted && r.State == RunCancelled:
		return false // it was stopped before it came to anything
	case !deleted:
		return r.Predicted.Reclaimable > 0
	case c == nil || c.AutoRebuild:
		return true
	default:
		return r.State != RunFinished
	}
}

// Judge returns r with After, Outcome and Explanation set from what was
// measured afterwards. The lists decide, not the status that Vault reported:
// a run whose last rebuild failed reports an error after deleting, and its
// successor reports success beside a stale list.
func (r Run) Judge(after []CRL, c *CRLConfig, longest LongestTTL) Run {
	size := SizeOf(after)
	r.After = &size
	j := judgement{
		run: r, lists: distinct(after), stale: r.stale(after), config: c, longest: longest,
		deleted: r.Deleted != nil && *r.Deleted > 0,
		shrunk:  size.Entries < r.Before.Entries,
	}
	if j.worked() {
		r.Owes = false
		r.Outcome, r.Explanation = OutcomeOK, j.achieved()
		return r
	}
	r.Owes = r.Owes && !j.rebuilt()
	switch {
	case r.Owes && r.State == RunFinished:
		r.Outcome = OutcomeFailed
	case r.State == RunFinished:
		r.Outcome = OutcomeNoEffect
	case r.State == RunError:
		r.Outcome = OutcomeFailed
	default:
		r.Outcome = OutcomeInterrupted
	}
	r.Explanation = j.explain()
	return r
}

// stale are the lists that are older than the run.
func (r Run) stale(lists []CRL) []CRL {
	since := r.StartedAt
	if since.IsZero() {
		since = r.DecidedAt
	}
	since = since.Truncate(time.Second) // thisUpdate has whole seconds
	var stale []CRL
	for _, c := range distinct(lists) {
		if c.Summary.ThisUpdate.Before(since) {
			stale = append(stale, c)
		}
	}
	return stale
}

// judgement is what is known about a run when its lists have been measured.
type judgement struct {
	run     Run
	lists   []CRL // each once
	stale   []CRL // those of lists that are older than the run
	config  *CRLConfig
	longest LongestTTL
	deleted bool // revocations, surely
	shrunk  bool
}

func (j judgement) rebuilt() bool { return len(j.lists) > 0 && len(j.stale) == 0 }

// left tells whether Vault rebuilt lists and left some as they were, without an
// error: those of issuers that it no longer signs lists for.
func (j judgement) left() bool {
	return j.run.Error == "" && len(j.stale) > 0 && len(j.stale) < len(j.lists)
}

func (j judgement) worked() bool {
	return j.rebuilt() && (j.deleted || j.shrunk) || j.left() && j.shrunk
}

// achieved says what a run did.
func (j judgement) achieved() string {
	r := j.run
	text := fmt.Sprintf("%d entries and %d bytes before, %d and %d after; %s", r.Before.Entries, r.Before.Bytes, r.After.Entries, r.After.Bytes, r.predicted())
	switch {
	case r.Deleted == nil:
		text += fmt.Sprintf(", %d entries are gone", r.Before.Entries-r.After.Entries)
	default:
		text += fmt.Sprintf(", deleted %d", *r.Deleted)
	}
	if j.deleted && !j.shrunk {
		text += "; as many were revoked meanwhile"
	}
	if r.State == RunCancelled {
		text += "; stopped early"
		if r.Cancel != "" {
			text += ": " + r.Cancel
		}
	}
	if j.left() {
		text += fmt.Sprintf("; Vault left the CRL of issuer %s as it was", labels(j.stale))
	}
	return text
}

// predicted says what was predicted, and how surely.
func (r Run) predicted() string {
	switch {
	case r.Sampled == 0 && r.Margin > 0:
		return fmt.Sprintf("predicted at least %d", r.Predicted.Reclaimable)
	case r.Margin > 0:
		return fmt.Sprintf("predicted %d ± %d", r.Predicted.Reclaimable, r.Margin)
	}
	return fmt.Sprintf("predicted %d", r.Predicted.Reclaimable)
}

// explain says why a run achieved nothing.
func (j judgement) explain() string {
	r, c := j.run, j.config
	switch {
	case j.deleted && j.left():
		return fmt.Sprintf("%d revocations were deleted, of issuer %s, whose CRL Vault no longer rebuilds (no key, or no usage crl-signing): it stays as it is", *r.Deleted, labels(j.stale))
	case j.deleted && !j.rebuilt() && r.Error != "":
		return fmt.Sprintf("%d revocations were deleted, and the CRL was not rebuilt: %s", *r.Deleted, r.Error)
	case j.deleted && !j.rebuilt() && c != nil && c.AutoRebuild:
		return fmt.Sprintf("%d revocations were deleted; the CRL keeps them until Vault rebuilds it by itself (auto_rebuild), and it was not rotated", *r.Deleted)
	case j.deleted && !j.rebuilt():
		return fmt.Sprintf("%d revocations were deleted, and the CRL is older than the run", *r.Deleted)
	case r.State == RunError:
		return "Vault stopped the run: " + r.Error
	case r.State == RunCancelled && r.Cancel != "":
		return "the run was cancelled before it deleted a revocation: " + r.Cancel
	case r.State == RunCancelled:
		return "the run was cancelled before it deleted a revocation"
	case r.State == RunUnknown:
		return "Vault forgot the run (restart or failover), and the CRL did not shrink"
	case c != nil && c.Disabled:
		return "CRLs are switched off in this mount (config/crl disable)"
	case r.Before.Entries == 0:
		return "the CRL was empty"
	case r.Possible == 0:
		return fmt.Sprintf("nothing was revoked, hence expired, more than the safety buffer of %s before%s", r.SafetyBuffer, j.shorterBuffer())
	case r.Predicted.Reclaimable == 0:
		return fmt.Sprintf("no revoked certificate had been expired for more than the safety buffer of %s yet%s", r.SafetyBuffer, j.shorterBuffer())
	case j.left() && NewEstimate(j.stale, j.longest, r.SafetyBuffer, r.EndedAt).High > 0:
		return fmt.Sprintf("what was predicted is on the CRL of issuer %s, which Vault no longer rebuilds (no key, or no usage crl-signing), and no longer in Vault's storage: tidy cannot take it off", labels(j.stale))
	case r.Sampled > 0:
		return fmt.Sprintf("the count was wrong: %s by reading %d certificates, and Vault found none that had been expired for more than %s; see whether Vault's clock and this one agree",
			r.predicted(), r.Sampled, r.SafetyBuffer)
	default:
		return fmt.Sprintf("certificates live longer than %s (%s), which the prediction of %d rests on: issued before a role was shortened, or with an explicit not_after",
			j.longest.Duration, j.longest.Source, r.Predicted.Reclaimable)
	}
}

// shorterBuffer says what a run with the shortest buffer that is accepted by
// default would have given.
func (j judgement) shorterBuffer() string {
	r := j.run
	if r.SafetyBuffer <= SafetyBufferFloor {
		return ""
	}
	e := NewEstimate(j.lists, j.longest, SafetyBufferFloor, r.EndedAt)
	switch {
	case e.High == 0:
		return fmt.Sprintf("; with %s neither", SafetyBufferFloor)
	case e.LowKnown && e.Low == e.High:
		return fmt.Sprintf("; with %s it would have been %d", SafetyBufferFloor, e.Low)
	case e.LowKnown:
		return fmt.Sprintf("; with %s it would have been %d to %d", SafetyBufferFloor, e.Low, e.High)
	}
	return fmt.Sprintf("; with %s it would have been %d at most", SafetyBufferFloor, e.High)
}

// labels name the issuers of lists.
func labels(lists []CRL) string {
	var names []string
	for _, c := range lists {
		names = append(names, c.Issuer.Label())
	}
	return strings.Join(names, ", ")
}
