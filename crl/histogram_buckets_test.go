package crl

import (
	"testing"
	"time"
)

// Each bucket is told once, in order, with what Before counts between its edges.
func TestHistogramBuckets(t *testing.T) {
	t.Parallel()
	var h Histogram
	for range h.Buckets {
		t.Fatal("a bucket of nothing")
	}
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, ago := range []time.Duration{0, time.Second, 90 * time.Minute, 100 * time.Minute, 200 * time.Hour} {
		h.add(noon.Add(-ago).Unix())
	}
	// 200 h are more than 1024 buckets of 5 min and less than so many of 15.
	want := []struct {
		from    time.Time
		revoked int64
	}{
		{noon.Add(-200 * time.Hour), 1},
		{noon.Add(-105 * time.Minute), 1},
		{noon.Add(-90 * time.Minute), 1},
		{noon.Add(-15 * time.Minute), 1},
		{noon, 1},
	}
	var i int
	for from, revoked := range h.Buckets {
		if i >= len(want) || !from.Equal(want[i].from) || revoked != want[i].revoked {
			t.Fatalf("bucket %d from %s with %d, want %+v", i, from, revoked, want)
		}
		low, _ := h.Before(from)
		high, _ := h.Before(from.Add(h.Width()))
		if high-low != revoked {
			t.Errorf("bucket %d: Before counts %d", i, high-low)
		}
		i++
	}
	if i != len(want) {
		t.Errorf("%d buckets, want %d", i, len(want))
	}
	for range h.Buckets {
		break
	}
}
