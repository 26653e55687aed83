package pki_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/pkiwarden/pkiwarden/pki"
)

func location(t *testing.T, name string) *time.Location {
	t.Helper()
	if l, ok := locations.Load(name); ok {
		return l.(*time.Location)
	}
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	locations.Store(name, l)
	return l
}

// locations are those that were read already.
var locations sync.Map

// utc reads an instant such as "2026-03-29T00:30:00Z".
func utc(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// In Berlin summer time began on Sunday, 29 March 2026, when 02:00 CET (01:00
// UTC) became 03:00 CEST, and ends on Sunday, 25 October 2026, when 03:00 CEST
// (01:00 UTC) becomes 02:00 CET.
func TestWindows(t *testing.T) {
	berlin := location(t, "Europe/Berlin")
	night := pki.Window{From: 2 * hour, To: 5 * hour, Location: berlin}
	sunday := pki.Window{Days: []time.Weekday{time.Sunday}, From: 2 * hour, To: 3 * hour, Location: berlin}
	midnight := pki.Window{Days: []time.Weekday{time.Saturday}, From: 22 * hour, To: 4 * hour, Location: berlin}
	half := pki.Window{From: 2*hour + 30*time.Minute, To: 2*hour + 45*time.Minute, Location: berlin}
	weekend := pki.Window{Days: []time.Weekday{time.Saturday, time.Sunday}, To: 24 * hour, Location: berlin}
	plain := pki.Window{Days: []time.Weekday{time.Wednesday}, From: 9 * hour, To: 17 * hour}

	tests := []struct {
		name    string
		windows []pki.Window
		at      string
		next    string // equal to at: open
	}{
		{"none is always", nil, "2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z"},

		{"before it opens", []pki.Window{plain}, "2026-03-04T08:59:59Z", "2026-03-04T09:00:00Z"},
		{"as it opens", []pki.Window{plain}, "2026-03-04T09:00:00Z", "2026-03-04T09:00:00Z"},
		{"last second", []pki.Window{plain}, "2026-03-04T16:59:59Z", "2026-03-04T16:59:59Z"},
		{"as it closes", []pki.Window{plain}, "2026-03-04T17:00:00Z", "2026-03-11T09:00:00Z"},
		{"another day", []pki.Window{plain}, "2026-03-05T10:00:00Z", "2026-03-11T09:00:00Z"},
		{"the nearer of two", []pki.Window{plain, night}, "2026-03-05T10:00:00Z", "2026-03-06T01:00:00Z"},

		{"winter", []pki.Window{night}, "2026-03-27T12:00:00Z", "2026-03-28T01:00:00Z"},
		{"spring: 02:00 is skipped, so it opens at 03:00", []pki.Window{night}, "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"},
		{"spring: a second before", []pki.Window{night}, "2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z"},
		{"spring: open until 05:00 of summer time", []pki.Window{night}, "2026-03-29T02:59:59Z", "2026-03-29T02:59:59Z"},
		{"spring: closed at 05:00 of summer time", []pki.Window{night}, "2026-03-29T03:00:00Z", "2026-03-30T00:00:00Z"},
		{"spring: the whole window is skipped", []pki.Window{sunday}, "2026-03-28T12:00:00Z", "2026-04-05T00:00:00Z"},
		{"spring: the whole window is skipped that day", []pki.Window{half}, "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"},
		{"spring: over midnight, before the change", []pki.Window{midnight}, "2026-03-28T20:59:59Z", "2026-03-28T21:00:00Z"},
		{"spring: over midnight, after the change", []pki.Window{midnight}, "2026-03-29T01:30:00Z", "2026-03-29T01:30:00Z"},
		{"spring: over midnight, closed at 04:00 of summer time", []pki.Window{midnight}, "2026-03-29T02:00:00Z", "2026-04-04T20:00:00Z"},

		{"autumn: opens at the first 02:00", []pki.Window{night}, "2026-10-24T12:00:00Z", "2026-10-25T00:00:00Z"},
		{"autumn: open at the second 02:00", []pki.Window{night}, "2026-10-25T01:00:00Z", "2026-10-25T01:00:00Z"},
		{"autumn: open for four hours", []pki.Window{night}, "2026-10-25T03:59:59Z", "2026-10-25T03:59:59Z"},
		{"autumn: closed at 05:00 of winter time", []pki.Window{night}, "2026-10-25T04:00:00Z", "2026-10-26T01:00:00Z"},
		{"autumn: the first half past two", []pki.Window{half}, "2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z"},
		{"autumn: between the two", []pki.Window{half}, "2026-10-25T00:45:00Z", "2026-10-25T01:30:00Z"},
		{"autumn: after both", []pki.Window{half}, "2026-10-25T01:45:00Z", "2026-10-26T01:30:00Z"},
		{"autumn: two hours from two to three", []pki.Window{sunday}, "2026-10-25T01:59:59Z", "2026-10-25T01:59:59Z"},
		{"autumn: over midnight, closed at 04:00 of winter time", []pki.Window{midnight}, "2026-10-25T02:59:59Z", "2026-10-25T02:59:59Z"},
		{"autumn: over midnight, a second later", []pki.Window{midnight}, "2026-10-25T03:00:00Z", "2026-10-31T21:00:00Z"},

		{"over midnight belongs to the day on which it opens", []pki.Window{midnight}, "2026-03-06T23:30:00Z", "2026-03-07T21:00:00Z"},
		{"whole days", []pki.Window{weekend}, "2026-03-06T12:00:00Z", "2026-03-06T23:00:00Z"},
		{"from one whole day to the next", []pki.Window{weekend}, "2026-03-07T23:00:00Z", "2026-03-07T23:00:00Z"},
		{"the end of the last whole day", []pki.Window{weekend}, "2026-03-08T23:00:00Z", "2026-03-13T23:00:00Z"},
		{"whole days in the week of 23 hours", []pki.Window{weekend}, "2026-03-29T21:59:59Z", "2026-03-29T21:59:59Z"},
		{"its end", []pki.Window{weekend}, "2026-03-29T22:00:00Z", "2026-04-03T22:00:00Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := pki.NextOpening(tt.windows, utc(t, tt.at)), utc(t, tt.next); !got.Equal(want) {
				t.Errorf("from %s: opens at %s, want %s", tt.at, got.UTC().Format(time.RFC3339), tt.next)
			}
		})
	}
}

