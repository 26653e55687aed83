package crl

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const oneDay = 24 * time.Hour

// What a forecast needs, and how far it looks.
const (
	minSpan   = oneDay     // of history
	minLists  = 3          // different lists: how often Vault builds one is not known before
	maxStale  = 3 * oneDay // since a list was last seen
	maxAhead  = 2 * 365    // days
	maxBack   = 56         // days that are looked back at
	aheadOf   = time.Hour  // by which Vault's clock may be ahead of ours
	unwatched = 3 * oneDay // between two sightings: the list grew meanwhile, rather than at the end
)

// Projection is when a list reaches its limit, should everything go on as it
// did. What is not known is zero, and Why says what is missing.
type Projection struct {
	// LimitReachedAt is when the limit is likely reached, and from two weeks of
	// history on, with nine chances in ten, between EarliestAt and LatestAt: six
	// in ten before, when a first deployment may not have been seen. Each is zero
	// where it is not before Until. Where the list is larger than the limit
	// already (Passed), all three are when it was first seen to be.
	LimitReachedAt time.Time
	EarliestAt     time.Time
	LatestAt       time.Time
	Until          time.Time // the end of what was looked at; zero without a forecast
	Passed         bool

	// Growth is what tidy leaves of it where tidy runs regularly, and that
	// between two runs otherwise. Unknown without GrowthKnown.
	GrowthKnown   bool
	BytesPerDay   float64
	EntriesPerDay float64

	// What it rests on.
	Samples int           // lists
	Span    time.Duration // from the first to when the list was last seen
	Basis   string        // how it was made, in words; "" without a forecast

	Why string // there is no LimitReachedAt; "" otherwise
}

// Forecast is when a list reaches its limit: from the sizes of the last eight
// weeks, and at least 24 hours and three lists. It looks ahead as far as it can
// look back; from one week on twice, from two weeks on four times as far, and
// two years at the most: a short past says nothing of a long future.
//
// Certificates are revoked when something is deployed, so a list grows in
// steps and by the rhythm of the week. From two weeks on, the path ahead repeats
// what the days of the mean week added to the largest list of the day, so that
// every deployment counts once and the limit is reached on a day on which the
// list grows. Recent weeks weigh more (half as much three weeks ago), and a
// trend from week to week that is beyond doubt is likely to go on for four.
//
// What happened once does not happen again: the largest event, of one or two
// days, is left out where it is more than three times the next. The mean of the
// rest beats the median of weekly differences, which forgets deployments rarer
// than every other week, and the slope of all pairs (Theil-Sen), which a single
// step bends; neither knows the day. TestBacktest prints how far off each would
// have been. Before two weeks have passed, such an event may be the first of
// many: then only the earliest date counts it.
//
// A day on which the list shrank by more than 3 % is one of tidy, or of the
// like. Where there were three or more, and they have not stopped, the path
// ahead falls as often and as deep. Fewer are no promise: it then goes on from
// the size of now without another.
func Forecast(h History, l Limit, now time.Time) Projection {
	c, p := observe(h, now)
	latest, ok := c.latest()
	limit := l.bytesFor(latest)
	short := p.Why != ""
	if ok && limit > 0 && latest.Bytes > limit {
		p = p.passed(c, limit)
	}
	if short {
		return p
	}
	g := c.grow(bytesOf)
	p.GrowthKnown, p.BytesPerDay = true, g.perDay
	p.EntriesPerDay = c.grow(entriesOf).perDay
	p.Basis = g.basis
	switch {
	case p.Passed:
		return p
	case !l.Known && limit == 0:
		p.Why = "the limit is unknown"
		return p
	case limit == 0:
		p.Why = "no limit"
		return p
	}
	ahead := min(int(float64(p.Span/oneDay)*farther(p.Span)), maxAhead)
	p.Until = c.end.Add(time.Duration(ahead) * oneDay)
	low, likely, high := g.paths(ahead)
	reached := func(path []float64, round func(float64) float64) time.Time {
		days, ok := crossing(path, float64(limit))
		if !ok {
			return time.Time{}
		}
		at := c.end.Add(g.after(round(days))).Truncate(time.Second)
		if at.Before(now) {
			return now // not yet, as far as is known
		}
		return at
	}
	// Of the hour within a day nothing is known, nor when within that time Vault
	// builds the next list, where it builds them less than daily.
	pause := float64(c.pause()) / float64(oneDay)
	p.EarliestAt = reached(high, func(days float64) float64 { return math.Max(0, math.Floor(days-pause)) })
	p.LatestAt = reached(low, func(days float64) float64 { return math.Ceil(days + pause) })
	if !g.uncertain {
		p.LimitReachedAt = reached(likely, func(days float64) float64 { return days })
	}
	p.Why = p.whyNot(g, ahead)
	return p
}

