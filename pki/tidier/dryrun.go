package tidier

import (
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// rehearsed is what a dry run says of a decision: also what a run would give
// that something holds back which has nothing to do with the mount's lists, or
// why that is not estimated.
func (t *Tidier) rehearsed(v *view, p pki.Policy) string {
	if v.decision.Verdict == pki.Follow {
		return v.decision.Reason
	}
	reason, free := foretold(v.decision), v.observation
	if v.decision.Verdict == pki.RunNow {
		reason = "dry run, " + reason
	}
	free.OtherRun = ""
	free.Health.ActiveSince = time.Time{} // as without high availability: it has settled
	if s := free.Status; s == nil || s.State.Active() {
		free.Status = &pki.TidyStatus{State: pki.TidyInactive}
	}
	switch d := pki.Plan(free, p, t.now()); {
	case free.Health.Standby:
		return reason + "; what a run would take off is not estimated, for which the active node is asked"
	case d.Reason != v.decision.Reason:
		reason += "; apart from that " + foretold(d)
	}
	if _, slow := v.observation.Load.Degraded(); slow {
		reason += "; what is reclaimable is known less well, since no certificates are read of a slow Vault"
	}
	return reason
}

// foretold says that a run is due, where it is.
func foretold(d pki.Decision) string {
	if d.Verdict == pki.RunNow {
		return "a run is due: " + d.Reason
	}
	return d.Reason
}
