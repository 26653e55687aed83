package pki_test

import (
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

func TestEstimateBounds(t *testing.T) {
	ca := newAuthority(t, "one")
	// With a longest TTL of 24 h and a buffer of 72 h: revoked 96 h ago or less
	// may have expired too late; revoked 72 h ago or less cannot be reclaimable.
	list := ca.list(t, 0, 0, batch{100, 200 * hour}, batch{30, 97 * hour}, batch{7, 96 * hour}, batch{5, 80 * hour}, batch{3, 72 * hour}, batch{2, hour})
	tests := []struct {
		name      string
		longest   time.Duration
		buffer    time.Duration
		at        time.Time
		low, high int64
	}{
		{"both bounds", 24 * hour, 72 * hour, now, 130, 142},
		{"past the edge", 24 * hour, 72 * hour, now.Add(15 * time.Minute), 137, 145},
		{"within a bucket both bounds widen", 24 * hour, 72 * hour, now.Add(time.Second), 130, 145},
		{"an hour earlier", 24 * hour, 72 * hour, now.Add(-hour), 100, 142},
		{"longest TTL unknown", 0, 72 * hour, now, 0, 142},
		{"longer TTL", 100 * hour, 72 * hour, now, 100, 142},
		{"short buffer", hour, 24 * hour, now, 145, 145},
		{"long ago", 24 * hour, 72 * hour, now.Add(-300 * hour), 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := pki.NewEstimate([]pki.CRL{list}, pki.LongestTTL{Duration: tt.longest}, tt.buffer, tt.at)
			if e.Low != tt.low || e.High != tt.high {
				t.Errorf("between %d and %d reclaimable, want %d and %d", e.Low, e.High, tt.low, tt.high)
			}
			if e.Total.Entries != 147 {
				t.Errorf("%d entries in all, want 147", e.Total.Entries)
			}
			if want := list.Summary.Bytes - 39*tt.low; e.Prediction().BytesAfter != want {
				t.Errorf("predicted %d bytes, want %d", e.Prediction().BytesAfter, want)
			}
		})
	}
}

func TestEstimateCountsSharedListsOnce(t *testing.T) {
	ca, other := newAuthority(t, "one"), newAuthority(t, "two")
	a := ca.list(t, 0, 0, batch{10, 200 * hour})
	same := a
	same.Issuer.ID = "reissued"
	b := other.list(t, 0, 0, batch{5, 200 * hour})
	e := pki.NewEstimate([]pki.CRL{a, same, b}, pki.LongestTTL{Duration: hour}, 72*hour, now)
	if e.Low != 15 || e.Total.Entries != 15 || e.Total.Bytes != a.Summary.Bytes+b.Summary.Bytes {
		t.Errorf("estimate %d of %+v, want 15 entries of two lists", e.Low, e.Total)
	}
}

func TestSelect(t *testing.T) {
	all := []pki.Mount{{Path: "pki"}, {Path: "pki-old"}, {Path: "team/pki"}, {Namespace: "ns", Path: "pki"}}
	tests := []struct {
		patterns []string
		want     string
	}{
		{nil, "pki pki-old team/pki ns/pki"},
		{[]string{"*"}, "pki pki-old team/pki ns/pki"},
		{[]string{"*", "!pki-old"}, "pki team/pki ns/pki"},
		{[]string{"!*/pki"}, "pki pki-old"},
		{[]string{"pki*"}, "pki pki-old"},
		{[]string{"*pki"}, "pki team/pki ns/pki"},
		{[]string{"t*a*/p*i"}, "team/pki"},
		{[]string{"pki/"}, "pki"},
		{[]string{"p*ki*ki"}, ""},
		{[]string{"nothing"}, ""},
	}
	for _, tt := range tests {
		var got string
		for i, m := range pki.Select(all, tt.patterns) {
			if i > 0 {
				got += " "
			}
			got += m.Name()
		}
		if got != tt.want {
			t.Errorf("Select(%q) = %q, want %q", tt.patterns, got, tt.want)
		}
	}
}
