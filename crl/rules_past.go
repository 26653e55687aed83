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
	if o.Setback != nil && o.List != nil {
		return o.setBack(now), true
	}
	if !o.wentBack(now) {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  "The CRL number went backwards: clients that hold the former CRL may refuse this one, and its revocations may be missing.",
		Evidence: o.numbers(),
		Remedy:   "Find out whether Vault was restored from a backup or the mount was made anew: what was revoked since then has to be revoked again. Reading crl/rotate raises the number by one each time.",
		Citation: citeNumber,
	}, true
}

const citeNumber = "RFC 5280 section 5.2.3: the CRL number is a monotonically increasing sequence"

// wentBack tells whether the list has a lower number than one that is still
// valid.
func (o Observation) wentBack(now time.Time) bool {
	return o.List != nil && o.List.Number != nil && o.Highest != nil && o.List.Number.Cmp(o.Highest) < 0 && now.Before(o.HighestUntil)
}

func (o Observation) numbers() string {
	return fmt.Sprintf("number %s, after %s, which is valid until %s", o.List.Number, o.Highest, o.HighestUntil.UTC().Format(time.RFC3339))
}

// setBack: revocations are lost, and how many. How long their certificates live
// a list does not say, so that some may have expired by now.
func (o Observation) setBack(now time.Time) Finding {
	b := o.Setback
	f := Finding{
		Severity: Warning,
		Summary:  fmt.Sprintf("The CRL went back to an older one: at least %d certificates that were revoked are ones that Vault no longer knows as revoked. Whether they have expired cannot be told.", b.Lost),
		Evidence: fmt.Sprintf("the CRL of %s had at least %d entries that the one served now, of %s, does not have",
			b.Before.UTC().Format(time.RFC3339), b.Lost, b.At.UTC().Format(time.RFC3339)),
		Remedy: "Find out whether Vault was restored from a backup, or whether two Vaults answer at vault.address in turns. After a restore revoke anew what was revoked since the backup: " +
			"the audit log has the serial numbers, and so has the newer CRL where somebody holds it (pkiwarden crl diff --serials NEWER OLDER). Reading crl/rotate raises the number by one each time.",
		Citation: citeNumber + "; section 3.3: an entry must not be removed until it appears on one regularly scheduled CRL issued beyond the revoked certificate's validity period",
	}
	if o.wentBack(now) {
		f.Evidence = o.numbers() + "; " + f.Evidence
	}
	if due := b.due(now); due > 0 {
		f.Severity = Critical
		f.Summary = fmt.Sprintf("The CRL went back to an older one: at least %d certificates that were revoked are ones that Vault no longer knows as revoked. To clients they are good again, but for any that have expired since, which cannot be told.", b.Lost)
		known := "here"
		if b.Buffer <= 0 {
			known = "as is assumed"
		}
		f.Evidence += fmt.Sprintf("; at least %d of them were revoked less than %s ago, and stay listed for as long after their end, %s", due, exactly(b.buffer()), known)
	}
	return f
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
