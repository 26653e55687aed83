package crl

import (
	"math"
	"strings"
	"testing"
	"time"
)

func counted(perHour func(hour int) int64, hours, from int) History {
	var h History
	added := int64(0)
	for hour := range hours + 1 {
		at := epoch.Add(time.Duration(hour) * time.Hour)
		s := Sample{ThisUpdate: at, At: at, Number: int64(hour + 1), Bytes: 246 + 39*500, Entries: 500} // tidy keeps it so
		if hour >= from {
			s.CountedFrom, s.Added, s.Removed = epoch.Add(time.Duration(from)*time.Hour), added, added
			added += perHour(hour)
		}
		h.Add(s)
	}
	return h
}

func TestRevocations(t *testing.T) {
	five := func(int) int64 { return 5 }
	for _, tc := range []struct {
		name string
		h    History
		want float64
		why  string
	}{
		{"five an hour, and as many tidied", counted(five, 20*24, 0), 120, ""},
		{"counted for the last three days", counted(five, 20*24, 17*24), 120, ""},
		{"5000 once", counted(func(hour int) int64 {
			if hour == 300 {
				return 5000
			}
			return 5
		}, 20*24, 0), 120, ""},
		{"none", counted(func(int) int64 { return 0 }, 20*24, 0), 0, ""},
		{"not counted", counted(five, 20*24, 1<<20), 0, "no whole day in which additions were counted"},
		{"a morning", counted(five, 6, 0), 0, "too little history: 6 h of at least 24 h"},
	} {
		latest, _ := tc.h.Latest()
		got := Revocations(tc.h, latest.ThisUpdate)
		if math.Abs(got.PerDay-tc.want) > tc.want/20 || got.Why != tc.why {
			t.Errorf("%s: %+v, want %v, %q", tc.name, got, tc.want, tc.why)
		}
	}
}

func TestSteadyState(t *testing.T) {
	in := SteadyInputs{Revocations: Rate{PerDay: 100, Days: 14}, RemainingLife: 20 * oneDay, SafetyBuffer: 3 * oneDay, TidyInterval: 7 * oneDay}
	list := Sample{ThisUpdate: epoch, Bytes: 440 + 39*10, Entries: 10}     // an RSA issuer's
	long := Sample{ThisUpdate: epoch, Bytes: 246 + 50*2000, Entries: 2000} // with reason codes
	entries, size := int64(100*30), int64(440+39*3000)                     // by hand
	limit := func(bytes int64) Limit { return Limit{Known: true, MaxBytes: bytes} }
	got := SteadyState(list, in, limit(size))
	if !got.Known || got.Entries != entries || got.Bytes != size || !got.HasLimit || !got.BelowIt ||
		got.Why != "100 revocations a day × (20 days remaining life + 3 days safety buffer + 7 days tidy interval) × 39 bytes" {
		t.Errorf("%+v, want %d entries, %d bytes, just below the limit", got, entries, size)
	}
	if got := SteadyState(list, in, limit(size-1)); got.BelowIt || !got.HasLimit {
		t.Errorf("a byte less: %+v", got)
	}
	if got := SteadyState(list, in, Limit{}); got.HasLimit || got.BelowIt || !got.Known {
		t.Errorf("no limit: %+v", got)
	}
	if got := SteadyState(long, in, Limit{Known: true, MaxEntries: 2999}); got.Bytes != 246+50*3000 || got.BelowIt || !got.HasLimit {
		t.Errorf("entries of 50 bytes: %+v", got)
	}
	none := in
	none.Revocations.PerDay = 0
	if got := SteadyState(list, none, limit(1000)); !got.Known || got.Entries != 0 || got.Bytes != 440 || !got.BelowIt {
		t.Errorf("no revocations: %+v", got)
	}
	for want, change := range map[string]func(*SteadyInputs){
		"revocations a day":                 func(in *SteadyInputs) { in.Revocations = Rate{Why: "not counted"} },
		"remaining life of what is revoked": func(in *SteadyInputs) { in.RemainingLife = 0 },
		"safety buffer":                     func(in *SteadyInputs) { in.SafetyBuffer = 0 },
		"tidy interval":                     func(in *SteadyInputs) { in.TidyInterval = 0 },
	} {
		unknown := in
		change(&unknown)
		if got := SteadyState(list, unknown, limit(1<<20)); got.Known || got.BelowIt || got.Why != "unknown: "+want {
			t.Errorf("without %s: %+v", want, got)
		}
	}
}

func TestHeadroom(t *testing.T) {
	list := Sample{ThisUpdate: epoch, Bytes: 246 + 39*100, Entries: 100}
	coded := Sample{ThisUpdate: epoch, Bytes: 246 + 50*2000, Entries: 2000}
	fleet := ConfiguredFleet(1000)
	for _, tc := range []struct {
		name  string
		list  Sample
		limit Limit
		fleet Fleet
		want  float64
		ok    bool
	}{
		{"two and a half times", list, Limit{Known: true, MaxBytes: list.Bytes + 39*2500}, fleet, 2.5, true},
		{"entries of 50 bytes", coded, Limit{Known: true, MaxBytes: coded.Bytes + 50*500}, fleet, .5, true},
		{"max_crl_entries", list, Limit{Known: true, MaxEntries: 2100, storageBytes: 1 << 30}, fleet, 2, true},
		{"at the limit", list, Limit{Known: true, MaxBytes: list.Bytes}, fleet, 0, true},
		{"above", list, Limit{Known: true, MaxBytes: 1000}, fleet, 0, true},
		{"no limit", list, Storage{Backend: "file"}.Limit(), fleet, 0, false},
		{"unknown limit", list, Limit{}, fleet, 0, false},
		{"unknown fleet", list, Limit{Known: true, MaxBytes: 1 << 20}, UnknownFleet("nobody counts"), 0, false},
		{"no fleet", list, Limit{Known: true, MaxBytes: 1 << 20}, Fleet{Known: true}, 0, false},
		{"no list", Sample{}, Limit{Known: true, MaxBytes: 1 << 20}, fleet, 0, false},
	} {
		got, ok := Headroom(tc.list, tc.limit, tc.fleet)
		if ok != tc.ok || math.Abs(got-tc.want) > 1e-6 {
			t.Errorf("%s: %v, %v, want %v, %v", tc.name, got, ok, tc.want, tc.ok)
		}
	}
}

