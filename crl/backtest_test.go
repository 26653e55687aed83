package crl

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// The bounds were set after a run over other seeds, 20 for each world, than
// those that are used here.
//
// The backtest makes lists grow by a rule, lets a History see them until some
// days before the limit is reached, forecasts, and compares with when it was.

// world is a mount: what is revoked hour by hour, and how tidy and Vault treat
// it.
type world struct {
	name string
	// revoked is how many certificates are revoked in an hour since Monday
	// 00:00, and life how long the next of them would still be valid.
	revoked func(r *rand.Rand, hour int) int
	life    func(r *rand.Rand) int // hours; nil: longer than the test
	tidy    func(hour int) bool    // nil: never
	rebuild int                    // hours between lists; 0: with each revocation
	limitAt int                    // hour at which the limit is about reached; 0: never is

	// Bounds: the median error of the likely date in percent of the time that
	// was left, the share of forecasts that are wrong by less than 10 % of it or
	// two days, and the share of ranges that hold the truth.
	median, close, covered float64
}

const buffer = 72 // hours

func poisson(r *rand.Rand, mean float64) int {
	n, p := 0, math.Exp(-mean)
	for q := r.Float64(); q > p; q *= r.Float64() {
		n++
	}
	return n
}

// tuesdays revokes so many certificates on Tuesday between 10 and 13, and a few
// at any hour.
func tuesdays(size float64) func(*rand.Rand, int) int {
	return func(r *rand.Rand, hour int) int {
		mean := 0.5
		if h := hour % 168; h >= 34 && h < 37 {
			mean += size / 3
		}
		return large(r, mean)
	}
}

