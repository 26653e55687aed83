package crl

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	week         = 7
	wholeWeeks   = 2 * week // days, from which growth is taken by the week
	halfLife     = 21.0     // days, after which a week weighs half as much
	oneOffFactor = 3        // an event is left out when it is so many times the next
	fallShare    = 0.03     // of the size, and
	fallBytes    = 200      // what is lost in a day for it to be a fall, not noise
	cyclesNeeded = 3        // falls for tidy to be regular
	trendWeeks   = 4        // a trend is likely to go on for
	doubt        = 2.0      // standard errors that growth between falls has to exceed
	spreads      = 2.0      // standard deviations on either side of the likely path
)

// growth is how a list grows, and by what path it goes on.
type growth struct {
	size      float64   // now
	rest      float64   // of the first day ahead, 0 to 1
	added     float64   // on that day until now
	perDay    float64   // what falls leave of it
	season    float64   // days that deviation is of
	deviation float64   // of one season's growth
	seasons   float64   // how many were seen
	shape     []float64 // what each day of a season adds
	trend     float64   // by how much a season's growth changes from one to the next
	fall      float64   // what the list loses
	every     float64   // so many days; 0: no falls are expected
	fallen    float64   // days since the last
	level     float64   // by which the list deviates from its mean course, with falls
	off       float64   // by which perDay may be off, with falls
	extra     float64   // per day, for the path of the earliest date alone
	uncertain bool      // most of the growth was one event, and there was no time for a second
	basis     string
}

// grow looks at the largest sizes of days, oldest first, at least two, the size
// now, and how much is left of the day after those.
func grow(sizes []float64, now float64, rest time.Duration) growth {
	steps := make([]float64, len(sizes)-1)
	for i := range steps {
		steps[i] = sizes[i+1] - sizes[i]
	}
	falls := fallsOf(sizes)
	if 2*total(falls) < len(steps) { // otherwise falling is what the list does
		steps = replace(steps, falls.on)
	} else {
		falls = nil
	}
	once := oneOff(steps)
	last := sizes[len(sizes)-1]
	g := growth{size: now, rest: float64(rest) / float64(oneDay), added: now - last}
	if len(steps) >= wholeWeeks {
		g.byWeeks(replace(steps, func(i int) bool { return slices.Contains(once, i) }))
	} else {
		g.byDays(steps, once)
	}
	if len(once) > 0 {
		g.basis += ", without one event"
	}
	g.withFalls(sizes, steps, falls)
	if g.rest < 1 && fell(last, now) {
		g.added, g.fallen = g.shape[0]*(1-g.rest), 0 // it went on from below
	}
	return g
}

// byWeeks takes the mean week.
func (g *growth) byWeeks(steps []float64) {
	n := len(steps)
	g.season = week
	var sums, weights []float64
	for end := week; end <= n; end++ {
		sums = append(sums, sum(steps[end-week:end]))
		weights = append(weights, weight(n-end))
	}
	mean, deviation := moments(sums, weights)
	g.deviation, g.seasons = deviation, effective(weights)/week
	g.basis = fmt.Sprintf("the mean week of the last %d days", n)
	if level, trend, rest, ok := trendOf(steps); ok {
		mean, g.trend, g.deviation = level, trend, rest
		g.basis = fmt.Sprintf("the trend of the weeks of the last %d days", n)
	}
	g.perDay = mean / week
	g.shape = meanWeek(steps, mean)
}

// trendOf fits a line to the weeks, from now back: the growth of a week that
// were centred at now, its change from week to week, and what deviates. False
// unless the change is beyond doubt: five weeks, four standard errors.
func trendOf(steps []float64) (level, trend, deviation float64, ok bool) {
	n := len(steps) / week
	if n < 5 {
		return 0, 0, 0, false
	}
	var x, y []float64
	for i := range n {
		end := len(steps) - i*week
		x, y = append(x, -float64(i)-.5), append(y, sum(steps[end-week:end]))
	}
	mx, my := sum(x)/float64(n), sum(y)/float64(n)
	var xx, xy, rest float64
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - my)
	}
	trend = xy / xx
	level = my - trend*mx
	for i := range x {
		d := y[i] - level - trend*x[i]
		rest += d * d
	}
	deviation = math.Sqrt(rest / float64(n-2))
	return level, trend, deviation, level > 0 && math.Abs(trend) > 4*deviation/math.Sqrt(xx)
}

