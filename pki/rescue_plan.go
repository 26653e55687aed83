package pki

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// planner is a plan in the making.
type planner struct {
	r   Rescue
	p   Policy
	now time.Time

	all    []RescueSize // what Vault keeps
	tidied []RescueSize // what a tidy with the configured buffer leaves
	fit    *bool        // whether all of that fits

	plan *RescuePlan
}

// worst is what holds for all of sizes: true where each fits, false where one
// does not, nil where it is not known.
func worst(sizes []RescueSize) *bool {
	fit := new(true)
	for _, s := range sizes {
		switch {
		case s.Fits == nil:
			fit = nil
		case !*s.Fits:
			return s.Fits
		}
	}
	return fit
}

func surely(b *bool) bool   { return b != nil && *b }
func surelyNo(b *bool) bool { return b != nil && !*b }

// limitKnown tells whether the limit of every list is known.
func (q *planner) limitKnown() bool {
	for _, l := range q.r.Lists {
		if !l.Served.Limit.Known {
			return false
		}
	}
	return true
}

func (q *planner) missing() (n int64) {
	for _, l := range q.r.Lists {
		n += l.Missing
	}
	return n
}

func (q *planner) stale() (n int64) {
	for _, l := range q.r.Lists {
		n += l.Stale
	}
	return n
}

// expired names a list whose time is over.
func (q *planner) expired() string {
	for _, l := range q.r.Lists {
		if next := l.Served.Summary.NextUpdate; !next.IsZero() && next.Before(q.now) {
			return fmt.Sprintf("the list of issuer %s expired at %s", l.Served.Issuer.Label(), instant(next))
		}
	}
	return ""
}

func (q *planner) status() RescueStatus {
	fit := worst(q.all)
	autoRebuild := q.r.Config != nil && q.r.Config.AutoRebuild
	switch {
	case q.r.Config != nil && q.r.Config.Disabled:
		return RescueDisabled
	case surelyNo(fit), fit == nil && q.limitKnown():
		return RescueOver
	case fit == nil && q.missing()+q.stale() > 0:
		return RescueUnknown
	case q.expired() != "", !autoRebuild && q.missing()+q.stale() > 0:
		return RescueStale
	}
	return RescueFits // also one that is served as it is, whatever the limit
}

func (q *planner) reports() []RescueReport {
	reports := make([]RescueReport, 0, len(q.r.Lists))
	for i, l := range q.r.Lists {
		reports = append(reports, RescueReport{
			Issuer:  l.Served.Issuer.Label(),
			Served:  Size{Entries: l.Served.Summary.Entries, Bytes: l.Served.Summary.Bytes},
			Next:    q.all[i],
			Missing: l.Missing, Stale: l.Stale, Read: l.Read(),
		})
	}
	return reports
}

// doomed are the certificates whose revocation a rebuild would lose.
func (q *planner) doomed() []string {
	var doomed []string
	for _, l := range q.r.Lists {
		doomed = append(doomed, l.Doomed...)
	}
	return doomed
}

// refused is why nothing may be done, whoever asks.
func (q *planner) refused() string {
	doomed := q.doomed()
	if n := len(doomed); n > 0 {
		return fmt.Sprintf("the served list has %d certificates that have not expired and whose revocation Vault no longer keeps (%s): a rebuilt list would not have them; revoke them again first: vault write %s/revoke serial_number=…",
			n, strings.Join(doomed[:min(n, 3)], ", "), q.r.Mount.Path)
	}
	var denied []string
	for _, e := range q.r.Denied {
		if slices.ContainsFunc(q.plan.Steps, func(s RescueStep) bool {
			return s.Need == Needed && s.Capability != nil && s.Capability.Path == e.Path && s.Capability.Capability == e.Capability
		}) {
			denied = append(denied, e.Error())
		}
	}
	return strings.Join(denied, "; ")
}

