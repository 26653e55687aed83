package crl

import (
	"math"
	"math/big"
	"strings"
	"testing"
	"time"
)

// hourly is a history of a list that is built each hour, of the given sizes.
func hourly(size func(hour int) int64, hours int) History {
	var h History
	for hour := range hours + 1 {
		s := sampleAt(epoch.Add(time.Duration(hour)*time.Hour), size(hour))
		s.Number = int64(hour + 1)
		h.Add(s)
	}
	return h
}

func grows(perHour int64) func(int) int64 {
	return func(hour int) int64 { return 1000 + perHour*int64(hour) }
}

func TestForecastSaysWhyNot(t *testing.T) {
	limit := Limit{Backend: "raft", Known: true, MaxBytes: 100_000}
	// Of the oldest days the last list is kept, as the largest: a month of
	// history is 29 days and some hours.
	month := 30 * 24
	for _, tc := range []struct {
		name  string
		h     History
		limit Limit
		after time.Duration // the forecast is made, after the last list
		want  string
	}{
		{"nothing", History{}, limit, 0, "no history"},
		{"three hours", hourly(grows(100), 3), limit, 0, "too little history: 3 h of at least 24 h"},
		{"a minute", hourly(grows(100), 0), limit, time.Minute, "too little history: 0 min of at least 24 h"},
		{"two lists", historyOf([]Sample{sampleAt(epoch, 1000), sampleAt(epoch.Add(40*time.Hour), 2000)}), limit, 0, "too little history: 2 lists of at least 3"},
		{"no limit", hourly(grows(100), month), Storage{Backend: "file"}.Limit(), 0, "no limit"},
		{"unknown limit", hourly(grows(100), month), Limit{}, 0, "the limit is unknown"},
		{"flat", hourly(grows(0), month), limit, 0, "not growing"},
		{"shrinking", hourly(func(hour int) int64 { return int64(90_000 - 100*hour) }, month), limit, 0, "shrinking"},
		{"shrinking fast", hourly(func(hour int) int64 { return int64(90_000 * math.Pow(.95, float64(hour)/24)) }, month), limit, 0, "shrinking"},
		{"slow", hourly(grows(1), month), limit, 0, "not within the 116 days looked at"},
		{"not seen for long", hourly(grows(100), month), limit, 10 * oneDay, "the list was last seen 10 days ago"},
		{"dated in the future", hourly(grows(100), month), limit, -40 * oneDay, "all 169 lists are dated in the future: compare the clocks of Vault and pkiwarden"},
		{"one event in a week", hourly(func(hour int) int64 {
			if hour < 40 {
				return int64(1000 + hour)
			}
			return int64(30_000 + hour)
		}, 7*24), limit, 0, "one event made most of the growth in 6 days: whether it returns is not known before 14 days"},
	} {
		latest, _ := tc.h.Latest()
		p := Forecast(tc.h, tc.limit, latest.ThisUpdate.Add(tc.after))
		if strings.HasPrefix(tc.want, "all ") {
			tc.want = strings.Replace(tc.want, "169", big.NewInt(int64(len(tc.h.samples))).String(), 1)
		}
		if p.Why != tc.want || !p.LimitReachedAt.IsZero() {
			t.Errorf("%s: %q, %s, want %q and no date\n%+v", tc.name, p.Why, p.LimitReachedAt, tc.want, p)
		}
	}
}

