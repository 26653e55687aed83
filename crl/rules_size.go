package crl

import (
	"fmt"
	"strings"
	"time"
)

// LimitFinding is the verdict on a limit that is not known, for all lists that
// share it.
func LimitFinding(l Limit) (Finding, bool) {
	if l.Known {
		return Finding{}, false
	}
	return Finding{
		Rule: "crl-limit-unknown", Severity: Unknown, Subject: "storage",
		Summary:  "It is not known how large a CRL Vault's storage accepts, so nothing warns before one no longer fits.",
		Evidence: l.Rule,
		Remedy:   "Let pkiwarden read the limit (raft: capability read on sys/config/state/sanitized; Consul: agent:read on the agent that Vault talks to), or set crl.limit.",
		Citation: "Vault physical/raft/raft.go and physical/consul/consul.go: the limit belongs to the storage",
	}, true
}

const (
	remedyLimit = "Let tidy run (pkiwarden tidy --dry-run says what it would reclaim); shorten the certificates' lifetimes or the safety buffer; raise the storage's limit; or move to a new issuer key, whose list begins empty."
	citeLimit   = "Vault builtin/logical/pki/crl_util.go: the list is one storage entry, and is not replaced when it does not fit"
)

func overLimit(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	share, limited := o.used()
	if !limited || share <= 1 {
		return Finding{}, false
	}
	return Finding{
		Severity: Critical,
		Summary:  "The CRL is larger than what Vault accepts by now: it will not be replaced by a newer one.",
		Evidence: o.limitEvidence() + o.steadyEvidence(),
		Remedy:   o.limitRemedy(),
		Citation: citeLimit,
	}, true
}

// used is the share of the limit that the list takes, false without either.
func (o Observation) used() (share float64, limited bool) {
	if o.List == nil {
		return 0, false
	}
	return o.Limit.Used(o.List.Bytes, o.List.Entries)
}

// nearLimit looks at the size of now, at when the limit is reached, and at what
// a redeployment of everything would do. The most severe of the three decides.
// fullShare is the share of its limit from which on a list may be the last that
// was written.
const fullShare = 0.95

func nearLimit(o Observation, t Thresholds, now time.Time) (Finding, bool) {
	share, limited := o.used()
	if !limited || share > 1 {
		return Finding{}, false
	}
	f := Finding{Evidence: o.limitEvidence(), Remedy: o.limitRemedy(), Citation: citeLimit}
	var why []string
	at := o.Projection.LimitReachedAt
	for _, grade := range []struct {
		Threshold
		severity Severity
	}{{t.Critical, Critical}, {t.Warn, Warning}} {
		if share >= grade.Share {
			why = append(why, fmt.Sprintf("The CRL takes %d %% of what Vault accepts.", int(100*share)))
		}
		if !at.IsZero() && !o.Projection.Passed && !at.After(now.Add(grade.Horizon)) {
			why = append(why, fmt.Sprintf("The CRL reaches what Vault accepts in %s.", left(at.Sub(now))))
		}
		if o.Headroom != nil && *o.Headroom < grade.Headroom {
			why = append(why, fmt.Sprintf("All live certificates can be revoked %.1f times before the CRL reaches what Vault accepts.", *o.Headroom))
		}
		if len(why) > 0 {
			f.Severity = grade.severity
			break
		}
	}
	if len(why) == 0 {
		return Finding{}, false
	}
	f.Summary = strings.Join(why, " ") + " Beyond, revocations are recorded and no longer published."
	if share >= fullShare {
		f.Summary += " That may be so already: the list that no longer fits is not seen."
		f.Remedy = "Ask pkiwarden tidy --rescue whether Vault keeps revocations that no list has; it changes nothing. " + f.Remedy
	}
	if !at.IsZero() {
		f.Evidence += fmt.Sprintf("; reached on %s if it goes on like %s", at.Format(time.RFC3339), o.Projection.Basis)
	}
	f.Evidence += o.steadyEvidence()
	return f, true
}

// limitRemedy is what helps, with the settings that make room for twice the
// list, or for what it grows to by itself.
func (o Observation) limitRemedy() string {
	words := o.Limit.Raise(max(2*o.List.Bytes, o.Steady.Bytes)).Words
	if words == "" {
		return remedyLimit
	}
	return remedyLimit + fmt.Sprintf(" For room of %d bytes: %s.", max(2*o.List.Bytes, o.Steady.Bytes), words)
}

// steadyEvidence is where growth stops by itself, where that is known.
func (o Observation) steadyEvidence() string {
	if !o.Steady.Known {
		return ""
	}
	where := "beyond the limit"
	if o.Steady.BelowIt {
		where = "below the limit"
	}
	return fmt.Sprintf("; growth stops by itself at %d entries, %d bytes, %s: %s", o.Steady.Entries, o.Steady.Bytes, where, o.Steady.Why)
}

// left is a time to go, for a person.
func left(d time.Duration) string {
	switch {
	case d <= 0:
		return "no time at all"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

func (o Observation) limitEvidence() string {
	return fmt.Sprintf("%d bytes, %d entries; limit %d bytes, about %d entries: %s",
		o.List.Bytes, o.List.Entries, o.Limit.MaxBytes, o.Limit.Entries(), o.Limit.Rule)
}

// notWritten: Vault has built a newer list and could not store it.
func notWritten(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.Refused == nil {
		return Finding{}, false
	}
	f := Finding{
		Severity: Critical,
		Summary:  "Vault cannot store the CRL that it builds: revocations are recorded and not published, and the CRL will pass its nextUpdate.",
		Evidence: o.Refused.Error(),
		Remedy:   "Raise the limit first, then tidy, then read crl/rotate. What helps: " + remedyLimit,
		Citation: "Vault builtin/logical/pki/crl_util.go, buildCRL: the revocation is stored before the list; physical/raft/raft.go and physical/consul/consul.go: put failed due to value being too large; Consul agent/txn_endpoint.go: Request body too large",
	}
	if o.List != nil {
		f.Remedy = "Raise the limit first, then tidy, then read crl/rotate. What helps: " + o.limitRemedy()
		f.Evidence += fmt.Sprintf("; the CRL that is served is of %s", o.List.ThisUpdate.Format(time.RFC3339))
	}
	return f, true
}