// meanWeek is what each of the next seven days adds: the mean of the days one,
// two … weeks before, scaled to the mean week.
func meanWeek(steps []float64, mean float64) []float64 {
	n := len(steps)
	shape := make([]float64, week)
	for phase := range shape {
		var values, weights []float64
		for i := n - week + phase; i >= 0; i -= week {
			values, weights = append(values, steps[i]), append(weights, weight(n-1-i))
		}
		shape[phase], _ = moments(values, weights)
	}
	scale, rest := 1.0, 0.0
	if total := sum(shape); total*mean > 0 && math.Abs(total) > math.Abs(mean)/2 {
		scale = mean / total
	} else {
		rest = (mean - total) / week
	}
	for i := range shape {
		shape[i] = shape[i]*scale + rest
	}
	return shape
}

// byDays takes the mean day, while there is no second week to compare a first
// one with.
func (g *growth) byDays(steps []float64, once []int) {
	all, _ := moments(steps, ones(len(steps)))
	steps = replace(steps, func(i int) bool { return slices.Contains(once, i) })
	g.season = 1
	g.perDay, g.deviation = moments(steps, ones(len(steps)))
	g.seasons = float64(len(steps))
	g.shape = []float64{g.perDay}
	g.extra = math.Max(0, all-g.perDay)
	g.uncertain = g.extra > g.perDay
	g.basis = fmt.Sprintf("the mean day of the last %d", len(steps))
}

// withFalls goes on with falls where they are regular. sizes are what was,
// steps what each day added apart from falls.
func (g *growth) withFalls(sizes, steps []float64, falls falls) {
	if len(falls) == 0 {
		return
	}
	last := falls[len(falls)-1]
	every := math.Round(float64(last.first-falls[0].first) / float64(max(1, len(falls)-1))) // schedules are of whole days
	fallen := float64(len(steps) - 1 - last.first)
	if len(falls) < cyclesNeeded || fallen > 2*every {
		g.basis += fmt.Sprintf(", without the %d falls seen", len(falls))
		return
	}
	slope, off, deviation := line(sizes, math.Max(week, every))
	if slope < doubt*off {
		slope = math.Min(slope, 0) // not growing, as far as can be told
	}
	g.trend, g.level, g.off = 0, deviation, off
	g.fall, g.every, g.fallen = (g.perDay-slope)*every, every, fallen
	g.perDay = slope
	g.basis = fmt.Sprintf("a line through the last %d days, with a fall every %.1f days (%d seen)", len(sizes), every, len(falls))
}

// paths are the sizes at the end of each of the days ahead, from now on: lower
// bound, likely, upper bound. Uncertain are what the seasons ahead will bring,
// what their mean is, and whether a trend goes on: to its end for the bound
// that it leads to, for trendWeeks likely, not at all for the other bound.
func (g growth) paths(days int) (low, likely, high []float64) {
	low, likely, high = []float64{g.size}, []float64{g.size}, []float64{g.size}
	none, some, all := g.size, g.size, g.size
	for i := range days {
		step, d := g.shape[i%len(g.shape)], float64(i)+g.rest
		if i == 0 && g.rest < 1 && step > 0 {
			step = math.Max(0, step-g.added)
		}
		change := g.trend / g.season / g.season // of a day's growth, from day to day
		none += step
		some += step + change*math.Min(d, trendWeeks*week)
		all += step + change*d
		fallen := 0.0
		if g.every > 0 {
			fallen = g.fall * (math.Floor((g.fallen+d)/g.every) - math.Floor(g.fallen/g.every))
		}
		spread := g.spread(d)
		low = append(low, math.Min(none, all)-fallen-spread)
		likely = append(likely, some-fallen)
		high = append(high, math.Max(none, all)-fallen+spread+d*g.extra)
	}
	return low, likely, high
}

// after is how far in the future a place on a path is, in days ahead.
func (g growth) after(days float64) time.Duration {
	if days < 1 {
		return time.Duration(days * g.rest * float64(oneDay))
	}
	return time.Duration((days - 1 + g.rest) * float64(oneDay))
}