// bytesFor is the size at which a list like s meets the limit, by bytes or by
// entries, whichever comes first; 0 without one.
func (l Limit) bytesFor(s Sample) int64 {
	if l.MaxEntries == 0 {
		return l.MaxBytes
	}
	byEntries := s.Bytes + int64(float64(min(l.MaxEntries, maxSetting)-s.Entries)*bytesPerEntry(s.Bytes, s.Entries))
	if l.storageBytes > 0 {
		return min(l.storageBytes, byEntries)
	}
	return byEntries
}

// passed is p where the latest list is larger than the limit: since when.
func (p Projection) passed(c course, limit int64) Projection {
	var at time.Time
	for _, s := range slices.Backward(c.samples) {
		if s.Bytes <= limit {
			break
		}
		at = s.ThisUpdate
	}
	p.EarliestAt, p.LimitReachedAt, p.LatestAt = at, at, at
	p.Passed, p.Why = true, ""
	return p
}

func (p Projection) whyNot(g growth, ahead int) string {
	switch {
	case !p.LimitReachedAt.IsZero():
		return ""
	case g.uncertain:
		return fmt.Sprintf("one event made most of the growth in %s: whether it returns is not known before 14 days", words(p.Span))
	case g.perDay < 0 && -g.perDay > g.noise():
		return "shrinking"
	case math.Abs(g.perDay) <= g.noise() || g.perDay <= 0:
		return "not growing"
	}
	return fmt.Sprintf("not within the %d days looked at", ahead)
}

// course is what is known of a list's size over time.
type course struct {
	samples []Sample
	end     time.Time // when the list was last seen
}

// observe picks what can be used of a history, and says what is missing.
func observe(h History, now time.Time) (course, Projection) {
	var c course
	var future int
	for _, s := range h.samples {
		if s.ThisUpdate.After(now.Add(aheadOf)) {
			future++
			continue
		}
		c.samples = append(c.samples, s)
		for _, at := range []time.Time{s.ThisUpdate, s.At} {
			if at.After(c.end) && !at.After(now) {
				c.end = at
			}
		}
	}
	c.samples = c.samples[restart(c.samples):]
	p := Projection{Samples: len(c.samples)}
	if len(c.samples) == 0 {
		p.Why = "no history"
		if future > 0 {
			p.Why = fmt.Sprintf("all %d lists are dated in the future: compare the clocks of Vault and pkiwarden", future)
		}
		return c, p
	}
	p.Span = max(0, c.end.Sub(c.samples[0].ThisUpdate))
	switch {
	case now.Sub(c.end) > maxStale:
		p.Why = fmt.Sprintf("the list was last seen %s ago", words(now.Sub(c.end)))
	case p.Span < minSpan:
		p.Why = fmt.Sprintf("too little history: %s of at least %s", words(p.Span), words(minSpan))
	case len(c.samples) < minLists:
		p.Why = fmt.Sprintf("too little history: %d lists of at least %d", len(c.samples), minLists)
	}
	return c, p
}