// verdict sums up the steps.
func (q *planner) verdict() {
	plan := q.plan
	switch plan.Status {
	case RescueDisabled:
		plan.Verdict = "lists are switched off in this mount (config/crl disable): none is written, so none can be too large"
	case RescueFits:
		plan.Verdict = "the next lists fit: there is nothing to rescue"
		if !plan.Limit.Known {
			plan.Verdict = "what is served holds every revocation, so there is nothing to rescue; how much room is left is not known"
		}
		if n := q.missing(); n > 0 {
			plan.Verdict += fmt.Sprintf("; %d revocations come onto a list when Vault next rebuilds it by itself (auto_rebuild), or by steps 6 and 7", n)
		}
		plan.Enough = new(true)
	case RescueStale:
		plan.Verdict = fmt.Sprintf("the next lists fit, and what is served is behind them (%s): steps 6 and 7 are enough", q.behind())
		plan.Enough = new(true)
	case RescueUnknown:
		plan.Verdict = fmt.Sprintf("how large a list the storage accepts is not known (%s), and what is served is behind (%s): set crl.limit, or let --apply tidy and see what crl/rotate says", plan.Limit.Rule, q.behind())
	case RescueOver:
		plan.Verdict, plan.Enough = q.over()
	}
}

// behind says how the served lists differ from the next ones.
func (q *planner) behind() string {
	var words []string
	if n := q.missing(); n > 0 {
		words = append(words, fmt.Sprintf("%d revocations are missing", n))
	}
	if n := q.stale(); n > 0 {
		words = append(words, fmt.Sprintf("%d entries are no longer kept", n))
	}
	if expired := q.expired(); expired != "" {
		words = append(words, expired)
	}
	return strings.Join(words, ", ")
}

// over is the verdict on a mount whose next lists do not fit.
func (q *planner) over() (string, *bool) {
	own := "steps 6 and 7"
	if q.plan.Needs(StepTidy) {
		own = "steps 1, 6 and 7"
	}
	switch {
	case surely(q.fit):
		return "over the limit: " + own + " are enough", new(true)
	case q.fit == nil && !q.limitKnown():
		said := q.plan.Limit.Rule
		if q.r.TooLarge != nil {
			said = q.r.TooLarge.Message
		}
		return fmt.Sprintf("over a limit that is not known (%s): whether %s are enough is known once they have been tried (--apply)", said, own), nil
	case q.fit == nil:
		return "over the limit: " + own + " may be enough, which is known once every certificate has been read (--apply does so)", nil
	}
	var instead []string
	for _, s := range q.plan.Steps {
		if s.Need == Instead {
			instead = append(instead, fmt.Sprint(s.Step))
		}
	}
	if len(instead) == 0 {
		return "over the limit: not enough, and no other step helps before more has expired", new(false)
	}
	last := len(instead) - 1
	which := "step " + instead[last]
	if last > 0 {
		which = "one of the steps " + strings.Join(instead[:last], ", ") + " and " + instead[last]
	}
	return "over the limit: not enough without " + which, new(false)
}

// raise is what lets lists of these sizes be stored, with room and at the
// least.
func (q *planner) raise(sizes []RescueSize) (roomy, least crl.Raise) {
	for i, s := range sizes {
		limit := q.r.Lists[i].Served.Limit
		if surely(s.Fits) {
			continue
		}
		if at := limit.Raise(s.Bytes); larger(at, least) {
			least = at
			roomy = limit.Raise(int64(float64(s.Bytes) / roomShare))
		}
	}
	return roomy, least
}

// RefusedLimit is what a limit must be, now that the storage has refused a list
// in these words: l where they name no limit. What is configured, or shown, need
// not be in force.
func RefusedLimit(l crl.Limit, refused *TooLargeError, vaultVersion string) crl.Limit {
	s := l.Storage
	s.Backend, s.VaultVersion = l.Backend, cmp.Or(s.VaultVersion, vaultVersion)
	switch {
	case refused.Limit <= 0:
		return l
	case strings.Contains(refused.Message, "exceeds configured maximum"):
		if l.Storage.Backend != "" {
			l = l.Storage.Limit()
		}
		return l.WithMaxEntries(refused.Limit)
	case s.Backend == "raft":
		s.Raft = crl.RaftLimits{MaxEntrySize: refused.Limit}
	case s.Backend == "consul":
		s.Consul.KVMaxValueSize, s.Consul.TxnMaxReqLen = refused.Limit, refused.Limit
	default:
		return l
	}
	return s.Limit().WithMaxEntries(l.MaxEntries)
}

// larger tells whether a asks for more than b.
func larger(a, b crl.Raise) bool {
	if len(a.Ways) == 0 || len(b.Ways) == 0 {
		return b.Words == ""
	}
	return a.Ways[0][0].Value > b.Ways[0][0].Value
}
