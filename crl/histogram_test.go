package crl

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestHistogramBefore(t *testing.T) {
	t.Parallel()
	spans := []struct {
		name  string
		start time.Time
		span  time.Duration
		step  time.Duration // 0: random
		width time.Duration // at the end
	}{
		{"one instant", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), 0, 0, time.Second},
		{"minutes", time.Date(2026, 3, 1, 12, 0, 7, 0, time.UTC), 10 * time.Minute, 0, time.Second},
		{"hours", time.Date(2026, 3, 1, 12, 0, 7, 0, time.UTC), 10 * time.Hour, 0, time.Minute},
		{"quarter", time.Date(2026, 3, 1, 12, 0, 7, 0, time.UTC), 90 * 24 * time.Hour, 0, 3 * time.Hour},
		{"two years", time.Date(2026, 3, 1, 12, 0, 7, 0, time.UTC), 730 * 24 * time.Hour, 0, 24 * time.Hour},
		{"two centuries, across the epoch", time.Date(1890, 3, 1, 12, 0, 7, 0, time.UTC), 200 * 365 * 24 * time.Hour, 0, 364 * 24 * time.Hour},
		{"ascending", time.Date(2026, 3, 1, 12, 0, 7, 0, time.UTC), 30 * 24 * time.Hour, 97 * time.Second, time.Hour},
		{"descending", time.Date(2026, 3, 1, 12, 0, 7, 0, time.UTC), 30 * 24 * time.Hour, -97 * time.Second, time.Hour},
	}
	for _, c := range spans {
		t.Run(c.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			var times []int64
			var h Histogram
			for i := range 20000 {
				at := c.start
				switch {
				case c.step > 0:
					at = at.Add(time.Duration(i) * c.step)
				case c.step < 0:
					at = at.Add(c.span + time.Duration(i)*c.step)
				case c.span > 0:
					at = at.Add(time.Duration(random.Int64N(int64(c.span))))
				}
				times = append(times, at.Unix())
				h.add(at.Unix())
			}
			if h.Width() != c.width {
				t.Errorf("buckets are %v wide, want %v", h.Width(), c.width)
			}
			ends := []time.Time{c.start.Add(-time.Hour), c.start, c.start.Add(c.span), c.start.Add(c.span + time.Hour)}
			for range fewer(300) {
				ends = append(ends, c.start.Add(time.Duration(random.Int64N(int64(c.span)+1))))
			}
			edges := 0
			for _, at := range ends {
				for _, at := range []time.Time{at, at.Truncate(time.Second), floorTime(at, h.Width())} {
					var want int64
					for _, u := range times {
						if time.Unix(u, 0).Before(at) {
							want++
						}
					}
					low, high := h.Before(at)
					if low > want || want > high {
						t.Fatalf("Before(%v) = %d to %d, the slice says %d", at, low, high, want)
					}
					if at.Equal(floorTime(at, h.Width())) {
						edges++
						if low != high {
							t.Fatalf("Before(%v) = %d to %d on a bucket's edge", at, low, high)
						}
					}
				}
			}
			if edges < fewer(300) {
				t.Fatalf("only %d edges were tried", edges)
			}
		})
	}
}

func floorTime(t time.Time, width time.Duration) time.Time {
	seconds := int64(width / time.Second)
	rest := t.Unix() % seconds
	if rest < 0 {
		rest += seconds
	}
	return time.Unix(t.Unix()-rest, 0).UTC()
}

func TestHistogramWidestSpan(t *testing.T) {
	var h Histogram
	zero, end := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	for _, at := range []time.Time{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), end, zero, end, zero} {
		h.add(at.Unix())
	}
	for _, c := range []struct {
		at        time.Time
		low, high int64
	}{
		{zero, 0, 0},
		{time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC), 2, 2},
		{time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC), 3, 3},
		{end, 3, 5},
		{end.Add(time.Second), 5, 5},
	} {
		if low, high := h.Before(c.at); low != c.low || high != c.high {
			t.Errorf("Before(%v) = %d to %d, want %d to %d", c.at, low, high, c.low, c.high)
		}
	}
}

// TestHistogramDivision compares the multiplication that finds a bucket with a
// division, around every multiple of every width.
func TestHistogramDivision(t *testing.T) {
	for level, width := range widths {
		for bucket := range int64(bucketCount) {
			for _, offset := range []int64{bucket * width, bucket*width + width/2, (bucket+1)*width - 1} {
				h := Histogram{counts: new([bucketCount]uint32), total: 1}
				h.place(level, 0)
				h.add(offset)
				if h.counts[offset/width] != 1 {
					t.Fatalf("width %d: offset %d is not in bucket %d", width, offset, offset/width)
				}
			}
		}
	}
	for i := range len(widths) - 1 {
		if widths[i+1]%widths[i] != 0 {
			t.Errorf("width %d does not divide %d", widths[i], widths[i+1])
		}
	}
}

func TestHistogramDays(t *testing.T) {
	var h Histogram
	for range h.Days {
		t.Fatal("an empty histogram has no days")
	}
	for _, at := range []string{"2026-02-27T23:59:59Z", "2026-03-01T00:00:00Z", "2026-03-01T23:59:59Z", "2026-03-02T00:00:00Z"} {
		parsed, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		h.add(parsed.Unix())
	}
	var got []int64
	for midnight, n := range h.Days {
		if want := time.Date(2026, 2, 27+len(got), 0, 0, 0, 0, time.UTC); !midnight.Equal(want) {
			t.Errorf("day %d is %v, want %v", len(got), midnight, want)
		}
		got = append(got, n)
	}
	want := []int64{1, 0, 2, 1}
	if len(got) != len(want) {
		t.Fatalf("days = %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("days = %v, want %v", got, want)
		}
	}
}
