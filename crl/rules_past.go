package crl

import (
	"fmt"
	"time"
)

// numberBackwards: a list was published with a lower number than one before it,
// which somebody may still hold, or with the number of another one.
func numberBackwards(o Observation, _ Thresholds, now time.Time) (Finding, bool) {
	if t := o.Twin; t != nil && o.List != nil && o.List.Number != nil && o.List.Number.Cmp(t.Number) == 0 && now.Before(t.NextUpdate) {
		return Finding{
			Severity: Warning,
			Summary:  "Two CRLs have the same number: clients that hold the former one take this one for it, and do not learn of its revocations.",
			Evidence: fmt.Sprintf("number %s is that of the CRL of %s and of another one, of %s, which is valid until %s",
				t.Number, o.List.ThisUpdate.Format(time.RFC3339), t.ThisUpdate.Format(time.RFC3339), t.NextUpdate.UTC().Format(time.RFC3339)),
			Remedy:   "See whether two Vault clusters answer at vault.address in turns, or whether Vault was restored from a backup. Reading crl/rotate raises the number by one.",
			Citation: "RFC 5280 section 5.2.3: CRL numbers identify a CRL; two with the same number for the same scope at different times must not be issued",
		}, true
	}
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