// restart is the index of the first sample since the CRL number last began
// anew, as it does when a mount is made again or restored: what was before says
// nothing about now. A number that only a clock has put out of order is no new
// beginning: it is not half as low, and later numbers go on above it.
func restart(samples []Sample) int {
	if len(samples) == 0 {
		return 0
	}
	last := samples[len(samples)-1].Number
	for i := len(samples) - 1; i > 0; i-- {
		before, after := samples[i-1].Number, samples[i].Number
		if before > 0 && after > 0 && before > after && (before > last || before/2 > after) {
			return i
		}
	}
	return 0
}

func (c course) latest() (Sample, bool) {
	if len(c.samples) == 0 {
		return Sample{}, false
	}
	return c.samples[len(c.samples)-1], true
}

// pause is the usual time from one list to the next, where that is more than a
// day, of the last of them.
func (c course) pause() time.Duration {
	const enough = 15
	last := c.samples[max(0, len(c.samples)-enough):]
	var pauses []float64
	for i := 1; i < len(last); i++ {
		pauses = append(pauses, float64(last[i].ThisUpdate.Sub(last[i-1].ThisUpdate)))
	}
	if pause := time.Duration(median(pauses)); pause > oneDay {
		return pause
	}
	return 0
}

func bytesOf(s Sample) float64   { return float64(s.Bytes) }
func entriesOf(s Sample) float64 { return float64(s.Entries) }

// days are the largest sizes of the days before an instant, oldest first, back
// to the first list or for maxBack days. A day on which no list was built has
// the size that it ended with.
func (c course) days(end time.Time, size func(Sample) float64) []float64 {
	n := min(int(end.Sub(c.samples[0].ThisUpdate)/oneDay)+1, maxBack)
	days := make([]float64, n)
	seen := make([]bool, n)
	for _, s := range c.samples {
		i := n - 1 - int(math.Floor(float64(end.Sub(s.ThisUpdate))/float64(oneDay)))
		if i >= 0 && i < n {
			days[i], seen[i] = math.Max(days[i], size(s)), true
		}
	}
	for i := range days {
		if !seen[i] {
			days[i] = c.at(end.Add(-time.Duration(n-1-i)*oneDay), size)
		}
	}
	return days
}

// grow is how the list grows. From two weeks on its days are those of UTC, of
// which a History knows the largest list for sure; before, they end now.
func (c course) grow(size func(Sample) float64) growth {
	now := size(c.samples[len(c.samples)-1])
	midnight := c.end.Truncate(oneDay)
	if days := c.days(midnight, size); len(days) > wholeWeeks {
		return grow(days, now, midnight.Add(oneDay).Sub(c.end))
	}
	return grow(c.days(c.end, size), now, oneDay)
}

// at is the size at an instant that is not before the first list: that of the
// list then current. Where nobody looked for long, it is taken to have changed
// steadily.
func (c course) at(t time.Time, size func(Sample) float64) float64 {
	i := len(c.samples) - 1
	for i > 0 && c.samples[i].ThisUpdate.After(t) {
		i--
	}
	s := c.samples[i]
	if i+1 == len(c.samples) || !t.After(s.At) {
		return size(s)
	}
	next := c.samples[i+1]
	gap := next.ThisUpdate.Sub(s.At)
	if gap <= unwatched {
		return size(s)
	}
	share := float64(t.Sub(s.At)) / float64(gap)
	return size(s) + share*(size(next)-size(s))
}

// farther is how many times as far as the history goes back a forecast looks
// ahead: while no second week was seen, what comes may be of another kind.
func farther(span time.Duration) float64 {
	switch {
	case span < week*oneDay:
		return 1
	case span < wholeWeeks*oneDay:
		return 2
	}
	return 4
}

// crossing is after how many days, and parts of one, a path reaches the limit.
func crossing(path []float64, limit float64) (float64, bool) {
	for i := 1; i < len(path); i++ {
		if path[i] > limit {
			from := math.Min(path[i-1], limit)
			return float64(i-1) + (limit-from)/(path[i]-from), true
		}
	}
	return 0, false
}

// words is a duration for a person, in its largest unit.
func words(d time.Duration) string {
	switch {
	case d >= 2*oneDay:
		return fmt.Sprintf("%d days", d/oneDay)
	case d >= time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d min", d/time.Minute)
}