func TestCountedFleet(t *testing.T) {
	n := func(n int64) *int64 { return &n }
	sampled := Fleet{Known: true, Certificates: 600, Low: 500, High: 700, Source: "sampled", RemainingLife: time.Hour}
	for _, tc := range []struct {
		name    string
		counts  StoreCounts
		sampled Fleet
		want    Fleet // without Source
		source  string
	}{
		{"counts alone", StoreCounts{n(1000), n(300), ""}, Fleet{}, Fleet{Known: true, Certificates: 700, High: 700}, "at most: 1000 stored and 300 revoked"},
		{"with the share of a sample of 1000", StoreCounts{n(2000), n(300), ""}, sampled, Fleet{Known: true, Certificates: 1200, Low: 1000, High: 1400, RemainingLife: time.Hour}, "2000 stored by Vault's count; sampled"},
		{"never more than is not revoked", StoreCounts{n(1000), n(450), ""}, sampled, Fleet{Known: true, Certificates: 550, Low: 500, High: 550, RemainingLife: time.Hour}, "1000 stored"},
		{"error", StoreCounts{n(1000), n(300), "re-initialize this mount"}, Fleet{}, Fleet{}, "as it says itself: re-initialize this mount"},
		{"error, but a sample", StoreCounts{n(1000), n(300), "re-initialize this mount"}, sampled, sampled, "sampled"},
		{"off", StoreCounts{nil, nil, ""}, Fleet{}, Fleet{}, "maintain_stored_certificate_counts is off"},
		{"wrapped", StoreCounts{n(1000), n(4294967290), ""}, Fleet{}, Fleet{}, "have wrapped"},
		{"more revoked than stored", StoreCounts{n(10), n(300), ""}, Fleet{}, Fleet{}, "fewer certificates (10) than revocations (300)"},
	} {
		got := CountedFleet(tc.counts, tc.sampled, 1000)
		source := got.Source
		got.Source, tc.want.Source = "", ""
		if got != tc.want || !strings.Contains(source, tc.source) {
			t.Errorf("%s: %+v, %q, want %+v, %q", tc.name, got, source, tc.want, tc.source)
		}
	}
	if got := ConfiguredFleet(0); got.Known {
		t.Errorf("none configured: %+v", got)
	}
}

func TestSampledFleet(t *testing.T) {
	for _, tc := range []struct {
		name      string
		stored    int64
		o         SampleOutcomes
		n         int64
		low, high int64 // -1: unknown
		source    string
	}{
		{"none stored", 0, SampleOutcomes{}, 0, 0, 0, "no certificate is stored"},
		{"all read", 100, SampleOutcomes{Live: 60, Other: 40}, 60, 60, 60, "60 of 100 certificates drawn from 100 are live"},
		// Wilson's interval for 200 of 400 is 0.4512 to 0.5488 (any table); of
		// a million the correction for drawing without replacement is nothing.
		{"half of 400", 1_000_000, SampleOutcomes{Live: 200, Other: 200}, 500_000, 451_200, 548_800, "200 of 400"},
		// For 0 of 400, 0 to 0.00951.
		{"none of 400", 1_000_000, SampleOutcomes{Other: 400}, 0, 0, 9_510, "0 of 400"},
		// 120 drawn of 1000 say as much as 136.2 drawn with replacement: Wilson's
		// interval for 50 of 120 begins at 0.3373, that for 70 ends at 0.6627.
		{"some unread", 1000, SampleOutcomes{Live: 50, Other: 50, Unknown: 20}, 500, 337, 663, "50 of 100"},
		{"most unread", 1000, SampleOutcomes{Live: 5, Other: 5, Unknown: 20}, -1, 0, 0, "20 of 30 certificates drawn could not be read"},
		{"none read", 1000, SampleOutcomes{Unknown: 20}, -1, 0, 0, "could not be read"},
		{"more drawn than there are", 10, SampleOutcomes{Live: 20}, -1, 0, 0, "is none"},
	} {
		got := SampledFleet(tc.stored, tc.o)
		if tc.n < 0 {
			if got.Known || !strings.Contains(got.Source, tc.source) {
				t.Errorf("%s: %+v, want unknown: %s", tc.name, got, tc.source)
			}
			continue
		}
		near := func(a, b int64) bool { return abs(a-b) <= max(2, b/500) }
		if !got.Known || got.Certificates != tc.n || !near(got.Low, tc.low) || !near(got.High, tc.high) || !strings.Contains(got.Source, tc.source) {
			t.Errorf("%s: %+v, want %d (%d to %d), %s", tc.name, got, tc.n, tc.low, tc.high, tc.source)
		}
	}
}
