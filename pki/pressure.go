package pki

import (
	"fmt"
	"time"
)

// mayShrink tells whether a run may take something off the list.
func mayShrink(l *listEstimate) bool { return l.most > 0 }

// isFresh tells whether no run can take anything off the list yet.
func isFresh(l *listEstimate) bool { return l.most == 0 }

// pressed is the list nearest to its limit among those that are eligible and
// under the given pressure, with its pressure in words; nil without one. The
// fullest comes first, then the one that reaches its limit first.
func (e Estimate) pressed(p Pressure, now time.Time, eligible func(*listEstimate) bool) (*listEstimate, string) {
	var full, soon *listEstimate
	for i := range e.lists {
		l := &e.lists[i]
		if !eligible(l) {
			continue
		}
		if l.over(p.Share) && (full == nil || l.share() > full.share()) {
			full = l
		}
		if l.reaches(p.Horizon, now) && (soon == nil || l.reachedAt().Before(soon.reachedAt())) {
			soon = l
		}
	}
	switch {
	case full != nil:
		return full, fmt.Sprintf("is at %s of the storage's limit", percent(full.share()))
	case soon == nil:
		return nil, ""
	case soon.crl.Projection.Passed:
		return soon, "is over its limit since " + instant(soon.reachedAt())
	}
	return soon, fmt.Sprintf("reaches the storage's limit at %s, as it grows now", instant(soon.reachedAt()))
}

// share is that of the storage's limit which the list takes, 0 where no limit
// is known.
func (l *listEstimate) share() float64 {
	used, known := l.crl.Limit.Used(l.crl.Summary.Bytes, l.crl.Summary.Entries)
	if !known {
		return 0
	}
	return used
}

func (l *listEstimate) over(share float64) bool { return share > 0 && l.share() >= share }

// reachedAt is when the list likely reaches its limit, zero where nobody knows
// or it does not.
func (l *listEstimate) reachedAt() time.Time { return l.crl.Projection.LimitReachedAt }

func (l *listEstimate) reaches(horizon time.Duration, now time.Time) bool {
	at := l.reachedAt()
	return horizon > 0 && !at.IsZero() && at.Before(now.Add(horizon))
}

// earliestAt is when, at the earliest, an entry of the list becomes
// reclaimable; zero where it has none. Where certificates were read it is when
// the first of those does that is not, and no earlier than an entry can that
// was not read.
func (l *listEstimate) earliestAt(buffer time.Duration) time.Time {
	switch {
	case l.crl.Summary.Entries == 0:
		return time.Time{}
	case l.most == 0 && l.high > 0:
		return time.Unix(l.nextEnd, 0).UTC().Add(buffer)
	}
	return l.crl.Summary.OldestRevocation.Add(buffer)
}

// nothingYet says why nothing of the list is reclaimable and when that changes
// at the earliest.
func (l *listEstimate) nothingYet(p Policy) string {
	switch {
	case l.crl.Summary.Entries == 0:
		return "it has no entry to reclaim"
	case l.high > 0:
		return fmt.Sprintf("none of its certificates has been expired for longer than the safety buffer of %s: all %d in question were read; the first is reclaimable at %s",
			p.SafetyBuffer, l.high, instant(l.earliestAt(p.SafetyBuffer)))
	}
	return fmt.Sprintf("nothing in it was revoked, hence expired, more than the safety buffer of %s ago; the first entry is reclaimable at %s at the earliest",
		p.SafetyBuffer, instant(l.earliestAt(p.SafetyBuffer)))
}

// LimitShare is the share of the storage's limit that the fullest list takes, 0
// where no limit is known.
func (e Estimate) LimitShare() float64 {
	var most float64
	for i := range e.lists {
		most = max(most, e.lists[i].share())
	}
	return most
}

// LimitReachedAt is when the first of the lists likely reaches its limit, zero
// where none does, as far as is known.
func (e Estimate) LimitReachedAt() time.Time {
	var first time.Time
	for i := range e.lists {
		if at := e.lists[i].reachedAt(); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}
