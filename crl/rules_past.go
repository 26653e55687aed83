package crl

import (
	"fmt"
	"time"
)

// numberBackwards: a list was published with a lower number than one before it,
// which somebody may still hold.
func numberBackwards(o Observation, _ Thresholds, now time.Time) (Finding, bool) {
	if o.List == nil || o.List.Number == nil || o.Highest == nil || o.List.Number.Cmp(o.Highest) >= 0 || !now.Before(o.HighestUntil) {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  "The CRL number went backwards: clients that hold the former CRL may refuse this one, and its revocations may be missing.",
		Evidence: fmt.Sprintf("number %s, after %s, which is valid until %s", o.List.Number, o.Highest, o.HighestUntil.UTC().Format(time.RFC3339)),
		Remedy:   "Find out whether Vault was restored from a backup or the mount was made anew: what was revoked since then has to be revoked again. Reading crl/rotate raises the number by one each time.",
		Citation: "RFC 5280 section 5.2.3: the CRL number is a monotonically increasing sequence",
	}, true
}

// removedEarly: entries are gone that no tidy can have removed. Most early
// removals cannot be seen in counts; what is said is certain.
func removedEarly(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.List == nil || o.Changes == nil || o.SafetyBuffer <= 0 {
		return Finding{}, false
	}
	early := o.Changes.Early(o.SafetyBuffer)
	if early == 0 {
		return Finding{}, false
	}
	return Finding{
		Severity: Critical,
		Summary:  fmt.Sprintf("At least %d entries were removed from the CRL before their certificates can have expired: to clients these are good again.", early),
		Evidence: fmt.Sprintf("the CRL of %s has %d entries fewer and %d more than the one before; Vault's last tidy left what was revoked within %s",
			o.List.ThisUpdate.Format(time.RFC3339), o.Changes.Removed, o.Changes.Added, o.SafetyBuffer),
		Remedy:   "Compare the lists (pkiwarden crl diff --serials OLD NEW). See whether an issuer was deleted or its default changed, whether config/crl disable was set, or whether Vault was restored from a backup; then revoke those certificates again.",
		Citation: "RFC 5280 section 3.3: an entry must not be removed until it appears on one regularly scheduled CRL issued beyond the revoked certificate's validity period",
	}, true
}

// deltaWithoutBase: a delta that cannot be combined with the list that is
// served.
func deltaWithoutBase(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if !o.Delta || o.List == nil {
		return Finding{}, false
	}
	f := Finding{
		Severity: Warning,
		Summary:  "The delta CRL does not belong to the CRL that is served: clients cannot combine the two.",
		Remedy:   "Read crl/rotate, which builds both anew; where it fails, its error says why.",
		Citation: "RFC 5280 section 5.2.4: the complete CRL's number is equal to or greater than the delta's BaseCRLNumber",
	}
	switch base := o.Base; {
	case o.List.BaseNumber == nil:
		f.Evidence = "what the endpoint for delta CRLs serves has no delta CRL indicator"
	case base == nil:
		return Finding{}, false // the full list has a finding of its own
	case base.Number == nil:
		f.Evidence = fmt.Sprintf("base number %s; the CRL has no number", o.List.BaseNumber)
	case base.Number.Cmp(o.List.BaseNumber) < 0:
		f.Evidence = fmt.Sprintf("base number %s; the CRL has number %s", o.List.BaseNumber, base.Number)
	default:
		return Finding{}, false
	}
	return f, true
}