func TestForecast(t *testing.T) {
	day := func(d float64) time.Time { return epoch.Add(time.Duration(d * float64(oneDay))) }
	for _, tc := range []struct {
		name   string
		h      History
		limit  Limit
		now    time.Time
		likely time.Time
		within time.Duration
		perDay float64
	}{
		// 1000 + 2400 a day: 73,000 after 30 days, 97,000 after 40.
		{"linear, 30 days", hourly(grows(100), 30*24), Limit{Known: true, MaxBytes: 97_000}, day(30), day(40), 3 * time.Hour, 2400},
		{"linear, 2 days", hourly(grows(100), 48), Limit{Known: true, MaxBytes: 1000 + 3*2400}, day(2), day(3), 3 * time.Hour, 2400},
		// Entries are (1000 + 2400 a day) / 39: 2000 of them are 78,000 bytes.
		{"max_crl_entries first", hourly(grows(100), 30*24), Limit{Known: true, MaxEntries: 2000, storageBytes: 97_000}, day(30), day(32.08), 6 * time.Hour, 2400},
		{"bytes first", hourly(grows(100), 30*24), Limit{Known: true, MaxEntries: 200_000, storageBytes: 97_000}, day(30), day(40), 3 * time.Hour, 2400},
		{"max_crl_entries alone", hourly(grows(100), 30*24), Limit{Known: true, MaxEntries: 2000}, day(30), day(32.08), 6 * time.Hour, 2400},
		// Not seen for two days: it grew meanwhile, as far as can be told.
		{"a while ago", hourly(grows(100), 30*24), Limit{Known: true, MaxBytes: 97_000}, day(32), day(40), 3 * time.Hour, 2400},
		{"due already", hourly(grows(100), 30*24), Limit{Known: true, MaxBytes: 74_000}, day(32), day(32), 0, 2400},
		// The number begins anew on day 20, with a list of 100,000 bytes before.
		{"restored", hourly(func(hour int) int64 {
			if hour < 20*24 {
				return 100_000
			}
			return int64(1000 + 100*(hour-480))
		}, 40*24).renumbered(20 * 24), Limit{Known: true, MaxBytes: 97_000}, day(40), day(60), 3 * time.Hour, 2400},
		// Nobody looked from day 10 to 25.
		{"a gap", hourly(grows(100), 30*24).without(day(10), day(25)), Limit{Known: true, MaxBytes: 97_000}, day(30), day(40), 12 * time.Hour, 2400},
	} {
		p := Forecast(tc.h, tc.limit, tc.now)
		if off := p.LimitReachedAt.Sub(tc.likely); off < -tc.within || off > tc.within {
			t.Errorf("%s: %s, want %s ± %s\n%+v", tc.name, p.LimitReachedAt, tc.likely, tc.within, p)
		}
		if math.Abs(p.BytesPerDay-tc.perDay) > tc.perDay/50 || math.Abs(p.EntriesPerDay-tc.perDay/39) > 2 {
			t.Errorf("%s: grows by %.0f bytes and %.0f entries a day, want %.0f and %.0f", tc.name, p.BytesPerDay, p.EntriesPerDay, tc.perDay, tc.perDay/39)
		}
		if p.EarliestAt.After(p.LimitReachedAt) || !p.LatestAt.IsZero() && p.LatestAt.Before(p.LimitReachedAt) || p.Why != "" || p.Passed || p.Basis == "" {
			t.Errorf("%s: %+v", tc.name, p)
		}
	}
}

// renumbered lets the CRL number begin anew at an hour.
func (h History) renumbered(hour int) History {
	var again History
	for _, s := range h.samples {
		if !s.ThisUpdate.Before(epoch.Add(time.Duration(hour) * time.Hour)) {
			s.Number -= int64(hour)
		}
		again.Add(s)
	}
	return again
}

func (h History) without(from, to time.Time) History {
	var again History
	for _, s := range h.samples {
		if s.ThisUpdate.Before(from) || s.ThisUpdate.After(to) {
			again.Add(s)
		}
	}
	return again
}

func TestForecastPassed(t *testing.T) {
	h := hourly(grows(100), 10*24) // 25,000 bytes at the end
	limit := Limit{Known: true, MaxBytes: 20_000}
	p := Forecast(h, limit, epoch.Add(10*oneDay))
	// 190 hours: 20,000, which still fits.
	since := epoch.Add(191 * time.Hour)
	if !p.Passed || p.Why != "" || p.LimitReachedAt.Before(since) || p.LimitReachedAt.After(since.Add(6*time.Hour)) ||
		!p.EarliestAt.Equal(p.LimitReachedAt) || !p.LatestAt.Equal(p.LimitReachedAt) || !p.GrowthKnown {
		t.Errorf("%+v, want passed about %s", p, since)
	}
	// Known at once, without any history.
	p = Forecast(historyOf([]Sample{sampleAt(epoch, 20_001)}), limit, epoch.Add(time.Minute))
	if !p.Passed || !p.LimitReachedAt.Equal(epoch) || p.GrowthKnown {
		t.Errorf("one list: %+v", p)
	}
	// The very size of the limit still fits.
	p = Forecast(historyOf([]Sample{sampleAt(epoch, 20_000)}), limit, epoch.Add(time.Minute))
	if p.Passed || !p.LimitReachedAt.IsZero() {
		t.Errorf("as large as the limit: %+v", p)
	}
}
