package pki

import (
	"fmt"
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
	rebuilt := r.rebuilt(after)
	shrunk := size.Entries < r.Before.Entries
	deleted := r.Deleted != nil && *r.Deleted > 0
	if rebuilt && (deleted || shrunk) {
		r.Outcome = OutcomeOK
		r.Explanation = fmt.Sprintf("%d entries and %d bytes before, %d and %d after", r.Before.Entries, r.Before.Bytes, size.Entries, size.Bytes)
		if deleted && !shrunk {
			r.Explanation += fmt.Sprintf("; %d were deleted and as many revoked meanwhile", *r.Deleted)
		}
		return r
	}
	switch r.State {
	case RunFinished:
		r.Outcome = OutcomeNoEffect
	case RunError:
		r.Outcome = OutcomeFailed
	default:
		r.Outcome = OutcomeInterrupted
	}
	r.Explanation = r.explain(rebuilt, deleted, c, longest)
	return r
}

// rebuilt tells whether every list is at least as new as the run.
func (r Run) rebuilt(after []CRL) bool {
	since := r.StartedAt
	if since.IsZero() {
		since = r.DecidedAt
	}
	since = since.Truncate(time.Second) // thisUpdate has whole seconds
	for _, c := range distinct(after) {
		if c.Summary.ThisUpdate.Before(since) {
			return false
		}
	}
	return len(after) > 0
}

// explain says why a run achieved nothing.
func (r Run) explain(rebuilt, deleted bool, c *CRLConfig, longest LongestTTL) string {
	switch {
	case deleted && !rebuilt && r.Error != "":
		return fmt.Sprintf("%d revocations were deleted, and the CRL was not rebuilt: %s", *r.Deleted, r.Error)
	case deleted && !rebuilt && c != nil && c.AutoRebuild:
		return fmt.Sprintf("%d revocations were deleted; the CRL keeps them until Vault rebuilds it by itself (auto_rebuild), and it was not rotated", *r.Deleted)
	case deleted && !rebuilt:
		return fmt.Sprintf("%d revocations were deleted, and the CRL is older than the run", *r.Deleted)
	case r.State == RunError:
		return "Vault stopped the run: " + r.Error
	case r.State == RunCancelled:
		return "the run was cancelled before it deleted a revocation"
	case r.State == RunUnknown:
		return "Vault forgot the run (restart or failover), and the CRL did not shrink"
	case c != nil && c.Disabled:
		return "CRLs are switched off in this mount (config/crl disable)"
	case r.Before.Entries == 0:
		return "the CRL was empty"
	case r.Possible == 0:
		return fmt.Sprintf("nothing was revoked, hence expired, more than the safety buffer of %s before", r.SafetyBuffer)
	case r.Predicted.Reclaimable == 0:
		return fmt.Sprintf("no revoked certificate had been expired for more than the safety buffer of %s yet", r.SafetyBuffer)
	default:
		return fmt.Sprintf("certificates live longer than %s (%s), which the prediction of %d rests on: issued before a role was shortened, or with an explicit not_after",
			longest.Duration, longest.Source, r.Predicted.Reclaimable)
	}
}
