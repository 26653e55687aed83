package crl

import "time"

// Buckets calls yield with each bucket that holds a revocation, oldest first:
// the instant at which it begins, and the number of revocations from then until
// Width later.
func (h Histogram) Buckets(yield func(from time.Time, revoked int64) bool) {
	if h.total == 0 {
		return
	}
	width := widths[h.level]
	for i, n := range h.counts {
		if n > 0 && !yield(time.Unix(h.origin+int64(i)*width, 0).UTC(), int64(n)) {
			return
		}
	}
}
