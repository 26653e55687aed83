package pki

import (
	"fmt"
	"slices"
	"time"
)

// OwedRotation is a rotation that a run was to end with and that failed. It is
// asked for again until the lists are newer than the run.
type OwedRotation struct {
	Run      string    `json:"run"`   // the ID of the run that owes it
	Since    time.Time `json:"since"` // the end of that run
	Attempts int       `json:"attempts,omitempty"`
	NextAt   time.Time `json:"nextAt,omitzero"` // of the next attempt that nobody asks for; zero: at once
}

// How long is waited from one attempt to the next that nobody asks for: it
// doubles. A rotation reads every revocation of the mount.
const (
	owedFirst = time.Minute
	owedMax   = 30 * time.Minute
)

// Attempt returns the debt with an attempt at now.
func (o OwedRotation) Attempt(now time.Time) OwedRotation {
	o.NextAt = now.Add(min(owedMax, owedFirst<<min(o.Attempts, 10)))
	o.Attempts++
	return o
}

// owing is where the run that owes a rotation is in the history, below 0 where
// it is there no more.
func (r Record) owing() int {
	if r.Owed == nil {
		return -1
	}
	return slices.IndexFunc(r.History, func(run Run) bool { return run.ID == r.Owed.Run })
}

// Owing is the run that owes a rotation, nil where none does, or where it is
// forgotten.
func (r Record) Owing() *Run {
	if at := r.owing(); at >= 0 {
		return &r.History[at]
	}
	return nil
}

// Paid returns r without its debt where the lists, as they were just measured,
// are newer than the run that owed it; that run is judged anew by them. rotated
// tells whether they were rotated here. It is false where they are not newer: the
// debt stays.
func (r Record) Paid(lists []CRL, c *CRLConfig, longest LongestTTL, rotated bool, now time.Time) (Record, bool) {
	at := r.owing()
	if at < 0 {
		r.Owed = nil
		return r, true
	}
	run := r.History[at]
	if len(run.stale(lists)) > 0 || len(lists) == 0 {
		return r, false
	}
	run.Rotated, run.Owes, run.Error, run.Denied = run.Rotated || rotated, false, "", nil
	run = run.Judge(lists, c, longest)
	run.Explanation += fmt.Sprintf("; the rotation that it owed was made up for at %s", instant(now))
	r.History = slices.Clone(r.History)
	r.History[at], r.Owed = run, nil
	if run.Outcome == OutcomeOK {
		r.EffectiveAt = now
	}
	return r, true
}
