package crl

import "time"

// bucketCount is the number of buckets of a Histogram.
const bucketCount = 1024

// widths are the bucket widths, in seconds, that a Histogram goes through as
// its span grows. Each divides the next, and all up to a day divide the day, so
// that midnights (UTC) are bucket edges as long as the span is below 1024 days.
// The last one spans more than the years 0 to 9999.
var widths = [...]int64{
	1, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, day, 7 * day, 28 * day, 364 * day, 3640 * day,
}

const day = 24 * 3600

// Histogram counts revocations by time in 1024 buckets. Its buckets are as
// narrow as the span between the oldest and the newest revocation allows, one
// second at the least, and start at multiples of their width since the Unix
// epoch. The zero value is empty and answers every question with zero.
//
// A Histogram shares its buckets with its copies.
type Histogram struct {
	counts      *[bucketCount]uint32
	level       int    // index into widths
	origin      int64  // Unix time at which counts[0] begins
	shift       uint   // width = 2^shift × an odd number
	reciprocal  uint64 // ceil(2^47 / the odd number): offset / width without a division
	total       int64
	first, last int64 // Unix times of the oldest and the newest
}

// Width is the width of a bucket: the resolution of Before.
func (h Histogram) Width() time.Duration { return time.Duration(widths[h.level]) * time.Second }

// Before returns bounds on the number of entries revoked before t, to the
// second. They are equal when t falls on a bucket's edge, at or before the
// oldest revocation, or after the newest.
func (h Histogram) Before(t time.Time) (low, high int64) {
	at := t.Unix()
	if t.Nanosecond() > 0 {
		at++ // what was revoked in this second was revoked before t
	}
	switch {
	case h.total == 0 || at <= h.first:
		return 0, 0
	case at > h.last:
		return h.total, h.total
	}
	width := widths[h.level]
	bucket := (at - h.origin) / width
	for _, n := range h.counts[:bucket] {
		low += int64(n)
	}
	if h.origin+bucket*width == at {
		return low, low
	}
	return low, low + int64(h.counts[bucket])
}

// Days calls yield with each day, as its midnight in UTC, from the oldest to
// the newest revocation, and the number of revocations on it. It yields
// nothing when the buckets are wider than a day.
func (h Histogram) Days(yield func(midnight time.Time, revoked int64) bool) {
	if h.total == 0 || widths[h.level] > day {
		return
	}
	for at := floorTo(h.first, day); at <= h.last; at += day {
		from, _ := h.Before(time.Unix(at, 0))
		to, _ := h.Before(time.Unix(at+day, 0))
		if !yield(time.Unix(at, 0).UTC(), to-from) {
			return
		}
	}
}

// add counts one revocation at each of the Unix times.
func (h *Histogram) add(times ...int64) {
	if len(times) == 0 {
		return
	}
	if h.total == 0 {
		h.first, h.last = times[0], times[0]
		h.counts = new([bucketCount]uint32)
		h.place(0, h.first)
	}
	first, last := h.first, h.last
	// Both halves side by side: one comparison need not wait for the other.
	half := len(times) / 2
	others := times[half:]
	for i, at := range times[:half] {
		other := others[i]
		first, last = min(first, min(at, other)), max(last, max(at, other))
	}
	first, last = min(first, times[len(times)-1]), max(last, times[len(times)-1])
	if first < h.origin || last-h.origin >= bucketCount*widths[h.level] {
		h.makeRoom(first, last)
	}
	h.first, h.last = first, last
	h.total += int64(len(times))
	origin, shift, reciprocal, counts := h.origin, h.shift&63, h.reciprocal, h.counts
	for _, at := range times {
		counts[uint64(at-origin)>>shift*reciprocal>>47&(bucketCount-1)]++
	}
}

// makeRoom moves and widens the buckets so that all times from first to last
// have one.
func (h *Histogram) makeRoom(first, last int64) {
	level := h.level
	for last-floorTo(first, widths[level]) >= bucketCount*widths[level] {
		level++
	}
	origin, width := h.origin, widths[h.level]
	counts := *h.counts
	clear(h.counts[:])
	h.place(level, first)
	for i, n := range counts {
		if n > 0 {
			h.counts[(origin+int64(i)*width-h.origin)/widths[level]] += n
		}
	}
}

// place makes the first bucket, of the given level's width, the one that
// holds first.
func (h *Histogram) place(level int, first int64) {
	width := widths[level]
	h.level = level
	h.origin = floorTo(first, width)
	// The quotient is exact while offset>>shift times the rounding error of the
	// reciprocal stays below 2^47: both are below 1024*odd and odd, so for every
	// odd below 2^18.5.
	odd := uint64(width)
	for h.shift = 0; odd%2 == 0; h.shift++ {
		odd /= 2
	}
	h.reciprocal = (1<<47 + odd - 1) / odd
}

// floorTo rounds at down to a multiple of width, below zero too.
func floorTo(at, width int64) int64 {
	rest := at % width
	if rest < 0 {
		rest += width
	}
	return at - rest
}
