package crl

import (
	"cmp"
	"slices"
	"time"
)

// Sample is one list as it was seen. Its place in time is thisUpdate, the
// second in which Vault built it: two instances that see the same list have the
// same sample.
type Sample struct {
	ThisUpdate time.Time
	// At is when the list was last seen to be the current one. A [History]
	// keeps it to the hour, and never before ThisUpdate.
	At      time.Time
	Number  int64 // CRL number; 0 when absent or beyond 63 bits
	Bytes   int64 // DER
	Entries int64

	// Added and Removed count entries since the list whose thisUpdate is
	// CountedFrom; zero: nothing was counted. The difference of two samples with
	// the same CountedFrom is what happened between them.
	CountedFrom time.Time
	Added       int64
	Removed     int64
}

// History is what is remembered of the size of one list: the largest list of
// each of the last 72 hours, 56 quarters of a day and 84 days in which one was
// built, and the latest two. That is at most 214 samples and, of a list that is
// built every day, twelve weeks. The zero History is empty.
//
// What it holds depends on the samples that were added, not on their order nor
// on how they were shared among instances: Merge is commutative, associative
// and idempotent, and adding samples is merging with them. Nothing is forgotten
// because a clock was wrong for a while: periods are counted, not measured from
// the latest, and a list dated in the future takes the place of one period.
type History struct{ samples []Sample }

// tiers are the periods of which a History keeps one list each, and how many of
// them. A period of 0 is a list of its own. They divide each other, and the
// same list wins whatever the period: that makes thinning out and merging
// independent of their order.
var tiers = []tier{{0, 2}, {time.Hour, 72}, {6 * time.Hour, 56}, {24 * time.Hour, 84}}

type tier struct {
	period time.Duration
	count  int
}

// Samples are those kept, oldest first. The slice is the caller's.
func (h History) Samples() []Sample { return slices.Clone(h.samples) }

// Latest is the list built last, false without one.
func (h History) Latest() (Sample, bool) {
	if len(h.samples) == 0 {
		return Sample{}, false
	}
	return h.samples[len(h.samples)-1], true
}

// SeenAt is when a list was last seen, to the hour; zero without one.
func (h History) SeenAt() time.Time {
	var at time.Time
	for _, s := range h.samples {
		if s.At.After(at) {
			at = s.At
		}
	}
	return at
}

// Add remembers s and tells whether that changed anything: within an hour,
// seeing the same list again does not. A sample without ThisUpdate, or of no
// bytes, is none.
func (h *History) Add(s Sample) bool {
	if !s.valid() {
		return false
	}
	s = s.normal()
	i, seen := slices.BinarySearchFunc(h.samples, s, Sample.compare)
	if seen {
		joined := h.samples[i].join(s)
		if joined == h.samples[i] {
			return false
		}
		h.samples = slices.Clone(h.samples) // copies of h share them
		h.samples[i] = joined
		return true
	}
	merged := h.Merge(History{[]Sample{s}})
	changed := !slices.Equal(merged.samples, h.samples)
	*h = merged
	return changed
}

// Next is the sample of a list that was read at an instant, to be added to h.
// changes are those against previous, the Mark of an earlier list; false is
// what [Tally.Changes] returns where there is nothing to compare with. They
// continue the counts of h where it still has that earlier list, and begin
// anew otherwise.
func (h History) Next(s Summary, at time.Time, previous *Mark, changes Changes, counted bool) Sample {
	next := Sample{ThisUpdate: s.ThisUpdate, At: at, Bytes: s.Bytes, Entries: s.Entries, CountedFrom: s.ThisUpdate}
	if s.Number != nil && s.Number.IsInt64() {
		next.Number = s.Number.Int64()
	}
	if !counted || previous == nil || changes.Backwards {
		return next
	}
	for _, old := range slices.Backward(h.samples) {
		switch {
		case old.ThisUpdate.Unix() != previous.ThisUpdate || old.Entries != previous.Entries:
			continue
		case old.sameList(next.normal()):
			// Seen again: its counts are those that it has.
			next.CountedFrom, next.Added, next.Removed = old.CountedFrom, old.Added, old.Removed
		case !old.CountedFrom.IsZero():
			next.CountedFrom, next.Added, next.Removed = old.CountedFrom, old.Added+changes.Added, old.Removed+changes.Removed
		}
		break
	}
	return next
}

