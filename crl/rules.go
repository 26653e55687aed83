package crl

import (
	"fmt"
	"math/big"
	"time"
)

// Observation is what is known of one list, that of an issuer or its delta, or
// of a mount apart from its lists. What is not known is zero, and no rule reads
// it as anything else.
type Observation struct {
	Subject string // for example "mount pki, issuer root-2026"

	// List is the last list that was read whole and whose signature was right,
	// nil before the first.
	List       *Summary
	MeasuredAt time.Time // when it was last known to be the current one

	// Err is what the last attempt ended with: nothing, one of Scan's or
	// Verify's errors, or whatever kept the list from being fetched.
	Err error

	Missing        bool // the last attempt ended with the answer that there is no list
	CannotSign     bool // the certificate has a key usage without CRL signing: no list is expected
	UsageForbids   bool // Vault's own usage of the issuer does not include crl-signing
	AutoRebuildOff bool // config/crl: the list is rebuilt by revocations only, and not disabled
	Issuers        int  // how many issuers share the list

	Limit      Limit
	MaxBytes   int64      // the largest list that is read; 0 means DefaultMaxBytes
	Refused    error      // Vault's answer when it last built a newer list and could not store it
	Projection Projection // when the limit is reached
	Headroom   *float64   // how many times all live certificates could be revoked before the limit
	Steady     Steady     // where growth stops by itself

	Lost *Loss // entries that were removed early, nil for none

	Highest      *big.Int  // the highest CRL number that was seen
	HighestUntil time.Time // nextUpdate of the list that carried it
	Setback      *Setback  // what List lacks of a newer one that was there before, nil for nothing
	Twin         *Twin     // another list with the same number, nil for none

	// Delta is set where List is what the endpoint for delta CRLs serves; Base is
	// the full list that it is to be combined with, nil while there is none.
	Delta bool
	Base  *Summary

	// Of a mount.
	MountRefused string // why nothing is asked of it
	CRLDisabled  bool   // config/crl disable=true
	HistoryErr   error  // of reading or writing what is remembered of its lists
	HistoryLeft  int    // how many of its lists the record has no room for
	// Drift is how many revocations Vault has counted that are in no list, or,
	// below 0, how many entries the lists hold that are not counted: where the two
	// ought to agree, and for more than a moment.
	Drift int64

	MountsErr error // of reading or writing which mounts there were

	Vanished  *Vanished  // the subject is not there any more, nil while it is
	Unwatched *Unwatched // no mount is watched at all, or none that a pattern names; nil for neither
}

// Twin is a list that had the number of another one that was valid beside it.
type Twin struct {
	Number     *big.Int
	ThisUpdate time.Time // of the former one
	NextUpdate time.Time // of the former one
}

// Vanished says of what was watched that it is no longer there.
type Vanished struct {
	At    time.Time // when it was missed
	Seen  time.Time // when it was last there, as far as is known
	Mount bool      // a whole mount, which a policy can hide too; else a list, whose issuer or key is gone
	Lists int       // of the mount

	Entries    int64     // of the list
	NextUpdate time.Time // of the list; zero where it is not known

	Replaced bool // another mount has its path now
}

// Unwatched says why no mount is watched, where Vault could be asked for them;
// or, with Unmatched, which patterns are of no use where mounts are watched.
type Unwatched struct {
	Mounts   []string // some of the PKI mounts that Vault shows
	Shown    int      // how many there are
	Patterns []string // crl.mounts

	Unmatched []string // patterns for which there is no mount
}

// Thresholds say from when on a list is a finding.
type Thresholds struct{ Warn, Critical Threshold }

// Threshold is one grade. Each of the three alone is enough.
type Threshold struct {
	Share    float64       // of the limit, 0 to 1: from here on
	Horizon  time.Duration // until the limit is reached: at most so long
	Headroom float64       // rollout headroom: less than this
}

// Validate says what is contradictory.
func (t Thresholds) Validate() error {
	switch w, c := t.Warn, t.Critical; {
	case w.Share <= 0 || c.Share < w.Share || c.Share > 1:
		return fmt.Errorf("want shares 0 < warn <= critical <= 1, have %v and %v", w.Share, c.Share)
	case c.Horizon < 0 || w.Horizon < c.Horizon:
		return fmt.Errorf("want horizons warn >= critical >= 0, have %s and %s", w.Horizon, c.Horizon)
	case c.Headroom < 0 || w.Headroom < c.Headroom:
		return fmt.Errorf("want headrooms warn >= critical >= 0, have %v and %v", w.Headroom, c.Headroom)
	}
	return nil
}

// rule looks at one list. It returns false where it has nothing to say.
type rule struct {
	id    string
	check func(o Observation, t Thresholds, now time.Time) (Finding, bool)
}

var rules = []rule{
	{"crl-over-limit", overLimit},
	{"crl-near-limit", nearLimit},
	{"crl-not-written", notWritten},
	{"crl-stale", stale},
	{"crl-dates", dates},
	{"crl-auto-rebuild-off", autoRebuildOff},
	{"crl-signature-invalid", signatureInvalid},
	{"crl-not-verifiable", notVerifiable},
	{"crl-missing", missing},
	{"crl-unreadable", unreadable},
	{"crl-no-issuer-usage", noIssuerUsage},
	{"crl-number-backwards", numberBackwards},
	{"crl-removed-early", removedEarly},
	{"crl-unsorted", unsorted},
	{"crl-duplicate-entries", duplicates},
	{"crl-delta-without-base", deltaWithoutBase},
	{"crl-mount-refused", mountRefused},
	{"crl-no-mount", noMount},
	{"crl-vanished", vanished},
	{"crl-disabled", disabled},
	{"crl-history-unreadable", historyUnreadable},
	{"crl-history-full", historyFull},
	{"crl-count-drift", countDrift},
}

// Findings are the verdicts of all rules on one list.
func Findings(o Observation, t Thresholds, now time.Time) []Finding {
	var found []Finding
	for _, r := range rules {
		if f, ok := r.check(o, t, now); ok {
			f.Rule, f.Subject = r.id, o.Subject
			found = append(found, f)
		}
	}
	return found
}
