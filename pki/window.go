package pki

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a time of the week in which runs may begin, by the clock on the
// wall of a place. It says nothing of how long a run may take.
//
// What the clock shows decides: an hour that is shown twice when summer time
// ends is in the window twice, and one that is left out when it begins is in no
// window.
type Window struct {
	Days     []time.Weekday // on which it opens; none: every day
	From     time.Duration  // since midnight, by the clock
	To       time.Duration  // likewise, 24h being the day's end; at or before From: on the next day
	Location *time.Location // nil: UTC
}

// searchedFor is how far ahead a window's next opening is looked for. A week
// would do, were there no days on which the clock skips a whole window.
const searchedFor = 22 // days

// Open tells whether the window is open at t.
func (w Window) Open(t time.Time) bool {
	local := t.In(w.location())
	clock := sinceMidnight(local)
	if w.To > w.From {
		return w.opens(local.Weekday()) && w.From <= clock && clock < w.To
	}
	yesterday := (local.Weekday() + 6) % 7
	return w.opens(local.Weekday()) && clock >= w.From || w.opens(yesterday) && clock < w.To
}

func (w Window) opens(day time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, day)
}

func (w Window) location() *time.Location {
	if w.Location == nil {
		return time.UTC
	}
	return w.Location
}

// String is the window as the configuration has it.
func (w Window) String() string {
	days := "every day"
	if len(w.Days) > 0 {
		var names []string
		for _, d := range w.Days {
			names = append(names, d.String()[:3])
		}
		days = strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s %s-%s %s", days, clockText(w.From), clockText(w.To), w.location())
}

func clockText(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", d/time.Hour, d%time.Hour/time.Minute)
}

func sinceMidnight(local time.Time) time.Duration {
	h, m, s := local.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(local.Nanosecond())
}

// NextOpening is the first instant from now on at which one of windows is open:
// now itself where one is, or where there are none at all. It is zero where
// none opens within three weeks.
func NextOpening(windows []Window, now time.Time) time.Time {
	if len(windows) == 0 {
		return now
	}
	var next time.Time
	for _, w := range windows {
		if at := w.nextOpening(now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// nextOpening tries each instant at which the window can open: when the clock
// shows From, when a day begins, and when the clock is changed.
func (w Window) nextOpening(now time.Time) time.Time {
	if w.Open(now) {
		return now
	}
	next := w.nextByClock(now)
	last := next
	if last.IsZero() {
		last = now.AddDate(0, 0, searchedFor)
	}
	for at := now; ; {
		_, change := at.In(w.location()).ZoneBounds()
		if change.IsZero() || !change.Before(last) {
			return next
		}
		if w.Open(change) {
			return change
		}
		at = change
	}
}

// nextByClock is the first instant after now at which a day begins, or the clock
// shows From, and the window is open.
func (w Window) nextByClock(now time.Time) time.Time {
	year, month, day := now.In(w.location()).Date()
	for i := range searchedFor {
		midnight := time.Date(year, month, day+i, 0, 0, 0, 0, time.UTC)
		candidates := append(w.instants(midnight), w.instants(midnight.Add(w.From))...)
		slices.SortFunc(candidates, time.Time.Compare)
		for _, at := range candidates {
			if at.After(now) && w.Open(at) {
				return at
			}
		}
	}
	return time.Time{}
}

// instants are those at which the clock shows what shown does in UTC: one, two
// where the clock is set back, none where it skips that.
func (w Window) instants(shown time.Time) []time.Time {
	var at []time.Time
	for _, near := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		_, offset := shown.Add(near).In(w.location()).Zone()
		t := shown.Add(-time.Duration(offset) * time.Second)
		_, have := t.In(w.location()).Zone()
		if have == offset && !slices.ContainsFunc(at, t.Equal) {
			at = append(at, t)
		}
	}
	return at
}
