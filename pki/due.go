package pki

import "time"

// CouldBeDue tells whether what is in question of e decides whether a run is due
// by volume: it is, should all of that be reclaimable, and is not, should none.
func (p Policy) CouldBeDue(e Estimate) bool {
	reached := func(n int64) bool {
		t := p.Trigger
		return t.ReclaimableEntries > 0 && n >= t.ReclaimableEntries ||
			t.ReclaimableShare > 0 && n > 0 && float64(n) >= t.ReclaimableShare*float64(e.Total.Entries)
	}
	return reached(e.Most()) && !reached(e.Sure())
}

// dueWithin is how far DueAt looks ahead, and dueStep how exact it is at the
// best.
const (
	dueWithin = distant
	dueStep   = 15 * time.Second
)

// DueAt is when a run may begin of which d, the decision that Plan made from o, p
// and now, says that nothing makes it due yet, should nothing be revoked until
// then: by the longest pause allowed, or earlier by what surely becomes
// reclaimable of what is on the lists now, as far as the ends of certificates and
// the dates of revocations tell. It is d.Until for any other decision.
func DueAt(o Observation, p Policy, d Decision, now time.Time) time.Time {
	if !d.Idle {
		return d.Until
	}
	due := func(at time.Time) bool {
		is, _ := trigger(o, p, o.Sample.Estimate(o.CRLs, o.LongestTTL, p.SafetyBuffer, at), at)
		return is
	}
	before, end := time.Duration(0), dueWithin
	if !d.Until.IsZero() {
		end = min(end, d.Until.Sub(now))
	}
	for after := dueStep; before < end; after *= 2 {
		after = min(after, end)
		if !due(now.Add(after)) {
			before = after
			continue
		}
		for after-before > max(dueStep, after/256) {
			if half := before + (after-before)/2; due(now.Add(half)) {
				after = half
			} else {
				before = half
			}
		}
		at := now.Add(after)
		if earliest, _ := earliest(o, p); earliest.After(at) {
			at = earliest
		}
		return p.opening(at)
	}
	return d.Until
}