// A next opening is the first minute from now on that is open, in places whose
// clocks are changed by an hour, by half an hour, at midnight, or never.
func TestNextOpeningIsTheFirst(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	places := []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kolkata", "America/Santiago", "Africa/Casablanca", "UTC"}
	for range 3000 {
		w := pki.Window{
			From: time.Duration(r.IntN(24*4)) * 15 * time.Minute, To: time.Duration(1+r.IntN(24*4)) * 15 * time.Minute,
			Location: location(t, places[r.IntN(len(places))]),
		}
		for d := range time.Weekday(7) {
			if r.IntN(3) == 0 {
				w.Days = append(w.Days, d)
			}
		}
		at := time.Date(2026, 1, 1, 0, r.IntN(366*24*60), 0, 0, time.UTC)
		got := pki.NextOpening([]pki.Window{w}, at)
		want := at
		for !w.Open(want) && want.Before(at.AddDate(0, 0, 21)) {
			want = want.Add(15 * time.Minute).Truncate(15 * time.Minute)
		}
		if !got.Equal(want) && want.Before(at.AddDate(0, 0, 21)) {
			t.Fatalf("%s from %s: %s, want %s", w, at.Format(time.RFC3339), got.UTC().Format(time.RFC3339), want.Format(time.RFC3339))
		}
	}
}

func TestWindowInWords(t *testing.T) {
	w := pki.Window{Days: []time.Weekday{time.Saturday, time.Sunday}, From: 22*hour + 30*time.Minute, To: 24 * hour, Location: location(t, "Europe/Berlin")}
	if got := w.String(); got != "Sat, Sun 22:30-24:00 Europe/Berlin" {
		t.Error(got)
	}
	if got := (pki.Window{To: 4 * hour}).String(); got != "every day 00:00-04:00 UTC" {
		t.Error(got)
	}
}
