package pki

import (
	"fmt"
	"time"
)

// Phase is what a run of tidy is at.
type Phase string

// The phases that tidy-status tells, in order.
const (
	PhaseCertStore Phase = "certificates"
	PhaseRevoked   Phase = "revocations"
)

// Progress is how far a run has come.
type Progress struct {
	Phase Phase // "" before the first, and in one that is not told
	Done  int64 // entries of the phase that were looked at
	Total int64 // as listed at the phase's beginning
}

// Progress reads how far the run has come from its message, which the three
// versions looked at (1.13.0, 1.17.6, 1.21.1; path_tidy.go) form alike. It is
// false where there is none of them. The message stays at the last entry while
// Vault rebuilds the CRL.
func (s TidyStatus) Progress() (Progress, bool) {
	for _, form := range []struct {
		phase Phase
		text  string
	}{
		{PhaseCertStore, "Tidying certificate store: checking entry %d of %d"},
		{PhaseRevoked, "Tidying revoked certificates: checking certificate %d of %d"},
	} {
		p := Progress{Phase: form.phase}
		if n, err := fmt.Sscanf(s.Message, form.text, &p.Done, &p.Total); err == nil && n == 2 && p.Done >= 0 && p.Done <= p.Total {
			return p, true
		}
	}
	return Progress{}, false
}

// Share is how much of the phase is done, 0 to 1.
func (p Progress) Share() float64 {
	if p.Total <= 0 {
		return 0
	}
	return float64(p.Done) / float64(p.Total)
}

// Left is how long the phase still takes at the pace since it was at from, some
// time ago; 0 where that is unknown.
func (p Progress) Left(from Progress, ago time.Duration) time.Duration {
	if p.Phase != from.Phase || p.Done <= from.Done || ago <= 0 {
		return 0
	}
	return time.Duration(float64(ago) / float64(p.Done-from.Done) * float64(p.Total-p.Done))
}