// Merge is what both remember.
func (h History) Merge(other History) History {
	a, b := h.samples, other.samples
	union := make([]Sample, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].compare(b[0]); {
		case c < 0:
			union, a = append(union, a[0]), a[1:]
		case c > 0:
			union, b = append(union, b[0]), b[1:]
		default:
			union, a, b = append(union, a[0].join(b[0])), a[1:], b[1:]
		}
	}
	return History{thin(append(append(union, a...), b...), tiers)}
}

// thin keeps what the tiers keep of samples in order.
func thin(samples []Sample, tiers []tier) []Sample {
	keep := make([]bool, len(samples))
	for _, t := range tiers {
		best, periods := -1, 0
		var period int64
		for i := len(samples) - 1; i >= 0; i-- {
			if p := samples[i].period(t.period); best < 0 || t.period == 0 || p != period {
				if periods == t.count {
					break
				}
				if best >= 0 {
					keep[best] = true
				}
				best, period, periods = i, p, periods+1
			} else if samples[i].larger(samples[best]) {
				best = i
			}
		}
		if best >= 0 {
			keep[best] = true
		}
	}
	kept := make([]Sample, 0, len(samples))
	for i, s := range samples {
		if keep[i] {
			kept = append(kept, s)
		}
	}
	return kept
}

// period is the number of the period that s is in.
func (s Sample) period(length time.Duration) int64 {
	if length == 0 {
		return 0
	}
	return s.ThisUpdate.Unix() / int64(length/time.Second)
}

// larger tells whether s stands for the period that both are in: the largest
// list, since it is the largest that has to fit, and the first of that size,
// since that is when it was reached.
func (s Sample) larger(other Sample) bool {
	if s.Bytes != other.Bytes {
		return s.Bytes > other.Bytes
	}
	return s.compare(other) < 0
}

// compare orders lists by time. It is 0 for the same list only.
func (s Sample) compare(other Sample) int {
	if c := s.ThisUpdate.Compare(other.ThisUpdate); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(s.Number, other.Number),
		cmp.Compare(s.Bytes, other.Bytes),
		cmp.Compare(s.Entries, other.Entries),
	)
}

func (s Sample) sameList(other Sample) bool { return s.compare(other) == 0 }

// join is what two sightings of one list say together: seen until the later,
// with the counts that go back further.
func (s Sample) join(other Sample) Sample {
	if other.At.After(s.At) {
		s.At = other.At
	}
	if other.countsMore(s) {
		s.CountedFrom, s.Added, s.Removed = other.CountedFrom, other.Added, other.Removed
	}
	return s
}

func (s Sample) countsMore(other Sample) bool {
	if s.CountedFrom.IsZero() || other.CountedFrom.IsZero() {
		return other.CountedFrom.IsZero() && !s.CountedFrom.IsZero()
	}
	return cmp.Or(
		other.CountedFrom.Compare(s.CountedFrom), // the earlier
		cmp.Compare(s.Added, other.Added),
		cmp.Compare(s.Removed, other.Removed),
	) > 0
}

// valid tells whether s can be of a list: no clock that is set at all shows an
// earlier time than 1970.
func (s Sample) valid() bool {
	return s.ThisUpdate.Unix() > 0 && s.ThisUpdate.Year() <= 9999 && s.Bytes > 0 && s.Entries >= 0
}

// normal is s as a History keeps it: whole seconds in UTC.
func (s Sample) normal() Sample {
	s.ThisUpdate = time.Unix(s.ThisUpdate.Unix(), 0).UTC()
	s.At = time.Unix(s.At.Unix()/3600*3600, 0).UTC()
	if s.At.Before(s.ThisUpdate) {
		s.At = s.ThisUpdate
	}
	if s.CountedFrom.Unix() <= 0 {
		s.CountedFrom, s.Added, s.Removed = time.Time{}, 0, 0
	} else {
		s.CountedFrom = time.Unix(s.CountedFrom.Unix(), 0).UTC()
	}
	return s
}
