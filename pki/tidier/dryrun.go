package tidier

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// rehearse is what a dry run says of a decision: what a run would give, and
// which rights it would lack.
func (t *Tidier) rehearse(ctx context.Context, v *view, p pki.Policy) (string, error) {
	reason := t.outlook(v, p)
	if v.decision.Verdict == pki.Follow {
		return reason, nil
	}
	if v.statusErr != nil {
		reason += "; a run would not be begun: " + v.statusErr.Error()
	}
	lacks, err := t.lacks(ctx, v, p)
	if lacks != "" {
		reason += "; " + lacks
	}
	return reason, err
}

// lacks says which of the rights that a run takes the token does not have, or
// that this is not known; "" where it has all. Its error is ctx's.
func (t *Tidier) lacks(ctx context.Context, v *view, p pki.Policy) (string, error) {
	start, rotate := pki.TidyRight(v.mount), pki.RotateRight(v.mount)
	granted, err := t.o.Vault.Capabilities(ctx, v.mount, []string{start.Path, rotate.Path})
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return fmt.Sprintf("whether Vault would refuse a run is not known: %v", err), nil
	}
	var words []string
	for _, r := range lacking(granted, []pki.PermissionError{start, rotate}) {
		right := fmt.Sprintf("the token lacks capability %q on path %q", r.Capability, r.Path)
		c := v.observation.CRLConfig
		switch {
		case r == start:
			words = append(words, "a run would be refused: "+right)
		case p.Rotate && (c == nil || c.AutoRebuild && !c.Disabled):
			words = append(words, "after a run the CRL would not be rotated: "+right)
		}
	}
	return strings.Join(words, "; "), nil
}

// outlook says of a decision also what a run would give that something holds
// back which has nothing to do with the mount's lists, or why that is not
// estimated.
func (t *Tidier) outlook(v *view, p pki.Policy) string {
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