// large is Poisson's distribution also where the mean is large.
func large(r *rand.Rand, mean float64) int {
	if mean < 30 {
		return poisson(r, mean)
	}
	return max(0, int(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
}

func constant(mean float64) func(*rand.Rand, int) int {
	return func(r *rand.Rand, _ int) int { return large(r, mean) }
}

func sundays(hour int) bool { return hour%168 == 6*24+3 }

func mixed(days int) func(*rand.Rand) int {
	return func(r *rand.Rand) int {
		if r.IntN(2) == 0 {
			return 1 << 20
		}
		return r.IntN(2 * days * 24)
	}
}

const limitAt = 110 * 24

var worlds = []world{
	{name: "linear", revoked: constant(4), limitAt: limitAt, median: 4, close: .95, covered: .9},
	{name: "weekly cycle, the same each week", limitAt: limitAt, median: 3, close: 1, covered: .9,
		revoked: func(_ *rand.Rand, hour int) int {
			switch h := hour % 168; {
			case h >= 34 && h < 37:
				return 200
			case h < 5*24:
				return hour % 2
			}
			return 0
		}},
	{name: "weekly deploy", revoked: tuesdays(600), limitAt: limitAt, median: 4, close: .9, covered: .9},
	{name: "weekly deploy, Vault rebuilds every 60 h", revoked: tuesdays(600), rebuild: 60, limitAt: limitAt, median: 20, close: .7, covered: .9},
	{name: "office hours", limitAt: limitAt, median: 4, close: .9, covered: .9,
		revoked: func(r *rand.Rand, hour int) int {
			if hour%168 < 5*24 && hour%24 >= 9 && hour%24 < 17 {
				return large(r, 15)
			}
			return 0
		}},
	{name: "deploys at random, a third of the days", limitAt: limitAt, median: 45, close: .2, covered: .9,
		revoked: func(r *rand.Rand, hour int) int {
			if hour%24 == 14 && r.IntN(3) == 0 {
				return large(r, 300)
			}
			return 0
		}},
	{name: "noise: days from 0.3 to 3 times the usual", limitAt: limitAt, median: 20, close: .7, covered: .9,
		revoked: func(r *rand.Rand, hour int) int {
			if hour%24 != 12 {
				return 0
			}
			return large(r, 100*math.Exp(0.5*r.NormFloat64()))
		}},
	{name: "deploy every third week", limitAt: limitAt, median: 45, close: .2, covered: .9,
		revoked: func(r *rand.Rand, hour int) int {
			if hour%(3*168) == 36 {
				return large(r, 1800)
			}
			return poisson(r, .5)
		}},
	{name: "weekly deploy, 10 times as much once", limitAt: limitAt, median: 4, close: .9, covered: .9,
		revoked: func(r *rand.Rand, hour int) int {
			if hour == 42*24+15 {
				return 6000
			}
			return tuesdays(600)(r, hour)
		}},
	{name: "weekly deploy, tidy on Sundays", limitAt: limitAt, median: 6, close: .8, covered: .9,
		revoked: tuesdays(800), life: mixed(8), tidy: sundays},
	{name: "weekly deploy, tidy every 5 days", limitAt: limitAt, median: 6, close: .6, covered: .9,
		revoked: tuesdays(800), life: mixed(8), tidy: func(hour int) bool { return hour%120 == 50 }},
	{name: "weekly deploy, tidy twice a day", limitAt: limitAt, median: 4, close: .8, covered: .9,
		revoked: tuesdays(800), life: mixed(8), tidy: func(hour int) bool { return hour%12 == 5 }},
	{name: "tidy once, eight weeks ago", limitAt: limitAt, median: 4, close: .9, covered: .9,
		revoked: tuesdays(800), life: mixed(8), tidy: func(hour int) bool { return hour == 42*24 }},
	{name: "fleet grows 5 % a week", limitAt: limitAt, median: 8, close: .8, covered: .9,
		revoked: func(r *rand.Rand, hour int) int {
			return large(r, 2*math.Pow(1.05, float64(hour)/168))
		}},
	{name: "tidy keeps up", revoked: tuesdays(800), life: func(r *rand.Rand) int { return r.IntN(20 * 24) }, tidy: sundays},
	{name: "quiet", revoked: constant(0.001)},
	{name: "mass revocation once on a quiet mount", revoked: func(r *rand.Rand, hour int) int {
		if hour == 100*24 {
			return 5000
		}
		return poisson(r, 0.01)
	}},
}

// play is the size of the list, in bytes, at the end of each hour.
func (w world) play(seed uint64, hours int) (sizes, entries []int64) {
	r := rand.New(rand.NewPCG(seed, 1))
	ends := make(map[int]int) // hour at which tidy may remove it: how many
	live, built := 0, 0
	for hour := range hours {
		n := w.revoked(r, hour)
		live += n
		for range n {
			end := 1 << 20
			if w.life != nil {
				end = w.life(r)
			}
			ends[hour+end+buffer]++
		}
		if w.tidy != nil && w.tidy(hour) {
			for end, n := range ends {
				if end < hour {
					live -= n
					delete(ends, end)
				}
			}
		}
		if w.rebuild == 0 || hour%w.rebuild == 0 {
			built = live
		}
		entries = append(entries, int64(built))
		sizes = append(sizes, 246+39*int64(built))
	}
	return sizes, entries
}

// watcher sees the list every hour.
type watcher struct {
	sizes, entries []int64
	h              History
	hour, built    int
}

// until looks on up to an hour and returns what is remembered then. A list is
// built when it changes, and every 60 hours.
func (w *watcher) until(hour int) History {
	for ; w.hour <= hour; w.hour++ {
		if w.hour == 0 || w.sizes[w.hour] != w.sizes[w.hour-1] || w.hour-w.built >= 60 {
			w.built = w.hour
		}
		w.h.Add(Sample{ThisUpdate: hourAt(w.built), At: hourAt(w.hour), Number: int64(w.built + 1), Bytes: w.sizes[w.hour], Entries: w.entries[w.hour]})
	}
	return w.h
}

func hourAt(hour int) time.Time {
	return time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC).Add(time.Duration(hour) * time.Hour) // a Monday
}

// The methods that Forecast is compared with: days until the limit.
var others = []struct {
	name string
	days func(c course, limit float64) float64
}{
	{"last 24 h", func(c course, limit float64) float64 {
		s := c.days(c.end, bytesOf)
		n := len(s) - 1
		return (limit - s[n]) / (s[n] - s[n-1])
	}},
	{"median of weekly differences", func(c course, limit float64) float64 {
		s := c.days(c.end, bytesOf)
		var d []float64
		for i := week; i < len(s); i++ {
			d = append(d, (s[i]-s[i-week])/week)
		}
		return (limit - s[len(s)-1]) / median(d)
	}},
	{"slope of all pairs (Theil-Sen)", func(c course, limit float64) float64 {
		s := c.days(c.end, bytesOf)
		var d []float64
		for i := range s {
			for j := range i {
				d = append(d, (s[i]-s[j])/float64(i-j))
			}
		}
		return (limit - s[len(s)-1]) / median(d)
	}},
}

// leads are how many days before the limit the forecasts are made.
var leads = []int{56, 42, 28, 21, 14, 10, 7, 5, 3, 2}

const seeds = 5

// score is how well a method did in one world.
type score struct {
	days, percent []float64 // errors
	made          int
	close         int // by less than 10 % of the time that was left, or two days
	inRange       int
}

// add takes a forecast, and what was right, in days.
func (s *score) add(days, left float64) {
	off := math.Abs(days - left)
	if math.IsNaN(days) || math.IsInf(days, 0) || days <= 0 {
		off = math.Inf(1) // the limit is not reached, it says
	}
	s.made++
	s.days, s.percent = append(s.days, off), append(s.percent, 100*off/left)
	if off < max(2, left/10) {
		s.close++
	}
}

func (s score) String() string {
	return fmt.Sprintf("%7.1f d %7.1f %% %7.1f d %7d of %d", median(s.days), median(s.percent), slices.Max(s.days), s.close, s.made)
}

func TestBacktest(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	fmt.Fprintf(&table, "error of the likely date, %d seeds, forecasts made %v days ahead\n%-42s %-31s %17s %11s %13s %10s\n", seeds, leads,
		"world", "method", "median", "largest", "< 10 % or 2 d", "in range")
	for _, w := range worlds {
		if w.limitAt == 0 {
			continue
		}
		own, compared := score{}, make([]score, len(others))
		for seed := range uint64(seeds) {
			w.backtest(t, seed, &own, compared)
		}
		fmt.Fprintf(&table, "%-42s %-31s %s %6d of %d\n", w.name, "forecast", own, own.inRange, own.made)
		for i, m := range others {
			fmt.Fprintf(&table, "%-42s %-31s %s\n", "", m.name, compared[i])
		}
		if m := median(own.percent); m > w.median {
			t.Errorf("%s: the median error is %.1f %%, want at most %v", w.name, m, w.median)
		}
		if share := float64(own.close) / float64(own.made); share < w.close {
			t.Errorf("%s: %.2f of the forecasts are close, want %v", w.name, share, w.close)
		}
		if share := float64(own.inRange) / float64(own.made); share < w.covered {
			t.Errorf("%s: %.2f of the ranges hold the truth, want %v", w.name, share, w.covered)
		}
	}
	t.Log("\n" + table.String())
}

func (w world) backtest(t *testing.T, seed uint64, own *score, compared []score) {
	sizes, entries := w.play(seed, w.limitAt*2)
	// Anywhere in what three weeks add, so that the limit lies within a step as
	// often as steps make growth.
	from := slices.Max(sizes[:w.limitAt])
	to := slices.Max(sizes[:w.limitAt+3*168])
	limit := Limit{Backend: "raft", Known: true, MaxBytes: from + int64(float64(to-from)*(float64(seed)+.5)/seeds)}
	truth := slices.IndexFunc(sizes, func(size int64) bool { return size > limit.MaxBytes })
	if truth < 0 {
		t.Fatalf("%s: the limit is never reached", w.name)
	}
	watching := &watcher{sizes: sizes, entries: entries}
	for _, lead := range leads {
		left := float64(lead) - float64(seed*7%24)/24 // made at various hours of the day
		until := truth - int(left*24+.5)
		now, h := hourAt(until), watching.until(until)
		p := Forecast(h, limit, now)
		days := math.Inf(1)
		if !p.LimitReachedAt.IsZero() {
			days = p.LimitReachedAt.Sub(now).Hours() / 24
		}
		own.add(days, left)
		if holds(p, hourAt(truth)) {
			own.inRange++
		}
		for i, m := range others {
			c, _ := observe(h, now)
			compared[i].add(m.days(c, float64(limit.MaxBytes)), left)
		}
	}
}

// holds tells whether the range holds an instant, which may be never.
func holds(p Projection, at time.Time) bool {
	return !p.EarliestAt.IsZero() && !p.EarliestAt.After(at) && (p.LatestAt.IsZero() || !p.LatestAt.Before(at))
}

// Where a list stops growing by itself below the limit, hardly ever a date is
// given: in one of twenty forecasts at most, and none that is near.
func TestBacktestNever(t *testing.T) {
	for _, w := range worlds {
		if w.limitAt != 0 {
			continue
		}
		made, wrong := 0, 0
		for seed := range uint64(seeds) {
			sizes, entries := w.play(seed, 150*24)
			limit := Limit{Backend: "raft", Known: true, MaxBytes: max(100_000, slices.Max(sizes)*5/4)}
			watching := &watcher{sizes: sizes, entries: entries}
			for hour := 60 * 24; hour < 150*24; hour += 71 {
				now := hourAt(hour)
				p := Forecast(watching.until(hour), limit, now)
				made++
				if !p.LimitReachedAt.IsZero() {
					wrong++
					if left := p.LimitReachedAt.Sub(now); left < 14*oneDay {
						t.Errorf("%s, seed %d, day %d: the limit is said to be reached in %s: %+v", w.name, seed, hour/24, left, p)
					}
				}
			}
		}
		t.Logf("%-42s %d of %d forecasts give a date", w.name, wrong, made)
		if wrong*20 > made {
			t.Errorf("%s: %d of %d forecasts give a date, want none", w.name, wrong, made)
		}
	}
}

// In its first two weeks a forecast has seen at most one week to the end. Then
// it gives a wide range or says why it gives none, and hardly ever a wrong date:
// one that is off by more than the time that is left, or half of it.
func TestBacktestShort(t *testing.T) {
	t.Parallel()
	for _, w := range worlds {
		if w.limitAt == 0 || w.life != nil || w.rebuild != 0 {
			continue
		}
		made, dated, wrong, inRange := 0, 0, 0, 0
		for seed := range uint64(seeds) {
			sizes, entries := w.play(seed, 60*24)
			for start := 0; start < 7*24; start += 23 { // somebody begins to watch
				for _, days := range []int{1, 2, 4, 7, 10, 13} {
					until := start + days*24 + 1
					truth := until + int(.8*farther(time.Duration(days)*oneDay)*float64(days*24))
					limit := Limit{Backend: "raft", Known: true, MaxBytes: sizes[truth] - 1}
					if limit.MaxBytes <= sizes[until] {
						continue // reached before
					}
					truth = slices.IndexFunc(sizes, func(size int64) bool { return size > limit.MaxBytes })
					watching := &watcher{sizes: sizes, entries: entries, hour: start}
					p := Forecast(watching.until(until), limit, hourAt(until))
					if p.Until.IsZero() {
						continue
					}
					made++
					if holds(p, hourAt(truth)) {
						inRange++
					}
					if p.LimitReachedAt.IsZero() {
						continue
					}
					dated++
					left := hourAt(truth).Sub(hourAt(until))
					if off := p.LimitReachedAt.Sub(hourAt(truth)); off > max(left, 2*oneDay) || off < -max(left/2, 2*oneDay) {
						wrong++
					}
				}
			}
		}
		t.Logf("%-42s %4d forecasts, %4d with a date, %4d wrong, %4d in range", w.name, made, dated, wrong, inRange)
		if wrong*10 > dated {
			t.Errorf("%s: %d of %d dates are wrong, want at most one in ten", w.name, wrong, dated)
		}
		if made == 0 || dated == 0 {
			t.Errorf("%s: %d forecasts with %d dates, so nothing was tested", w.name, made, dated)
		}
	}
}
