package pki

import (
	"cmp"
	"time"
)

// distant is from where on it makes no difference when a limit is reached: long
// before that, a run of every mount has had its turn.
const distant = 28 * 24 * time.Hour

// Need is how much a mount needs a run, next to others.
type Need struct {
	Open        bool      // a run in its record is to be carried on
	On          bool      // a run of somebody's is to be followed
	LimitAt     time.Time // when its first list likely reaches the limit; zero: not within weeks, or unknown
	Share       float64   // of the limit that its fullest list takes; 0: unknown
	Reclaimable int64     // bytes that a run surely takes off
	Mount       Mount
}

// NeedOf is the need of a mount on which d was decided at now.
func NeedOf(o Observation, d Decision, now time.Time) Need {
	n := Need{
		Open:        o.Record.Run != nil,
		On:          d.Verdict == Follow,
		LimitAt:     d.Estimate.LimitReachedAt(),
		Share:       d.Estimate.LimitShare(),
		Reclaimable: EntryBytes * d.Estimate.Sure(),
		Mount:       o.Mount,
	}
	if n.LimitAt.After(now.Add(distant)) {
		n.LimitAt = time.Time{}
	}
	if n.Share >= 1 && (n.LimitAt.IsZero() || n.LimitAt.After(now)) {
		n.LimitAt = now
	}
	return n
}

// Compare orders the neediest mount first, as [cmp.Compare] does: open runs,
// runs of others, the nearest limit, the fullest list, the most that is
// reclaimable. It is 0 for the same mount only.
func (n Need) Compare(than Need) int {
	return cmp.Or(
		first(n.Open, than.Open),
		first(n.On, than.On),
		first(!n.LimitAt.IsZero(), !than.LimitAt.IsZero()),
		n.LimitAt.Compare(than.LimitAt),
		cmp.Compare(than.Share, n.Share),
		cmp.Compare(than.Reclaimable, n.Reclaimable),
		cmp.Compare(n.Mount.Name(), than.Mount.Name()),
		cmp.Compare(n.Mount.UUID, than.Mount.UUID),
	)
}

// first puts what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