// spread is on either side of the likely path some days ahead.
func (g growth) spread(days float64) float64 {
	seasons := days / g.season
	deviation := g.deviation * math.Sqrt(seasons+seasons*seasons/g.seasons)
	if g.every > 0 { // falls bring the list back, whatever it gained
		deviation = math.Hypot(g.level, g.off*days)
	}
	return spreads*deviation + days*g.noise()
}

// line is the slope of a line through values, its standard error, and the
// standard deviation around it. What deviates does so for a cycle of so many
// values.
func line(values []float64, cycle float64) (slope, off, deviation float64) {
	n := float64(len(values))
	mean := sum(values) / n
	var xx, xy, rest float64
	for i, v := range values {
		x := float64(i) - (n-1)/2
		xx += x * x
		xy += x * (v - mean)
	}
	slope = xy / xx
	for i, v := range values {
		d := v - mean - slope*(float64(i)-(n-1)/2)
		rest += d * d
	}
	deviation = math.Sqrt(rest / n)
	return slope, deviation * math.Sqrt(cycle/xx), deviation
}

// noise is what growth per day is never known better than: even seasons without
// any deviation are no promise.
func (g growth) noise() float64 {
	return math.Abs(g.perDay) * (0.03 + 0.25*week/(week+g.seasons*g.season))
}

// fall is a time in which a list shrank by far: the first and the last of
// consecutive days, as indices into its steps.
type fall struct{ first, last int }

type falls []fall

func fallsOf(sizes []float64) falls {
	var found falls
	for i := range len(sizes) - 1 {
		if !fell(sizes[i], sizes[i+1]) {
			continue
		}
		if n := len(found); n > 0 && found[n-1].last == i-1 {
			found[n-1].last = i
			continue
		}
		found = append(found, fall{i, i})
	}
	return found
}

func fell(from, to float64) bool { return from-to > math.Max(fallShare*from, fallBytes) }

// on tells whether the list fell on a day.
func (f falls) on(i int) bool {
	return slices.ContainsFunc(f, func(f fall) bool { return f.first <= i && i <= f.last })
}

// total is on how many days the list fell.
func total(f falls) int {
	days := 0
	for _, fall := range f {
		days += fall.last - fall.first + 1
	}
	return days
}

// oneOff are the days of an event that stands alone: one of one or two days that
// added far more than any other.
func oneOff(steps []float64) []int {
	if len(steps) < 3 {
		return nil
	}
	largest := slices.Index(steps, slices.Max(steps))
	next := largest - 1
	if next < 0 || largest+1 < len(steps) && steps[largest+1] > steps[next] {
		next = largest + 1
	}
	for _, days := range [][]int{{largest}, {largest, next}} {
		event, rest := 0.0, 0.0
		for i, step := range steps {
			if slices.Contains(days, i) {
				event += step
			} else {
				rest = math.Max(rest, step)
			}
		}
		if event > oneOffFactor*rest*float64(len(days)) {
			return days
		}
	}
	return nil
}

// replace puts what is usual in the place of steps: the median of the same day
// of the other weeks, or where there is none of all other days.
func replace(steps []float64, which func(int) bool) []float64 {
	replaced := slices.Clone(steps)
	for d := range steps {
		if !which(d) {
			continue
		}
		var same, others []float64
		for i, step := range steps {
			if which(i) {
				continue
			}
			others = append(others, step)
			if (i-d)%week == 0 {
				same = append(same, step)
			}
		}
		if len(same) == 0 {
			same = others
		}
		replaced[d] = median(same)
	}
	return replaced
}

// weight is that of what was some days ago.
func weight(days int) float64 { return math.Exp2(-float64(days) / halfLife) }

// moments are the weighted mean and standard deviation.
func moments(values, weights []float64) (mean, deviation float64) {
	total := sum(weights)
	for i, v := range values {
		mean += v * weights[i] / total
	}
	for i, v := range values {
		deviation += (v - mean) * (v - mean) * weights[i] / total
	}
	return mean, math.Sqrt(deviation)
}

// effective is how many values of equal weight say as much (Kish).
func effective(weights []float64) float64 {
	squares := 0.0
	for _, w := range weights {
		squares += w * w
	}
	return sum(weights) * sum(weights) / squares
}

func sum(values []float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func ones(n int) []float64 { return slices.Repeat([]float64{1}, n) }
